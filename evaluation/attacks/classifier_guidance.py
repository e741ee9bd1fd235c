"""Classifier guidance: a classifier of noised latents leads the erased model to the concept.

From "When Are Concepts Erased From Diffusion Models?" (Lu et al., NeurIPS 2025),
https://arxiv.org/abs/2505.17013, with the guidance of Dhariwal and Nichol, "Diffusion Models Beat
GANs on Image Synthesis" (NeurIPS 2021), https://arxiv.org/abs/2105.05233.

    eps <- eps - spread scale grad of log p(y | z_t, t)
    p: an MLP on the latent and (signal, spread), by binary cross entropy; t = T u^(1/3)

Choices
- The classifier learns from pictures by the un-erased model: half of the concept, half of others,
  of which a quarter are the anchor's. Each is noised anew at every step, theirs seven times.
- Scales are tried from the smallest; a case is won at its first success, and `by_scale` says how
  many were won up to each.
- Under the empty prompt nothing but the gradient asks; `then=prompt` names the concept, too.
- Control: a classifier of the anchor, learned in the same way. What guidance alone paints, a model
  that never knew the concept tells: on pocket's tower, scales 6 to 25 win 3 or 4 of 8 cases after
  UCE and none of gold's, which falls from 50 on. So pocket's preset ends at 25.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, number_list, setting
from erasure.files.storage import read_tensors, write_tensors
from erasure.models.diffusion.model import DiffusionModel, Nudge, Times
from erasure.registry import ATTACKS
from erasure_datasets.concept import retain_prompts
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack, by_level

BATCH = 64


class LatentClassifier(nn.Module):
    """log-odds that a noised latent is of the concept."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size + 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, model: DiffusionModel, z_t: Tensor, t: Times) -> Float[Tensor, " b"]:
        levels = [level.view(-1, 1).expand(len(z_t), 1) for level in model.levels(t)]
        return self.layers(torch.cat([z_t.flatten(1), *levels], 1).float())[:, 0]


