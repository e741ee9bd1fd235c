"""A classifier's likeliest label: the judge that ships with the model, or a timm folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.built_in import POCKET
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import CRITERIA
from erasure_datasets.concept import Concept
from evaluation.criteria import Criterion
from evaluation.drawing.pocket_plan import catalogue, is_pocket


@CRITERIA.register
@dataclass(frozen=True)
class JudgeLabel(Criterion):
    """A classifier's likeliest label is the concept's, or one of them if several have its name."""

    judge: Classifier
    label: str

    @classmethod
    def of(cls, value: str, model: DiffusionModel, concept: Concept) -> Self:
        judge = load_classifier(value or _shipped(model, concept), device=model.device)
        if concept.name not in judge.labels:
            raise SettingError(
                f"the judge {judge.name} has no label {concept.name!r}; "
                f"its labels are {', '.join(judge.labels)}."
            )
        return cls(judge, concept.name)

    @property
    def name(self) -> str:
        return f"{Path(self.judge.name).name} says {self.label}"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        return torch.isin(self._logits(images).argmax(1), torch.tensor(self._own))

    def probability(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        return self._logits(images).softmax(1)[:, self._own].sum(1)

    def of_another(self, name: str) -> Self | None:
        return replace(self, label=name) if name in self.judge.labels else None

    @property
    def _own(self) -> list[int]:
        return [index for index, label in enumerate(self.judge.labels) if label == self.label]

    def _logits(self, images: Tensor) -> Tensor:
        return self.judge.predict(self.judge.cut(images)).float().cpu()


def _shipped(model: DiffusionModel, concept: Concept) -> str:
    if concept.name not in (catalogue().targets() if is_pocket(model) else []):
        raise SettingError(
            f"no judge knows the concept {concept.name!r} of {model.name}; name a criterion: "
            "judge=FOLDER, clip=NAME:PRETRAINED, or file.py:function."
        )
    is_style = concept.name in catalogue().styles
    return str(POCKET / ("style-judge" if is_style else "vit"))
