"""What the training stages of the pocket suite share.

A time budget, a learning-rate curve, an optimiser, averages.
"""

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from erasure.training import averages
from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES, Split, render

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
log = logging.getLogger("train_pocket")
SHIPPED = Path(__file__).parents[1] / "erasure" / "models" / "pocket"
SUITE = Path(os.environ.get("POCKET_SUITE", SHIPPED))  # train_pocket.py --suite
WORK = Path(__file__).parents[1] / ".train"


CPU = torch.device("cpu")


class Budget:
    """Wall-clock minutes, steps, or whichever ends first: `progress()` runs from 0 to 1."""

    def __init__(self, minutes: float = 0, steps: int = 0) -> None:
        self.seconds, self.start = minutes * 60, time.monotonic()
        self.total, self.step = steps, 0

    def progress(self) -> float:
        by_step = self.step / self.total if self.total else 0.0
        by_time = (time.monotonic() - self.start) / self.seconds if self.seconds else 0.0
        return min(max(by_step, by_time), 1.0)

    def steps(self) -> Iterator[int]:
        while self.progress() < 1:
            yield self.step
            self.step += 1

    def rate(self, warmup: float = 0.02) -> float:
        """Learning-rate factor: linear warm-up, constant, linear to zero over the last 60 %."""
        at = self.progress()
        return min(1.0, (at + 1e-3) / warmup, max(0.0, (1 - at) / 0.6))


class MuonAdam:
    """Muon on every matrix, AdamW on embeddings, gains and biases.

    Convolution kernels are flattened to one matrix. Jordan et al., "Muon" (2024), with its update
    scaled to AdamW's, so that one learning rate serves both.
    """

    def __init__(
        self, module: nn.Module, learning_rate: float, adam_only: Iterable[str] = ()
    ) -> None:
        self.learning_rate = learning_rate
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        skip = tuple(adam_only)
        self.kernels = [
            p for name, p in named if p.ndim >= 2 and not any(part in name for part in skip)
        ]
        chosen = {id(p) for p in self.kernels}
        others = [p for _, p in named if id(p) not in chosen]
        self.matrices = [nn.Parameter(self._matrix(p.data)) for p in self.kernels]
        self.muon = torch.optim.Muon(
            self.matrices, learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    @staticmethod
    def _matrix(kernel: Tensor) -> Tensor:
        if kernel.ndim == 4:
            kernel = kernel.permute(0, 2, 3, 1)  # shares memory when the kernel is channels-last
        return kernel.flatten(1)

    def step(self, rate: float) -> None:
        for optimiser in (self.muon, self.adam):
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * rate
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else self._matrix(kernel.grad)
        self.muon.step()
        self.adam.step()
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            if matrix.data_ptr() != kernel.data_ptr():
                self._matrix(kernel.data).copy_(matrix.data)
            kernel.grad = None
        self.adam.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers' states, for a training that goes on later."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.data.copy_(self._matrix(kernel.data))


class Average:
    """A module's average weights, which count their updates and can go into a copy of it."""

    def __init__(self, module: nn.Module, decay: float = 0.995) -> None:
        self._mean = averages.Average(dict(module.named_parameters()))
        self.decay, self.count, self.weights = decay, 0, self._mean.means

    def update(self) -> None:
        self.count += 1
        self._mean.follow(averages.share_of_step(self.count, self.decay))

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, p in module.named_parameters():
            p.copy_(self.weights[name])


def _render_index(index: int) -> np.ndarray:
    images = [render(o, s, index) for o in range(len(OBJECTS)) for s in range(len(STYLES))]
    return np.stack(images).transpose(0, 3, 1, 2)


def load_images(split: Split, per_pair: int) -> Tensor:
    """Rendered once, then cached: uint8 in [0, 255], (per_pair, 256, 3, 64, 64)."""
    file = WORK / f"{split}-{per_pair}.npy"
    if not file.exists():
        WORK.mkdir(exist_ok=True)
        with ProcessPoolExecutor() as pool:
            images = np.stack(list(pool.map(_render_index, SPLITS[split][:per_pair])))
        np.save(file, images)
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return images.float().div(127.5).sub(1)


def sheet(rows: Tensor, file: Path) -> None:
    """Write rows of images, uint8 in [0, 255], (r, c, 3, h, w), as one PNG."""
    r, c, _, h, w = rows.shape
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rows.permute(0, 3, 1, 4, 2).reshape(r * h, c * w, 3).numpy()).save(file)
    log.info("samples in %s", file)


def save_half(tensors: dict[str, Tensor], file: Path) -> None:
    """Write float16 safetensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: t.detach().cpu().half().contiguous() for name, t in tensors.items()},
        file,
        {"format": "pt"},
    )


def record(stage: str, facts: dict[str, object]) -> None:
    """Add one stage's facts to the suite's training.json, from which the model card is written."""
    file = SUITE / "training.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=SHIPPED
    ).stdout
    known.setdefault(stage, []).append({"commit": commit.strip(), **facts})
    file.write_text(json.dumps(known, indent=1) + "\n")
