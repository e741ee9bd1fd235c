"""Pictures that show what to erase, and which others a word that was learned for them fits."""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import write_json
from erasure.methods.shared.training_data import Pictures, encoded
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.training.progress import shown
from erasure.training.run import Run
from erasure_datasets.errors import DataWarning
from erasure_datasets.images import ENDINGS, find_images, read_image, unread, warn_of_unread

FEWEST = 2  # what one picture shows cannot be told from the picture
ANCHORS = 48  # of what is kept, tried for each that goes


def read_shown(folder: str, model: DiffusionModel) -> Float[Tensor, "p c h w"]:
    """Latents of a folder's pictures, each cut to the model's square around its middle.

    SettingError for no folder, for fewer than two pictures that differ, and for one that cannot be
    read.
    """
    place = checked_path(folder, "images").expanduser() if folder else Path()
    if not folder or not place.is_dir():
        raise SettingError(
            f"images must be a folder of pictures that show what to erase; got {folder!r}."
        )
    files = find_images(place)
    warn_of_unread(place, unread(place, files))
    images = [read_image(file, model.resolution) for file in shown(files, "reading images")]
    if len({image.numpy().tobytes() for image in images}) < FEWEST:
        what = "all alike" if len(files) > 1 else f"{len(files) or 'none'}"
        raise SettingError(
            f"images must hold at least {FEWEST} pictures that differ ({', '.join(ENDINGS)}); "
            f"{place} has {what}."
        )
    return encoded(model, images)


