"""Gradients of the noise loss on pictures, without a step: what masks and importances go by."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.methods.shared.training_data import Pictures
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.learner import trainable
from erasure.training.processes import average, own_range
from erasure.training.run import Run

SCALE = 1024.0  # of a loss whose gradients would be 0 in fp16


def guided_gradients(
    model: DiffusionModel, weights: Mapping[str, nn.Parameter], pictures: Pictures, run: Run, *,
    guidance: float, batch_size: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Sums over the pictures of the guided loss's gradients, in a unit of their own."""
    generator = run.generator_for("mask")
    with torch.no_grad():
        empty = model.encode([""])
    summed = _zeros(weights)
    t, noise = _noise(model, pictures, generator)
    own, some = own_range(len(pictures.prompts)), _part(batch_size, run)
    starts = own[::some]
    with (
        trainable(weights),
        run.progress("mask", len(starts), grows_with=("forget_images",)) as bar,
    ):
        for start in starts:
            batch = slice(start, min(start + some, own.stop))
            z0, at, added = (run.send(x[batch]) for x in (pictures.latents, t, noise))
            condition = model.encode(pictures.prompts[batch])
            noised = model.add_noise(z0, added, at)
            empties = empty.expand_as(condition)
            predicted = model.predict_guided(noised, at, condition, empties, guidance)
            # a ranking needs every image to weigh alike
            scale = SCALE * len(z0) / batch_size
            (scale * F.mse_loss(predicted, model.target(z0, added, at))).backward()
            for name, weight in weights.items():
                if weight.grad is not None:
                    summed[name] += weight.grad
                    weight.grad = None
            bar.advance()
    average(list(summed.values()))
    return summed


def gradient_moments(
    model: DiffusionModel, weights: Mapping[str, nn.Parameter], pictures: Pictures, run: Run, *,
    batch_size: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
    """Means over batches of the noise loss's gradient, and of its square, by weight.

    A batch's square is of its mean gradient, and each batch is one process's: neither their number
    nor `gradient_accumulation` changes what is squared.
    """
    count = len(pictures.prompts)
    t, noise = _noise(model, pictures, run.generator_for("mask retain"))
    starts = range(0, count, batch_size)
    own, some = own_range(len(starts)), _part(batch_size, run)
    means, squares = _zeros(weights), _zeros(weights)
    with (
        trainable(weights),
        run.progress("mask retain", len(own), grows_with=("retain_images",)) as bar,
    ):
        for number in own:
            batch = range(starts[number], min(starts[number] + batch_size, count))
            for first in batch[::some]:
                part = slice(first, min(first + some, batch.stop))
                z0, at, added = (run.send(x[part]) for x in (pictures.latents, t, noise))
                condition = model.encode(pictures.prompts[part])
                predicted = model.predict(model.add_noise(z0, added, at), at, condition)
                scale = SCALE * len(z0) / len(batch)
                (scale * F.mse_loss(predicted, model.target(z0, added, at))).backward()
            for name, weight in weights.items():
                if weight.grad is not None:
                    gradient = weight.grad.float() / SCALE
                    means[name] += gradient
                    squares[name] += gradient.square()
                    weight.grad = None
            bar.advance()
    done = torch.tensor(float(len(own)), device=run.device)
    average([*means.values(), *squares.values(), done])
    for sums in (*means.values(), *squares.values()):
        sums /= done
    return means, squares


def _zeros(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: torch.zeros(w.shape, device=w.device) for name, w in weights.items()}


def _noise(
    model: DiffusionModel, pictures: Pictures, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A time and noise for each picture, whichever process asks for it."""
    t = model.random_times(len(pictures.prompts), generator)
    return t, torch.randn(pictures.latents.shape, generator=generator)


def _part(batch_size: int, run: Run) -> int:
    """How many pictures of a batch a process takes at once."""
    return -(-batch_size // run.hardware.gradient_accumulation)
