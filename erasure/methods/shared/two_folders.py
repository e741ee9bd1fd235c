"""A user's pictures to forget and to keep, in two folders, with captions or without."""

from pathlib import Path

from erasure.errors import SettingError
from erasure.methods.shared.aligned_prompts import anchored_pairs, without
from erasure.methods.shared.caption_files import (
    find_captions,
    refuse_named,
    warn_of_uncaptioned,
    warn_of_unnamed,
)
from erasure.methods.shared.pictures import Pictures, Plan, encoded
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.progress import shown
from erasure_datasets.concept import Concept, mentions
from erasure_datasets.images import find_images, read_image, unread, warn_of_unread


def from_two_folders(
    model: DiffusionModel,
    concepts: list[Concept],
    folder: Path,
    plan: Plan,
    kept: list[tuple[str, str]],
) -> tuple[Pictures, Pictures]:
    """`forget/` (`anchor/`) and `retain/`, by captions where there are any, else by templates.

    `kept` are the prompts to keep, twice.
    """
    pairs, all_gone = anchored_pairs(concepts), [*concepts, *model.taken]
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
