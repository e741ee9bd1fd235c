"""Forms of an export: what is written of a run, and how that is opened; plug-ins, one file each."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from erasure.edit import Edit
from erasure.exports.writing.publishing import public_name
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.registry import name_of

HERE = "<this folder>"


class Form(ABC):
    """What every form's class inherits.

    `of` says for which models it is, and what `write` is handed: an edited pipeline or classifier,
    or None for a form of the `edit` alone. `layouts` are the names that its tensors can have, where
    there is a choice: the class takes one of them, the first by default.
    """

    of: ClassVar[Literal["pipeline", "classifier", "edit"]] = "edit"
    is_adapter: ClassVar[bool] = False
    layouts: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        return name_of(type(self))

    def refusal(self, edit: Edit) -> str:
        """Why this edit cannot take the form, as the beginning of a sentence; "" if it can."""
        return ""

    def opens(self) -> bool:
        """Whether `write` and `usage` are handed the edited model."""
        return self.of != "edit"

    @abstractmethod
    def write(self, edit: Edit, model: Any, folder: Path, dtype: torch.dtype) -> None:
        """Write everything but the card into an empty folder, weights as `dtype`."""

    @abstractmethod
    def usage(self, edit: Edit, model: Any) -> list[str]:
        """How the export is opened, as lines of Markdown for its card."""

    def library(self, edit: Edit, model: Any) -> str | None:
        """The Hub's word for the library that opens it."""
        return None if edit.is_of_classifier else "diffusers"


class WholeModel(Form):
    """A form of whole pipelines, edited or not: `convert` writes it too."""

    of: ClassVar[Literal["pipeline", "classifier", "edit"]] = "pipeline"

    @abstractmethod
    def save(
        self, model: LatentDiffusion, folder: Path, dtype: torch.dtype, *, title: str, about: str
    ) -> None:
        """Write everything but the card into an empty folder, under this title and description."""

    @abstractmethod
    def opening(self, model: LatentDiffusion, title: str) -> list[str]:
        """How that is opened, as lines of Markdown."""

    def write(self, edit: Edit, model: LatentDiffusion, folder: Path, dtype: torch.dtype) -> None:
        self.save(model, folder, dtype, title=title_of(edit), about=about(edit))

    def usage(self, edit: Edit, model: LatentDiffusion) -> list[str]:
        return self.opening(model, title_of(edit))


def title_of(edit: Edit) -> str:
    """What an edited model is called."""
    return f"{public_name(edit.base)} without {_names(edit)}"


def about(edit: Edit) -> str:
    """What was done to it, in one line."""
    return (
        f"Erased with {edit.method} (erasure-toolkit). Concepts: {_names(edit)}. "
        f"Base: {public_name(edit.base)}."
    )


def _names(edit: Edit) -> str:
    return ", ".join(concept.name for concept in edit.concepts)


def code(text: str) -> list[str]:
    """A piece of Python as lines of Markdown."""
    return ["```python", *text.split("\n"), "```", ""]


def cell(value: object) -> str:
    """A value as text of one table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
