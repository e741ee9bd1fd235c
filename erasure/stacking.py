"""Erase further from an erased run: what a method takes for original is the model as it stands."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from erasure.composing import (
    laid_upon,
    parts_of,
    refuse_unlike_adapters,
    refuse_unlike_requests,
)
from erasure.concepts import refuse_unnamed, with_lost_anchors
from erasure.edit import Edit
from erasure.errors import EditError, ErasureError, ModelError, RunError, SettingError
from erasure.files.records import EditShape, read_record
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.one_step import OneStep
from erasure.opening import open_edit
from erasure.training.run_folder import run_record
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataWarning


@dataclass(frozen=True)
class Stack:
    """A run's model with the run's edit in it, to erase further from."""

    model: LatentDiffusion
    edit: Edit
    run: Path
    base: Path | str | None

    def concepts(self, found: list[Concept]) -> list[Concept]:
        """What is to be erased: these, and what was drawn as one of them since it was erased."""
        old = {concept.name: concept.anchor for concept in self.edit.concepts}
        for concept in found:
            if concept.name in old:
                warnings.warn(
                    f"{concept.name} is gone from {self.run} already; it is erased once more.",
                    DataWarning,
                    stacklevel=3,
                )
        again = with_lost_anchors(self.model, found, drawn_as_anchors(self.edit))[len(found) :]
        for concept in again:
            warnings.warn(
                f"{concept.name} is drawn as {old[concept.name]} in {self.run}, which is to go "
                f"too: it is erased anew, as {concept.anchor or 'nothing'}.",
                DataWarning,
                stacklevel=3,
            )
        return [*found, *again]

    def refuse(self, word: str, settings: object) -> None:
        """SettingError for a method that cannot go on from an erased model.

        Such a method says why as `never_further`. EditError for adapters that cannot stand beside
        those that the run has.
        """
        why = getattr(settings, "never_further", "")
        if why:
            raise SettingError(f"{word} cannot erase further from a run: {why}. Name its base.")
        asked = {name: getattr(settings, name, None) for name in ("rank", "alpha")}
        if self.edit.form == "lora" and None not in asked.values():
            refuse_unlike_adapters(self.edit.settings, asked)

    def anew(self, word: str, method: Any, concepts: Sequence[Concept]) -> list[Concept]:
        """What the run took and these: to be erased at once from its base, which `model` is then.

        EditError unless the run holds this method's requests alone, by the same settings.
        """
        refuse_unlike_requests(self.edit, word, asdict(method))
        self.edit.undo(self.model)
        self.model.taken = ()
        return [*{one.name: one for one in (*self.edit.concepts, *concepts)}.values()]

    def told(self) -> dict[str, object]:
        """What config.json says of it: `onto` is the digest of the edit that lies below."""
        config = run_record(self.run).get("config")
        return {"onto": self.edit.digest, "from": str(self.run), "config": config}

    def further(self, erase: Callable[[], Edit], low: torch.dtype | None) -> Edit:
        """Erase from the model as it stands; all that is gone then as one edit of the base.

        Meanwhile the erased model is the original one, which a method has as its reference. At the
        end the model remembers the base's values. `low` is what it was left in, if not in float32.
        """
        model = self.model
        base, model.originals = model.originals, {}
        try:
            later = erase()
        finally:
            model.originals = {**model.originals, **base}
        values = model.originals
        if low is not None:
            values = open_edit(self.run, edited=False, base=self.base)[0].tensors()
        return laid_upon(self.edit, later, values)


def holds_run(place: Path) -> bool:
    """Whether a folder is a run's, finished or not, or holds an edit; a model's folder is none."""
    if not place.is_dir() or (place / "model_index.json").is_file():
        return False
    try:
        return (place / "edit.json").is_file() or "base_digest" in run_record(place)
    except ErasureError:  # some library's config.json
        return False


def open_erased(run: Path, *, device: torch.device | str, base: Path | str | None = None) -> Stack:
    """A run to erase further from; its model knows what was `taken`.

    RunError for a run that is not finished, ModelError for one that nothing can be erased from.
    """
    file = run / "edit.json"
    if not file.is_file():
        raise RunError(
            f"{run} is a run that is not finished (no edit.json); run its own command again to "
            "finish it, and then erase further from it."
        )
    concepts = read_record(file, EditShape, error=EditError)["concepts"]
    if concepts and concepts[0]["kind"] in ("class", "samples"):
        raise ModelError(f"{run} edits a classifier; erase takes a text-to-image model's run.")
    model, edit = open_edit(run, device=device, base=base)
    if isinstance(model, OneStep):
        raise ModelError(
            f"{run} made a one-step generator, from which nothing can be erased further; name all "
            "concepts in one run of sfd."
        )
    refuse_unnamed(
        run, edit.concepts, "erase that again with --concept, so that nothing kept brings it back"
    )
    drawn = drawn_as_anchors(edit)
    model.taken = tuple(
        concept if concept.name in drawn else replace(concept, anchor="")
        for concept in edit.concepts
    )
    return Stack(model, edit, run, base)


def drawn_as_anchors(edit: Edit) -> set[str]:
    """The concepts whose prompts draw their anchors since the edit.

    ESD and its kin push a prompt away from its concept, and towards the anchor only if asked.
    """
    return {
        name
        for part in parts_of(edit)
        for name in part["concepts"]
        if part["settings"].get("push_from", "anchor") == "anchor"
    }
