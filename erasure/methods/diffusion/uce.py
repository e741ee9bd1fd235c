"""UCE: rewrite cross-attention in closed form, so that a concept's words mean its anchor.

Changes: keys and values of the UNet's cross-attention; in Stable Diffusion 3 and FLUX the two maps
through which the transformer reads a text's rows and its pooled embedding.

Gandikota, Orgad, Belinkov, Materzynska, Bau, "Unified Concept Editing in Diffusion Models"
(WACV 2024), https://arxiv.org/abs/2308.14761, eq. 7: for every cross-attention W in {to_k, to_v}

    W' = (lambda W + s_e sum W c*_i c_i^T + s_p sum W c_j c_j^T)
         (lambda I + s_e sum c_i c_i^T + s_p sum c_j c_j^T)^-1

with c_i a text vector of the concept, c*_i the anchor's at the same place, c_j one to preserve.

Choices
- `positions=last` takes one vector per prompt, at the concept's last token; the authors' present
  code takes the prompt's last token, which is the same where a prompt ends with the concept.
  `positions=onward` takes all from the concept's last token to the end of the padding, aligned with
  the anchor's, as their earlier code does from the prompt's last: a causal encoder repeats the
  concept in every later position.
- By default the concept is edited in all of its templates towards its anchor, and the model's own
  list or the built-in one is preserved. Their defaults edit the bare name towards "" (objects) or
  "art", and preserve nothing.
- Of several concepts at once, a template of one may name another ("a bear in Sketch style"). What
  is wanted there is without both, or two rows would ask different things of the same prompt.
- Sums over preserved vectors run over all of a prompt's positions with `onward`, over its last word
  with `last`.
- `average` divides s_e and s_p by their number of prompts, so that they mean the same however many
  prompts there are; the default sums, as published.
- Erased from a run of UCE, W is the erased model, as the equation has it, so that what is kept is
  kept twice and the order of requests tells. With `anew` the run's concepts and these are solved
  for at once, from its base: whatever the order, the result is that of one request for all.
- Solved in float64, on the CPU since not every device has it, and never in mixed precision.
- A bias stays: W' c + b is W c* + b where W' c is W c*.
- Of Stable Diffusion XL the cross-attention is edited as of the others, over both encoders' states;
  the pooled embedding, which also tells it of the concept, passes elsewhere and stays.
- Stable Diffusion 3 has no cross-attention, and all of its text passes two maps. context_embedder
  is edited as to_k and to_v are. The first layer of the pooled embedding's is edited too, with one
  vector per prompt: without that pocket-flow draws the concept as before (seen in 94 % of images),
  with it never. Where T5 is there, its rows stand beside the towers' among the vectors.
- FLUX is edited by the same two maps, as in the authors' code: T5's rows pass the one, CLIP's
  pooled embedding the other. T5 reads both ways, so that tokens before the concept tell of it too,
  and those after it do not repeat it as a causal encoder's do.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.methods.shared.aligned_prompts import aligned_prompts
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import METHODS
from erasure.training.progress import shown
from erasure.training.run import Run
from erasure_datasets.concept import Concept, retain_prompts

Vectors = Tensor  # (n, d) float64, on the CPU
ENCODED_AT_ONCE = 64


@METHODS.register
@dataclass(frozen=True)
class UCE:
    """Unified concept editing."""

    # nothing is drawn at random, learned, or asked of the UNet
    without_effect: ClassVar = (
        "seed", "mixed_precision", "gradient_checkpointing", "gradient_accumulation",
        "use_8bit_adam", "enable_xformers_memory_efficient_attention", "channels_last", "compile",
        "sample_every",
    )  # fmt: skip
    stay: float = setting(
        0.5, help="pull towards the present weights (lambda in the paper)", above=0
    )
    erase_weight: float = setting(1.0, help="weight of the erased vectors (s_e)", above=0)
    preserve_weight: float = setting(1.0, help="weight of the preserved vectors (s_p)", at_least=0)
    positions: Literal["last", "onward"] = setting(
        "last", help="the concept's last token, or all from it on"
    )
    average: bool = setting(False, help="divide each sum by its number of prompts")
    retain_prompts: str = setting(
        "", help="file of prompts (.csv, .txt, .json): what to preserve", when="preserve_weight"
    )

    anew: bool = setting(
        False, help="of a run of UCE's: solve for its concepts and these at once, from its base"
    )

    def __post_init__(self) -> None:
        check(self)

    @torch.no_grad()
    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:  # noqa: ARG002
        kept = retain_prompts(concepts, model.catalogue, self.retain_prompts)
        self._rewrite(
            model, model.text_maps, *self._erased(model, concepts), self._preserved(model, kept)
        )
        if model.pooled_maps:
            rows = aligned_prompts(concepts)
            names, anchors = [row[0] for row in rows], [row[2] for row in rows]
            erased, wanted = (self._pooled(model, p, self.erase_weight) for p in (names, anchors))
            preserved = self._pooled(model, kept, self.preserve_weight)
            self._rewrite(model, model.pooled_maps, erased, wanted, preserved)
        return Edit.between(model, concepts, "uce", asdict(self))

    def _rewrite(
        self, model: DiffusionModel, select: str, erased: Vectors, wanted: Vectors,
        preserved: Vectors,
    ) -> None:  # fmt: skip
        """Solve eq. 7 for each of the selected maps; the biases among them stay."""
        maps = model.weights(select)
        weights = {name: weight for name, weight in maps.items() if name.endswith(".weight")}
        model.remember(list(weights))
        identity = torch.eye(erased.shape[1], dtype=torch.float64)
        inverse = torch.linalg.inv(
            self.stay * identity + erased.T @ erased + preserved.T @ preserved
        )
        for weight in shown([*weights.values()], "solving"):
            old = weight.cpu().double()
            right = self.stay * old + old @ (wanted.T @ erased + preserved.T @ preserved)
            weight.copy_(right @ inverse)

    def _pooled(self, model: DiffusionModel, prompts: Sequence[str], weight: float) -> Vectors:
        """One vector for each prompt, scaled by the root of its weight."""
        starts = range(0, len(prompts), ENCODED_AT_ONCE)
        parts = [model.encode(prompts[first : first + ENCODED_AT_ONCE]) for first in starts]
        vectors = [pooled for part in parts if (pooled := model.pooled(part)) is not None]
        scale = (weight / (len(prompts) if self.average else 1)) ** 0.5
        return torch.cat(vectors).cpu().double() * scale

    def _erased(self, model: DiffusionModel, concepts: list[Concept]) -> tuple[Vectors, Vectors]:
        """Aligned vectors of concepts and their anchors, each scaled by the root of its weight."""
        rows = aligned_prompts(concepts)
        sources, targets = [], []
        for first in range(0, len(rows), ENCODED_AT_ONCE):
            part = rows[first : first + ENCODED_AT_ONCE]
            texts = list(dict.fromkeys(text for row in part for text in (row[0], row[2])))
            hidden = model.states(model.encode(texts)).cpu().double()
            for own in model.text_parts():
                states = dict(zip(texts, hidden[:, own.rows], strict=True))
                for prompt, name, anchor, stand_in in part:
                    start = last_position(own.count, prompt, name)
                    last = last_position(own.count, anchor, stand_in)
                    some, other = states[prompt], states[anchor]
                    length = 1 if self.positions == "last" else len(some) - max(start, last)
                    sources.append(some[start : start + length])
                    targets.append(other[last : last + length])
        scale = (self.erase_weight / (len(rows) if self.average else 1)) ** 0.5
        return torch.cat(sources) * scale, torch.cat(targets) * scale

    def _preserved(self, model: DiffusionModel, prompts: Sequence[str]) -> Vectors:
        vectors = []
        for start in shown(range(0, len(prompts), ENCODED_AT_ONCE), "reading prompts"):
            part = prompts[start : start + ENCODED_AT_ONCE]
            hidden = model.states(model.encode(part)).cpu().double()
            for own in model.text_parts():
                rows = hidden[:, own.rows]
                if self.positions == "last":
                    ends = [last_position(own.count, prompt, "") for prompt in part]
                    rows = rows[torch.arange(len(part)), ends][:, None]
                vectors.append(rows.flatten(0, 1))
        scale = (self.preserve_weight / (len(prompts) if self.average else 1)) ** 0.5
        return torch.cat(vectors) * scale


def last_position(count: Callable[[str], int], prompt: str, name: str) -> int:
    """Index of a name's last token in its prompt, as `count` gives a text's.

    Where the name is empty, that of the prompt's last real token.
    """
    if not name:
        return count(prompt)
    # as words: the last "art" of "smart art, a party" is its second word
    found = list(re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", prompt))
    end = found[-1].end() if found else prompt.rfind(name) + len(name)
    return count(prompt[:end])
