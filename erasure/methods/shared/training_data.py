"""Images to forget and to keep, as latents: from Pocket Canvas, a folder, or the model itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.methods.shared.aligned_prompts import anchored_pairs, without
from erasure.methods.shared.caption_files import (
    find_captions,
    refuse_named,
    warn_of_uncaptioned,
    warn_of_unnamed,
)
from erasure.methods.shared.images_of_pairs import ImageOf, canvas_image, image_from
from erasure.methods.shared.paths import sampled
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.progress import shown
from erasure.training.run import Run
from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.concept import Catalogue, Concept, mentions, retain_prompts
from erasure_datasets.errors import DataError
from erasure_datasets.images import find_images, read_image, unread, warn_of_unread


@dataclass(frozen=True)
class Pictures:
    """Latents (n, c, h, w) with a prompt each.

    For forgetting also the prompt of what to draw instead.
    """

    latents: Tensor
    prompts: list[str]
    anchors: list[str]

    def only(self, wanted: Sequence[bool]) -> "Pictures":
        """Those of which this is true, in order."""
        rows = [row for row, is_wanted in enumerate(wanted) if is_wanted]
        prompts, anchors = ([texts[i] for i in rows] for texts in (self.prompts, self.anchors))
        return Pictures(self.latents[rows], prompts, anchors)


@dataclass(frozen=True)
class Plan:
    """What to gather: (object, style) pairs or plain prompts, and where images come from.

    With `shows_anchor` the pictures to forget show what is drawn instead, under the same prompts;
    with `has_anchors` a folder has pictures of that as well, for `gather_anchors`. A `retain_count`
    of 0 gathers none to keep.
    """

    images: str
    forget_count: int
    retain_count: int
    retain_prompts: str  # a file; none, if it is empty
    sampling_steps: int
    guidance: float
    shows_anchor: bool = False
    has_anchors: bool = False


def gather(
    model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run
) -> tuple[Pictures, Pictures]:
    """Pictures to forget and to keep. SettingError if the source cannot give them."""
    try:
        return _gathered(model, concepts, plan, run)
    except DataError as error:
        raise SettingError(str(error)) from error


def gather_anchors(
    model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run
) -> Pictures:
    """Pictures of what is drawn instead, under the concepts' prompts; SettingError as `gather`."""
    pictures, _ = gather(model, concepts, replace(plan, retain_count=0, shows_anchor=True), run)
    return pictures


def gather_kept(model: DiffusionModel, plan: Plan, run: Run) -> Pictures:
    """Pictures of all that the model draws but of what was taken before, to choose from.

    They are the model's own data set's, else drawn. SettingError if there is nothing to keep.
    """
    try:
        kept = _kept_prompts(model, [], plan)
    except DataError as error:
        raise SettingError(str(error)) from error
    catalogue = _listed(model, plan)
    if catalogue and _is_canvas(catalogue):
        order, pairs = run.generator_for("pairs"), catalogue.kept_pairs([*model.taken])
        chosen = _in_turn(pairs, plan.retain_count, order)
        return _of_pairs(catalogue, model, [], chosen, canvas_image)
    return draw_pictures("retain", kept, plan.retain_count, model, plan, run)


def _gathered(
    model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run
) -> tuple[Pictures, Pictures]:
    if model.catalogue and _shows_canvas(model, plan):
        if not plan.retain_prompts:
            return _from_pairs(model.catalogue, model, concepts, plan, run, canvas_image)
        kept, alone = _kept_prompts(model, concepts, plan), replace(plan, retain_count=0)
        forget, _ = _from_pairs(model.catalogue, model, concepts, alone, run, canvas_image)
        return forget, draw_pictures("retain", kept, plan.retain_count, model, plan, run)
    if plan.images in ("auto", "generated"):
        return _generated(model, concepts, plan, run)
    folder = checked_path(plan.images, "images")
    if not folder.is_dir():
        raise SettingError(
            f"images must be auto, generated or a folder; there is no folder {folder}."
        )
    catalogue = _listed(model, plan)
    if catalogue:
        image = image_from(folder, model.resolution)
        return _from_pairs(catalogue, model, concepts, plan, run, image)
    return _from_two_folders(model, concepts, folder, plan)


