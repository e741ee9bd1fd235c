"""BatchNorm's running statistics, which learn beside the weights, or stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from torch import Tensor

from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier
from erasure.training.processes import average


class Statistics:
    """Those of a classifier; `carried` are what a resumed training needs of them."""

    def __init__(self, model: Classifier, *, learn: bool) -> None:
        self.model = model
        self.carried: dict[str, Tensor] = model.buffers() if learn else {}
        model.remember(list(self.carried))

    @classmethod
    def asked(cls, model: Classifier, settings: object, *, learn: bool) -> Self:
        """Of a method's setting `statistics`; SettingError if there are none that could learn."""
        if learn and not model.buffers():
            raise SettingError(
                f"{type(settings).__name__}.statistics is of BatchNorm, which {model.name} does "
                "not have. Leave it out."
            )
        return cls(model, learn=learn)

    @property
    def numbers(self) -> dict[str, Tensor]:
        """Means and variances, without the counts of batches."""
        return {n: tensor for n, tensor in self.carried.items() if tensor.is_floating_point()}

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within it the network goes by each batch if they learn, and they follow it.

        Each process saw its own part of the batch; afterwards they are the mean over all.
        """
        if not self.carried:
            yield
            return
        with self.model.learning_statistics():
            yield
        average(list(self.numbers.values()))
