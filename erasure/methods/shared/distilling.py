"""Make a one-step generator from a diffusion model, from prompts alone.

Score identity distillation (score_identity.py) on every prompt, starting from the teacher's own
weights. `pairs` of the teacher's noise and what it draws from it may come first: the generator
then regresses on them, which a small budget is better spent on than the same time of the duel.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.exports.writing.saving import save_model
from erasure.files.storage import atomic
from erasure.methods.shared.paths import guided_paths
from erasure.methods.shared.score_identity import Draw, Rules, duel, fake_score
from erasure.models.diffusion.one_step import OneStep
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run

WARM_UP_PASSES, WARM_UP_RATE, TEACHER_STEPS = 8, 1e-4, 20


def distil(
    model: StableDiffusion, prompts: Sequence[str], rules: Rules, *, pairs: int, steps: int,
    batch_size: int, learning_rate: float, run: Run,
) -> OneStep:  # fmt: skip
    """A generator of `model`, which is kept as a diffusers folder: `generator/` in the run's."""
    texts, folder = list(prompts), run.folder / "generator"
    run.subject = generator = OneStep.on(model, deepcopy(model.backbone), name=str(folder))
    if pairs and not run.knows("distil"):
        _regress(model, generator, prompts, pairs, batch_size, rules.guidance, run)

    @torch.no_grad()
    def draw() -> Draw:
        numbers = run.part(torch.randint(len(texts), (batch_size,), generator=run.generator))
        asked = model.encode([texts[i] for i in numbers.tolist()])
        empty, weight = model.encode([""]).expand_as(asked), torch.ones(len(asked))
        weight = weight.to(run.device)
        return Draw(asked, asked, asked, empty, empty, weight, weight)

    duel(
        model, generator, fake_score(model), draw, rules, steps=steps,
        learning_rate=learning_rate, fake_learning_rate=3 * learning_rate, run=run, stage="distil",
    )  # fmt: skip
    if run.is_main and not folder.exists():
        model.encode([""])  # a tokenizer is saved with how it last padded; a resumed one has not
        with atomic(folder) as temporary:
            save_model(generator, temporary)
    return generator


def _regress(
    model: StableDiffusion, generator: OneStep, prompts: Sequence[str], pairs: int,
    batch_size: int, guidance: float, run: Run,
) -> None:  # fmt: skip
    """mean (x_g - x_teacher)^2 over pairs of the teacher's guided DDIM, several passes."""
    rows = [(prompt,) for prompt in prompts]
    paths = guided_paths(
        model, rows, name="regress on", count=pairs, steps=TEACHER_STEPS, guidance=guidance,
        run=run,
    )  # fmt: skip

    def loss(_step: int) -> dict[str, Tensor]:
        numbers = run.part(torch.randint(pairs, (batch_size,), generator=run.generator)).tolist()
        condition = model.encode([paths.prompts[i][0] for i in numbers])
        drawn = generator.one_call(run.send(paths.latents[0, numbers]), condition)
        return {"regress": F.mse_loss(drawn, run.send(paths.finished[numbers]))}

    weights = generator.weights("full")
    fit(
        Learner(loss, weights, WARM_UP_RATE, start=run.lowered(weights)),
        steps=-(-WARM_UP_PASSES * pairs // batch_size), run=run, stage="regress",
    )  # fmt: skip