def _listed(model: DiffusionModel, plan: Plan) -> Catalogue | None:
    """The model's own list of what to keep, unless a file says that."""
    return None if plan.retain_prompts else model.catalogue


def prompts_with_pictures(model: DiffusionModel, plan: Plan) -> set[str]:
    """The prompts of the model's list, where their pictures are at hand."""
    catalogue = _listed(model, plan)
    is_folder = plan.images not in ("auto", "generated")
    if catalogue is None or not (is_folder or _shows_canvas(model, plan)):
        return set()
    return {catalogue.prompt(*pair) for pair in catalogue.pairs()}


def _shows_canvas(model: DiffusionModel, plan: Plan) -> bool:
    """Whether pictures are the built-in data set's."""
    return plan.images == "auto" and bool(model.catalogue) and _is_canvas(model.catalogue)


def _is_canvas(catalogue: Catalogue) -> bool:
    return (catalogue.objects, catalogue.styles) == (OBJECTS, STYLES)


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
        chosen = _in_turn(pairs, count, generator)
        sets.append(
            _of_pairs(catalogue, model, concepts, chosen, image, shows_anchor=plan.shows_anchor)
        )
    return sets[0], sets[1]


def _in_turn(
    pairs: list[tuple[str, str]], count: int, generator: torch.Generator
) -> list[tuple[str, str, int]]:
    """So many (object, style, number): each pair in turn, in an order drawn once."""
    order = torch.randperm(len(pairs), generator=generator).tolist()
    return [(*pairs[order[i % len(pairs)]], i // len(pairs)) for i in range(count)]


def _of_pairs(
    catalogue: Catalogue, model: DiffusionModel, concepts: list[Concept],
    chosen: list[tuple[str, str, int]], image: ImageOf, *, shows_anchor: bool = False,
) -> Pictures:  # fmt: skip
    instead = [_instead(name, style, concepts) for name, style, _ in chosen]
    seen = instead if shows_anchor else [(name, style) for name, style, _ in chosen]
    if not all(all(pair) for pair in seen):
        raise SettingError(
            "anchor must be named, since the anchor's pictures are learned from; got none."
        )
    places = [(*pair, number) for pair, (_, _, number) in zip(seen, chosen, strict=True)]
    prompts = [catalogue.prompt(name, style) for name, style, _ in chosen]
    anchors = [catalogue.prompt(*pair) if all(pair) else "" for pair in instead]
    images = [image(*place) for place in shown(places, "reading images")]
    return Pictures(encoded(model, images), prompts, anchors)


def _instead(name: str, style: str, concepts: list[Concept]) -> tuple[str, str]:
    """The pair with every concept replaced by its anchor; "" where an anchor is none."""
    anchors = {concept.name: concept.anchor for concept in concepts}
    return anchors.get(name, name), anchors.get(style, style)


def encoded(model: DiffusionModel, images: Sequence[Tensor]) -> Tensor:
    """Latents (n, c, h, w) on the CPU of images (3, h, w), as many at once as their size allows."""
    if not images:
        return torch.zeros(0, *model.latent_shape)
    parts = torch.stack(list(images)).split(model.images_at_once)
    return torch.cat([model.to_latents(part) for part in shown(parts, "encoding images")]).cpu()


def _from_two_folders(
    model: DiffusionModel, concepts: list[Concept], folder: Path, plan: Plan
) -> tuple[Pictures, Pictures]:
    """`forget/` (`anchor/`) and `retain/`, by captions where there are any, else by templates."""
    pairs, all_gone = anchored_pairs(concepts), [*concepts, *model.taken]
    kept = _kept_prompts(model, concepts, plan)
    gone = "anchor" if plan.shows_anchor else "forget"
    parts = [folder / "forget", folder / gone, folder / "retain"]
    parts += [folder / "anchor"] if plan.has_anchors else []
    others = [entry for entry in unread(folder, parts) if entry.stem.lower() != "metadata"]
    warn_of_unread(folder, others)
    sets = []
    for name, default, count in (
        (gone, pairs, plan.forget_count),
        ("retain", kept, plan.retain_count),
    ):
        if not count:
            sets.append(Pictures(encoded(model, []), [], []))
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
        elif name != "retain" and len(concepts) > 1:
            names = ", ".join(concept.name for concept in concepts)
            raise SettingError(
                f"images: {folder / name} must have captions, which say what each picture shows, "
                f"to forget several concepts ({names})."
            )
        anchors = [anchor for _, anchor in chosen]
        if name == "forget" and captions:
            anchors = _anchored(folder, prompts, anchors, concepts)
        model.warn_beyond(prompts, f"captions of {folder / name}")
        read = [read_image(file, model.resolution) for file in shown(files, "reading images")]
        sets.append(Pictures(encoded(model, read), prompts, anchors))
        if name == "retain" and not (captions or plan.retain_prompts):
            warn_of_uncaptioned(folder / name, prompts[0])
    return sets[0], sets[1]


def _anchored(
    folder: Path, captions: list[str], default: list[str], concepts: list[Concept]
) -> list[str]:
    """The captions with the concepts that they name replaced by their anchors.

    A caption that names none stands for the only concept, with a template of its anchor.
    SettingError for such a caption where there are several.
    """
    found = []
    for caption, anchor in zip(captions, default, strict=True):
        if any(mentions(caption, concept.name) for concept in concepts):
            found.append(without(caption, concepts))
        elif len(concepts) == 1:
            found.append(anchor)
        else:
            names = ", ".join(concept.name for concept in concepts)
            raise SettingError(
                f"images: each caption in {folder / 'forget'} must name one of {names}; "
                f"{caption!r} does not."
            )
    return found


def _generated(
    model: DiffusionModel, concepts: list[Concept], plan: Plan, run: Run
) -> tuple[Pictures, Pictures]:
    """Latents that the original model draws, by DDIM."""
    kept = _kept_prompts(model, concepts, plan)
    return (
        draw_pictures("forget", anchored_pairs(concepts), plan.forget_count, model, plan, run),
        draw_pictures("retain", kept, plan.retain_count, model, plan, run),
    )


def _kept_prompts(
    model: DiffusionModel, concepts: Sequence[Concept], plan: Plan
) -> list[tuple[str, str]]:
    """What to keep, twice: there is nothing to draw instead."""
    kept = retain_prompts([*concepts, *model.taken], model.catalogue, plan.retain_prompts)
    return [(prompt, prompt) for prompt in kept]


def draw_pictures(
    name: str, pairs: list[tuple[str, str]], count: int, model: DiffusionModel, plan: Plan,
    run: Run, of: str = "",
) -> Pictures:  # fmt: skip
    """So many pictures in turn; `of` is the setting that says how many, else NAME_images."""
    order = torch.randperm(len(pairs), generator=run.generator_for(f"{name} order")).tolist()
    chosen = [pairs[order[i % len(order)]] for i in range(count)]
    column = 1 if plan.shows_anchor else 0
    parts = sampled(
        model, [pair[column] for pair in chosen], lambda path: path.finished.cpu(),
        name=f"drawing images to {name}", steps=plan.sampling_steps, guidance=plan.guidance,
        generator=run.generator_for(name), run=run,
        grows_with=(of or f"{name}_images", "sampling_steps"),
    )  # fmt: skip
    latents = torch.cat(parts) if parts else encoded(model, [])
    return Pictures(latents, [p for p, _ in chosen], [a for _, a in chosen])


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
