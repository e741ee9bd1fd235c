"""uproot: relabel pictures of the concept under every condition that still draws it.

Changes: all of the UNet's weights; any with --select.

This project's own, on the ground of SalUn (salun.py), which asks under the concept's prompts alone.
The empty prompt, by which latents are completed and inverted, and states that no list of words
holds are asked as well:

    forget  sum_k w_k mean (predict(x_t, t, k) - sg[predict(x_t, t, anchor)])^2,
                k in {x's prompt, '', s},  w_k = 1, empty_weight, state_weight
    keep    alpha mean (predict(y_t, t, k) - target)^2,
                k y's prompt, or '' for the `empty_share` of a batch
    search  s <- onto_states(s - rate Adam(grad_s mean (predict(x_t, t, s) - target)^2))

x pictures of the concept, y of what is kept, target what `predict` is trained on. With `renew` a
second stage follows, renewal.py's: weights are noised and learn this model's answers anew, on y as
above and on pictures of the anchor under the concept's prompts and each under a state.

Choices
- The target is the current model under stop-gradient, not the original one: that is itself a good
  denoiser of the concept's pictures whatever it is asked for, so it leaves the knowledge where it
  was, while the current one drifts with the edit.
- All conditions of a step see the same x_t and t, and share one target.
- The states stay on what the text encoder can put out (`DiffusionModel.onto_states`), which holds
  every prompt and learned word. They go on from step to step, Adam's moments with them, so that
  they follow the model; `restart` begins each anew every so many steps.
- A search step shows all states the same `search_images` noised pictures. Every process and every
  part of a batch searches alike, from draws of its own per step.
- Where concepts were taken before, pictures of what each draws instead are among those to keep.
- `mask` takes SalUn's: a run of it writes mask.safetensors.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.methods.shared.conditions import distances
from erasure.methods.shared.renewal import (
    Question,
    Renewal,
    check_renewable,
    renew_and_distil,
)
from erasure.methods.shared.saliency import read_masks
from erasure.methods.shared.state_search import Search, StateSearch
from erasure.methods.shared.taken_before import with_taken
from erasure.methods.shared.training_data import (
    Drawn,
    Pictures,
    Plan,
    draw,
    gather,
    gather_anchors,
    noise_loss,
)
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.concept import Concept


@METHODS.register
@dataclass(frozen=True)
class Uproot:
    """Relabelling under prompts, the empty prompt and searched states."""

    steps: int = setting(590, quick=60, help="optimiser steps", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(8, help="images to forget per step", at_least=1)
    retain_batch_size: int = setting(16, help="images to keep per step", at_least=1)
    retain_weight: float = setting(1.0, help="weight of the retain loss (alpha)", at_least=0)
    empty_weight: float = setting(
        0.5, help="weight of the forget loss under the empty prompt", at_least=0
    )
    empty_share: float = setting(
        0.25,
        help="share of the kept images asked under the empty prompt",
        at_least=0,
        at_most=1,
        when="retain_weight or renew",
    )
    state_weight: float = setting(
        0.5, help="weight of the forget loss under searched states", at_least=0
    )
    states: int = setting(4, help="how many states are searched", at_least=1, when="state_weight")
    search_steps: int = setting(
        1, help="search steps per optimiser step", at_least=1, when="state_weight"
    )
    search_rate: float = setting(
        0.05, help="the search's learning rate", above=0, when="state_weight"
    )
    search_images: int = setting(
        8, help="images of the concept per search step", at_least=1, when="state_weight"
    )
    restart: int = setting(
        0, help="steps after which a state starts anew; 0: never", at_least=0, when="state_weight"
    )
    target: Literal["current", "original"] = setting("current", help="which model draws the anchor")
    select: str = setting(
        "full", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    decay: bool = setting(True, help="let the learning rate fall to 0 along a cosine")
    renew: float = setting(
        0.0,
        help="second stage: share of noise in the weights (alpha), below 1; 0: none",
        at_least=0,
    )
    renew_scale: float = setting(
        0.1, help="size of the noise, 1 is a fresh network's (beta)", at_least=0, when="renew"
    )
    distil_steps: int = setting(
        600, quick=20, help="optimiser steps at most that learn anew", at_least=1, when="renew"
    )
    distil_rate: float = setting(1e-4, help="Adam's learning rate there", above=0, when="renew")
    distil_within: float = setting(
        0.05, help="end once the loss on kept images is higher by no more", at_least=0, when="renew"
    )
    mask: str = setting(
        "", help="change only the weights of the mask in this .safetensors file, as SalUn writes it"
    )
    images: str = setting(
        "auto", help="auto (the model's data set, else generated), generated, or a folder"
    )
    forget_images: int = setting(
        800, rehearsal=16, help="how many images of the concept", at_least=1
    )
    retain_images: int = setting(800, rehearsal=16, help="how many images to keep", at_least=1)
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps for generated images", at_least=1
    )
    guidance: float = setting(7.5, help="guidance for generated images", at_least=0)
    retain_prompts: str = setting(
        "", help="file of prompts (.csv, .txt, .json): what to keep", when="retain_weight or renew"
    )

    def __post_init__(self) -> None:
        check(self)
        if self.renew >= 1:
            raise SettingError(f"Uproot.renew must be below 1; got {self.renew:g}.")

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        weights = model.weights(self.select)
        masks = read_masks("Uproot", Path(self.mask), weights, run.device) if self.mask else None
        if self.renew:
            check_renewable("Uproot", weights, masks)
        if self.state_weight:
            run.hardware.refuse_fp16("uproot: its search's gradients are too small for fp16")
        model.remember(list(weights))
        run.lower(model.parameters())
        plan = Plan(
            self.images, self.forget_images, self.retain_images, self.retain_prompts,
            self.sampling_steps, self.guidance, has_anchors=self.renew > 0,
        )  # fmt: skip
        forget, retain = gather(model, concepts, plan, run)
        anchors = gather_anchors(model, concepts, plan, run) if self.renew else None
        if self.retain_weight or self.renew:
            retain = with_taken(model, concepts, retain, plan, run)
        asked = ["", *forget.prompts, *forget.anchors, *retain.prompts]
        asked += anchors.prompts if anchors else []
        search = self._search(model, forget, run) if self.state_weight else None
        loss = self._loss(model, forget, retain, search, run)
        by = Optimiser(cosine=self.decay)
        learner = Learner(
            loss, weights, self.learning_rate, by, masks=masks, start=model.originals
        )  # fmt: skip
        with model.memorised(asked):
            # a rehearsal sees both stages
            with run.preparing() if anchors and run.rehearsal else nullcontext():
                fit(learner, steps=self.steps, run=run, carried=search.carried if search else {})
            if anchors:
                lesson = self._lesson(model, retain, anchors, search, run)
                renew_and_distil(model, weights, masks, lesson, retain, self._renewal(), run)
        return Edit.between(model, concepts, "uproot", asdict(self))

    def _renewal(self) -> Renewal:
        return Renewal(
            self.renew, self.renew_scale, self.distil_steps, self.distil_rate, self.distil_within,
            self.decay,
        )  # fmt: skip

    def _search(self, model: DiffusionModel, forget: Pictures, run: Run) -> StateSearch:
        search = Search(
            self.states, self.search_steps, self.search_rate, self.search_images, self.restart
        )
        return StateSearch(model, forget, search, run)

    def _loss(
        self, model: DiffusionModel, forget: Pictures, retain: Pictures,
        search: StateSearch | None, run: Run,
    ) -> Callable[[int], dict[str, Tensor]]:  # fmt: skip
        def loss(step: int) -> dict[str, Tensor]:
            if search:
                search.follow(step)
            z0, prompts, anchors, t, noise = draw(forget, self.batch_size, model, run)
            asked = {"erase": (1.0, model.encode(prompts))}
            if self.empty_weight:
                asked["erase_empty"] = self.empty_weight, model.encode([""] * len(t))
            if search:
                rows = run.part(torch.arange(self.batch_size))
                asked["erase_states"] = self.state_weight, search.conditions(rows + step)
            terms = self._relabelled(model, model.add_noise(z0, noise, t), t, anchors, asked)
            kept = noise_loss(model, self._kept(model, retain, run))
            terms["retain"] = self.retain_weight * kept
            return terms

        return loss

    def _kept(self, model: DiffusionModel, retain: Pictures, run: Run) -> Drawn:
        """Pictures to keep, of which a share has no prompt."""
        z0, prompts, anchors, t, noise = draw(retain, self.retain_batch_size, model, run)
        rows = run.part(torch.arange(self.retain_batch_size))
        blank = (rows < round(self.empty_share * self.retain_batch_size)).tolist()
        asked = ["" if none else text for text, none in zip(prompts, blank, strict=True)]
        return z0, asked, anchors, t, noise

    def _lesson(
        self, model: DiffusionModel, retain: Pictures, anchors: Pictures,
        search: StateSearch | None, run: Run,
    ) -> Callable[[], dict[str, Question]]:  # fmt: skip
        """What the second stage asks: none of it shows the concept."""

        def lesson() -> dict[str, Question]:
            z0, prompts, _, t, noise = self._kept(model, retain, run)
            questions = {"retain": Question(model.add_noise(z0, noise, t), t, prompts)}
            z0, prompts, _, t, noise = draw(anchors, self.batch_size, model, run)
            z_t = model.add_noise(z0, noise, t)
            questions["erase"] = Question(z_t, t, prompts)
            if search:
                numbers = run.part(
                    torch.randint(self.states, (self.batch_size,), generator=run.generator)
                )
                questions["erase_states"] = Question(z_t, t, search.conditions(numbers))
            return questions

        return lesson

    def _relabelled(
        self, model: DiffusionModel, z_t: Tensor, t: Tensor, anchors: Sequence[str],
        asked: Mapping[str, tuple[float, Condition]],
    ) -> dict[str, Tensor]:  # fmt: skip
        """Each condition's weighted distance from the anchor's answer, in one call for all."""
        with torch.no_grad(), model.original() if self.target == "original" else nullcontext():
            wanted = model.predict(z_t, t, model.encode(anchors))
        return distances(model, z_t, t, wanted, asked)