def told_apart(
    model: DiffusionModel, latents: Float[Tensor, "p c h w"], every: Pictures, word: Condition,
    run: Run, *, looks: int,
) -> tuple[Pictures, Pictures, list[str]]:  # fmt: skip
    """What to forget and what to keep, by a word (1, n, d) that was learned for some pictures.

    Also the prompts of the half of what is kept that the word fits worst.

    Prompts of `every` go, with their pictures, if the word tells the model as much more of these
    than no word does as it tells of the given ones, and stay if it tells less by as much; those
    between are neither. What the model knows one of the given pictures by goes as well (`known_by`,
    of the half that the word fits best). A given picture's prompt is that one, else any of those
    that go, and the empty one if there is none, of which a warning tells; the run's recognised.json
    has them. SettingError if the word tells nothing of the pictures it is for, and if nothing is
    left to keep. A rehearsal tells nothing apart.
    """
    gain = gains(model, torch.cat([latents, every.latents]), word, run, looks=looks)
    if run.rehearsal is not None:  # its few steps and pictures tell nothing
        asked = every.prompts[:1] * len(latents)
        return Pictures(latents, asked, [""] * len(latents)), every, every.prompts
    own, others = float(gain[: len(latents)].mean()), gain[len(latents) :].tolist()
    if own <= 0:
        raise SettingError(
            f"images must show what {model.name} can draw; no word is found by which it knows "
            "these better than by none. More word_steps may find one."
        )
    means = _means(every.prompts, others)
    doubted = [
        prompt for rank, prompt in enumerate(sorted(means, key=means.__getitem__, reverse=True))
        if 2 * rank < len(means) or means[prompt] >= -own
    ]  # fmt: skip
    names = known_by(model, latents, doubted, word, run, looks=looks)
    words = [prompt for prompt, told in means.items() if told >= own or prompt in names]
    known = every.only([prompt in words for prompt in every.prompts])
    kept = every.only([means[text] < -own and text not in words for text in every.prompts])
    if not kept.prompts:
        raise SettingError(
            f"images must leave something to keep; each of {len(means)} prompts may draw what they "
            "show."
        )
    if run.is_main:
        told_of = {"own_gain": own, "prompts": words, "kept": len(kept.prompts)}
        write_json(run.folder / "recognised.json", {**told_of, "of": len(every.prompts)})
    if not words:
        warnings.warn(
            f"none of {len(means)} prompts draws what the pictures show: those that do are not "
            "known, and may draw it yet.",
            DataWarning,
            stacklevel=2,
        )
    in_turn = itertools.cycle(words or [""])
    prompts = [name or next(in_turn) for name in names] + known.prompts
    far = sorted({*kept.prompts}, key=lambda prompt: (means[prompt], prompt))
    far = far[: -(-len(far) // 2)]
    return Pictures(torch.cat([latents, known.latents]), prompts, [""] * len(prompts)), kept, far


def _means(prompts: Sequence[str], told: Sequence[float]) -> dict[str, float]:
    """Each prompt's mean over its pictures, in the order in which they first come."""
    of_prompt: dict[str, list[float]] = {}
    for prompt, one in zip(prompts, told, strict=True):
        of_prompt.setdefault(prompt, []).append(one)
    return {prompt: fmean(all_told) for prompt, all_told in of_prompt.items()}


@torch.no_grad()
def gains(
    model: DiffusionModel, latents: Float[Tensor, "p c h w"], word: Condition, run: Run, *,
    looks: int,
) -> Float[Tensor, " p"]:  # fmt: skip
    """By how much the noise loss of each picture is lower under a word than under the empty prompt.

    The mean over `looks` times of the noisier half of a path, where it is decided what is drawn;
    all pictures share the noise.
    """
    seen = _looks(model, latents, run, looks)
    parts, found = latents.split(model.images_at_once), []
    with run.progress("recognising", len(parts), grows_with=("retain_images", "looks")) as bar:
        for part in parts:
            z0, told = run.send(part), torch.zeros(len(part))
            asked = torch.cat([model.encode([""]), word]).repeat_interleave(len(z0), dim=0)
            for time, noise in seen:
                t, added = run.send(time.expand(len(z0))), run.send(noise.expand(z0.shape))
                z_t, wanted = model.add_noise(z0, added, t), model.target(z0, added, t)
                said = model.predict(z_t.repeat(2, 1, 1, 1), t.repeat(2), asked)
                errors = (said - wanted.repeat(2, 1, 1, 1)).float().square().mean((1, 2, 3))
                told += (errors[: len(z0)] - errors[len(z0) :]).cpu()
            found.append(told / looks)
            bar.advance()
    return torch.cat(found)


def known_by(
    model: DiffusionModel, latents: Float[Tensor, "p c h w"], prompts: Sequence[str],
    word: Condition, run: Run, *, looks: int,
) -> list[str]:  # fmt: skip
    """The prompt under which each picture's noise loss is lowest; "" where the word's is lower."""
    if not prompts:
        return [""] * len(latents)
    asked = torch.cat([word, model.encode(list(prompts))])
    names = ["", *prompts]
    return [names[row] for row in _nearest(model, latents, asked, run, looks, stage="naming")]


def with_anchors(
    model: DiffusionModel, forget: Pictures, prompts: Sequence[str], run: Run, *, looks: int
) -> Pictures:
    """The same, each with the prompt of these that the model knows it by best.

    Of pictures of one prompt the first decides for all. At most `ANCHORS` are tried, drawn once.
    """
    texts = sorted({*prompts})
    order = torch.randperm(len(texts), generator=run.generator_for("anchors")).tolist()
    tried = [texts[row] for row in order[:ANCHORS]]
    alike = [prompt or number for number, prompt in enumerate(forget.prompts)]
    firsts = [alike.index(one) for one in dict.fromkeys(alike)]
    rows = _nearest(model, forget.latents[firsts], model.encode(tried), run, looks, stage="anchors")
    anchor_of = {alike[first]: tried[row] for first, row in zip(firsts, rows, strict=True)}
    return Pictures(forget.latents, forget.prompts, [anchor_of[one] for one in alike])


@torch.no_grad()
def _nearest(
    model: DiffusionModel, latents: Float[Tensor, "p c h w"], asked: Condition, run: Run,
    looks: int, *, stage: str,
) -> list[int]:  # fmt: skip
    """The condition under which each picture's noise loss is lowest, looked at as for `gains`.

    With each look the worse half of a picture's conditions drops out.
    """
    seen, found = _looks(model, latents, run, looks), list[int]()
    with run.progress(stage, len(latents), grows_with=("looks",)) as bar:
        for z0 in run.send(latents).split(1):
            left, told = torch.arange(len(asked)), torch.zeros(len(asked))
            for time, noise in seen:
                t, added = run.send(time[None]), run.send(noise[None])
                z_t, wanted = model.add_noise(z0, added, t), model.target(z0, added, t)
                for rows in left.split(model.images_at_once):
                    many = len(rows)
                    said = model.predict(
                        z_t.expand(many, -1, -1, -1), t.expand(many), asked[rows.to(asked.device)]
                    )
                    told[rows] += (said - wanted).float().square().mean((1, 2, 3)).cpu()
                left = left[told[left].argsort()[: -(-len(left) // 2)]]
            found.append(int(left[0]))
            bar.advance()
    return found


def _looks(
    model: DiffusionModel, latents: Float[Tensor, "p c h w"], run: Run, count: int
) -> list[tuple[Tensor, Tensor]]:
    """So many (time, noise), of the noisier half of a path."""
    noises = torch.randn((count, *latents.shape[1:]), generator=run.generator_for("looks"))
    return list(zip(model.descent(2 * count)[0][:count], noises, strict=True))
