"""STEREO: find words that bring the concept back, then push the model away from all of them.

Changes: the UNet's cross-attention; any weights with --select.

Srivatsan, Shamshad, Naseer, Patel, Nandakumar, "STEREO: A Two-Stage Framework for Adversarially
Robust Concept Erasing from Text-to-Image Diffusion Models" (CVPR 2025),
https://arxiv.org/abs/2408.16807. n_0 is the concept's name, n_1 to n_K are learned words:

    search   K times, the model going on from time to time: it is erased of the last word found,
             mean (eps(x_t, t, n) - [e - eta (eps_0(x_t, t, n) - e)])^2,  e = eps_0(x_t, t, ''),
             and the next is learned of it, n = argmin mean (eps(z_t, t, n) - noise)^2
    erase    once, from the original model eps_0, at each n_j:
             mean (eps(x_t, t, n_j) - [e + p (eps_0(x_t, t, a) - e)
                                       - q mean_j (eps_0(x_t, t, n_j) - e)])^2

x_t are points of the original model's guided paths towards the concept's prompts, z_t noised
pictures that it draws for them, and a is such a prompt with the anchor. A word stands in the
prompt where the concept's name does.

Choices
- A word is `tokens` embeddings, as published. uproot searches whole states of the text encoder
  instead, which hold every such word.
- The authors' code gives the scales of anchor and words as 2 and -2 and subtracts 1 from both, so
  p = 1 and q = 3 (`pull`, `push`); their search is ESD by its equation with eta = 2 (`round_push`).
- Their code was read in a third party's port: theirs was not to be had. The port subtracts 1 from
  eta as well, after which a round only asks for the empty prompt's answer; that is round_push=0.
- All answers to reach are the original model's. The port asks the model that a round begins with.
- x_t lies on paths towards the concept's name whatever word is asked, on `paths` paths kept for the
  run; the authors draw a fresh one towards the word at every step.
- The pictures that words are learned on are where those paths end. The authors draw 500 apart.
- The authors list anchor sentences per concept. Ours are the concept's prompts with its anchor.
- Every word starts from `init`. Without one that is a word for the kind of the concept, as theirs.
- The paper has no retain term. `retain_weight` adds ESD's, in the last stage alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.methods.shared.aligned_prompts import anchored_pairs
from erasure.methods.shared.learned_words import Named, Words, embedding_of, learn_words
from erasure.methods.shared.paths import (
    Paths,
    Points,
    draw_paths,
    points,
    retain_loss,
    texts_of,
)
from erasure.methods.shared.training_data import Pictures
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure_datasets.concept import Concept, retain_prompts

FIRST = {"style": "art", "person": "person", "unsafe": "person"}  # what a word starts from


@METHODS.register
@dataclass(frozen=True)
class Stereo:
    """Search thoroughly enough, then robustly erase once."""

    rounds: int = setting(4, quick=1, help="words to find (K in the paper)", at_least=0)
    round_steps: int = setting(
        200, quick=20, help="steps of a round's erasing", at_least=1, when="rounds"
    )
    round_rate: float = setting(
        5e-6, help="learning rate of a round's erasing", above=0, when="rounds"
    )
    round_push: float = setting(
        2.0, help="negative guidance of a round (eta)", at_least=0, when="rounds"
    )
    word_steps: int = setting(
        3000, quick=20, help="steps to learn a word", at_least=1, when="rounds"
    )
    word_rate: float = setting(5e-3, help="learning rate of a word", above=0, when="rounds")
    tokens: int = setting(1, help="vectors of a word", at_least=1, when="rounds")
    init: str = setting(
        "", help="what words start from; empty: object, art or person", when="rounds"
    )
    steps: int = setting(200, quick=60, help="optimiser steps of the last erasing", at_least=1)
    learning_rate: float = setting(2e-5, help="Adam's learning rate there", above=0)
    batch_size: int = setting(1, help="path points, and images for a word, per step", at_least=1)
    push: float = setting(3.0, help="how far from the mean of name and words (q)", at_least=0)
    pull: float = setting(1.0, help="how far towards the anchor (p)", at_least=0)
    select: str = setting(
        "xattn", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    guidance: float = setting(3.0, help="guidance of the paths", at_least=0)
    sampling_steps: int = setting(50, rehearsal=2, help="DDIM steps of a path", at_least=2)
    paths: int = setting(64, quick=16, rehearsal=16, help="paths drawn at the start", at_least=1)
    retain_weight: float = setting(
        0.0, help="weight of the retain term; the paper has none", at_least=0
    )
    retain_prompts: str = setting(
        "", help="file of prompts (.csv, .txt, .json): what to keep", when="retain_weight"
    )

    def __post_init__(self) -> None:
        check(self)

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        if model.slots_refusal:
            raise SettingError(
                f"stereo learns vectors among a prompt's words, and {model.name} takes none: "
                f"{model.slots_refusal}. Choose another method."
            )
        run.hardware.refuse_fp16("stereo: the gradients of its words are too small for fp16")
        weights, named = model.weights(self.select), Named.of(concepts)
        model.remember(list(weights))
        run.lower(model.parameters())
        first = self._first(model, concepts)
        named.encode(model, [*named.places], first)  # refuses prompts that leave no room
        rows, kept = list[tuple[str, ...]](anchored_pairs(concepts)), list[tuple[str, ...]]()
        if self.retain_weight:
            texts = retain_prompts(concepts, model.catalogue, self.retain_prompts)
            kept = [(text,) for text in texts]
        forget = draw_paths(self, model, rows, "forget", run)
        retain = draw_paths(self, model, kept, "retain", run) if kept else None
        with model.memorised(texts_of(rows, kept), encoders_rest=False):
            words = self._search(model, weights, forget, named, first, run)
            self._erase_once(model, weights, forget, retain, named, words, run)
        return Edit.between(model, concepts, "stereo", asdict(self))

    def _first(self, model: DiffusionModel, concepts: Sequence[Concept]) -> Words:
        """What words start from, for each concept."""
        starts = [self.init or FIRST.get(concept.kind, "object") for concept in concepts]
        return torch.stack([embedding_of(model, text).repeat(self.tokens, 1) for text in starts])

    def _search(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], forget: Paths, named: Named,
        first: Words, run: Run,
    ) -> list[Words]:  # fmt: skip
        """The words that bring the concepts back; the model is the original one again then."""
        prompts = [row[0] for row in forget.prompts]
        pictures, words = Pictures(forget.finished, prompts, [""] * len(prompts)), list[Words]()

        def loss(_step: int) -> dict[str, Tensor]:
            at = points(forget, self.batch_size, run)
            with model.original():
                asked = self._asked(model, at, named, words[-1:])[-1:]
                wanted = away(model, at, asked, self.round_push)
            (last,) = self._asked(model, at, named, words[-1:])[-1:]
            return {"erase": F.mse_loss(model.predict(at.z_t, at.t, last), wanted)}

        start: Mapping[str, Tensor] = model.originals
        for number in range(self.rounds):
            with run.preparing():
                learner = Learner(loss, weights, self.round_rate, start=start)
                fit(learner, steps=self.round_steps, run=run, stage=f"round {number}")
                start = run.lowered(weights)
                found = learn_words(
                    model, pictures, named, first, steps=self.word_steps, rate=self.word_rate,
                    batch_size=self.batch_size, stage=f"word {number}", run=run,
                )  # fmt: skip
            words.append(found)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(model.originals[name])
        return words

    def _asked(
        self, model: DiffusionModel, at: Points, named: Named, words: Sequence[Words]
    ) -> list[Condition]:
        """The points' prompts as they are, and with each word in the name's place."""
        prompts = at.prompts[0]
        return [model.encode(prompts), *(named.encode(model, prompts, word) for word in words)]

    def _erase_once(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], forget: Paths,
        retain: Paths | None, named: Named, words: Sequence[Words], run: Run,
    ) -> None:  # fmt: skip
        """Push name and words away, in turn by chance, towards the anchor."""

        def loss(_step: int) -> dict[str, Tensor]:
            at = points(forget, self.batch_size, run)
            chances = torch.randint(1 + len(words), (self.batch_size,), generator=run.generator)
            with model.original():
                asked = self._asked(model, at, named, words)
                anchor = model.encode(at.prompts[1])
                wanted = away(model, at, asked, self.push, anchor, self.pull)
            one = run.part(chances).tolist()
            asked = torch.stack(self._asked(model, at, named, words))[one, range(len(one))]
            terms = {"erase": F.mse_loss(model.predict(at.z_t, at.t, asked), wanted)}
            if retain is not None:
                left = retain_loss(model, points(retain, self.batch_size, run))
                terms["retain"] = self.retain_weight * left
            return terms

        learner = Learner(loss, weights, self.learning_rate, start=model.originals)
        fit(learner, steps=self.steps, run=run)


def away(
    model: DiffusionModel, at: Points, asked: Sequence[Condition], push: float,
    anchor: Condition | None = None, pull: float = 0.0,
) -> Tensor:  # fmt: skip
    """e + pull (answer to the anchor - e) - push (mean answer to what is asked - e), e to none."""
    others = [model.encode([""] * len(at.t)), *asked, *([] if anchor is None else [anchor])]
    count = len(others)
    said = model.predict(at.z_t.repeat(count, 1, 1, 1), at.t.repeat(count), torch.cat(others))
    none, *rest = said.chunk(count)
    wanted = none - push * (torch.stack(rest[: len(asked)]).mean(0) - none)
    return wanted if anchor is None else wanted + pull * (rest[-1] - none)
