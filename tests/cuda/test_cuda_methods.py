"""Every diffusion method's steps, in each precision, on each family; and as the CPU takes them."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from contract import settings_of
from steps import CASES, Record, apart, close, erase_two_steps, flat, is_float32, losses, update

from erasure.errors import SettingError
from erasure.opening import open_run
from erasure.registry import METHODS

NO_FP16 = {"advunlearn", "sfd", "uproot", "adapt-unlearn", "stereo"}
FREE = {
    method: getattr(METHODS.get("diffusion", method), "without_effect", ()) for method, _ in CASES
}


def is_refused(method: str, precision: str) -> bool:
    """Whether a method says in one line that it does not take a precision."""
    return precision != "no" and (
        "mixed_precision" in FREE[method] or (precision == "fp16" and method in NO_FP16)
    )


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize(("method", "family"), CASES)
def test_steps(
    method: str, family: str, precision: str, device: str, families: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    if precision == "fp16" and device == "cpu":
        pytest.skip("fp16 needs a CUDA card")
    how = {"device": device, "mixed_precision": precision}
    if is_refused(method, precision):
        with pytest.raises(SettingError, match="mixed_precision"):
            erase_two_steps(method, families[family], tmp_path / "run", **how)
        return
    if precision == "fp16":
        how["steps"] = 12  # the scaler calls the first ones off until its scale fits
    result = erase_two_steps(method, families[family], tmp_path / "run", **how)
    base = open_run(result.folder, edited=False).parameters()
    moved = flat(update(result.edit, base))
    assert is_float32(result.edit)
    assert torch.isfinite(moved).all()
    assert moved.norm() > 0
    for name, weight in result.model.parameters().items():
        assert weight.device.type == device
        assert name in result.edit.shapes() or torch.equal(weight.cpu(), base[name]), name
    if "steps" in settings_of(method):
        assert len(losses(result.folder)) == how.get("steps", 2)


@pytest.mark.parametrize(("method", "family"), CASES)
def test_the_cpu_comes_to_the_same(
    method: str, family: str, device: str, families: dict[str, Path], tmp_path: Path,
    other_rounding: AbstractContextManager[object], record_property: Record,
) -> None:  # fmt: skip
    """The same draws, so the same first loss; the update up to what Adam makes of rounding."""
    card = erase_two_steps(method, families[family], tmp_path / "card", device=device)
    with other_rounding:
        cpu = erase_two_steps(method, families[family], tmp_path / "cpu", device="cpu")
    base = open_run(card.folder, edited=False).parameters()
    distance = apart(update(card.edit, base), update(cpu.edit, base))
    record_property("apart", distance)
    if "steps" in settings_of(method):
        first = losses(card.folder)[0], losses(cpu.folder)[0]
        assert first[0] == pytest.approx(first[1], rel=1e-3)
    assert distance < close(method)
