"""One erasure's surroundings: folder, seed, device, generators, log, progress bar, checkpoints."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasure.errors import SettingError
from erasure.files.locking import alone_in
from erasure.files.storage import append_line, read_lines, write_json, write_tensors
from erasure.training.hardware import Hardware, peak_memory
from erasure.training.processes import is_cpu_group, launched
from erasure.training.progress import Bar, live_bar
from erasure.training.rehearsal import STEPS, Rehearsal, Stage
from erasure.training.run_folder import clear, own_record, run_record, versions
from erasure.training.state import read_state, seconds_of, shorten_log
from erasure.training.trackers import Trackers, refuse_tracker

ModuleT = TypeVar("ModuleT", bound=nn.Module)
BatchT = TypeVar("BatchT")
WRITING_SHARE = 50  # seconds of work for each second that a state takes to write


class Run:
    """A run folder and everything random or lasting about it.

    All noise comes from CPU generators, drawn for the global batch; `shard` takes this process's
    part, so that any number of processes trains on the same draws. Within `pieces` a part is one
    of those that the process takes one after another.
    """

    def __init__(
        self, folder: Path, *, seed: int = 0, hardware: Hardware = Hardware(),
        report_to: str | None = None, checkpoint_seconds: float | None = None,
        rehearsal: Rehearsal | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.seed, self.hardware = folder, seed, hardware
        self.rehearsal = rehearsal
        self.checkpoint_seconds = (
            hardware.checkpoint_seconds if checkpoint_seconds is None else checkpoint_seconds
        )
        refuse_tracker(report_to)
        on_cpus = hardware.device == "cpu"
        launched(on_cpus=on_cpus)  # before Accelerator(), whose own time-out is ten minutes
        self.accelerator = Accelerator(
            cpu=is_cpu_group(on_cpus=on_cpus),
            log_with=None if rehearsal else report_to,
            project_dir=str(folder) if report_to else None,
        )
        self.generator = self.generator_for("training")
        self.trackers = Trackers(self.accelerator, None if rehearsal else report_to)
        self._saved = self._started = time.monotonic()
        self._writing = 0.0  # seconds that the last state took to write
        self._is_new, self._earlier_seconds = False, 0.0
        self._piece = 0
        self.watcher: Callable[[str, int], None] | None = None
        self.subject: Any = None  # the model that learns, if it is not the one handed over
        self.held: Mapping[nn.Parameter, Tensor] = {}
        self._is_preparing = False

    @property
    def device(self) -> torch.device:
        own, asked = self.accelerator.device, self.hardware.device
        # a process of several has a device of its own among those of the kind that was asked for
        if asked == "auto" or (asked == own.type and own.index is not None):
            return own
        return torch.device(asked)

    @property
    def low(self) -> torch.dtype | None:
        """What networks compute in, where it is less than float32."""
        return self.hardware.low

    def lower(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Cast parameters in place to what networks compute in."""
        for parameter in parameters.values() if self.low is not None else ():
            parameter.data = parameter.data.to(self.low)

    def lowered(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Cast as `lower` does; the float32 values there were, to start learning from."""
        if self.low is None:
            return {}
        values = {n: weight.detach().to("cpu", copy=True) for n, weight in weights.items()}
        self.lower(weights)
        return values

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes; in a rehearsal none does."""
        return self.accelerator.is_main_process and self.rehearsal is None

    def generator_for(self, stage: str) -> torch.Generator:
        """A fresh CPU generator for one stage, fixed by the run's seed and the stage's name."""
        return generator_of(f"{self.seed}:{stage}")

    def module(self, name: str, build: Callable[[], ModuleT]) -> ModuleT:
        """A method's own network, in float32, fixed by the seed and its name; never exported."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(self.generator_for(name).get_state())
            return build().to(self.device).requires_grad_(False)

    def holding(self, masks: Mapping[nn.Parameter, Tensor]) -> AbstractContextManager[None]:
        """Within it no learner moves what these masks (bool) take away of a weight."""
        return self._meanwhile(held=masks)

    def unwatched(self) -> AbstractContextManager[None]:
        """Within it nobody looks at the model after a step."""
        return self._meanwhile(watcher=None)

    def preparing(self) -> AbstractContextManager[None]:
        """Within it something is learned that the run's own training needs, unwatched.

        A rehearsal goes on, once it has seen enough of it.
        """
        return self._meanwhile(watcher=None, _is_preparing=True)

    @contextmanager
    def _meanwhile(self, **values: object) -> Iterator[None]:
        """Within it attributes have these values, and then their own again."""
        before = {name: getattr(self, name) for name in values}
        vars(self).update(values)
        try:
            yield
        finally:
            vars(self).update(before)

    @property
    def is_only_tried(self) -> bool:
        """Whether what is prepared just now was rehearsed, as far as that goes."""
        return self._is_preparing and self.rehearsal is not None

    def autocast(self) -> AbstractContextManager[object]:
        # accelerate's own precision is one per process, and a second run may want another
        return torch.autocast(
            self.device.type, self.low or torch.bfloat16, enabled=self.low is not None
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder for all processes of the launch; RunError if another command does."""
        with alone_in(self.folder) if self.is_main else nullcontext():
            yield
        self.accelerator.wait_for_everyone()

    def begin(self, record: Mapping[str, object]) -> bool:
        """Write config.json, or check that it is this run's. True if the run is finished already.

        To be called while the folder is held. RunError as of `own_record`.
        """
        self._started = time.monotonic()
        file = self.folder / "config.json"
        new, old = json.loads(json.dumps(dict(record))), own_record(self.folder, record)
        if old:
            is_finished = (self.folder / "edit.json").is_file()
            self.accelerator.wait_for_everyone()  # all have read
            if is_finished:  # perhaps killed between the edit and the end
                self._tidy(old, is_left=True)
            else:
                if self.is_main:  # what may differ is as it is now
                    write_json(file, {**old, **new})
                self.trackers.begin(record)
            return is_finished
        self.accelerator.wait_for_everyone()
        if self.is_main:
            write_json(file, {**new, "versions": versions(), "device": str(self.device)})
        self.accelerator.wait_for_everyone()
        self.trackers.begin(record)
        self._is_new = True
        return False

    def withdraw(self) -> None:
        """Undo `begin` for a run that failed before it learned anything: --out is free again."""
        if self.is_main and self._is_new and not (self.folder / "state").exists():
            clear(self.folder)

    def finish(self) -> None:
        """Add seconds and peak memory to config.json and drop the resuming state."""
        self._tidy(run_record(self.folder) if self.is_main else {})
        if self.is_main:
            self.trackers.end()

    def _tidy(self, record: dict[str, Any], *, is_left: bool = False) -> None:
        if not self.is_main:
            return
        if record.get("seconds") is None:
            if is_left:  # by a process that is gone: how long it worked, its states say
                known = map(seconds_of, (self.folder / "state").glob("*.safetensors"))
                self._earlier_seconds = max(known, default=0.0)
            record["seconds"] = round(self._seconds(), 2)
            record["peak_memory_gb"] = round(peak_memory(self.device) / 1e9, 2)
            write_json(self.folder / "config.json", record)
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._started

    def pieces(self) -> Iterator[None]:
        """Take a step's batch in `gradient_accumulation` parts: `part` gives one after another.

        Each begins with the generator as the step found it, so that all see the same draws.
        """
        state = self.generator.get_state()
        for number in range(self.hardware.gradient_accumulation):
            self._piece = number
            self.generator.set_state(state)
            yield
        self._piece = 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of a global batch. SettingError if it does not divide evenly."""
        self.check_batch("batch_size", len(batch))
        processes, pieces = self._split
        size = len(batch) // (processes * pieces)
        first = (self.accelerator.process_index * pieces + self._piece) * size
        return batch[first : first + size]

    @property
    def _split(self) -> tuple[int, int]:
        """How many processes a global batch is for, and how many pieces it is in each."""
        return self.accelerator.num_processes, self.hardware.gradient_accumulation

    def check_batch(self, name: str, size: int) -> None:
        """SettingError if batches of this size do not divide among processes and their pieces."""
        processes, pieces = self._split
        if size % (processes * pieces):
            names = [f"{processes} processes"] * (processes > 1)
            names += [f"{pieces} parts (gradient_accumulation)"] * (pieces > 1)
            raise SettingError(f"{name} must be a multiple of the {' x '.join(names)}; got {size}.")

    def whole(self, count: int) -> int:
        """How long a global batch is whose parts are this long."""
        processes, pieces = self._split
        return count * processes * pieces

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of a global batch, on its device."""
        return self.send(self.part(batch))

    def send(self, tensor: Tensor) -> Tensor:
        """A tensor on the device, without waiting for what the device does now."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def put(self, part: Tensor, whole: Tensor) -> None:
        """Write every process's part into a global batch, where `part` would take it from."""
        parts: Any = self.accelerator.gather(part.contiguous())
        processes, pieces = self._split
        places = whole.view(processes, pieces, -1, *whole.shape[1:])
        places[:, self._piece] = parts.view(processes, -1, *whole.shape[1:])

    def log(
        self, stage: str, step: int, values: Mapping[str, float],
        more: Mapping[str, object] | None = None,
    ) -> None:  # fmt: skip
        """Append a line to log.jsonl and tell the trackers, `more` to the line alone."""
        if not self.is_main:
            return
        rounded = {name: round(value, 6) for name, value in values.items()}
        append_line(
            self.folder / "log.jsonl", {"stage": stage, "step": step, **rounded, **(more or {})}
        )
        self.trackers.log(stage, step, values)

    def log_end(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """As `log`, of a stage that is one line, which a resumed run finds there."""
        if all(line.get("stage") != stage for line in read_lines(self.folder / "log.jsonl")):
            self.log(stage, step, values)

    def watch(self, stage: str, step: int) -> None:
        """Called after every step; `watcher` may look at the model then, and must not change it."""
        if self.watcher is not None:
            self.watcher(stage, step)

    def progress(
        self, stage: str, total: int, start: int = 0, *, grows_with: Sequence[str] = (),
        is_training: bool = False,
    ) -> AbstractContextManager[Bar]:  # fmt: skip
        """A live bar with loss, rate and time left; silent in other processes than the main one.

        `grows_with` names the settings that a unit or their number is proportional to, where a
        rehearsal has less of them.
        """
        quiet, trial = not self.accelerator.is_main_process, self.rehearsal
        told = Stage(stage, total - start, grows_with, is_training)
        watch = trial.stage(told, self.device) if trial else None
        return live_bar(stage, total, start, quiet=quiet, transient=bool(trial), watch=watch)

    def tried(self, batches: Sequence[BatchT]) -> Sequence[BatchT]:
        """All of them; in a rehearsal the first few, of a stage whose units take equally long."""
        return batches if self.rehearsal is None else batches[:STEPS]

    def save_state(
        self, stage: str, step: int, tensors: Mapping[str, Tensor], *, is_diverged: bool = False
    ) -> Path:
        """Write everything needed to go on from `step` in the same bits.

        Of a run that `is_diverged` it is for looking at alone; `restore` refuses it.
        """
        file, start = self._state_file(stage), time.monotonic()
        if self.is_only_tried:
            return file
        if self.rehearsal is not None:
            self.rehearsal.end(tensors)
        if self.is_main:
            facts = {"step": str(step), "seconds": f"{self._seconds():.1f}"}
            facts |= {"diverged": "yes"} if is_diverged else {}
            write_tensors(file, {**tensors, "generator": self.generator.get_state()}, facts)
        self._saved = time.monotonic()
        self._writing = self._saved - start
        return file

    def _state_file(self, stage: str) -> Path:
        return self.folder / "state" / f"{stage}.safetensors"

    def knows(self, stage: str) -> bool:
        """Whether an interrupted run left a state of this stage."""
        return self._state_file(stage).is_file()

    @property
    def is_due(self) -> bool:
        """Whether the last saved state is old enough for another.

        A state that takes long to write is written seldom: a fiftieth of the time at most.
        """
        if self.rehearsal is not None:
            return self.rehearsal.is_enough
        wait = max(self.checkpoint_seconds, WRITING_SHARE * self._writing)
        return time.monotonic() - self._saved >= wait

    def restore(self, stage: str, wanted: Mapping[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
        """The step to go on from and a stage's state, with all of `wanted`, if there is one."""
        facts, tensors = {"step": "0"}, dict[str, Tensor]()
        if self.knows(stage):
            wanted = {**wanted, "generator": self.generator.get_state()}
            tensors, facts = read_state(self._state_file(stage), wanted)
            self.generator.set_state(tensors["generator"])
            self.accelerator.wait_for_everyone()
            self._earlier_seconds = float(facts["seconds"])
        if self.is_main:
            shorten_log(self.folder / "log.jsonl", stage, int(facts["step"]))
        return int(facts["step"]), tensors


def generator_of(text: str) -> torch.Generator:
    """A fresh CPU generator, fixed by a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
