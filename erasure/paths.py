"""Points on the untouched model's own sampling paths, for methods that steer its predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from erasure.models.diffusion import DiffusionModel
from erasure.run import Run
from erasure_datasets.concept import Concept

PushFrom = Literal["prompt", "anchor", "concept"]


@dataclass(frozen=True)
class Paths:
    """Latents (s, n, c, h, w) before each timestep (s), the finished ones, and their prompts."""

    latents: Tensor
    finished: Tensor
    timesteps: Tensor
    prompts: list[tuple[str, ...]]


def texts_of(*rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Every prompt in these rows, and the empty one."""
    return ["", *dict.fromkeys(text for part in rows for row in part for text in row)]


def push_rows(concepts: list[Concept], push_from: PushFrom) -> list[tuple[str, ...]]:
    """(c, start, pushed, '') for every concept and template.

    The target of c is eps_0(start) - push (eps_0(pushed) - eps_0('')). "prompt" starts from c and
    pushes c; "anchor" starts from the anchor's prompt and pushes c; "concept" starts from c and
    pushes the concept's bare name.
    """
    rows = []
    for concept in concepts:
        for prompt, anchor in zip(concept.prompts(), concept.anchor_prompts(), strict=True):
            starts = {
                "prompt": (prompt, prompt),
                "anchor": (anchor, prompt),
                "concept": (prompt, concept.name),
            }
            rows.append((prompt, *starts[push_from], ""))
    return rows


@torch.no_grad()
def draw_paths(
    model: DiffusionModel, rows: Sequence[tuple[str, ...]], *, name: str, count: int, steps: int,
    guidance: float, run: Run,
) -> Paths:  # fmt: skip
    """Guided DDIM paths of the untouched model towards each row's first prompt, rows in turn."""
    generator = run.generator_for(f"{name} paths")
    order = torch.randperm(len(rows), generator=generator).tolist()
    chosen = [rows[order[i % len(order)]] for i in range(count)]
    parts, timesteps, some = [], torch.empty(0), model.images_at_once
    with run.progress(f"paths to {name}", -(-count // some)) as bar, model.original():
        for first in range(0, count, some):
            condition = model.encode([row[0] for row in chosen[first : first + some]])
            path, timesteps = model.sample_path(
                condition, steps=steps, guidance=guidance, generator=generator
            )
            parts.append(path.cpu())
            bar.advance()
    whole = torch.cat(parts, dim=1)
    return Paths(whole[:-1], whole[-1], timesteps.cpu(), chosen)


def points(paths: Paths, batch: int, run: Run) -> tuple[Tensor, Tensor, list[list[str]]]:
    """This process's part of a random batch of points: latents, timesteps, prompts by column."""
    step = run.part(torch.randint(len(paths.timesteps), (batch,), generator=run.generator))
    path = run.part(torch.randint(len(paths.prompts), (batch,), generator=run.generator))
    rows = [paths.prompts[i] for i in path.tolist()]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return run.send(paths.latents[step, path]), run.send(paths.timesteps[step]), columns


def answers(
    model: DiffusionModel, z_t: Tensor, t: Tensor, columns: Sequence[Sequence[str]]
) -> list[Tensor]:
    """The model's prediction under each column of prompts, in one call; equal ones asked once."""
    asked = list(dict.fromkeys(map(tuple, columns)))
    count = len(asked)
    condition = model.encode([text for texts in asked for text in texts])
    said = model.predict(z_t.repeat(count, 1, 1, 1), t.repeat(count), condition).chunk(count)
    return [said[asked.index(tuple(texts))] for texts in columns]
