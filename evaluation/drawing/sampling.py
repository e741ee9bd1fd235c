"""How a protocol draws with a model: as the model demands, as the user asks, else as usual."""

from collections.abc import Mapping
from dataclasses import replace

from erasure.config import Value
from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.models.diffusion.one_step import OneStep


def asked_sampling(
    usual: Sampling, model: DiffusionModel, settings: Mapping[str, Value]
) -> Sampling:
    """`usual` with the steps, guidance and scheduler that the user's `settings` name.

    0 and "usual" leave it. SettingError for another than a one-step generator's own.
    """
    given = {
        name: settings[name]
        for name in ("steps", "guidance", "scheduler")
        if settings.get(name) not in (None, 0, "usual")
    }
    found = replace(usual, **given)  # type: ignore[arg-type]
    if isinstance(model, OneStep) and found != usual:
        raise SettingError(
            f"steps, guidance and scheduler must be {model.name}'s own, {usual.steps}, "
            f"{usual.guidance:g} and {usual.scheduler}: it draws in no other way; got "
            f"{', '.join(f'{name} {value}' for name, value in given.items())}."
        )
    return found
