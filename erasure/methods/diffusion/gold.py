"""Gold: the weights of a model that never knew the concept, as an edit like any other.

Changes: every weight in which the two models differ.

No method that a user could run, but what methods are measured against: a model of the same
architecture, trained by the same recipe without one picture or caption of the concept
(`scripts/train_pocket.py gold`). As a run it is drawn, judged and attacked like an erasure, and
what an attack wins there is what it would win from a model with nothing to bring back.

Choices
- A model that says what it was trained without (`without` in its training.json) is refused for any
  other concept.
- Autoencoder, tokenizers and schedule must be the same, since no erasure changes them.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.errors import ModelError, SettingError
from erasure.files.records import read_record
from erasure.models.built_in import GOLD, POCKET
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.registry import METHODS
from erasure.training.run import Run
from erasure_datasets.concept import Concept


@METHODS.register
@dataclass(frozen=True)
class Gold:
    """The weights of a model trained without the concept."""

    without_effect: ClassVar = (
        "seed", "mixed_precision", "gradient_checkpointing", "gradient_accumulation",
        "use_8bit_adam", "enable_xformers_memory_efficient_attention", "channels_last", "compile",
        "sample_every",
    )  # fmt: skip
    never_further: ClassVar = "its weights are those of another model, for all concepts at once"
    weights: str = setting(GOLD, help="a model that never knew the concepts: a folder or Hub id")

    def __post_init__(self) -> None:
        check(self)

    @torch.no_grad()
    def erase(self, model: LatentDiffusion, concepts: list[Concept], run: Run) -> Edit:  # noqa: ARG002
        known = without(self.weights)
        for concept in concepts:
            if known is not None and concept.name not in known:
                raise SettingError(
                    f"weights must be of a model that never saw {concept.name!r}; {self.weights} "
                    f"was trained without {', '.join(known)} alone."
                )
        gold = load_model(self.weights)
        refuse_unlike(model, gold)
        own, theirs = model.parameters(), gold.parameters()
        differing = [n for n, w in own.items() if not torch.equal(w.cpu(), theirs[n].float())]
        model.remember(differing)
        for name in differing:
            own[name].copy_(theirs[name])
        return Edit.between(model, concepts, "gold", asdict(self))


def without(name: str) -> list[str] | None:
    """The concepts that a model says it was trained without; None if it says nothing."""
    folder = POCKET / "gold" if name == GOLD else Path(name)
    file = folder / "training.json"
    if not file.is_file():
        return None
    names = read_record(file, dict[str, Any]).get("without")
    return [str(found) for found in names] if isinstance(names, list) else None


def refuse_unlike(model: LatentDiffusion, gold: LatentDiffusion) -> None:
    """ModelError unless the two differ in the weights that an edit may change, and no more."""
    shapes, others = (
        {name: tuple(weight.shape) for name, weight in one.parameters().items()}
        for one in (model, gold)
    )
    if shapes != others:
        odd = min(name for name, _ in shapes.items() ^ others.items())
        raise ModelError(
            f"{gold.name} is of another architecture than {model.name}: {odd} is "
            f"{others.get(odd, 'missing')} there and {shapes.get(odd, 'missing')} here."
        )
    here, there = model.constants(), gold.constants()
    same = here.keys() == there.keys() and all(_equal(here[n], there[n]) for n in here)
    if not same:
        raise ModelError(
            f"{gold.name} has another autoencoder, tokenizer or schedule than {model.name}; "
            "they must be the same, so that only what was learned differs."
        )


def _equal(one: Tensor | str, other: Tensor | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return one.shape == other.shape and torch.equal(one.cpu(), other.cpu())
