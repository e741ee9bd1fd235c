"""What each stage of S3T learned, on disk, and the network that is made of it."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypedDict

import torch
from torch import Tensor

from erasure.errors import RunError, SettingError
from erasure.files.records import read_record
from erasure.files.storage import read_tensors, write_json, write_tensors
from erasure.methods.shared.slices import Prefix, Slice
from erasure.models.classifier.classifier import Classifier
from erasure.models.digest import digest_of
from erasure.models.lora import DOWN, UP, deltas

RECORD = "slices.json"


class SlicesShape(TypedDict):
    """slices.json: what was learned from which images, by id, and which were deleted since."""

    base_digest: str
    seed: int
    settings: dict[str, Any]
    images: list[str]
    deleted: list[str]


@dataclass(frozen=True)
class Learned:
    """The tensors of every stage by shard and prefix: adapters, and the head as a whole.

    A folder without a record is one whose training is not finished.
    """

    folder: Path
    record: SlicesShape
    tensors: dict[tuple[int, Prefix], dict[str, Tensor]] = field(default_factory=dict)
    is_whole: bool = False

    @classmethod
    def found(
        cls, folder: Path, model: Classifier, seed: int, settings: dict[str, Any], ids: list[str]
    ) -> Self:
        """Those in a folder, as far as there are any; `ids` are the images of what is not finished.

        RunError if they were learned on another model, with other settings or another seed.
        """
        own = SlicesShape(
            base_digest=digest_of(model), seed=seed, settings=settings, images=ids, deleted=[]
        )
        file = folder / RECORD
        is_whole = file.is_file()
        record = read_record(file, SlicesShape) if is_whole else own
        if record["base_digest"] != own["base_digest"]:
            raise RunError(f"{folder} was learned on another model than {model.name}; give that.")
        facts, now = ({"seed": r["seed"], **r["settings"]} for r in (record, own))
        odd = next((name for name in now if facts.get(name) != now[name]), None)
        if odd is not None:
            raise RunError(
                f"{folder} was learned with {odd} {facts.get(odd)}; got {now[odd]}. Give the same."
            )
        tensors = {_key(file): read_tensors(file)[0] for file in folder.glob("shard *.safetensors")}
        return cls(folder, record, tensors, is_whole)

    def without(self, samples: Sequence[str], kept: Sequence[str]) -> Self:
        """The same, with these images among the deleted.

        SettingError for one it does not know, and if one that was deleted before is to be kept.
        """
        unknown = next(iter(set(samples) - set(self.record["images"])), None)
        if unknown is not None:
            raise SettingError(
                f"samples must be images that {self.folder} learned; got {unknown!r}."
            )
        again = sorted({*self.record["deleted"]} & {*kept})
        if again:
            raise SettingError(
                f"samples must be all images to delete, also those that {self.folder} is without; "
                f"add {again[0]!r}{f' and {len(again) - 1} more' if again[1:] else ''}."
            )
        deleted = sorted({*self.record["deleted"], *samples})
        return replace(self, record={**self.record, "deleted": deleted})

    def name(self, shard: int, prefix: Prefix) -> str:
        """A stage's name, for its file, its log and all that is random about it."""
        return f"shard {shard} slices {'-'.join(map(str, prefix))}"

    def of(self, shard: int, prefix: Prefix) -> list[dict[str, Tensor]]:
        """The tensors of a prefix's stages, the first one's first."""
        return [self.tensors[shard, prefix[:count]] for count in range(1, len(prefix) + 1)]

    def add(
        self, shard: int, prefix: Prefix, tensors: Mapping[str, Tensor], *, is_main: bool
    ) -> None:
        """Take over, and write, what a stage learned."""
        kept = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        self.tensors[shard, prefix] = kept
        if is_main:
            write_tensors(self._file(shard, prefix), kept, {})

    def keep(self, folder: Path, dead: Set[Slice], *, is_main: bool) -> None:
        """Write the record, and what no dead slice has a part in; remove all else there."""
        if not is_main:
            return
        there = replace(self, folder=folder)
        alive = {
            (shard, prefix): tensors
            for (shard, prefix), tensors in self.tensors.items()
            if not any((shard, own) in dead for own in prefix)
        }
        for key, tensors in alive.items():
            if not (file := there._file(*key)).is_file():
                write_tensors(file, tensors, {})
        write_json(folder / RECORD, self.record)
        for file in folder.glob("shard *.safetensors"):
            if _key(file) not in alive:
                file.unlink()

    def _file(self, shard: int, prefix: Prefix) -> Path:
        return self.folder / f"{self.name(shard, prefix)}.safetensors"


def _key(file: Path) -> tuple[int, Prefix]:
    _, shard, _, prefix = file.stem.split(" ")
    return int(shard), tuple(map(int, prefix.split("-")))


@torch.no_grad()
def serve(model: Classifier, scale: float, shards: Sequence[Sequence[dict[str, Tensor]]]) -> None:
    """Give the model the mean of the shards' weights, each one the base with its stages.

    A shard without a stage is left out; without any the model is its base again.
    """
    current = model.tensors()
    for name, value in model.originals.items():
        current[name].copy_(value)
    living = [stages for stages in shards if stages]
    sums: dict[str, Tensor] = {}
    for stages in living:
        for tensors in stages:
            matrices = {n: t for n, t in tensors.items() if n.endswith((DOWN, UP))}
            for name, delta in deltas(matrices, scale).items():
                sums[name] = sums.get(name, torch.zeros_like(delta)) + delta
        for name, head in stages[-1].items():
            if not name.endswith((DOWN, UP)):
                sums[name] = sums.get(name, torch.zeros_like(head)) + head - model.originals[name]
    for name, total in sums.items():
        current[name].add_((total / len(living)).to(current[name]))
