"""Which weights a method may change: a few words for the usual sets, or a pattern."""

import fnmatch
import re
from collections.abc import Sequence

from erasure.errors import SettingError

SELECTIONS: dict[str, str] = {
    "full": r"^unet\.",
    "xattn": r"^unet\..*\battn2\.",
    "xattn.kv": r"^unet\..*\battn2\.to_[kv]\.",
    "noxattn": r"^unet\.(?!time_embedding)(?!.*\battn2\.)",
    "selfattn": r"^unet\..*\battn1\.",
    "text": r"^text_encoder\.",
    "text.mlp": r"^text_encoder\..*\bmlp\.",
}


def select_names(select: str, known: Sequence[str]) -> list[str]:
    """The names a selection matches, in model order.

    `select` is one of SELECTIONS or a pattern with `*` over full names ("unet.mid_block.*").
    SettingError if it is neither, or matches nothing.
    """
    if select in SELECTIONS:
        rule = re.compile(SELECTIONS[select])
        names = [name for name in known if rule.search(name)]
    else:
        names = [name for name in known if fnmatch.fnmatchcase(name, select)]
    if not names:
        raise SettingError(
            f"select must match at least one weight; {select!r} matched none. "
            f"Known: {', '.join(SELECTIONS)}, or a pattern such as 'unet.mid_block.*'."
        )
    return names
