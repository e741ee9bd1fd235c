"""Images to forget and to keep, as latents: from Pocket Canvas, a folder, or the model itself."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.methods.shared.aligned_prompts import anchored_pairs
from erasure.methods.shared.images_of_pairs import ImageOf, canvas_image, image_from
from erasure.methods.shared.paths import sampled
from erasure.methods.shared.pictures import Pictures, Plan, encoded
from erasure.methods.shared.two_folders import from_two_folders
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.progress import shown
from erasure.training.run import Run
from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.concept import Catalogue, Concept, retain_prompts
from erasure_datasets.errors import DataError


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
    return from_two_folders(model, concepts, folder, plan, _kept_prompts(model, concepts, plan))


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
