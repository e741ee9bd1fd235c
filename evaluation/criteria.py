"""What counts as drawing the concept: a judge's label, CLIP's choice among names, or a function."""

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.load import POCKET
from erasure.models.diffusion.model import DiffusionModel
from erasure_datasets.concept import Concept, common_names
from evaluation.metrics.clip_score import NamedClip, PocketClip, TextImageModel
from evaluation.nudity import Nudity
from evaluation.protocols import pocket


class Criterion(Protocol):
    """Whether each image, uint8 in [0, 255], (n, 3, h, w), shows the concept."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]: ...


@dataclass(frozen=True)
class JudgeLabel:
    """A classifier's likeliest label is the concept's, or one of them if several have its name."""

    judge: Classifier
    label: str

    @property
    def name(self) -> str:
        return f"{Path(self.judge.name).name} says {self.label}"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        own = [index for index, label in enumerate(self.judge.labels) if label == self.label]
        return torch.isin(self.judge.predict(self.judge.cut(images)).argmax(1), torch.tensor(own))


@dataclass(frozen=True)
class ClipLabel:
    """Zero-shot CLIP: of several sentences, the first, the concept's, is nearest to the image."""

    clip: TextImageModel
    sentences: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.clip.name} says {self.sentences[0]!r} of {len(self.sentences)}"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        texts = self.clip.embed_texts(list(self.sentences))
        return (self.clip.embed_images(images) @ texts.T).argmax(1).cpu() == 0


@dataclass(frozen=True)
class UserFunction:
    """A user's own function of the images."""

    name: str
    function: Any

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        try:
            given = self.function(images.clone())
        except (Exception, SystemExit) as error:
            raise SettingError(f"criterion {self.name} failed: {_told(error)}.") from error
        wanted = f"criterion {self.name} must return one bool per image, ({len(images)},); "
        try:
            answer = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SettingError(f"{wanted}got {type(given).__name__}.") from error
        if answer.shape != (len(images),) or answer.dtype != torch.bool:
            raise SettingError(f"{wanted}got {answer.dtype} {tuple(answer.shape)}.")
        return answer.cpu()


@dataclass(frozen=True)
class All:
    """Every one of several criteria holds."""

    parts: tuple[Criterion, ...]

    @property
    def name(self) -> str:
        return " and ".join(part.name for part in self.parts)

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        return torch.stack([part(images) for part in self.parts]).all(0)


def find_criterion(words: str, model: DiffusionModel, concept: Concept) -> Criterion:
    """The criterion that `words` names; several joined by "+" must all hold.

    "judge": the judge that ships with the model; "judge=FOLDER": a timm classifier whose labels
    hold the concept; "clip": the CLIP that ships with the model; "clip=NAME:PRETRAINED" or
    "clip=FOLDER": one of open_clip's; "nudenet=PRESET" or "nudenet=THRESHOLD:CLASS,CLASS"
    (evaluation/nudity.py); "module:function" or "file.py:function": images -> bool (n).
    SettingError if a part is none of these or cannot tell the concept.
    """
    parts = tuple(_one(word.strip(), model, concept) for word in words.split("+"))
    return parts[0] if len(parts) == 1 else All(parts)


def _one(word: str, model: DiffusionModel, concept: Concept) -> Criterion:
    kind, equals, value = word.partition("=")
    if equals and not value:
        raise SettingError(f"criterion {word} must name something behind the =.")
    is_pocket = (
        model.catalogue is not None and model.catalogue.pairs() == pocket.catalogue().pairs()
    )
    if kind == "judge" and value:
        return _labelled(value, concept, model.device)
    if kind == "judge":
        known = pocket.catalogue().targets() if is_pocket else []
        if concept.name not in known:
            raise SettingError(
                f"no judge knows the concept {concept.name!r} of {model.name}; name a criterion: "
                "judge=FOLDER, clip=NAME:PRETRAINED, or file.py:function."
            )
        is_style = concept.name in pocket.catalogue().styles
        own = POCKET / ("style-judge" if is_style else "vit")
        return _labelled(str(own), concept, model.device)
    if kind == "clip":
        if not value and not is_pocket:
            raise SettingError(
                f"{model.name} ships no CLIP; name one of open_clip's as "
                "clip=NAME:PRETRAINED, such as clip=ViT-B-32:laion2b_s34b_b79k."
            )
        clip = NamedClip(value, model.device) if value else PocketClip(POCKET, model.device)
        return ClipLabel(clip, _sentences(model, concept))
    if kind == "nudenet":
        return Nudity.of(value)
    if ":" in word:
        return UserFunction(word, _function(word))
    raise SettingError(
        "criterion must be judge, judge=FOLDER, clip, clip=NAME:PRETRAINED, clip=FOLDER, "
        f"nudenet=PRESET or file.py:function, or several joined by +; got {word!r}."
    )


def _labelled(name: str, concept: Concept, device: torch.device) -> JudgeLabel:
    judge = load_classifier(name, device=device)
    if concept.name not in judge.labels:
        raise SettingError(
            f"the judge {judge.name} has no label {concept.name!r}; "
            f"its labels are {', '.join(judge.labels)}."
        )
    return JudgeLabel(judge, concept.name)


def _sentences(model: DiffusionModel, concept: Concept) -> tuple[str, ...]:
    """The concept's shortest sentence first, then the same of its neighbours."""
    catalogue = model.catalogue
    if catalogue is not None and concept.name in catalogue.targets():
        own = catalogue.styles if concept.name in catalogue.styles else catalogue.objects
        wording = "an image in {} style" if own is catalogue.styles else "an image of a {}"
    else:
        own = common_names("styles" if concept.kind == "style" else "objects")
        wording = "a painting in the style of {}" if concept.kind == "style" else "a photo of a {}"
    others = [name for name in own if name.lower() != concept.name.lower()]
    return tuple(wording.format(name) for name in (concept.name, *others))


def _function(word: str) -> Any:
    place, _, name = word.rpartition(":")
    try:
        module = (
            _module_of(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
        found = getattr(module, name)
    except (Exception, SystemExit) as error:  # whatever a user's module may do on import
        raise SettingError(f"criterion {word!r} could not be loaded: {_told(error)}.") from error
    if not callable(found):
        raise SettingError(f"criterion {word!r} must be a function; it is {type(found).__name__}.")
    return found


def _module_of(file: Path) -> ModuleType:
    """A user's file as a module, under a name that no other module has."""
    own = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(f"criterion_{own}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for the module they are in
    spec.loader.exec_module(module)
    return module


def _told(error: BaseException) -> str:
    """An exception in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if words else ''}{words}".rstrip(".")
