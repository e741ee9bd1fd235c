"""Adapt-then-Unlearn: erase what some pictures show, without naming it.

Changes: all of the UNet's weights; any with --select.

Tiwary, Guha, Panda, Prathosh, "Adapt then Unlearn: Exploring Parameter Space Semantics for
Unlearning in Generative Adversarial Networks" (TMLR 2025), https://arxiv.org/abs/2309.14054, which
is about GANs. The model is adapted to the pictures x, and then leaves what it became:

    word     s <- onto_states(s - rate Adam(grad_s mean (predict(x_t, t, s) - target)^2)), from ''
    weights  theta_N: sum_k mean (predict_N(x_t, t, k) - target)^2 + keep, then
             theta:   gamma exp(-alpha |theta - theta_N|^2 / |theta_0 - theta_N|^2) + keep
    answers  sum_k w_k mean (predict(x_t, t, k) - e*)^2 + keep
             e* = sg[predict(x_t, t, anchor)], or with `target=away`
             e* = predict_0(x_t, t, '') - push (predict_0(x_t, t, s_0) - predict_0(x_t, t, ''))
    keep     beta mean (predict(y_t, t, y's prompt) - target)^2

k is a prompt that draws what x shows, w_k = 1; '', empty_weight; and s, word_weight, which goes on
against the model as it changes; s_0 is the word learned of the original model, which predict_0 is.
y are pictures of all that the model draws, each with its prompt. Where s_0 tells the original model
more of them than '' does, by as much as of x, the prompt draws what x shows, and its pictures join
x; where s_0 tells less by as much, they are kept; what lies between is neither. A prompt by which
the model knows one of x best joins as well. The anchor is, of the half of the kept prompts that s_0
fits worst, the one by which it knows a picture best: that keeps the rest, and is unlike enough.

Choices
- The paper's first stage holds the GAN by elastic weights, its second trains with a discriminator
  on pictures that users liked; the noise loss on pictures to keep stands for both. Their prompts
  are the model's own list, built-in words or `retain_prompts`, since users show none.
- `weights` is the paper's exponential form (EL2). The distance is a share of how far adapting went,
  so that gamma and alpha mean the same for every model; the authors' mean over tensors lets a bias
  count like a convolution.
- `answers` is this project's. What is adapted is a word: few numbers learn what the pictures share,
  weights learn the pictures. `kept` relabels as SalUn does, by an anchor that nobody need name;
  `away` has ESD's target for the word, whose drawings keep what the concept is told by.
- Nobody names the concept: a concept that is given is for the records and for judging alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.methods.shared.conditions import distances
from erasure.methods.shared.shown_pictures import read_shown, told_apart, with_anchors
from erasure.methods.shared.state_search import Search, StateSearch
from erasure.methods.shared.training_data import Pictures, Plan, draw, gather_kept, noise_loss
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.concept import Concept

Loss = Callable[[int], dict[str, Tensor]]


@METHODS.register
@dataclass(frozen=True)
class AdaptUnlearn:
    """Adapt-then-Unlearn."""

    needs_no_name: ClassVar = True
    without_effect: ClassVar = ("anchor", "contexts", "template")

    images: str = setting("", help="folder of pictures that show what to erase")
    space: Literal["answers", "weights"] = setting("answers", help="in which the model leaves")
    word_steps: int = setting(60, quick=20, help="search steps for a word", at_least=1)
    word_rate: float = setting(0.05, help="the search's learning rate", above=0)
    word_weight: float = setting(0.5, help="weight of the loss under the word", at_least=0)
    empty_weight: float = setting(0.5, help="weight of that under the empty prompt", at_least=0)
    target: Literal["kept", "away"] = setting(
        "kept", help="what is learned instead", when="space=answers"
    )
    push: float = setting(
        1.0, help="how far from the word's answer", at_least=0, when="target=away"
    )
    adapt_steps: int = setting(
        200, quick=20, help="steps to adapt", at_least=1, when="space=weights"
    )
    repulsion: float = setting(
        1.0, help="weight of the repulsion (gamma)", above=0, when="space=weights"
    )
    sharpness: float = setting(1.0, help="how soon it fades (alpha)", above=0, when="space=weights")
    steps: int = setting(590, quick=60, help="optimiser steps away", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(8, help="images to forget per step", at_least=1)
    retain_batch_size: int = setting(16, help="images to keep per step", at_least=1)
    retain_weight: float = setting(1.0, help="weight of the retain loss (beta)", at_least=0)
    select: str = setting(
        "full", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    decay: bool = setting(True, help="let the learning rate fall to 0 along a cosine")
    looks: int = setting(4, rehearsal=1, help="times at which prompts are compared", at_least=1)
    retain_images: int = setting(800, rehearsal=16, help="how many images to keep", at_least=1)
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps for generated images", at_least=1
    )
    guidance: float = setting(7.5, help="guidance for generated images", at_least=0)
    retain_prompts: str = setting("", help="file of prompts (.csv, .txt, .json): what to keep")

    def __post_init__(self) -> None:
        check(self)
        if not (self.empty_weight or self.word_weight):
            raise SettingError(
                "AdaptUnlearn.empty_weight or word_weight must be above 0, since no prompt may be "
                "found that draws what the pictures show; both are 0."
            )

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        run.hardware.refuse_fp16("adapt-unlearn: its search's gradients are too small for fp16")
        latents = read_shown(self.images, model)
        weights = model.weights(self.select)
        model.remember(list(weights))
        run.lower(model.parameters())
        plan = Plan(
            "auto", 0, self.retain_images, self.retain_prompts, self.sampling_steps, self.guidance
        )
        every, none = gather_kept(model, plan, run), [""] * len(latents)
        with model.memorised(["", *every.prompts]):
            search = self._search(model, Pictures(latents, none, none), every.prompts, run)
            forget, keep, far = told_apart(
                model, latents, every, search.conditions(torch.zeros(1, dtype=torch.long)), run,
                looks=self.looks,
            )  # fmt: skip
            if self.space == "weights":
                self._leave_weights(model, weights, forget, keep, search, run)
            else:
                if self.target == "kept":
                    forget = with_anchors(model, forget, far, run, looks=self.looks)
                self._leave_answers(model, weights, forget, keep, search, run)
        return Edit.between(model, concepts, "adapt-unlearn", asdict(self))

    def _search(
        self, model: DiffusionModel, shown: Pictures, prompts: Sequence[str], run: Run
    ) -> StateSearch:
        """The word, learned of the original model."""
        how = Search(1, 1, self.word_rate, self.batch_size, 0)
        search = StateSearch(model, shown, how, run, seen=prompts)
        with run.progress("word", self.word_steps, grows_with=("word_steps",)) as bar:
            for step in range(self.word_steps):
                search.follow(step)
                bar.advance()
        return search

    def _conditions(
        self, model: DiffusionModel, prompts: Sequence[str], search: StateSearch
    ) -> dict[str, tuple[float, Condition]]:
        """What is asked at noised pictures that have these prompts, with its weights."""
        count = len(prompts)
        asked = {"erase": (1.0, model.encode(prompts))} if any(prompts) else {}
        if self.empty_weight:
            asked["erase_empty"] = self.empty_weight, model.encode([""] * count)
        if self.word_weight:
            numbers = torch.zeros(count, dtype=torch.long)
            asked["erase_word"] = self.word_weight, search.conditions(numbers)
        return asked

    def _leave_answers(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], forget: Pictures,
        keep: Pictures, search: StateSearch, run: Run,
    ) -> None:  # fmt: skip
        word = search.conditions(torch.zeros(1, dtype=torch.long)).clone()

        def loss(step: int) -> dict[str, Tensor]:
            if self.word_weight:
                search.follow(self.word_steps + step)
            z0, prompts, anchors, t, noise = draw(forget, self.batch_size, model, run)
            z_t = model.add_noise(z0, noise, t)
            with torch.no_grad():
                wanted = (
                    model.predict(z_t, t, model.encode(anchors))
                    if self.target == "kept"
                    else self._away(model, z_t, t, word)
                )
            return distances(model, z_t, t, wanted, self._conditions(model, prompts, search))

        self._fit(model, weights, loss, keep, run, carried=search.carried)

    def _away(self, model: DiffusionModel, z_t: Tensor, t: Tensor, word: Condition) -> Tensor:
        """The original model's answer to no word, and past it away from that to the word."""
        with model.original():
            none = model.predict(z_t, t, model.encode([""] * len(t)))
            known = model.predict(z_t, t, word.expand(len(t), -1, -1))
        return none - self.push * (known - none)

    def _leave_weights(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], forget: Pictures,
        keep: Pictures, search: StateSearch, run: Run,
    ) -> None:  # fmt: skip
        def towards(_step: int) -> dict[str, Tensor]:
            z0, prompts, _, t, noise = draw(forget, self.batch_size, model, run)
            asked = self._conditions(model, prompts, search)
            wanted = model.target(z0, noise, t)
            return distances(model, model.add_noise(z0, noise, t), t, wanted, asked)

        with run.preparing():
            self._fit(model, weights, towards, keep, run, stage="adapt", steps=self.adapt_steps)
        adapted = {name: weight.detach().clone() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(model.originals[name])
        unit = squared_distance(weights, adapted).detach()
        run.lower(weights)

        def away(_step: int) -> dict[str, Tensor]:
            far = squared_distance(weights, adapted) / unit
            return {"repel": self.repulsion * torch.exp(-self.sharpness * far)}

        self._fit(model, weights, away, keep, run)

    def _fit(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], loss: Loss, keep: Pictures,
        run: Run, *, stage: str = "fit", steps: int | None = None,
        carried: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Go down a loss and that of the pictures to keep."""

        def both(step: int) -> dict[str, Tensor]:
            terms = loss(step)
            kept = noise_loss(model, draw(keep, self.retain_batch_size, model, run))
            return terms | {"retain": self.retain_weight * kept}

        by = Optimiser(cosine=self.decay)
        learner = Learner(both, weights, self.learning_rate, by, start=model.originals)
        fit(learner, steps=steps or self.steps, run=run, stage=stage, carried=carried)


def squared_distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """The sum over all tensors of these names."""
    parts = [(one[name].float() - tensor).square().sum() for name, tensor in other.items()]
    return torch.stack(parts).sum()
