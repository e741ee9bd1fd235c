"""One measurement of bench.py, made in a process of its own: a method, a family, one side."""

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import bench_models
import bench_naive
import bench_naive_images
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from erasure.concepts import find_concepts
from erasure.config import resolve
from erasure.methods.shared import shown_pictures
from erasure.models.diffusion.load import read_presets
from erasure.registry import METHODS
from erasure.training.hardware import Hardware, peak_memory
from erasure.training.run import Run
from erasure_datasets.concept import Concept, retain_prompts
from evaluation.attacking.scene import sampling_of
from evaluation.drawing.generate import Shot, draw
from evaluation.protocols import pocket

Side = Literal["toolkit", "naive", "batched"]
TRAINED = (
    "salun", "esd", "advunlearn", "sfd", "gs-lora", "doco", "bounded", "adapt-unlearn",
)  # fmt: skip
ROWS = (*TRAINED, "uce", "uce-100", "generate")
STAGES = ("fit", "request 0")  # in which a method's own steps run
PATHS, PATH_STEPS = 4, 5  # drawn here; the time of a full setup grows with both
MANY = 100
CPU = torch.device("cpu")
IMAGES, BATCH = 16, 16


@dataclass(frozen=True)
class Row:
    """What is measured, and how: `steps` are timed, after one that is not."""

    family: str
    method: str
    device: str
    resolution: int | None
    steps: int
    clock: Literal["wall", "cpu"]
    parts: int = 1  # that the toolkit takes each batch in


@dataclass(frozen=True)
class Measured:
    """Seconds of a step (of an image, of a whole edit), and what the process needed for it.

    `peak` is in bytes: allocated on the GPU, or resident above what the libraries hold. `setup` is
    the full schedule's, `schedule` its number of steps; `flops` of a step (None: not counted).
    """

    seconds: float
    peak: int
    setup: float = 0.0
    schedule: int = 1
    flops: int | None = None


def measure(row: Row, side: Side) -> Measured:
    """Build the model and take the row's steps."""
    before = peak_memory(CPU)
    model = bench_models.build(row.family, row.device, row.resolution)
    with tempfile.TemporaryDirectory() as folder:
        if row.method == "generate":
            found = generation(row, side, model, Path(folder))
        elif row.method.startswith("uce"):
            found = closed_form(row, side, model, Path(folder))
        elif side == "toolkit":
            found = trained(row, model, Path(folder))
        else:
            found = naively(row, model)
    peak = peak_memory(torch.device(row.device)) - (before if row.device == "cpu" else 0)
    return dataclasses.replace(found, peak=peak)


def silence() -> None:
    """Show no progress bars."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def now(row: Row) -> float:
    """Seconds, when all that was asked of the device is done."""
    if row.device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if row.clock == "cpu" else time.perf_counter()


def seconds_of(row: Row, part: Callable[[], object]) -> float:
    """The median of the row's steps, after one that is not counted."""
    part()
    taken = []
    for _ in range(row.steps):
        start = now(row)
        part()
        taken.append(now(row) - start)
    return statistics.median(taken)


def concept_of(model: Any) -> Concept:
    return find_concepts(model, ["cat"], kind="object", anchor="dog")[0]


def settings_of(row: Row, model: Any) -> Any:
    """The full settings: the model's presets over the defaults, AdvUnlearn's as published."""
    kind = METHODS.get("diffusion", row.method)
    presets = {} if row.method == "advunlearn" else read_presets(model.folder, row.method)
    return resolve(kind, given={}, quick=False, presets=presets)[0]


class Watch:
    """Notes when each step of a run ended, and counts the FLOPs of the last."""

    def __init__(self, row: Row, steps: int) -> None:
        self.row, self.steps, self.start = row, steps, now(row)
        self.ends: list[float] = []
        self.counter = FlopCounterMode(display=False)

    def __call__(self, stage: str, step: int) -> None:
        if stage not in STAGES:
            return
        self.ends.append(now(self.row))
        if step == self.steps - 1:
            self.counter.__enter__()
        elif step == self.steps:
            self.counter.__exit__(None, None, None)

    def seconds(self, first: int, last: int) -> float:
        """The median of the steps from `first` up to `last`."""
        ends = self.ends
        return statistics.median(ends[i] - ends[i - 1] for i in range(first, last))


