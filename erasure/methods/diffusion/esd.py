"""ESD: steer the concept's prompt away from the concept, by the frozen model's negative guidance.

Changes: the UNet's cross-attention; any weights with --select.

Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models" (ICCV 2023),
https://arxiv.org/abs/2303.07345.

    loss   mean (eps(x_t, t, c)
                 - [eps_0(x_t, t, c_from) - push (eps_0(x_t, t, e) - eps_0(x_t, t, ''))])^2
    x_t    a point of the original model's own guided path towards c; eps_0 the original model

Choices
- Eq. 7 starts from eps_0(x_t, t, '') and pushes by eta. With c_from = e = c that is push = 1 + eta:
  the default 2, which the authors' present code has in this form, is eta = 1, and 1 is the empty
  prompt's own prediction.
- c is a prompt that names the concept. `push_from=prompt` pushes e = c away, from c_from = c, as
  published; `push_from=anchor` starts from the same prompt with the anchor, and `push_from=concept`
  keeps c_from = c but pushes the bare concept e alone, so that the rest of the prompt is not pushed
  with it.
- x_t is drawn by the original model, as the authors' present code does (their first release used
  the edited one), on `paths` paths kept for the whole run instead of a fresh one per step. The
  paths are DDIM's; the authors' script walks the folder's own scheduler.
- `select` u and all are the backbone's linear and convolutional layers, u without xattn, as
  in the authors' present code. noxattn and full name the norms too, and noxattn leaves the time
  embedding out.
- In Stable Diffusion 3 x is the text's side of joint attention, and paths are Euler's. The pooled
  embedding tells every block of the concept past it: name text.in and pooled.in too. On pocket-flow
  UA was 19 % without them and 100 % with them.
- In FLUX x is the text's side of the blocks with two streams, `single` the blocks in which text and
  image pass the same weights, and both maps exist likewise. All predictions of dev are asked with
  guidance 1, as copies of the authors' script for FLUX do, since a distilled contrast is none of
  two prompts; paths are drawn with `guidance` as the transformer reads it.
- Weights and Adam are float32 and latents of the model's own size; the authors' script has both in
  bfloat16, which rounds most of such small steps away, and draws for 1024 pixels even on SD 1.4.
- The paper has no retain term. `retain_weight` adds mean (eps(x_t, t, c_r) - eps_0(x_t, t, c_r))^2
  on paths of prompts to keep; its default is 0.
"""

from dataclasses import asdict, dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.methods.shared.paths import (
    PushFrom,
    check_push,
    draw_paths,
    original_answers,
    points,
    push_rows,
    retain_loss,
    texts_of,
)  # fmt: skip
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure_datasets.concept import Concept, retain_prompts

SELECTIONS = {"x": "xattn", "x-strict": "xattn.kv"}


@METHODS.register
@dataclass(frozen=True)
class ESD:
    """Erased Stable Diffusion."""

    steps: int = setting(200, quick=60, help="optimiser steps", at_least=1)
    learning_rate: float = setting(5e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(1, help="path points per step", at_least=1)
    push: float = setting(2.0, help="negative guidance (1 + eta in the paper)", at_least=0)
    push_from: PushFrom = setting("prompt", help="what the target starts from and pushes away")
    select: str = setting("x", help="x, u, all, x-strict, or any selection of weights")
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
        check_push("ESD", self.push, self.push_from)

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        weights = weights_of(model, self.select)
        model.remember(list(weights))
        run.lower(model.parameters())
        rows = push_rows(concepts, self.push_from)
        kept: list[tuple[str, ...]] = []
        if self.retain_weight > 0:
            texts = retain_prompts(concepts, model.catalogue, self.retain_prompts)
            kept = [(text,) for text in texts]
        with model.memorised(texts_of(rows, kept)):
            self._train(model, weights, rows, kept, run)
        return Edit.between(model, concepts, "esd", asdict(self))

    def _train(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter],
        rows: list[tuple[str, ...]], kept: list[tuple[str, ...]], run: Run,
    ) -> None:  # fmt: skip
        forget = draw_paths(self, model, rows, "forget", run)
        retain = draw_paths(self, model, kept, "retain", run) if kept else None

        def loss(_step: int) -> dict[str, Tensor]:
            at = points(forget, self.batch_size, run)
            _, start, pushed, none = original_answers(model, at)
            wanted = start - self.push * (pushed - none)
            condition = model.encode(at.prompts[0])
            terms = {"erase": F.mse_loss(model.predict(at.z_t, at.t, condition), wanted)}
            if retain is not None:
                left = retain_loss(model, points(retain, self.batch_size, run))
                terms["retain"] = self.retain_weight * left
            return terms

        fit(
            Learner(loss, weights, self.learning_rate, start=model.originals), steps=self.steps,
            run=run,
        )  # fmt: skip


def weights_of(model: DiffusionModel, select: str) -> dict[str, nn.Parameter]:
    """The weights that a word of `select` names."""
    if select not in ("u", "all"):
        return model.weights(SELECTIONS.get(select, select))
    left = model.weights("xattn") if select == "u" else {}
    return {
        name: weight
        for name, weight in model.weights("full").items()
        if isinstance(model.module(name.rpartition(".")[0]), nn.Linear | nn.Conv2d)
        and name not in left
    }
