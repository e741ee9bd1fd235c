"""Images to forget and to keep, as latents: from Pocket Canvas, a folder, or the model itself."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.methods.shared.caption_files import find_captions, refuse_named, warn_of_unnamed
from erasure.methods.shared.paths import sampled
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.progress import shown
from erasure.training.run import Run
from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES, render
from erasure_datasets.concept import Catalogue, Concept, retain_prompts
from erasure_datasets.errors import DataError
from erasure_datasets.images import find_images, read_image, unread, warn_of_unread

ImageOf = Callable[[str, str, int], Tensor]  # (object, style, number) -> uint8 (3, h, w)


@dataclass(frozen=True)
class Pictures:
    """Latents (n, c, h, w) with a prompt each.

    For forgetting also the prompt of what to draw instead.
    """

    latents: Tensor
    prompts: list[str]
    anchors: list[str]


@dataclass(frozen=True)
class Plan:
    """What to gather: (object, style) pairs or plain prompts, and where images come from.

    With `shows_anchor` the pictures to forget show what is drawn instead, under the same prompts.
    A `retain_count` of 0 gathers none to keep.
    """

    images: str
    forget_count: int
    retain_count: int
    retain_file: Path | None
    sampling_steps: int
    guidance: float
    shows_anchor: bool = False


def gather(
    model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run
) -> tuple[Pictures, Pictures]:
    """Pictures to forget and to keep. SettingError if the source cannot give them."""
    try:
        return _gathered(model, concepts, plan, run)
    except DataError as error:
        raise SettingError(str(error)) from error


def _gathered(
    model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run
) -> tuple[Pictures, Pictures]:
    catalogue = model.catalogue if plan.retain_file is None else None
    is_canvas = catalogue and (catalogue.objects, catalogue.styles) == (OBJECTS, STYLES)
    if catalogue and is_canvas and plan.images == "auto":
        return _from_pairs(catalogue, model, concepts, plan, run, _canvas_image)
    if plan.images in ("auto", "generated"):
        return _generated(model, concepts, plan, run)
    folder = checked_path(plan.images, "images")
    if not folder.is_dir():
        raise SettingError(
            f"images must be auto, generated or a folder; there is no folder {folder}."
        )
    if catalogue:
        image = _image_from(folder, model.resolution)
        return _from_pairs(catalogue, model, concepts, plan, run, image)
    return _from_two_folders(model, concepts, folder, plan)


def forget_prompts(concepts: list[Concept]) -> list[tuple[str, str]]:
    """(prompt that names a concept, the same with its anchor), over all concepts and templates."""
    both = [zip(c.prompts(), c.anchor_prompts(), strict=True) for c in concepts]
    return list(dict.fromkeys(pair for pairs in both for pair in pairs))


def _from_pairs(
    catalogue: Catalogue, model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run,
    image: ImageOf,
) -> tuple[Pictures, Pictures]:  # fmt: skip
    """Each pair that a concept's prompts ask for, and each without one, in an order drawn once.

    Pictures of what was taken before are not kept: they would bring it back.
    """
    kept = catalogue.kept_pairs([*concepts, *model.taken])
    asked = {prompt for concept in concepts for prompt in concept.prompts()}
    gone = [pair for pair in catalogue.pairs() if catalogue.prompt(*pair) in asked]
    sets, generator = [], run.generator_for("pairs")
    if not kept:
        raise SettingError("concepts must leave something to keep; every pair of names has one.")
    for pairs, count in ((gone, plan.forget_count), (kept, plan.retain_count)):
        order = torch.randperm(len(pairs), generator=generator).tolist()
        chosen = [pairs[order[i % len(pairs)]] for i in range(count)]
        instead = [_instead(*pair, concepts) for pair in chosen]
        seen = instead if plan.shows_anchor else chosen
        if not all(all(pair) for pair in seen):
            raise SettingError(
                "anchor must be named, since the anchor's pictures are learned from; got none."
            )
        places = [(*pair, i // len(pairs)) for i, pair in enumerate(seen)]
        prompts = [catalogue.prompt(*pair) for pair in chosen]
        anchors = [catalogue.prompt(*pair) if all(pair) else "" for pair in instead]
        images = [image(*place) for place in shown(places, "reading images")]
        sets.append(Pictures(_encoded(model, images), prompts, anchors))
    return sets[0], sets[1]


def _instead(name: str, style: str, concepts: list[Concept]) -> tuple[str, str]:
    """The pair with every concept replaced by its anchor; "" where an anchor is none."""
    anchors = {concept.name: concept.anchor for concept in concepts}
    return anchors.get(name, name), anchors.get(style, style)


def _encoded(model: DiffusionModel, images: list[Tensor]) -> Tensor:
    """Latents (n, c, h, w) on the CPU of images (3, h, w), as many at once as their size allows."""
    if not images:
        return torch.zeros(0, *model.latent_shape)
    parts = torch.stack(images).split(model.images_at_once)
    return torch.cat([model.to_latents(part) for part in shown(parts, "encoding images")]).cpu()


def _canvas_image(name: str, style: str, number: int) -> Tensor:
    """uint8 (3, 64, 64): a pair's training image."""
    index = SPLITS["train"][number % len(SPLITS["train"])]
    image = render(OBJECTS.index(name), STYLES.index(style), index)
    return torch.from_numpy(image).permute(2, 0, 1)


