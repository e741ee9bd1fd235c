"""Which weights a method may change: a few words for the usual sets, or a pattern."""

import fnmatch
import re
from collections.abc import Mapping, Sequence

from erasure.errors import SettingError

SELECTIONS: dict[str, str] = {
    "full": r"^unet\.",
    "xattn": r"^unet\..*\battn2\.",
    "xattn.kv": r"^unet\..*\battn2\.to_[kv]\.",
    "noxattn": r"^unet\.(?!time_embedding)(?!.*\battn2\.)",
    "selfattn": r"^unet\..*\battn1\.",
    "text": r"^text_encoder(?:_2)?\.",
    "text.layers": r"^text_encoder(?:_2)?\..*\b(layers\.\d+|final_layer_norm)\.",
    "text.mlp": r"^text_encoder(?:_2)?\..*\bmlp\.",
}
# of the transformers of Stable Diffusion 3, in which image and text attend jointly
TRANSFORMER_SELECTIONS: dict[str, str] = {
    "full": r"^transformer\.",
    "text.in": r"^transformer\.context_embedder\.",
    "pooled.in": r"^transformer\.time_text_embed\.text_embedder\.linear_1\.",
    "xattn": r"^transformer\..*\battn\.(?:add_[qkv]_proj|to_add_out)\.",
    "xattn.kv": r"^transformer\..*\battn\.add_[kv]_proj\.",
    "noxattn": r"^transformer\.(?!time_text_embed)(?!.*\battn\.(?:add_[qkv]_proj|to_add_out)\.)",
    "selfattn": r"^transformer\..*\battn2?\.to_(?:q|k|v|out)\.",
    **{word: rule for word, rule in SELECTIONS.items() if word.startswith("text")},
}
# FLUX's has blocks besides in which both pass the same weights
FLUX_SELECTIONS: dict[str, str] = {
    **TRANSFORMER_SELECTIONS,
    "single": r"^transformer\.single_transformer_blocks\.",
}
TEXT_LAYER = re.compile(r"^text\.layer\.(\d+)$")


def select_names(
    select: str, known: Sequence[str], selections: Mapping[str, str] = SELECTIONS
) -> list[str]:
    """The names a selection matches, in model order.

    `select` is one of the `selections`, `text.layer.N` (exactly that layer of the text encoder), a
    pattern with `*` over full names ("unet.mid_block.*"), or several of these with commas between.
    SettingError if a part is none of them, or matches nothing.
    """
    chosen: set[str] = set()
    for word in select.split(","):
        names = _one(word.strip(), known, selections)
        if not names:
            raise SettingError(
                f"select must match at least one weight; {word.strip()!r} matched none. "
                f"Known: {', '.join(selections)}, a pattern with * over full names, "
                "or several with commas."
            )
        chosen.update(names)
    return [name for name in known if name in chosen]


def _one(word: str, known: Sequence[str], selections: Mapping[str, str]) -> list[str]:
    layer = TEXT_LAYER.match(word)
    if layer:
        rule = re.compile(rf"^text_encoder(?:_2)?\..*\blayers\.{int(layer[1])}\.")
    elif word in selections:
        rule = re.compile(selections[word])
    else:
        return [name for name in known if fnmatch.fnmatchcase(name, word)]
    return [name for name in known if rule.search(name)]
