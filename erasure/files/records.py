"""JSON that commands write for one another and users edit: read whole and checked, or one line.

A file that is missing, cut off, not UTF-8, nested without end, or of another shape raises an
ErasureError that names the file and the place. Numbers that are not finite are no JSON.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict, TypeVar

import msgspec
from msgspec import Meta

from erasure.errors import ErasureError, RunError

ShapeT = TypeVar("ShapeT")
Value = str | int | float | bool
BOM = b"\xef\xbb\xbf"
# of text that is no such record; msgspec's own are ValueErrors in its newer versions alone
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
ROUNDING = 1e-6  # of a mean in float32, by which it may lie outside its interval
Count = Annotated[int, Meta(ge=0, le=2**53)]
NotNegative = Annotated[float, Meta(ge=0)]


class ConceptShape(TypedDict):
    """A concept as `Concept.as_json` writes it."""

    name: str
    kind: str
    templates: list[str]
    anchor: str
    label: int | None


class SamplingShape(TypedDict):
    """How an edit's model must be drawn."""

    steps: int
    guidance: float
    scheduler: str


class PartShape(TypedDict):
    """One of several erasures that an edit is made of.

    `digest` is that of its own run's edit, and "" of one that the run itself added.
    """

    method: str
    concepts: list[str]
    settings: dict[str, Any]
    digest: str


class EditShape(TypedDict):
    """edit.json; the last six are missing from folders of older versions, or where empty."""

    form: Literal["weights", "sparse", "lora"]
    method: str
    concepts: list[ConceptShape]
    base: str
    sampling: SamplingShape | None
    settings: dict[str, Any]
    requests: NotRequired[dict[str, list[str]]]
    revision: NotRequired[str | None]
    base_digest: NotRequired[str]
    digest: NotRequired[str]
    moved: NotRequired[dict[str, tuple[int, float, float]]]
    parts: NotRequired[list[PartShape]]


class ScoreShape(msgspec.Struct):
    """One score; rates are fractions in [0, 1]. It only checks: a record's scores stay dicts."""

    value: float
    stderr: NotNegative | None = None
    n: Count | None = None
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        low, high = (self.value if end is None else end for end in (self.low, self.high))
        if not low - ROUNDING <= self.value <= high + ROUNDING:
            raise ValueError(f"value {self.value:g} lies outside its interval {low:g} to {high:g}")


class ScoresShape(TypedDict):
    """scores/PROTOCOL.json."""

    protocol: str
    scores: dict[str, ScoreShape]
    baseline: NotRequired[dict[str, ScoreShape]]
    per_concept: NotRequired[dict[str, dict[str, ScoreShape]]]
    stamp: NotRequired[dict[str, Any]]


class CaseShape(TypedDict):
    """What an attack wants to be shown; the name is that of its picture's file."""

    name: Annotated[str, Meta(pattern=r"^[^/\\\x00]+$")]
    prompt: str


class FoundShape(TypedDict):
    """An attack's result on one case."""

    success: bool
    tries: Count
    prompt: str
    level: NotRequired[float | None]


class AttackedCaseShape(TypedDict):
    """One case of an attack."""

    case: CaseShape
    pre: bool
    found: FoundShape | None
    control: bool
    control_tries: bool
    success: bool
    is_named: NotRequired[bool]


class AttackedConceptShape(TypedDict):
    """One concept's part of attacks/ATTACK.json."""

    scores: dict[str, ScoreShape]
    baseline: dict[str, ScoreShape]
    is_cut_by_budget: bool
    criterion: str
    threshold: NotRequired[float]
    cases: list[AttackedCaseShape]
    steps: NotRequired[Count]
    random_steps: NotRequired[Count | None]
    random_is_cut: NotRequired[bool]
    came_back: NotRequired[bool]


class AttackShape(TypedDict):
    """attacks/ATTACK.json, that of `all` included."""

    attack: str
    protocol: str
    scores: dict[str, ScoreShape]
    baseline: NotRequired[dict[str, ScoreShape]]
    per_concept: NotRequired[dict[str, AttackedConceptShape]]
    is_cut_by_budget: NotRequired[bool]  # of `all`, which has no concepts of its own
    seconds: NotRequired[NotNegative]
    asked: NotRequired[dict[str, Any]]
    stamp: NotRequired[dict[str, Any]]


