"""Forms of an export: what is written of a run, and how that is opened; plug-ins, one file each."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from erasure.edit import Edit
from erasure.registry import name_of

HERE = "<this folder>"


class Form(ABC):
    """What every form's class inherits.

    `of` says for which models it is, and what `write` is handed: an edited pipeline or classifier,
    or None for a form of the `edit` alone.
    """

    of: ClassVar[Literal["pipeline", "classifier", "edit"]] = "edit"
    is_adapter: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return name_of(type(self))

    def refusal(self, edit: Edit) -> str:  # noqa: ARG002
        """Why this edit cannot take the form, as the beginning of a sentence; "" if it can."""
        return ""

    @abstractmethod
    def write(self, edit: Edit, model: Any, folder: Path, dtype: torch.dtype) -> None:
        """Write everything but the card into an empty folder, weights as `dtype`."""

    @abstractmethod
    def usage(self, edit: Edit, model: Any) -> list[str]:
        """How the export is opened, as lines of Markdown for its card."""

    def library(self, edit: Edit, model: Any) -> str | None:  # noqa: ARG002
        """The Hub's word for the library that opens it."""
        return None if edit.is_of_classifier else "diffusers"


def code(text: str) -> list[str]:
    """A piece of Python as lines of Markdown."""
    return ["```python", *text.split("\n"), "```", ""]


def cell(value: object) -> str:
    """A value as text of one table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