def _image_from(folder: Path, size: int) -> ImageOf:
    """Images of a folder in UnlearnCanvas' layout, {style}/{object}/{n}.jpg, taken in turn."""

    @cache
    def listed(place: str) -> list[Path]:
        files = find_images(folder / place)
        if not files:
            raise SettingError(f"images: {folder} has no {place}/*.jpg or *.png.")
        warn_of_unread(folder / place, unread(folder / place, files))
        return files

    def image(name: str, style: str, number: int) -> Tensor:
        files = listed(f"{style.replace(' ', '_')}/{name}")
        return read_image(files[number % len(files)], size)

    return image


def _from_two_folders(
    model: DiffusionModel, concepts: list[Concept], folder: Path, plan: Plan
) -> tuple[Pictures, Pictures]:
    """`forget/` (`anchor/`) and `retain/`, by captions where there are any, else by templates."""
    pairs, all_gone = forget_prompts(concepts), [*concepts, *model.taken]
    kept = retain_prompts(all_gone, model.catalogue, plan.retain_file)
    gone = "anchor" if plan.shows_anchor else "forget"
    parts = [folder / "forget", folder / gone, folder / "retain"]
    others = [entry for entry in unread(folder, parts) if entry.stem.lower() != "metadata"]
    warn_of_unread(folder, others)
    sets = []
    for name, default, count in (
        (gone, pairs, plan.forget_count),
        ("retain", [(p, p) for p in kept], plan.retain_count),
    ):
        if not count:
            sets.append(Pictures(_encoded(model, []), [], []))
            continue
        files = find_images(folder / name)
        if not files:
            raise SettingError(
                f"images: {folder} must hold images in {name}/ (*.jpg or *.png); found none."
            )
        captions = find_captions(folder, name, files)
        if name == "anchor" and captions:
            raise SettingError(
                f"images: pictures of the anchor go by the concept's templates; {folder} has "
                "captions for anchor/. Take them out."
            )
        files = files[:count]
        chosen = [default[i % len(default)] for i in range(len(files))]
        prompts = [captions[f] if captions else p for f, (p, _) in zip(files, chosen, strict=True)]
        if name == "retain" and captions:
            refuse_named(folder, prompts, all_gone)
        elif captions:
            warn_of_unnamed({file: captions[file] for file in files}, concepts)
        model.warn_beyond(prompts, f"captions of {folder / name}")
        read = [read_image(file, model.resolution) for file in shown(files, "reading images")]
        sets.append(Pictures(_encoded(model, read), prompts, [anchor for _, anchor in chosen]))
    return sets[0], sets[1]


def _generated(
    model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run
) -> tuple[Pictures, Pictures]:
    """Latents that the original model draws, by DDIM."""
    kept = retain_prompts([*concepts, *model.taken], model.catalogue, plan.retain_file)
    sets = []
    for name, pairs, count in (
        ("forget", forget_prompts(concepts), plan.forget_count),
        ("retain", [(p, p) for p in kept], plan.retain_count),
    ):
        order = torch.randperm(len(pairs), generator=run.generator_for(f"{name} order")).tolist()
        chosen = [pairs[order[i % len(order)]] for i in range(count)]
        column = 1 if plan.shows_anchor else 0
        parts = sampled(
            model, [pair[column] for pair in chosen], lambda path: path.finished.cpu(),
            name=f"drawing images to {name}", steps=plan.sampling_steps, guidance=plan.guidance,
            generator=run.generator_for(name), run=run,
            grows_with=(f"{name}_images", "sampling_steps"),
        )  # fmt: skip
        latents = torch.cat(parts) if parts else _encoded(model, [])
        sets.append(Pictures(latents, [p for p, _ in chosen], [a for _, a in chosen]))
    return sets[0], sets[1]


Drawn = tuple[Tensor, list[str], list[str], Tensor, Tensor]


def draw(pictures: Pictures, batch: int, model: DiffusionModel, run: Run) -> Drawn:
    """This process's part of a random batch: latents, prompts, anchors, timesteps, noise."""
    picked = torch.randint(len(pictures.prompts), (batch,), generator=run.generator)
    t = model.random_times(batch, run.generator)
    noise = torch.randn((batch, *pictures.latents.shape[1:]), generator=run.generator)
    mine = run.part(picked).tolist()
    return (
        run.send(pictures.latents[mine]),
        [pictures.prompts[i] for i in mine],
        [pictures.anchors[i] for i in mine],
        run.shard(t),
        run.shard(noise),
    )


def noise_loss(model: DiffusionModel, drawn: Drawn) -> Tensor:
    """What a model is trained by, of pictures that were drawn: mean (predict - target)^2."""
    z0, prompts, _, t, noise = drawn
    said = model.predict(model.add_noise(z0, noise, t), t, model.encode(prompts))
    return F.mse_loss(said, model.target(z0, noise, t))
