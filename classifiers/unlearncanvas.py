"""UnlearnCanvas' official judges: ViT-L with a head for 51 themes or for 20 objects.

The benchmark ships `style50.pth` (themes) and `style50_cls.pth` (objects): pickled dictionaries
whose `model_state_dict` is timm's. Images are scaled to the network's side and to [-1, 1].
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

import timm
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from erasure.errors import ModelError, SettingError
from erasure.files.storage import file_digest, read_tensors
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.filling import refuse_not_finite
from erasure.models.classifier.load import load_classifier
from erasure.models.classifier.transform import Transform
from erasure_datasets.unlearncanvas import OBJECTS, THEMES

ARCHITECTURE = "vit_large_patch16_224"
JudgeKind = Literal["style", "object"]
LABELS: dict[JudgeKind, tuple[str, ...]] = {"style": THEMES, "object": OBJECTS}
PICKLED = (".pth", ".pt")
AT_ONCE = 32  # images per pass


def load_judge(place: Path, kind: JudgeKind, *, architecture: str = ARCHITECTURE) -> Classifier:
    """The judge of this kind, in float32, from a file or folder that the caller names.

    A .pth is read by torch's restricted unpickler, which builds tensors and plain values and
    refuses everything else, so that no code in it runs. A .safetensors holds the same tensors by
    the same names. A folder is timm's own, with label names. ModelError for anything else, for
    another architecture's weights, and for a head with other labels.
    """
    labels = LABELS[kind]
    if place.is_dir():
        judge = load_classifier(str(place))
        if judge.labels != labels:
            raise ModelError(f"{place} does not have the {kind} judge's {len(labels)} labels.")
        if judge.library != "timm":
            raise ModelError(f"{place} is {judge.library}'s own; a judge must be a timm folder.")
        return _judge(judge.network, judge.transform.size, kind, place)
    tensors = _unpickled(place) if place.suffix in PICKLED else read_tensors(place)[0]
    head = tensors.get("head.weight")
    if head is None or head.ndim != 2 or len(head) != len(labels):
        found = f"one of {len(head)}" if head is not None else "no head.weight"
        raise ModelError(
            f"the {kind} judge needs a head of {len(labels)} labels; {place} has {found}."
        )
    if not timm.is_model(architecture):
        raise ModelError(f"timm has no model {architecture!r}.")
    with torch.device("meta"):  # the file's tensors take the places of weights never allocated
        network: Any = timm.create_model(architecture, num_classes=len(labels))
    try:
        network.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip()
        raise ModelError(f"{place} does not fit {architecture}: {detail}") from error
    refuse_not_finite(network, str(place))
    return _judge(network, network.pretrained_cfg["input_size"][-1], kind, place)


def _judge(network: nn.Module, size: int, kind: JudgeKind, place: Path) -> Classifier:
    """A network that sees pictures as the benchmark's script shows them, whatever a folder says."""
    return Classifier(
        network, name=place.name, labels=LABELS[kind], library="timm",
        transform=Transform(size, (0.5,) * 3, (0.5,) * 3, mode="squash"),
    )  # fmt: skip


def _unpickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's `model_state_dict`."""
    if not file.is_file():
        raise ModelError(f"there is no file {file}.")
    try:
        # mapped from the disk where the format allows: a ViT-L is 1.2 GB
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(
            f"{file} was not loaded: it is damaged, or holds more than tensors and plain values, "
            "which can run code. Convert its model_state_dict to .safetensors where you trust it."
        ) from error
    tensors = found.get("model_state_dict") if isinstance(found, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ModelError(f"{file} has no model_state_dict, the key of UnlearnCanvas' judges.")
    return tensors


@dataclass(frozen=True)
class Judges:
    """Both judges, and what a score's stamp says of them."""

    style: Classifier
    object: Classifier
    stamp: dict[str, str]

    @classmethod
    def load(
        cls, style: str, object: str, *, architecture: str = ARCHITECTURE,
        device: torch.device | str = "cpu",
    ) -> "Judges":  # fmt: skip
        """From the places that the user named; SettingError for one that was not named."""
        found, stamp = [], {"architecture": architecture}
        kinds: tuple[tuple[JudgeKind, str], ...] = (("style", style), ("object", object))
        for kind, place in kinds:
            if not place:
                raise SettingError(
                    f"judge_{kind} must name the benchmark's {kind} judge: a .pth or .safetensors "
                    "file, or a timm folder."
                )
            judge = load_judge(Path(place), kind, architecture=architecture)
            judge.network.to(device)
            found.append(judge)
            stamp[kind] = f"{judge.name} sha256:{_digest(Path(place))}"
        return cls(found[0], found[1], stamp)

    def see(self, images: UInt8[Tensor, "n 3 h w"]) -> list[tuple[int, int]]:
        """(object, theme) of each image in [0, 255], as places in OBJECTS and THEMES."""
        pair = (
            judge.predict(judge.cut(images), AT_ONCE).argmax(1).tolist()
            for judge in (self.object, self.style)
        )
        return list(zip(*pair, strict=True))


def _digest(place: Path) -> str:
    file = place / "model.safetensors" if place.is_dir() else place
    return file_digest(file)[:16]
