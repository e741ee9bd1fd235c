"""Every classifier method's steps in float32 and bf16, and as the CPU takes them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from steps import CLASS_METHODS, Record, apart, close, flat, forget_two_steps, is_float32, update

from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.models.classifier.load import load_classifier
from erasure.registry import METHODS


def test_every_method_is_here() -> None:
    assert set(METHODS.names("classifier")) == set(CLASS_METHODS)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("method", CLASS_METHODS)
def test_class_steps(
    method: str, precision: str, device: str, classes: Path, tmp_path: Path
) -> None:
    without = getattr(METHODS.get("classifier", method), "without_effect", ())
    if precision != "no" and "mixed_precision" in without:
        with pytest.raises(SettingError, match="mixed_precision"):
            forget_two_steps(method, classes, tmp_path / "run", mixed_precision=precision)
        return
    result = forget_two_steps(method, classes, tmp_path / "run", mixed_precision=precision)
    base = load_classifier(str(classes / "model")).parameters()
    moved = flat(update(result.edit, base))
    assert torch.isfinite(moved).all()
    assert moved.norm() > 0
    assert is_float32(result.edit)
    for name, weight in result.model.parameters().items():
        assert weight.device.type == device
        assert name in result.edit.shapes() or torch.equal(weight.cpu(), base[name]), name


@pytest.fixture(scope="module")
def on_the_cpu(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each method's run in a process that sees no card: `forget` takes one where there is one."""
    out = tmp_path_factory.mktemp("cpu")
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
import torch
from steps import CLASS_METHODS, forget_two_steps
torch.backends.mkldnn.set_flags(False)  # where both sides are CPUs, they round differently too
for method in CLASS_METHODS:
    forget_two_steps(method, Path({str(classes)!r}), Path({str(out)!r}) / method)
"""
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
    )
    return out


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("method", CLASS_METHODS)
def test_the_cpu_forgets_the_same(
    method: str, classes: Path, on_the_cpu: Path, tmp_path: Path,
    record_property: Record,
) -> None:  # fmt: skip
    card = forget_two_steps(method, classes, tmp_path / "card")
    base = load_classifier(str(classes / "model")).parameters()
    distance = apart(update(card.edit, base), update(Edit.load(on_the_cpu / method), base))
    record_property("apart", distance)
    assert distance < close(method)
