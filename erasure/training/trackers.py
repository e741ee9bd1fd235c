"""Where accelerate may log a run: TensorBoard, Weights & Biases and others."""

from collections.abc import Mapping

from accelerate import Accelerator
from accelerate.tracking import (
    LOGGER_TYPE_TO_CLASS,
    TensorBoardTracker,
    WandBTracker,
    get_available_trackers,
)
from accelerate.utils import LoggerType
from jaxtyping import UInt8
from torch import Tensor

from erasure.errors import SettingError

PICTURED = ("tensorboard", "wandb")  # those that `Trackers.show` knows how to give pictures to


def refuse_tracker(name: str | None, *, sample_every: int = 0) -> None:
    """SettingError for a tracker that accelerate does not know or that is not installed.

    `sample_every` above 0 asks for one that takes pictures.
    """
    if not isinstance(sample_every, int) or isinstance(sample_every, bool) or sample_every < 0:
        raise SettingError(f"sample_every must be a whole number from 0 on; got {sample_every!r}.")
    if sample_every and name not in PICTURED:
        raise SettingError(
            f"sample_every needs report_to {' or '.join(PICTURED)}, which show its pictures; "
            f"got {name}."
        )
    if name is None:
        return
    if name not in LOGGER_TYPE_TO_CLASS:
        raise SettingError(
            f"report_to must be one of {', '.join(LOGGER_TYPE_TO_CLASS)}; got {name!r}."
        )
    installed = {LoggerType(tracker).value for tracker in get_available_trackers()}
    if name not in installed:
        raise SettingError(f"report_to {name} needs its package: pip install {name}.")


class Trackers:
    """What a run tells accelerate's trackers; nothing if there are none."""

    def __init__(self, accelerator: Accelerator, name: str | None) -> None:
        self._accelerator, self._is_on = accelerator, name is not None

    def begin(self, record: Mapping[str, object]) -> None:
        """Start them, with the run's command."""
        if self._is_on:
            told = {"command": str(record.get("command", ""))}
            self._accelerator.init_trackers("erasure", config=told)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers, under their names and the stage's."""
        if self._is_on:
            told = {f"{stage}/{name}": value for name, value in values.items()}
            self._accelerator.log(told, step=step)

    def show(self, name: str, step: int, images: UInt8[Tensor, "n 3 h w"]) -> None:
        """Images in [0, 255] in a row."""
        pixels = images.permute(0, 2, 3, 1).numpy()
        for tracker in self._accelerator.trackers:
            if isinstance(tracker, TensorBoardTracker):
                tracker.log_images({name: pixels}, step=step, dataformats="NHWC")
                tracker.writer.flush()
            elif isinstance(tracker, WandBTracker):
                tracker.log_images({name: list(pixels)}, step=step)

    def end(self) -> None:
        """Close them."""
        if self._is_on:
            self._accelerator.end_training()
