"""Where accelerate may log a run: TensorBoard, Weights & Biases and others."""

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from erasure.errors import SettingError


def refuse_tracker(name: str | None) -> None:
    """SettingError for a tracker that accelerate does not know or that is not installed."""
    if name is None:
        return
    if name not in LOGGER_TYPE_TO_CLASS:
        raise SettingError(
            f"report_to must be one of {', '.join(LOGGER_TYPE_TO_CLASS)}; got {name!r}."
        )
    if name not in get_available_trackers():
        raise SettingError(f"report_to {name} needs its package: pip install {name}.")
