"""Points on the original model's own sampling paths, for methods that steer its predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.methods.shared.aligned_prompts import aligned_prompts
from erasure.models.diffusion.model import DiffusionModel, SampledPath
from erasure.training.processes import everyones, own_range
from erasure.training.run import Run
from erasure_datasets.concept import Concept

Item = TypeVar("Item")
PushFrom = Literal["prompt", "anchor", "concept"]


class PathSettings(Protocol):
    """What a method that draws paths has among its settings."""

    @property
    def paths(self) -> int: ...
    @property
    def sampling_steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...


@dataclass(frozen=True)
class Paths:
    """`n` paths of `s` timesteps: (s, n, c, h, w), finished (n, c, h, w); and their prompts.

    `asked` and `none` are what the original model predicts under each path's first prompt, and
    under the empty one, where its paths ask for that.
    """

    latents: Tensor
    finished: Tensor
    timesteps: Tensor
    asked: Tensor | None
    none: Tensor | None
    prompts: list[tuple[str, ...]]


@dataclass(frozen=True)
class Points:
    """A batch of points on paths: latents (b, c, h, w), timesteps (b), prompts by column.

    `said` holds the original model's predictions that drawing the paths took anyway, by column.
    """

    z_t: Tensor
    t: Tensor
    prompts: list[tuple[str, ...]]
    said: dict[tuple[str, ...], Tensor]


def texts_of(*rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Every prompt in these rows, and the empty one."""
    return ["", *dict.fromkeys(text for part in rows for row in part for text in row)]


def push_rows(concepts: list[Concept], push_from: PushFrom) -> list[tuple[str, ...]]:
    """(c, start, pushed, '') for every concept and template, each once.

    The target of c is eps_0(start) - push (eps_0(pushed) - eps_0('')). "prompt" starts from c and
    pushes c; "anchor" starts from the anchor's prompt, which names no other of the concepts, and
    pushes c; "concept" starts from c and pushes the concept's bare name.
    """
    rows = []
    for prompt, name, wanted, _ in aligned_prompts(concepts):
        starts = {"prompt": (prompt, prompt), "anchor": (wanted, prompt), "concept": (prompt, name)}
        rows.append((prompt, *starts[push_from], ""))
    return list(dict.fromkeys(rows))


def check_push(method: str, push: float, push_from: PushFrom) -> None:
    """SettingError for a target that is what the model says anyway."""
    if push == 0 and push_from != "anchor":
        raise SettingError(
            f"{method}.push must be above 0 with push_from {push_from}; got 0, which asks for what "
            "the model draws already. With push_from anchor it may be 0."
        )


def draw_paths(
    settings: PathSettings, model: DiffusionModel, rows: Sequence[tuple[str, ...]], name: str,
    run: Run,
) -> Paths:  # fmt: skip
    """`guided_paths`, as many and as long as a method's settings say."""
    return guided_paths(
        model, rows, name=name, count=settings.paths, steps=settings.sampling_steps,
        guidance=settings.guidance, run=run, grows_with=("paths", "sampling_steps"),
    )  # fmt: skip


@torch.no_grad()
def guided_paths(
    model: DiffusionModel, rows: Sequence[tuple[str, ...]], *, name: str, count: int, steps: int,
    guidance: float, run: Run, grows_with: Sequence[str] = (),
) -> Paths:  # fmt: skip
    """Guided DDIM paths of the original model towards each row's first prompt, rows in turn.

    `grows_with` names the method's settings that `count` and `steps` are.
    """
    generator = run.generator_for(f"{name} paths")
    order = torch.randperm(len(rows), generator=generator).tolist()
    chosen = [rows[order[i % len(order)]] for i in range(count)]
    parts = sampled(
        model, [row[0] for row in chosen], SampledPath.cpu, name=f"paths to {name}", steps=steps,
        guidance=guidance, generator=generator, run=run, grows_with=grows_with,
    )  # fmt: skip
    latents = torch.cat([part.latents for part in parts], dim=1)
    finished = torch.cat([part.finished for part in parts])
    asked, none = (_joined([getattr(part, said) for part in parts]) for said in ("asked", "none"))
    return Paths(latents, finished, parts[0].timesteps, asked, none, chosen)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """What was predicted on all paths, if it was."""
    found = [part for part in parts if part is not None]
    return torch.cat(found, dim=1) if found else None


@torch.no_grad()
def sampled(
    model: DiffusionModel, prompts: Sequence[str], keep: Callable[[SampledPath], Item], *,
    name: str, steps: int, guidance: float, generator: torch.Generator, run: Run,
    grows_with: Sequence[str] = (),
) -> list[Item]:  # fmt: skip
    """What `keep` takes of each batch of the original model's guided DDIM paths of prompts.

    Each process draws its part of them; all get all.
    """
    noise = torch.randn((len(prompts), *model.latent_shape), generator=generator)
    own, kept = own_range(len(prompts)), list[Item]()
    starts = own[:: model.images_at_once]
    with run.progress(name, len(starts), grows_with=grows_with) as bar, model.original():
        for start in starts:
            batch = slice(start, min(start + model.images_at_once, own.stop))
            path = model.sample_path(
                model.encode(prompts[batch]), steps=steps, guidance=guidance, noise=noise[batch]
            )
            kept.append(keep(path))
            bar.advance()
    return everyones(kept)


def points(paths: Paths, batch: int, run: Run) -> Points:
    """This process's part of a random batch of points."""
    step = run.part(torch.randint(len(paths.timesteps), (batch,), generator=run.generator))
    path = run.part(torch.randint(len(paths.prompts), (batch,), generator=run.generator))
    rows = [paths.prompts[i] for i in path.tolist()]
    columns = [tuple(column) for column in zip(*rows, strict=True)]
    said: dict[tuple[str, ...], Tensor] = {}
    for texts, known in ((("",) * len(rows), paths.none), (columns[0], paths.asked)):
        if known is not None:
            said[texts] = run.send(known[step, path])
    z_t = run.send(paths.latents[step, path])
    return Points(z_t, run.send(paths.timesteps[step]), columns, said)


def original_answers(model: DiffusionModel, at: Points) -> list[Tensor]:
    """The original model's prediction under each column, asking only what is not known yet."""
    with model.original():
        return answers(model, at, dict(at.said))


def answers(
    model: DiffusionModel, at: Points, said: dict[tuple[str, ...], Tensor] | None = None
) -> list[Tensor]:
    """The model's prediction under each column of prompts: one call for all not `said` yet."""
    said = {} if said is None else said
    asked = [texts for texts in dict.fromkeys(at.prompts) if texts not in said]
    if asked:
        count = len(asked)
        condition = model.encode([text for texts in asked for text in texts])
        found = model.predict(at.z_t.repeat(count, 1, 1, 1), at.t.repeat(count), condition)
        said |= dict(zip(asked, found.chunk(count), strict=True))
    return [said[texts] for texts in at.prompts]


def retain_loss(model: DiffusionModel, at: Points) -> Tensor:
    """mean (eps(x_t, t, c) - eps_0(x_t, t, c))^2 at points of rows of one prompt, c."""
    (wanted,) = original_answers(model, at)
    return F.mse_loss(model.predict(at.z_t, at.t, model.encode(at.prompts[0])), wanted)