def trained(row: Row, model: Any, folder: Path) -> Measured:
    """The toolkit's own erasure, with the full settings but few steps and little to set up."""
    full = settings_of(row, model)
    is_attacked = row.method == "advunlearn"
    steps = row.steps * (2 if is_attacked else 1) + 2  # one before the timed ones, one after
    small: dict[str, Any] = {"steps": steps}
    if hasattr(full, "paths"):
        small |= {"paths": PATHS, "sampling_steps": PATH_STEPS}
    if hasattr(full, "forget_images"):
        few = 2 * full.batch_size
        small |= {"forget_images": few, "retain_images": few, "sampling_steps": PATH_STEPS}
    if row.method == "doco":
        small["warmup"] = 0
    if row.method == "sfd":
        small["distil_steps"] = 1
    if row.method == "gs-lora":
        small["zero_below"] = 0.0  # so few steps may move little
    if row.method == "adapt-unlearn":
        small |= {"images": pictures(folder / "shown"), "word_steps": 1, "looks": 1}
        small |= {"retain_images": 2 * full.retain_batch_size, "sampling_steps": PATH_STEPS}
    if is_attacked:
        small["warmup"] = row.steps + 1
    # a device's first use costs seconds, which would count as setup
    noise = torch.randn(PATHS, *model.latent_shape)
    model.sample_path(model.encode([""] * PATHS), steps=2, guidance=2.0, noise=noise)
    precision = "bf16" if row.device == "cuda" else "no"
    hardware = Hardware(
        device=row.device, mixed_precision=precision, gradient_accumulation=row.parts,
        gradient_checkpointing=row.family in bench_models.LARGE,
    )  # fmt: skip
    run = Run(folder, hardware=hardware)
    run.watcher = watch = Watch(row, steps)
    with run.hardware.at_work(model), patch.object(shown_pictures, "gains", stand_in):
        dataclasses.replace(full, **small).erase(model, [concept_of(model)], run)
    seconds = watch.seconds(1, row.steps + 1)
    setup = watch.ends[0] - watch.start - seconds
    if is_attacked:
        share = full.warmup / full.steps
        attacked = watch.seconds(row.steps + 1, 2 * row.steps + 1)
        seconds = share * seconds + (1 - share) * attacked
    scale = full.paths / PATHS * full.sampling_steps / PATH_STEPS if "paths" in small else 0
    flops = watch.counter.get_total_flops()
    return Measured(seconds, 0, max(setup, 0.0) * scale, full.steps, flops)


def pictures(folder: Path) -> str:
    """A folder of plain pictures, which show a concept as well as random weights can tell."""
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 90, 200)).save(folder / f"{number}.png")
    return str(folder)


def stand_in(_model: object, latents: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    """What random weights cannot tell: all but the four given pictures and one more are kept."""
    return torch.tensor([1.0] * 4 + [2.0] + [-2.0] * (len(latents) - 5))


def naively(row: Row, model: Any) -> Measured:
    full = settings_of(row, model)
    ways = bench_naive.NAIVE | bench_naive_images.NAIVE
    parts = ways[row.method](model, concept_of(model), full)
    seconds = sum(often * seconds_of(row, part) for often, part in parts)
    return Measured(seconds, 0, 0.0, full.steps)


def closed_form(row: Row, side: Side, model: Any, folder: Path) -> Measured:
    """One edit of one concept, or of a hundred."""
    concepts = [concept_of(model)]
    if row.method == "uce-100":
        pairs = pocket.catalogue().pairs()[:MANY]
        concepts = [Concept(f"{style} {name}", "object", anchor="dog") for name, style in pairs]
    presets = read_presets(model.folder, "uce")
    settings = resolve(METHODS.get("diffusion", "uce"), given={}, quick=False, presets=presets)[0]
    if side == "naive":
        preserved = retain_prompts(concepts, model.catalogue)
        ((often, part),) = bench_naive.uce(model, concepts, preserved, settings)
        return Measured(often * seconds_of(dataclasses.replace(row, steps=1), part), 0)
    taken = []
    for number in range(2):  # the first warms up
        start = now(row)
        edit = settings.erase(model, concepts, Run(folder / str(number)))
        taken.append(now(row) - start)
        edit.undo(model)
    return Measured(min(taken), 0)


def generation(row: Row, side: Side, model: Any, folder: Path) -> Measured:
    """An image, as `evaluate` draws it; by a plain loop over prompts; by hand in one batch."""
    how = sampling_of(model, None)
    model.use_scheduler(how.scheduler)
    prompts = [f"A {name} image." for name in pocket.catalogue().objects][:IMAGES]
    pipeline, seeds = model.pipeline, [torch.Generator().manual_seed(i) for i in range(IMAGES)]

    def plainly(start: int, count: int, place: Path) -> None:
        part = slice(start, start + count)
        drawn = pipeline(
            prompts[part], num_inference_steps=how.steps, guidance_scale=how.guidance,
            generator=seeds[part],
        ).images  # fmt: skip
        for number, image in enumerate(drawn):
            image.save(place / f"{start + number}.png")

    def images() -> None:
        place = Path(tempfile.mkdtemp(dir=folder))
        if side == "toolkit":
            shots = [Shot(prompt, i, f"{i}.png") for i, prompt in enumerate(prompts)]
            draw(model, shots, place, steps=how.steps, guidance=how.guidance)
        else:
            count = 1 if side == "naive" else BATCH
            for start in range(0, IMAGES, count):
                plainly(start, count, place)

    return Measured(seconds_of(dataclasses.replace(row, steps=1), images) / IMAGES, 0)


def matrix_rate(device: str) -> float:
    """FLOP/s of a large matrix product: bfloat16 on a GPU, float32 (what runs there) on a CPU."""
    is_gpu = device == "cuda"
    side, dtype = (8192, torch.bfloat16) if is_gpu else (1024, torch.float32)
    first = torch.randn(side, side, device=device, dtype=dtype)
    row = Row("", "", device, None, 20 if is_gpu else 5, "wall" if is_gpu else "cpu")
    return 2 * side**3 / seconds_of(row, lambda: first @ first)
