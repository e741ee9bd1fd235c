"""What a run computes on and how precisely: settings that every method shares."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch

from erasure.config import check, setting
from erasure.errors import DeviceError, SettingError
from erasure.training.processes import process_count

if TYPE_CHECKING:  # diffusers takes seconds to import
    from erasure.models.diffusion.latent_diffusion import LatentDiffusion

Precision = Literal["no", "bf16", "fp16"]
HELPS = (
    "Less is needed with --gradient-accumulation 4 or --gradient-checkpointing (the same command "
    "with either goes on with this run) and, in a new --out, with a smaller --batch-size, "
    "--mixed-precision bf16 or --use-8bit-adam"
)


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute. SettingError for what this machine or installation lacks."""

    device: str = setting("auto", help="auto, cpu, cuda, cuda:N or mps")
    mixed_precision: Precision = setting(
        "no", help="networks in bf16 or fp16; what learns keeps float32 masters"
    )
    gradient_checkpointing: bool = setting(
        False, help="compute activations twice instead of keeping them"
    )
    gradient_accumulation: int = setting(
        1, help="parts that each batch is taken in, one after another", at_least=1
    )
    use_8bit_adam: bool = setting(False, help="Adam's state in 8 bits, by bitsandbytes")
    enable_xformers_memory_efficient_attention: bool = setting(
        False, help="xformers' attention instead of torch's own (SDPA)"
    )
    allow_tf32: bool = setting(False, help="float32 products in TF32")
    channels_last: bool = setting(False, help="the UNet's memory in channels-last order")
    compile: bool = setting(False, help="torch.compile the UNet")
    checkpoint_seconds: int = setting(
        15, help="least seconds between two saved states, to resume from", at_least=0
    )

    def __post_init__(self) -> None:
        check(self)
        kind = self._kind()
        if self.mixed_precision == "fp16" and kind != "cuda":
            raise SettingError(
                f"mixed_precision fp16 needs a CUDA device, and this run is on {kind}; "
                "choose bf16 or no."
            )
        for name, package, extra in (
            ("use_8bit_adam", "bitsandbytes", "8bit"),
            ("enable_xformers_memory_efficient_attention", "xformers", "xformers"),
        ):
            if not getattr(self, name):
                continue
            if kind != "cuda":
                raise SettingError(f"{name} needs a CUDA device, and this run is on {kind}.")
            if find_spec(package) is None:
                raise SettingError(
                    f"{name} needs {package}: pip install 'erasure-toolkit[{extra}]'."
                )

    @property
    def low(self) -> torch.dtype | None:
        """What the networks compute in, where it is less than float32."""
        return {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.mixed_precision]

    def refuse_fp16(self, of: str) -> None:
        """SettingError under fp16; `of` names the method, and says why."""
        if self.low is torch.float16:
            raise SettingError(f"mixed_precision must be no or bf16 for {of}.")

    def _kind(self) -> str:
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            asked = torch.device(self.device)
        except RuntimeError:
            asked = None
        if asked is None or asked.type not in ("cpu", "cuda", "mps"):
            raise SettingError(
                f"device must be auto, cpu, cuda, cuda:N or mps; got {self.device!r}."
            )
        if asked.index is not None and (count := process_count()) > 1:
            raise SettingError(
                f"device {self.device} is one for {count} processes; with --device {asked.type} "
                "each has its own."
            )
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if asked.type == "cuda" and (asked.index or 0) >= found:
            raise SettingError(
                f"device {self.device} was asked for, and torch {torch.__version__} sees {found} "
                "CUDA devices; use --device cpu, or see what nvidia-smi and CUDA_VISIBLE_DEVICES "
                "say."
            )
        if asked.type == "mps" and not torch.backends.mps.is_available():
            raise SettingError("device mps was asked for, and torch sees none; use --device cpu.")
        return asked.type

    @contextmanager
    def at_work(self, model: "LatentDiffusion") -> Iterator[None]:
        """Within it the model computes as asked, and afterwards as before.

        DeviceError where memory is too small.
        """
        backbone = model.backbone
        call = backbone._compiled_call_impl
        was_plain = all(weight.is_contiguous() for weight in backbone.parameters())
        attention = _attention(model)
        if self.enable_xformers_memory_efficient_attention:
            model.pipeline.enable_xformers_memory_efficient_attention()
        if self.channels_last:
            backbone.to(memory_format=torch.channels_last)
        if self.compile:
            backbone.compile()
        cuda, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
        cuda.allow_tf32 = before or self.allow_tf32
        try:
            with model.gradient_checkpointing(self.gradient_checkpointing):
                yield
        except torch.OutOfMemoryError as error:
            said = str(error).split(". ")[0]
            raise DeviceError(f"{model.device} has too little memory ({said}). {HELPS}.") from error
        finally:
            cuda.allow_tf32 = before
            backbone._compiled_call_impl = call  # all that `compile` sets
            if self.channels_last and was_plain:
                backbone.to(memory_format=torch.contiguous_format)
            for part, processors in attention:
                part.set_attn_processor(processors)


def _attention(model: "LatentDiffusion") -> list[tuple[Any, dict[str, Any]]]:
    """The parts of a pipeline whose attention can be exchanged, with what they have now."""
    parts: list[Any] = list(model.pipeline.components.values())
    return [(p, dict(p.attn_processors)) for p in parts if hasattr(p, "set_attn_processor")]


def peak_memory(device: torch.device) -> int:
    """The most bytes so far: allocated on a GPU, or else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    resource = importlib.import_module("resource")  # Windows has none
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
