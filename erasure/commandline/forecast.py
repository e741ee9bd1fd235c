"""What `--dry-run` prints: a forecast, in lines that say what was measured."""

from typing import Any

import typer

WIDTH = 9


def print_forecast(found: Any) -> None:
    """A `Forecast` as lines of text."""
    is_trial = bool(found.stages) or found.whole_seconds is not None
    lines = [
        ("dry run", "nothing was written"),
        ("takes out", f"{found.what}; of {found.model}, by {found.method}, on {found.device}"),
        ("out", f"{found.folder} ({found.state})"),
        *(("changes", line) for line in _changes(found)),
        *(("settings", f"{name} {value!r} ({source})")
          for name, (value, source) in found.settings.items()),
        *(("and", f"{name} {value}") for name, value in found.hardware.items()),
        *(("time", line) for line in _times(found)),
        *(("memory", line) for line in _memory(found) if is_trial),
        *(("disk", line) for line in _disk(found) if is_trial),
    ]  # fmt: skip
    before = ""
    for name, line in lines:
        typer.echo(f"{'' if name == before else name:<{WIDTH}} {line}")
        before = name


def _changes(found: Any) -> list[str]:
    if not found.tensors:
        return ["not known: no training was reached"]
    share = 100 * found.parameters / found.of_all
    what = f"{found.tensors} tensors, {found.parameters:,} numbers"
    if found.is_beside:
        return [f"adapters of {what}; the model has {found.of_all:,} ({share:.2f} %)"]
    return [f"at most {what}: {share:.2f} % of the {found.of_all:,} that could be"]


def _times(found: Any) -> list[str]:
    """Each stage's seconds, and their sum, as they were measured."""
    opening = f"opening the model took {duration(found.opening_seconds)}"
    if found.whole_seconds is not None:
        return [f"all of it took {duration(found.whole_seconds)} here, measured; {opening}"]
    if not found.stages:
        return [f"not measured: there is nothing to do, or no stage that tells; {opening}"]
    lines = [
        f"{stage.name}: {duration(stage.expected)}, from {stage.done} of its steps here, "
        f"{stage.unit_seconds:.3g} s each"
        + (" (the first, which is slower)" if stage.done == 1 else "")
        for stage in found.stages
    ]
    total = sum(stage.expected for stage in found.stages)
    lines.append(
        f"together {duration(total)}; {opening}. Saving, and stages that come after these, were "
        "not measured"
    )
    if found.cut:
        told = ", ".join(f"{name} {value}" for name, value in found.cut.items())
        lines.append(f"tried with {told}, and multiplied")
    return lines


def _memory(found: Any) -> list[str]:
    place = "allocated on the card" if found.device.startswith("cuda") else "of this process"
    return [f"{size(found.peak_bytes)} {place} at most until then, measured"]


def _disk(found: Any) -> list[str]:
    lines = [f"the edit: {'at most ' * (found.whole_seconds is None)}{size(found.edit_bytes)}"]
    if found.state_bytes:
        lines.append(f"while it learns, to go on from: {size(found.state_bytes)}")
    return lines


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
