"""DoCo: draw under the concept's prompts what no critic can tell from the anchor's own pictures.

Changes: the UNet's cross-attention keys and values; any weights with --select.

Wu et al., "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept
Preserving Gradient" (AAAI 2025), https://arxiv.org/abs/2405.15304.

    f, a     denoised from the same noised picture of the anchor: by the edited model under c_f, a
             prompt that names the concept; by the original one under the same prompt's anchor
    critic   BCE(D(a), 0) + BCE(D(f), 1)
    erase    L_u = BCE(D(f), 0)
    keep     L_r = mean (predict(x_r, t, c_r) - target)^2
    step     along g_u, of each tensor without its part against g_r where <g_u, g_r> < 0
             (gradient_surgery.py), plus retain_weight g_r

What is matched is a distribution and no single answer, so that prompts which were not trained on
shall follow: UA_out beside UA_in of the protocol `pocket`, for a run with --contexts.

Choices
- g_r only steers in the authors' code and is never stepped along, which `retain_weight=0` does;
  then nothing pulls back what drifts for other reasons. Their surgery (`published`) subtracts
  1 / |g_u| times too much, and clips g_u's norm before, which is not offered.
- The critic is not told t: at much noise both its inputs are blurs. `condition_on_time` tells it.
- GroupNorm for the critic's BatchNorm, and as many halvings (`depth`) as latents have room for:
  4 of Stable Diffusion's 64 x 64.
- The generator's backward pass leaves nothing in the critic's gradients; theirs does, of the
  opposite sign, and the critic steps along it.
- The critic learns alone for `warmup` steps, on what the original model says under both prompts;
  its Adam begins anew with the duel. Both turns of a step draw pictures of their own.
- Adam without weight decay and without warm-up; theirs is AdamW.
- t stops at `noisiest` of all timesteps: beyond it what is denoised is mostly the rounding of a
  division by nearly nothing. Theirs takes all.
- Surgery is not linear: gradients are averaged over processes first, but of a batch in parts each
  has its own.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.methods.shared.discriminator import Discriminator, check_depth, real_or_drawn
from erasure.methods.shared.gradient_surgery import Surgery, along, gradients_of, operated
from erasure.methods.shared.training_data import Pictures, Plan, draw, gather, noise_loss
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.concept import Concept

CRITICS = Optimiser(betas=(0.5, 0.999))
Weights = dict[str, nn.Parameter]


@METHODS.register
@dataclass(frozen=True)
class DoCo:
    """Domain correction with concept-preserving gradients."""

    steps: int = setting(1000, quick=60, help="steps of critic and model in turn", at_least=1)
    warmup: int = setting(
        1000, quick=20, rehearsal=0, help="steps of the critic alone before them", at_least=0
    )
    learning_rate: float = setting(4.8e-5, help="the model's, for Adam", above=0)
    critic_rate: float = setting(
        1e-4, help="the critic's, for Adam (0.5, 0.999); as published 5e-4 for styles", above=0
    )
    batch_size: int = setting(8, help="images of the anchor, and images to keep, per step",
                              at_least=1)  # fmt: skip
    surgery: Surgery = setting("pcgrad", help="how what goes against the kept is taken out")
    strength: float = setting(
        1.0, help="how much of it is (lambda)", at_least=0, when="surgery=pcgrad|published"
    )
    retain_weight: float = setting(0.0, help="weight of the retain loss itself", at_least=0)
    condition_on_time: bool = setting(False, help="tell the critic how noisy its pictures were")
    depth: int = setting(4, help="how often the critic halves the latents", at_least=1)
    noisiest: float = setting(
        0.98, help="share of the timesteps, from the cleanest, that are asked", above=0, at_most=1
    )
    select: str = setting(
        "xattn.kv", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    images: str = setting(
        "auto",
        help="auto (the model's data set, else generated), generated, or a folder (anchor/, "
        "retain/)",
    )
    forget_images: int = setting(
        200, rehearsal=16, help="how many images of the anchor", at_least=1
    )
    retain_images: int = setting(200, rehearsal=16, help="how many images to keep", at_least=1)
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps for generated images", at_least=1
    )
    guidance: float = setting(7.5, help="guidance for generated images", at_least=0)
    retain_prompts: str = setting(
        "",
        help="file of prompts (.csv, .txt, .json): what to keep",
        when="surgery=pcgrad|published or retain_weight",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def is_forget_only(self) -> bool:
        """Whether nothing that is kept is looked at."""
        return self.surgery == "none" and self.retain_weight == 0

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        weights = model.weights(self.select)
        check_depth("DoCo", self.depth, model.latent_shape)
        if self.surgery != "none":
            run.hardware.refuse_fp16("doco with surgery, whose gradients are too small for fp16")
        model.remember(list(weights))
        run.lower(model.parameters())
        plan = Plan(
            self.images, self.forget_images, 0 if self.is_forget_only else self.retain_images,
            self.retain_prompts, self.sampling_steps, self.guidance, shows_anchor=True,
        )  # fmt: skip
        anchors, retain = gather(model, concepts, plan, run)
        with model.memorised(["", *anchors.prompts, *anchors.anchors, *retain.prompts]):
            self._train(model, weights, anchors, retain, run)
        return Edit.between(model, concepts, "doco", asdict(self))

    def _train(
        self, model: DiffusionModel, weights: Weights, anchors: Pictures, retain: Pictures,
        run: Run,
    ) -> None:  # fmt: skip
        channels = model.latent_shape[0]
        critic = run.module(
            "critic",
            lambda: Discriminator(channels, self.depth, knows_noise=self.condition_on_time),
        )
        conflicts = torch.zeros((), device=run.device)
        own = dict(critic.named_parameters())
        tell = Learner(
            self._critic_loss(model, critic, anchors, run), own, self.critic_rate, CRITICS
        )
        loss = self._model_loss(model, critic, weights, anchors, retain, conflicts, run)
        if self.warmup:
            fit({"critic": tell}, steps=self.warmup, run=run, stage="warm-up")
        fit(
            {
                "critic": tell,
                "model": Learner(loss, weights, self.learning_rate, start=model.originals),
            },
            steps=self.steps, run=run, carried={"conflicts": conflicts},
        )  # fmt: skip
        if self.surgery != "none":
            share = float(conflicts) / (self.steps * run.hardware.gradient_accumulation)
            run.log_end("surgery", self.steps, {"against": share})

    def _critic_loss(
        self, model: DiffusionModel, critic: nn.Module, anchors: Pictures, run: Run
    ) -> Callable[[int], dict[str, Tensor]]:
        def loss(_step: int) -> dict[str, Tensor]:
            z_t, t, prompts, instead = self._noised(model, anchors, run)
            with torch.no_grad():
                drawn = _denoised(model, z_t, t, prompts)
                with model.original():
                    real = _denoised(model, z_t, t, instead)
            _, spread = model.levels(t)
            told = critic(torch.cat([real, drawn]), torch.cat([spread, spread]))
            on_real, on_drawn = told.chunk(2)
            return {
                "critic_real": real_or_drawn(on_real, is_drawn=False),
                "critic_drawn": real_or_drawn(on_drawn, is_drawn=True),
            }

        return loss

    def _model_loss(
        self, model: DiffusionModel, critic: nn.Module, weights: Weights, anchors: Pictures,
        retain: Pictures, conflicts: Tensor, run: Run,
    ) -> Callable[[int], dict[str, Tensor]]:  # fmt: skip
        def loss(_step: int) -> dict[str, Tensor]:
            z_t, t, prompts, _ = self._noised(model, anchors, run)
            _, spread = model.levels(t)
            told = critic(_denoised(model, z_t, t, prompts), spread)
            erase = real_or_drawn(told, is_drawn=False)
            if self.is_forget_only:
                return {"erase": erase}
            push = [] if self.surgery == "none" else gradients_of(erase, weights)
            kept = noise_loss(model, draw(retain, self.batch_size, model, run))
            if self.surgery == "none":
                return {"erase": erase, "retain": self.retain_weight * kept}
            keep = gradients_of(kept, weights)
            push, share = operated(push, keep, self.surgery, self.strength)
            conflicts.add_(share)
            return {  # what the log says of the kept is L_r itself, whose weight may be 0
                "erase": along(weights, push, erase),
                "retain": along(weights, [self.retain_weight * g for g in keep], kept),
            }

        return loss

    def _noised(
        self, model: DiffusionModel, anchors: Pictures, run: Run
    ) -> tuple[Tensor, Tensor, list[str], list[str]]:
        """This process's part of a batch: noised anchors, t, prompts, and the anchors' prompts."""
        z0, prompts, instead, t, noise = draw(anchors, self.batch_size, model, run)
        t = (self.noisiest * t).to(t.dtype)
        return model.add_noise(z0, noise, t), t, prompts, instead


def _denoised(model: DiffusionModel, z_t: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
    return model.denoised(z_t, model.predict(z_t, t, model.encode(prompts)), t).float()
