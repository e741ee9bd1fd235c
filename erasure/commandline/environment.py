"""`erasure env`: what a bug report should say of this machine and installation."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterable

import typer

from erasure.commandline.options import CONTEXT

PACKAGE = "erasure-toolkit"
# libraries that decide what a run computes, in the order of their weight
LIBRARIES = (
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors",
    "timm", "open_clip_torch", "torchmetrics", "huggingface_hub", "datasets", "numpy", "scipy",
    "pillow", "typer",
)  # fmt: skip
# variables whose values name no account, no place and no secret; of others only that they are set
SHOWN = (
    "ATEN_CPU_CAPABILITY", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE",
    "LOCAL_RANK", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_CUDA_ALLOC_CONF", "RANK", "TORCH_DISABLE_GPU_DIAGNOSTICS", "WORLD_SIZE",
)  # fmt: skip
NAMED = (
    "ERASURE_CACHE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HTTPS_PROXY",
    "HTTP_PROXY", "LD_PRELOAD", "PYTHONPATH", "TORCH_HOME", "WANDB_API_KEY",
)  # fmt: skip
Facts = dict[str, str]


def add_to(app: typer.Typer) -> None:
    """Give the program the command `env`."""
    app.command("env", context_settings=CONTEXT)(env)


def env() -> None:
    """Say what a bug report needs: versions, devices, extras, and variables that matter.

    It holds no tokens and no paths. Put it into the report as it is.
    """
    for title, facts in environment().items():
        typer.echo(title)
        for name, said in facts.items():
            typer.echo(f"  {name:<18}  {said}")


def environment() -> dict[str, Facts]:
    """What is told, by the heading that it stands under."""
    return {
        "versions": {PACKAGE: _version(PACKAGE), "python": platform.python_version()}
        | {name: _version(name) for name in LIBRARIES},
        "machine": _machine(),
        "devices": _devices(),
        "extras": {extra: _installed(needs) for extra, needs in _extras().items()},
        "variables": _variables(),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> Facts:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    return {
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {psutil.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads in use",
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "memory": f"{_gb(memory.total)}, {_gb(memory.available)} free",
        "default encoding": sys.getfilesystemencoding(),
    }


def _devices() -> Facts:
    import torch

    facts = {"CUDA of torch": torch.version.cuda or "none"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        facts[f"cuda:{index}"] = (
            f"{card.name}, {_gb(total)}, {_gb(free)} free, compute {card.major}.{card.minor}"
        )
    facts["mps"] = "yes" if torch.backends.mps.is_available() else "no"
    return facts


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _extras() -> dict[str, list[str]]:
    """The packages of each extra, as the installed distribution names them."""
    try:
        lines: Iterable[str] = importlib.metadata.requires(PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        lines = ()
    found: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", line)
        package = re.match(r"[\w.-]+", line)
        if extra and package:
            found.setdefault(extra[1], []).append(package[0])
    return found


def _installed(packages: list[str]) -> str:
    """Each with its version; an extra is there when all are."""
    found = {name: _version(name) for name in packages}
    missing = [name for name, version in found.items() if version == "not installed"]
    told = ", ".join(f"{name} {version}" for name, version in found.items() if name not in missing)
    return "; ".join(filter(None, (told, f"not installed: {', '.join(missing)}" * bool(missing))))


def _variables() -> Facts:
    """Those that are set; the values of those alone that say nothing of the user."""
    shown = {name: repr(os.environ[name]) for name in SHOWN if name in os.environ}
    return shown | {name: "set" for name in NAMED if name in os.environ}
