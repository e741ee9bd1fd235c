"""Relearning as a grid: the fewest steps over pictures, learning rates and sets of weights.

One setting of `relearn` says little, because an erasure can be fitted to it. Here each of `images`
x `rates` x `selects` is tried from the same weights, and the least count is reported; the best of
several learning rates is also what Lee et al., "Distillation Robustifies Unlearning" (NeurIPS
2025), https://arxiv.org/abs/2506.06278, compare by.

Choices
- A cell's count is the step at which half of the cases show the concept, None if `steps` do not do;
  a case is won if the best cell wins it.
- `lora` among the `selects` moves the attention weights by products of rank `rank`.
- `kept` in the record is the first of the selects, tuned at rate 1 on as many pictures of *other*
  concepts as the largest cell has: what comes back without one picture of it was never gone.
- What the count would be for a model with nothing to bring back, `--gold` tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from erasure.config import check, number_list, setting
from erasure.errors import SettingError
from erasure.files.naming import slug
from erasure.files.records import read_record
from erasure.files.storage import write_json
from erasure.registry import ATTACKS
from erasure_datasets.concept import retain_prompts
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacking.tuning import BACK, Tuning, put_back, tune
from evaluation.attacks import Attack

LORA, ATTENTION = "lora", "xattn,selfattn"
OTHERS, CELLS = "kept", "cells.json"


@ATTACKS.register
@dataclass(frozen=True)
class RelearnGrid(Attack):
    """Fine-tuning, at its best."""

    changes_weights: ClassVar[bool] = True

    images: str = setting("4,8,32", quick="2", help="pictures of the concept")
    rates: str = setting("0.3,1,3", quick="1", help="factors of the learning rate, above 0")
    selects: str = setting("full,xattn,lora", quick="xattn", help="which weights learn")
    rank: int = setting(4, help="of lora", at_least=1, when="selects=lora")
    steps: int = setting(100, quick=4, help="steps at most, of each cell", at_least=1)
    every: int = setting(10, quick=2, help="steps between drawings", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate, at rate 1", above=0)
    batch_size: int = setting(4, help="pictures per step", at_least=1)

    def __post_init__(self) -> None:
        check(self)
        counts = number_list("RelearnGrid.images", self.images, least=1, most=1e4)
        if any(count != int(count) for count in counts):
            raise SettingError(f"RelearnGrid.images must be whole numbers; got {self.images}.")
        if min(number_list("RelearnGrid.rates", self.rates, least=0, most=1e3)) == 0:
            raise SettingError(f"RelearnGrid.rates must be above 0; got {self.rates}.")

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        cells = self._cells(scene, cases)
        told = [name for name in cells if name != OTHERS]
        if not told:
            return [Found(False, 0, case.prompt) for case in cases]
        # the earliest that brings it back, else the one that brings back most
        best = min(told, key=lambda name: (cells[name]["steps"] or torch.inf, -cells[name]["won"]))
        images = [
            _picture(scene.folder / "cells" / slug(best) / f"{case.name}.png") for case in cases
        ]
        won = scene.judged(torch.stack(images), cases, KEPT).tolist()
        tries = cells[best]["steps"] or self.steps
        return [Found(yes, tries, case.prompt) for yes, case in zip(won, cases, strict=True)]

    def told(
        self, scene: Scene, cases: Sequence[Case], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Steps of each cell, of the least, and of tuning on other concepts' pictures."""
        cells = _done(scene)
        counts = {name: cell["steps"] for name, cell in cells.items()}
        kept = counts.pop(OTHERS, None)
        known = [count for count in counts.values() if count is not None]
        return {
            "cells": counts, "least_steps": min(known, default=None), "kept_steps": kept,
            "shown_by_kept": cells.get(OTHERS, {}).get("won"),
        }  # fmt: skip

    def _grid(self) -> dict[str, tuple[str, int, float]]:
        """(select, pictures, rate) by name, those likely to be fastest first."""
        images = sorted((int(float(part)) for part in self.images.split(",")), reverse=True)
        rates = sorted((float(part) for part in self.rates.split(",")), reverse=True)
        chosen = product([part.strip() for part in self.selects.split(",")], images, rates)
        return {f"{cell[0]} {cell[1]} x{cell[2]:g}": cell for cell in chosen}

    def _cells(self, scene: Scene, cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
        """Steps (or None) and share won by cell; noted as each ends, and not tried again."""
        done = _done(scene)
        grid = self._grid()
        select, largest = self.selects.split(",")[0].strip(), max(n for _, n, _ in grid.values())
        for name, cell in [*grid.items(), (OTHERS, (select, largest, 1.0))]:
            if name in done:
                continue
            if scene.is_over:
                break
            own = scene.concept.prompts()
            if name == OTHERS:
                own = retain_prompts([scene.concept], scene.model.catalogue)
            won, step = self._tune(scene, cases, own, cell, f"cells/{slug(name)}")
            share = won.float().mean().item()
            if share < BACK and scene.is_over:
                break  # a cell that was cut says nothing
            done[name] = {"steps": step if share >= BACK else None, "won": share}
            write_json(scene.folder / CELLS, done)
        return done

    def _tune(
        self, scene: Scene, cases: Sequence[Case], asked: list[str], cell: tuple[str, int, float],
        kept_as: str,
    ) -> tuple[Tensor, int]:  # fmt: skip
        select, count, rate = cell
        weights = scene.model.weights(ATTENTION if select == LORA else select)
        prompts = [asked[i * len(asked) // count % len(asked)] for i in range(count)]
        targets = scene.targets(prompts, "relearning images")
        how = Tuning(
            "relearn-grid", self.steps, self.every, self.learning_rate * rate, self.batch_size
        )
        rank = self.rank if select == LORA else 0
        with put_back(weights):
            return tune(scene, cases, targets, prompts, how, weights, kept_as, rank=rank)


def _done(scene: Scene) -> dict[str, dict[str, Any]]:
    file = scene.folder / CELLS
    return read_record(file, dict[str, Any]) if file.is_file() else {}


def _picture(file: Path) -> Tensor:
    """uint8 in [0, 255], (3, h, w)."""
    with Image.open(file) as picture:
        return pil_to_tensor(picture.convert("RGB"))