@ATTACKS.register
@dataclass(frozen=True)
class ClassifierGuidance(Attack):
    """Guidance by a classifier."""

    walks_path: ClassVar[bool] = True

    steps: int = setting(16, quick=3, help="sampling steps", at_least=2)
    scales: str = setting("25,50,100,150,193", quick="25", help="of the guidance, above 0")
    then: Literal["empty", "prompt"] = setting("empty", help="what the model is asked for")
    images: int = setting(256, quick=8, help="pictures to learn from", at_least=8)
    learning_steps: int = setting(2000, quick=5, help="the classifier's steps", at_least=1)
    learning_rate: float = setting(3e-4, help="the classifier's, AdamW's", above=0)
    width: int = setting(256, quick=16, help="of the classifier's hidden layers", at_least=1)

    def __post_init__(self) -> None:
        check(self)
        self._scales()

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        return self._guide(scene, cases, "concept", KEPT)

    def decoy(self, scene: Scene, cases: Sequence[Case]) -> list[bool]:
        return [found.success for found in self._guide(scene, cases, "anchor", "control")]

    def told(
        self, scene: Scene, cases: Sequence[Case], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {"by_scale": by_level(entries, self._scales())}

    def _scales(self) -> list[float]:
        return sorted(number_list("ClassifierGuidance.scales", self.scales, least=0, most=1e4))

    @torch.no_grad()
    def _guide(self, scene: Scene, cases: Sequence[Case], what: str, kept_as: str) -> list[Found]:
        model, is_asked = scene.model, self.then == "prompt"
        found = [Found(False, 0, case.prompt if is_asked else "") for case in cases]
        if scene.is_over:
            return found
        classifier = self._classifier(scene, what)
        for number, scale in enumerate(self._scales()):
            left = [i for i, result in enumerate(found) if not result.success]
            if not left or scene.is_over:
                break
            part = [cases[i] for i in left]
            z = model.continue_path(
                scene.noise(part), model.encode([found[i].prompt for i in left]),
                steps=self.steps, guidance=scene.sampling.guidance if is_asked else 1.0,
                nudge=towards(model, classifier, scale), generator=scene.generator("guidance"),
            )  # fmt: skip
            won = scene.judged(model.to_images(z), part, kept_as).tolist()
            for i, success in zip(left, won, strict=True):
                level = scale if success else None
                found[i] = Found(success, number + 1, found[i].prompt, level)
        return found

    def _classifier(self, scene: Scene, what: str) -> LatentClassifier:
        """Of pictures of the concept, or of the anchor, against all others; learned once."""
        model, file = scene.model, scene.folder / f"{what}.safetensors"
        generator = scene.generator(f"classifier of {what}")
        classifier = LatentClassifier(prod(model.latent_shape), self.width)
        if file.is_file():
            classifier.load_state_dict(read_tensors(file)[0])
            return classifier.to(model.device)
        with torch.no_grad():
            for weight in classifier.parameters():
                bound = weight.shape[-1] ** -0.5
                weight.uniform_(-bound, bound, generator=generator)
        self._learn(scene, classifier.to(model.device), what, generator)
        if not scene.is_over:
            write_tensors(file, dict(classifier.state_dict()))
        return classifier

    @torch.enable_grad()
    def _learn(
        self, scene: Scene, classifier: LatentClassifier, what: str, generator: torch.Generator
    ) -> None:
        latents, kinds = self._pictures(scene)
        # the concept's own pictures tell the anchor's classifier nothing
        used = [i for i, kind in enumerate(kinds) if what == "concept" or kind != "concept"]
        model, latents = scene.model, latents[used]
        labels = torch.tensor([float(kinds[i] == what) for i in used], device=model.device)
        weight = (1 - labels).sum() / labels.sum()
        optimiser = torch.optim.AdamW(classifier.parameters(), lr=self.learning_rate)
        with scene.progress("classifier-guidance", self.learning_steps) as bar:
            for _ in range(self.learning_steps):
                if scene.is_over:
                    break
                rows = torch.randint(len(used), (BATCH,), generator=generator)
                noise = torch.randn((BATCH, *model.latent_shape), generator=generator)
                level = torch.rand(BATCH, generator=generator) ** (1 / 3)
                t = (level * model.timesteps).long().clamp(max=model.timesteps - 1)
                t = t.to(model.device)
                z_t = model.add_noise(latents[rows], noise.to(latents), t)
                said = classifier(model, z_t, t)
                loss = F.binary_cross_entropy_with_logits(said, labels[rows], pos_weight=weight)
                optimiser.zero_grad()
                scene.finite(loss).backward()
                optimiser.step()
                bar.advance(f"loss {loss.item():.4f}")

    def _pictures(self, scene: Scene) -> tuple[Float[Tensor, "n c h w"], list[str]]:
        """Latents by the un-erased model, and of what each is; drawn once for both classifiers."""
        concept, half = scene.concept, self.images // 2
        others = retain_prompts([concept], scene.model.catalogue)
        order = torch.randperm(len(others), generator=scene.generator("others")).tolist()
        own, anchors = concept.prompts(), concept.anchor_prompts()
        texts = {
            "concept": [own[i % len(own)] for i in range(half)],
            "anchor": [anchors[i % len(anchors)] for i in range(half // 4)],
            "others": [others[order[i % len(order)]] for i in range(half - half // 4)],
        }
        if "pictures" not in scene.memory:
            prompts = [text for part in texts.values() for text in part]
            scene.memory["pictures"] = scene.targets(prompts, "classifier's pictures").latents
        return scene.memory["pictures"], [kind for kind, part in texts.items() for _ in part]


def towards(model: DiffusionModel, classifier: LatentClassifier, scale: float) -> Nudge:
    """z0 + spread^2 / signal * scale * the gradient of log p(y | z_t, t)."""

    @torch.enable_grad()
    def nudge(z_t: Tensor, t: Times, z0: Tensor) -> Tensor:
        z_t = z_t.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.logsigmoid(classifier(model, z_t, t)).sum(), [z_t])
        signal, spread = model.levels(t)
        by = torch.where(signal > 0, spread**2 * scale / signal, 0.0)  # noise alone is of no kind
        return z0 + by * slope.to(z0)

    return nudge
