"""Two steps of each method, and how far apart two runs end."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from contract import REFUSED, Case, every_method, settings_of
from torch import Tensor

from erasure.config import Value
from erasure.edit import Edit
from erasure.erasing import Result
from erasure.forgetting import Data, Forgotten, forget
from erasure.registry import METHODS
from erasure.sparse import INDICES, SHAPE, opened, put

Record = Callable[[str, float], None]  # record_property: a figure for the report
FAMILIES = ("sd1", "sd2", "sdxl")
CASES = [
    (method, family)
    for method in every_method()
    for family in FAMILIES
    if (method, family) not in REFUSED
]
# warm-ups so short that each phase of a method has a step
FEW: dict[str, Value] = {
    "steps": 2, "warmup": 1, "attack_every": 1, "group_warmup": 1, "zero_below": 0.0,
}  # fmt: skip
CLASS_METHODS: dict[str, dict[str, Value]] = {
    "gs-lora": {"group_warmup": 0, "average_from": 1, "zero_below": 0.0},
    "salun": {},
    "random-label": {},
    "gradient-ascent": {},
    "fine-tune": {"epochs": 2, "epochs_without": 1},
    "ssd": {},
    "retrain": {"steps": 2},
    "prune": {
        "then": "random-label",
        "then_settings": "epochs=1,batch_size=4,learning_rate=0.01",
        "recover_epochs": 1,
    },
    "npo": {},
    "ihl": {},
    "flat": {},
    "rocr": {},
    "scrub": {"forget_epochs": 1, "forget_batch_size": 4},
    "bad-teacher": {"learning_rate": 1e-4},
    "unsir": {"noise_images": 2, "noise_steps": 1, "impair_rate": 1e-4, "repair_rate": 1e-4},
    "repair": {"after_settings": "selection=1,batch_size=4", "learning_rate": 1e-4},
}


def erase_two_steps(method: str, model: Path, out: Path, **more: Value) -> Result:
    known = settings_of(method)
    few = {name: value for name, value in FEW.items() if name in known}
    return Case(method, model).run(out, **{**few, **more})


def forget_two_steps(method: str, folder: Path, out: Path, **more: Value) -> Forgotten:
    """On the folder's `model` and `images`: eight images of a class in two batches."""
    settings: dict[str, Value] = {"batch_size": 4, **CLASS_METHODS[method]}
    few: dict[str, Value] = {"epochs": 1, "learning_rate": 0.01, "selection": 1.0}
    known = METHODS.get("classifier", method).__dataclass_fields__
    if method != "retrain":
        settings = {**{n: value for n, value in few.items() if n in known}, **settings}
    data = Data(source=str(folder / "images"), images=8, test_images=2)
    what: dict = {"samples": ["0"]} if method == "s3t" else {"tasks": [["red"]]}
    return forget(str(folder / "model"), method, **what, out=out, data=data, **{**settings, **more})  # type: ignore[arg-type]


def update(edit: Edit, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an edit changes, on the CPU; of adapters, what they began with zeros in."""
    if edit.form == "lora":
        return {name: value for name, value in edit.tensors.items() if ".lora_A." not in name}
    found = {}
    for name, new in opened(edit.tensors, "the edit").items():
        before = base[name].detach().cpu().float()
        after = before.clone()
        put(new, after)
        found[name] = after - before
    return found


def is_float32(edit: Edit) -> bool:
    """Whether all values are; a sparse tensor's indices and shape are whole numbers."""
    values = {n: t for n, t in edit.tensors.items() if not n.endswith((INDICES, SHAPE))}
    return all(tensor.dtype == torch.float32 for tensor in values.values())


def flat(one: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in one.values()])


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The norm of two updates' difference, relative to the second; what one lacks is unchanged."""
    shared = {name: torch.zeros_like(value) for name, value in {**one, **other}.items()}
    difference = flat({**shared, **one}) - flat({**shared, **other})
    return float(difference.norm() / flat(other).norm())


def close(method: str) -> float:
    """How far apart the same update may be: Adam makes steps of what is rounding.

    With and without oneDNN, CPUs come to 0.016 (SFD) and 0.003 (the others) from each other.
    Another seed's is 1 apart, and ESD's with `push` 1.5 instead of 2, 0.07.
    """
    return 0.1 if method == "sfd" else 0.03


def losses(folder: Path) -> list[float]:
    """The loss of every logged step of the method's own."""
    found = []
    for line in (folder / "log.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("stage"), values.pop("step")
        if step[0] in ("fit", "request 0"):
            found.append(sum(values.values()))
    return found
