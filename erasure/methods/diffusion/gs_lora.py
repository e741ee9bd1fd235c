"""GS-LoRA on a diffusion UNet: requests one after another, each with its own sparse adapter.

Changes: an adapter per request on the UNet's feed-forward layers.

After Zhao et al., "Continual Forgetting for Pre-trained Vision Models" (CVPR 2024),
https://arxiv.org/abs/2403.11530, which is about classifiers; the objective here is this project's:

    loss    relu(F - bound) + gamma R + a sum_l sqrt(sum |A|^2 + |B|^2) + o sum_j |A A_j'|
    F       mean |eps(x_t, t, c) - e*|^2 / mean |eps_-(x_t, t, c) - e*|^2
    e*      eps_-(x_t, t, c_from) - push (eps_-(x_t, t, e) - eps_-(x_t, t, ''))
    R       mean |eps(x_r, t, c_r) - eps_-(x_r, t, c_r)|^2 / the mean of |eps_-(., c) - e*|^2

eps_- is the model before this request, with the earlier requests' adapters in it; A and B are the
low-rank matrices of one transformer block's linears, which is one group (`place`: its feed-forward,
its cross-attention, or both). A_j are the earlier requests' A of the same layer.

Why these terms: F is the distance to ESD's target in units of what it was, 1 at the start; below
`bound` the concept is gone, and nothing pushes on (the bounded forget loss of the paper). R is in
the same unit. What earlier requests took away is in R too, as the model before this request draws
it, so that it stays away; and since each adapter leaves the others' concepts as they were, one can
be taken out again (`erasure undo`) without the others coming back.

Choices
- A prompt of an earlier request that also mentions the present concept is forgotten, not kept.
- F and R divide means over what is computed together: with several processes or parts of a batch,
  over each one's own share.
- Points lie on guided paths of the original model, as in esd.py.
- The last term, off unless `orthogonality` is above 0, is O3's (Gao et al., "On Large Language
  Model Continual Unlearning", ICLR 2025, https://arxiv.org/abs/2407.10223, weight 0.1): an adapter
  reads directions that no earlier one of the same command reads. Those of a run below are unknown.
- Rank, alpha, the group weight's warm-up and the dropping of idle groups as for classifiers
  (methods/classifier/gs_lora.py). Prototype losses are for classifiers only: here R already says
  what the features are for. The learning rate is constant and no average of the adapter is kept.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.methods.shared.paths import (
    PushFrom,
    answers,
    check_push,
    draw_paths,
    points,
    push_rows,
    texts_of,
)  # fmt: skip
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.lora import Adapter, linears, merge, moving_groups
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure_datasets.concept import Concept, mentions, retain_prompts


@METHODS.register
@dataclass(frozen=True)
class GSLoRA:
    """Group-sparse LoRA for a sequence of erasures."""

    steps_per_concept: ClassVar = True
    steps: int = setting(500, quick=60, help="optimiser steps per concept", at_least=1)
    learning_rate: float = setting(1e-3, help="Adam's learning rate", above=0)
    batch_size: int = setting(4, help="path points to forget per step, and to keep", at_least=1)
    rank: int = setting(8, help="of the adapters (r)", at_least=1)
    alpha: float = setting(8.0, help="the adapters' effect is alpha / rank B A", above=0)
    place: Literal["ffn", "attention", "both"] = setting("ffn", help="which linears are adapted")
    bound: float = setting(0.05, help="share of the distance to the target that may be left",
                           at_least=0)  # fmt: skip
    retain_weight: float = setting(1.0, help="of the retain term (gamma)", at_least=0)
    group_weight: float = setting(1e-4, help="of the group lasso (a)", at_least=0)
    group_warmup: int = setting(
        100, quick=20, help="first steps without it; all of them, if there are no more", at_least=0
    )
    orthogonality: float = setting(0.0, help="of the overlap with earlier requests' A (o)",
                                   at_least=0)  # fmt: skip
    zero_below: float = setting(1e-3, help="relative change below which a group is dropped",
                                at_least=0)  # fmt: skip
    push: float = setting(2.0, help="negative guidance of the target", at_least=0)
    push_from: PushFrom = setting("prompt", help="what the target starts from and pushes away")
    guidance: float = setting(3.0, help="guidance of the paths", at_least=0)
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps of a path", at_least=2
    )
    paths: int = setting(
        64, quick=16, rehearsal=16, help="paths drawn per concept, and to keep", at_least=1
    )
    retain_prompts: str = setting(
        "", help="file of prompts (.csv, .txt, .json): what to keep", when="retain_weight"
    )

    def __post_init__(self) -> None:
        check(self)
        check_push("GSLoRA", self.push, self.push_from)

    def erase(self, model: LatentDiffusion, concepts: list[Concept], run: Run) -> Edit:
        run.lower(model.parameters())
        adapters: list[dict[str, Tensor]] = []
        for number, concept in enumerate(concepts):
            earlier = [*model.taken, *concepts[:number]]
            adapters.append(self._request(model, adapters, concept, earlier, run))
        tensors = {
            f"request.{number}.{name}": matrix
            for number, kept in enumerate(adapters)
            for name, matrix in kept.items()
        }
        requests = {str(number): [concept.name] for number, concept in enumerate(concepts)}
        return Edit(
            tensors, "gs-lora", concepts, model.name, form="lora", settings=asdict(self),
            requests=requests, moved=model.moved(),
        )  # fmt: skip

    def _request(
        self, model: LatentDiffusion, adapters: list[dict[str, Tensor]], concept: Concept,
        earlier: list[Concept], run: Run,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Train and merge one concept's adapter; its matrices. `adapters` are earlier requests'."""
        number = len(adapters)
        groups = model.groups(self.place)
        layers = linears(model, [name for group in groups for name in group])
        generator = run.generator_for(f"adapter {number}")
        adapter = Adapter.fresh(layers, self.rank, self.alpha, generator)
        texts = retain_prompts([concept], model.catalogue, self.retain_prompts)
        took = [prompt for other in earlier for prompt in other.prompts()]
        texts += [prompt for prompt in took if not mentions(prompt, concept.name)]
        rows = push_rows([concept], self.push_from)
        kept = [(text,) for text in dict.fromkeys(texts)]
        forget = draw_paths(self, model, rows, f"forget {number}", run)
        retain = draw_paths(self, model, kept, f"retain {number}", run)

        def loss(step: int) -> dict[str, Tensor]:
            at = points(forget, self.batch_size, run)
            with adapter.off():  # eps_- has earlier adapters in it, so the paths' own do not serve
                asked, start, pushed, none = answers(model, at)
                wanted = start - self.push * (pushed - none)
                unit = F.mse_loss(asked, wanted).clamp(min=1e-8)
            left = (
                F.mse_loss(model.predict(at.z_t, at.t, model.encode(at.prompts[0])), wanted) / unit
            )
            at = points(retain, self.batch_size, run)
            condition = model.encode(at.prompts[0])
            with adapter.off():
                before = model.predict(at.z_t, at.t, condition)
            moved = F.mse_loss(model.predict(at.z_t, at.t, condition), before) / unit
            terms = {"erase": F.relu(left - self.bound), "retain": self.retain_weight * moved}
            if step >= self.group_warmup and self.group_weight:
                terms["groups"] = self.group_weight * adapter.group_norms(groups).sum()
            if adapters and self.orthogonality:
                overlaps = [adapter.overlap(other) for other in adapters]
                terms["overlap"] = self.orthogonality * torch.stack(overlaps).sum()
            return terms

        with adapter.on(model, layers), model.memorised(texts_of(rows, kept)):
            weights = adapter.weights()
            fit(
                Learner(loss, weights, self.learning_rate, start=run.lowered(weights)),
                steps=self.steps, run=run, stage=f"request {number}",
            )  # fmt: skip
        busy, moved = moving_groups(model, weights, groups, adapter.scale, self.zero_below)
        run.log_end(f"groups {number}", self.steps, {f"block {i}": m for i, m in enumerate(moved)})
        merge(model, busy, adapter.scale)
        return {name: matrix.float().cpu().clone() for name, matrix in busy.items()}
