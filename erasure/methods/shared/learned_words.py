"""Words that are learned: token embeddings which stand where a prompt names its concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.methods.shared.training_data import Pictures, draw
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.models.diffusion.slots import around
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.concept import Concept

Words = Float[Tensor, "m k w"]  # of m concepts, k vectors each


@dataclass(frozen=True)
class Named:
    """Which concept each of some prompts names, by number, and the text before and after it.

    Of two concepts that a prompt names the first counts.
    """

    places: dict[str, tuple[int, tuple[str, str]]]

    @classmethod
    def of(cls, concepts: Sequence[Concept]) -> Self:
        """The concepts' own prompts."""
        places: dict[str, tuple[int, tuple[str, str]]] = {}
        for number, concept in enumerate(concepts):
            for prompt in concept.prompts():
                places.setdefault(prompt, (number, around(prompt, concept.name)))
        return cls(places)

    def encode(self, model: DiffusionModel, prompts: Sequence[str], words: Words) -> Condition:
        """The prompts with each concept's word in place of its name; gradients pass."""
        found = [self.places[prompt] for prompt in prompts]
        slotted = model.open_slots([parts for _, parts in found], words.shape[1])
        return model.encode_slots(slotted, words[[number for number, _ in found]])


def embedding_of(model: DiffusionModel, word: str) -> Float[Tensor, "1 w"]:
    """The mean token embedding of a word. SettingError for one of which nothing is read."""
    ids = model.open_slots([("", word)], 0).ids[0, 1 : 1 + model.token_count(word)]
    if not len(ids):
        raise SettingError(f"init must be a word that {model.name} reads; got {word!r}.")
    return model.token_table[ids].detach().mean(0, keepdim=True).clone()


def learn_words(
    model: DiffusionModel, pictures: Pictures, named: Named, start: Words, *, steps: int,
    rate: float, batch_size: int, stage: str, run: Run,
) -> Words:  # fmt: skip
    """The words down the noise loss of pictures, each under its prompt: textual inversion.

    Gal et al. 2022, https://arxiv.org/abs/2208.01618, by AdamW. The model as it stands is asked.
    """
    words = nn.Parameter(start.detach().float().clone())

    def loss(_step: int) -> dict[str, Tensor]:
        z0, prompts, _, t, noise = draw(pictures, batch_size, model, run)
        condition = named.encode(model, prompts, words)
        said = model.predict(model.add_noise(z0, noise, t), t, condition)
        return {"word": F.mse_loss(said, model.target(z0, noise, t))}

    by = Optimiser("adamw", weight_decay=0.01)
    fit(Learner(loss, {"words": words}, rate, by), steps=steps, run=run, stage=stage)
    return words.detach()
