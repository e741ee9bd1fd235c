"""How far two sets of tensors are apart, tensor by tensor, and that as a file."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from erasure.comparing.sides import Side
from erasure.errors import ModelError, SettingError
from erasure.files.storage import atomic

ENDINGS = (".json", ".csv", ".md")
COLUMNS = ("relative L2", "largest", "share", "elements", "tensor")
LOW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Moved:
    """A tensor that differs.

    `relative` is the L2 norm of the difference by that of A's tensor (None where that is zero),
    `largest` the largest absolute difference, `share` the fraction of its `elements` that differ.
    `is_rounding` if one is the other in float16 or bfloat16.
    """

    name: str
    relative: float | None
    largest: float
    share: float
    elements: int
    is_rounding: bool


@dataclass(frozen=True)
class Difference:
    """What `diff` found between A and B.

    `moved` are the tensors that differ, by their relative distance, the largest first; `same` is
    the number of those that do not. `only_a` and `only_b` are names that the other lacks, `shapes`
    those whose shapes differ. `facts` are other things that decide what the models draw, where
    they differ: (A's, B's). `relative` is the L2 distance over all tensors that both have.
    """

    a: str
    b: str
    families: tuple[str, str]
    moved: Sequence[Moved]
    same: int
    only_a: Sequence[str]
    only_b: Sequence[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    facts: dict[str, tuple[str, str]]
    relative: float | None

    @property
    def is_none(self) -> bool:
        """Whether nothing differs."""
        return not (self.moved or self.only_a or self.only_b or self.shapes or self.facts)

    def told(self) -> list[str]:
        """The counts and totals as lines of text, without the tensors one by one."""
        elements = sum(entry.elements for entry in self.moved)
        changed = sum(round(entry.share * entry.elements) for entry in self.moved)
        lines = [f"A: {self.a} ({self.families[0]})", f"B: {self.b} ({self.families[1]})"]
        is_part = not self.shapes and not (self.only_a and self.only_b)
        if self.families[0] != self.families[1] and not is_part:
            lines.append("They are of different families.")
        lines.append(f"{len(self.moved)} of {len(self.moved) + self.same} tensors in both differ")
        if self.moved:
            lines[-1] += (
                f", in {changed} of their {elements} elements; "
                f"relative L2 over all in both {_number(self.relative)}"
            )
            rounded = sum(entry.is_rounding for entry in self.moved)
            if rounded:
                lines.append(f"{rounded} of these are the same but for rounding to half precision")
        for letter, names in (("A", self.only_a), ("B", self.only_b)):
            if names:
                lines.append(f"only in {letter}: {len(names)} tensors ({_by_part(names)})")
        for name, (first, second) in list(self.shapes.items())[:1]:
            lines.append(
                f"other shapes: {len(self.shapes)} tensors, as {name}: "
                f"{_shape(first)} in A, {_shape(second)} in B"
            )
        for fact, (first, second) in self.facts.items():
            lines.append(f"{fact}: {first} in A, {second} in B")
        return lines

    def save(self, file: Path) -> None:
        """Write .json (everything), .csv (a line per tensor) or .md (counts and a table)."""
        texts = {".json": self._json, ".csv": self._csv, ".md": self._markdown}
        text = texts[checked_ending(file).suffix]()
        with atomic(file) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _csv(self) -> str:
        stream = io.StringIO()
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(("status", *(item.name for item in fields(Moved))))
        for entry in self.moved:
            lines.writerow(("differs", *asdict(entry).values()))
        others = {"only in A": self.only_a, "only in B": self.only_b, "other shape": self.shapes}
        for status, names in others.items():
            lines.writerows((status, name, *[""] * (len(fields(Moved)) - 1)) for name in names)
        return stream.getvalue()

    def _markdown(self) -> str:
        lines = [*(f"- {line}" for line in self.told()), ""]
        lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(row(entry))} |" for entry in self.moved]
        return "\n".join(lines) + "\n"


def checked_ending(file: Path) -> Path:
    """SettingError for a file of another kind than these are written in."""
    if file.suffix not in ENDINGS:
        raise SettingError(f"out must end in {', '.join(ENDINGS)}; got {file}.")
    return file


def row(entry: Moved) -> tuple[str, ...]:
    """A tensor's line of a table, under COLUMNS."""
    return (
        _number(entry.relative), _number(entry.largest), f"{entry.share:.2%}", str(entry.elements),
        entry.name,
    )  # fmt: skip


def difference(a: Side, b: Side) -> Difference:
    """Compare two sides in float64; ModelError for values that are not finite."""
    common = [name for name in a.tensors if name in b.tensors]
    moved, same, shapes = list[Moved](), 0, {}
    distance = norm = 0.0
    for name in common:
        first, second = (side.tensors[name].detach().cpu() for side in (a, b))
        if first.shape != second.shape:
            shapes[name] = tuple(first.shape), tuple(second.shape)
            continue
        first, second = _finite(first, name, a.name), _finite(second, name, b.name)
        square = float(first.square().sum())
        norm += square
        if torch.equal(first, second):
            same += 1
            continue
        gone = second - first
        squared = float(gone.square().sum())
        distance += squared
        moved.append(
            Moved(
                name, (squared / square) ** 0.5 if square else None, float(gone.abs().max()),
                float((gone != 0).double().mean()), gone.numel(), _is_rounding(first, second),
            )
        )  # fmt: skip
    facts = {
        fact: (value, b.facts[fact])
        for fact, value in a.facts.items()
        if fact in b.facts and b.facts[fact] != value
    }
    return Difference(
        a.name, b.name, (a.family, b.family), sorted(moved, key=_nearness), same,
        [name for name in a.tensors if name not in b.tensors],
        [name for name in b.tensors if name not in a.tensors], shapes, facts,
        (distance / norm) ** 0.5 if norm else None,
    )  # fmt: skip


def _is_rounding(first: Tensor, second: Tensor) -> bool:
    return any(
        torch.equal(one.to(dtype).double(), other)
        for one, other in ((first, second), (second, first))
        for dtype in LOW
    )


def _nearness(entry: Moved) -> float:
    """Less, the further it moved."""
    return float("-inf") if entry.relative is None else -entry.relative


def _finite(tensor: Tensor, name: str, of: str) -> Tensor:
    wide = tensor.double()
    if not bool(wide.isfinite().all()):
        raise ModelError(f"{name} of {of} holds values that are not finite (NaN or infinite).")
    return wide


def _by_part(names: Sequence[str]) -> str:
    """How many of each network."""
    counts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{count} of {part}" for part, count in counts.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
