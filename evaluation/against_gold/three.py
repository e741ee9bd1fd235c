"""The edited model, gold and the un-erased one, asked the same about one concept."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure_datasets.concept import Concept, filled
from erasure_datasets.mentions import mentions
from erasure_datasets.prompt_files import Line, built_in
from evaluation.attacking.beside_gold import KNOWS
from evaluation.attacking.scene import Case, Scene, cases_of, sampling_of
from evaluation.criteria import find_criterion
from evaluation.drawing.generate import Shot, draw
from evaluation.drawing.pocket_plan import is_pocket, plan, shots, without
from evaluation.metrics.knowledge import losses
from evaluation.prompts.plan import file_stem, noise_seed
from evaluation.protocols import pocket

SEEDS = (188, 288)
LEVELS = 20
KEPT = 32  # pictures of other things


@dataclass(frozen=True)
class Pictures:
    """Images in [0, 255] under their prompts."""

    images: UInt8[Tensor, "n 3 h w"]
    prompts: Sequence[str]


class Three:
    """The edited model, gold, and the un-erased one, asked the same things about one concept.

    What is kept asks for none of `erased`, the run's concepts, either.
    """

    def __init__(
        self, run: Path, edited: LatentDiffusion, place: Path, gold: LatentDiffusion,
        concept: Concept, seeds: Sequence[int], erased: Sequence[Concept] = (),
    ) -> None:  # fmt: skip
        self.run, self.edited, self.place, self.gold = run, edited, place, gold
        self.concept = concept
        self.erased = list({each.name: each for each in (concept, *erased)}.values())
        self.sampling = sampling_of(edited, None)
        self.cases = cases_of(edited, concept, prompts=16, seeds=seeds)
        self.criterion = find_criterion("judge", edited, concept) if is_pocket(edited) else None
        self.is_style = concept.kind == "style"

    def drawn(self, who: str, cases: Sequence[Case], name: str) -> Pictures:
        """What one of the three draws for these cases; kept in a run's images/NAME."""
        model, folder = (self.gold, self.place) if who == "gold" else (self.edited, self.run)
        model.use_scheduler(self.sampling.scheduler)
        context = model.without_edit() if who == "original" else nullcontext()
        place = folder / "images" / (f"{name}-base" if who == "original" else name)
        asked = [Shot(case.prompt, case.noise_seed, f"{case.name}.png") for case in cases]
        with context:
            found = draw(
                model, asked, place, steps=self.sampling.steps, guidance=self.sampling.guidance
            )
        return Pictures(found, [case.prompt for case in cases])

    def kept_cases(self) -> list[Case]:
        """Prompts without what was erased, spread over what the model knows."""
        if is_pocket(self.edited):
            own = plan(SEEDS[:1], None, [])
            count = len(own) - len(without(own, self.erased))
            asked = without(plan(SEEDS[:1], count + KEPT, self.erased), self.erased)
            made = zip(asked, shots(asked), strict=True)
            return [Case(s.prompt, k[0], s.noise_seed, Path(s.file).stem) for k, s in made]
        every = [Line(filled("a photo of {a name}", name)) for name in built_in("objects")]
        own = [li for li in every if not any(mentions(li.prompt, c.name) for c in self.erased)]
        (seed, *_) = SEEDS
        return [
            Case(line.prompt, seed, noise_seed(line, i, seed), file_stem("kept", i, line, seed))
            for i, line in enumerate(own[:KEPT])
        ]

    def losses(
        self, who: str, pictures: Pictures, *, prompts: Sequence[str] | None = None,
        state: Tensor | None = None,
    ) -> Float[Tensor, "n levels"]:  # fmt: skip
        """One model's losses on pictures, under their own prompts unless others or a state."""
        model = self.gold if who == "gold" else self.edited
        with torch.no_grad(), model.original() if who == "original" else nullcontext():
            z0 = model.to_latents(pictures.images).float()
            asked = pictures.prompts if prompts is None else prompts
            if state is not None:
                return losses(model, z0, state.expand(len(z0), -1, -1), levels=LEVELS)
            return losses(model, z0, model.encode(asked), levels=LEVELS)

    @property
    def folder_name(self) -> str:
        """Where the concept's own pictures lie, in a run's images."""
        return "pocket" if is_pocket(self.edited) else "plain"

    def refuse_knowing(self) -> None:
        """SettingError for a gold model that draws the concept."""
        if self.criterion is None:
            return
        drawn = self.drawn("gold", self.cases, self.folder_name)
        share = float(self.criterion(drawn.images).float().mean())
        if share >= KNOWS:
            raise SettingError(
                f"gold must never have known the concept; {self.place} draws {self.concept.name} "
                f"for {share:.0%} of {len(self.cases)} plain prompts."
            )

    def held_out(self) -> Pictures:
        """Renders that no model was trained on; elsewhere, what the un-erased model draws."""
        if not is_pocket(self.edited):
            return self.drawn("original", self.cases, self.folder_name)
        keys = [key for key in plan(SEEDS, None, []) if has(key, self.concept)]
        return Pictures(pocket.renders(keys), [shot.prompt for shot in shots(keys)])

    def scene(self, who: str) -> Scene:
        """One model under attack."""
        model, folder = (self.gold, self.place) if who == "gold" else (self.edited, self.run)
        criterion: Any = self.criterion or (
            lambda images: torch.zeros(len(images), dtype=torch.bool)
        )
        return Scene(
            model, self.concept, criterion, folder / "images" / "gold-relearning",
            sampling=self.sampling, seed=0, budget=None,
        )  # fmt: skip


def has(key: tuple[int, int], concept: Concept) -> bool:
    """Whether a (seed, prompt index) of the protocol `pocket` asks for a concept."""
    return concept.name in pocket.catalogue().pairs()[key[1]]