class RequestShape(TypedDict):
    """One request of `erasure forget`; what there were no images of is not in it.

    `samples` are the ids of single training images; `classes` is then empty. A record of scores
    adds the worst moments on the way.
    """

    classes: list[str]
    samples: NotRequired[list[str]]
    before: NotRequired[float]
    Acc_f: NotRequired[float]
    Acc_r: NotRequired[float]
    Acc_o: NotRequired[float]
    Acc_t: NotRequired[float]
    Acc_corr: NotRequired[float]
    min_Acc: NotRequired[float]
    WC: NotRequired[float]
    WF10: NotRequired[float]
    max_Acc_o: NotRequired[float]
    seconds: NotRequired[float | None]


class DataShape(TypedDict):
    """`data` in the config.json of a run that forgets classes."""

    source: str
    images: int
    test_images: int
    shots: int
    missing: list[str]


class ConfigShape(TypedDict, total=False):
    """config.json of any run; the last three are written at its end."""

    command: str
    method: str
    model: str
    revision: str | None
    base_digest: str
    onto: str | None
    concepts: list[ConceptShape]
    settings: dict[str, Any]
    inputs: dict[str, str]
    sources: dict[str, str]
    seed: int
    processes: Count
    config: str | None
    quick: bool
    tasks: list[list[str]]
    samples: NotRequired[list[str]]
    random_share: NotRequired[float]
    true_labels: NotRequired[list[str]]
    keep: NotRequired[list[str]]
    data: DataShape
    versions: dict[str, str]
    device: str
    seconds: NotNegative | None
    peak_memory_gb: NotNegative | None


class ForgettingShape(ConfigShape):
    """config.json of a run that forgets classes."""

    tasks: Required[list[list[str]]]
    data: Required[DataShape]


class StepShape(TypedDict):
    """One command of a sweep's cell: its words as typed in the sweep's folder, and how it went.

    `line` is the last that it said, `file` what it left in the cell's run, and `host` where it ran.
    """

    command: list[str]
    state: Literal["missing", "running", "done", "failed"]
    seconds: NotRequired[NotNegative]
    line: NotRequired[str]
    file: NotRequired[str]
    host: NotRequired[str]


class CellShape(TypedDict):
    """One run of a sweep and what is done with it; `name` is its folder, from the sweep's."""

    name: Annotated[str, Meta(pattern=r"^[^/\\.][^/\\]*/[^/\\.][^/\\]*/seed-\d+$")]
    method: str
    concepts: list[str]
    seed: Count
    steps: list[StepShape]


class SweepShape(TypedDict):
    """sweep.json; `grid` is what was asked for."""

    grid: dict[str, Any]
    cells: list[CellShape]


RequestsShape = list[RequestShape]
PresetsShape = dict[str, dict[str, Value]]


def read_record(
    file: Path, shape: type[ShapeT], *, error: type[ErasureError] = RunError, remedy: str = ""
) -> ShapeT:
    """The file's JSON, whole, once it is known to have this shape; keys beyond it are kept.

    `remedy` is a sentence end for the user ("remove it and make it again").
    """
    try:
        text = file.read_bytes()
    except OSError as failed:
        raise error(f"{file} cannot be read: {failed.strerror or failed}.") from failed
    return parse_record(text, shape, str(file), error=error, remedy=remedy)


def parse_record(
    text: bytes, shape: type[ShapeT], where: str, *, error: type[ErasureError] = RunError,
    remedy: str = "",
) -> ShapeT:  # fmt: skip
    """As `read_record`, of JSON that comes from `where`."""
    try:
        record = msgspec.json.decode(text.removeprefix(BOM))
    except UNREADABLE as failed:
        raise _unreadable(where, failed, error, remedy) from failed
    return checked_record(record, shape, where, error=error, remedy=remedy)


def checked_record(
    record: Any, shape: type[ShapeT], where: str, *, error: type[ErasureError] = RunError,
    remedy: str = "",
) -> ShapeT:  # fmt: skip
    """As `parse_record`, of a record that is decoded already."""
    try:
        msgspec.convert(record, shape)
    except UNREADABLE as failed:
        raise _unreadable(where, failed, error, remedy) from failed
    return record


def _unreadable(
    where: str, failed: Exception, error: type[ErasureError], remedy: str
) -> ErasureError:
    return error(f"{where} is not readable ({failed})" + (f"; {remedy}." if remedy else "."))
