"""A user's own function of the images: module:function or file.py:function."""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import CRITERIA, module_of, told
from erasure_datasets.concept import Concept
from evaluation.criteria import Criterion


@CRITERIA.register
@dataclass(frozen=True)
class UserFunction(Criterion):
    """A user's own function of the images."""

    words: str
    function: Any

    @classmethod
    def of(cls, value: str, model: DiffusionModel, concept: Concept) -> Self:
        return cls(value, _function(value))

    @property
    def name(self) -> str:
        return self.words

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        try:
            given = self.function(images.clone())
        except (Exception, SystemExit) as error:
            raise SettingError(f"criterion {self.name} failed: {told(error)}.") from error
        wanted = f"criterion {self.name} must return one bool per image, ({len(images)},); "
        try:
            answer = torch.as_tensor(given).to("cpu", copy=True)  # a meta tensor holds nothing
        except Exception as error:
            raise SettingError(f"{wanted}got {type(given).__name__}: {told(error)}.") from error
        if answer.shape != (len(images),) or answer.dtype != torch.bool:
            raise SettingError(f"{wanted}got {answer.dtype} {tuple(answer.shape)}.")
        if answer.layout != torch.strided:
            raise SettingError(f"{wanted}got {answer.layout}.")
        return answer


def _function(word: str) -> Any:
    place, _, name = word.rpartition(":")
    try:
        module = (
            _module_of(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
        found = getattr(module, name)
    except (Exception, SystemExit) as error:  # whatever a user's module may do on import
        raise SettingError(f"criterion {word!r} could not be loaded: {told(error)}.") from error
    if not callable(found):
        raise SettingError(f"criterion {word!r} must be a function; it is {type(found).__name__}.")
    return found


def _module_of(file: Path) -> ModuleType:
    """A user's file as a module, under a name that no other module has."""
    own = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return module_of(file, f"criterion_{own}")
