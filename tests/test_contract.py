"""The contract, over every registered method and each family of models."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import (
    FAMILIES,
    LEFT_OUT,
    POCKET_FEW,
    REFUSED,
    SELECTED,
    SELECTED_OF,
    TINY,
    Case,
    cats,
    every_method,
    settings_of,
)
from safetensors.torch import load_file
from torch import Tensor

from erasure.edit import Edit
from erasure.erasing import Result, erase
from erasure.errors import ErasureError, SettingError
from erasure.exports.exporting import export
from erasure.methods.diffusion.esd import weights_of
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run
from erasure.registry import METHODS

PAIRS = [(method, family) for method in every_method() for family in FAMILIES]
CASES = [pair for pair in PAIRS if pair not in REFUSED | LEFT_OUT]
# whose checks on the built-in model take seconds
SLOW = (
    "advunlearn", "sfd", "uproot", "doco", "bounded", "adapt-unlearn", "stereo", "task-vector",
)  # fmt: skip
TRAINED = [(method, "sd1") for method in every_method() if "steps" in TINY[method]]


Done = tuple[Case, Result]


def over(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """A method's run on a miniature, once for all tests, which pytest brings together."""
    ids = ["-".join(case) for case in cases]
    return pytest.mark.parametrize("once", cases, indirect=True, ids=ids, scope="module")


@pytest.fixture(scope="module")
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    method, model = request.param
    case = Case(method, request.getfixturevalue(model))
    return case, case.run(tmp_path_factory.mktemp("runs") / f"{method}-{model}")


@pytest.mark.parametrize(("method", "model"), sorted(REFUSED))
def test_a_family_is_refused_in_one_line(
    method: str, model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=f"^{method} .* Choose another method\\.$"):
        Case(method, request.getfixturevalue(model)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def base_of(result: Result) -> LatentDiffusion:
    """A fresh copy of the model that the edit was made on."""
    return open_run(result.folder, edited=False)


def ask(model: object, prompt: str) -> Tensor:
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(z, torch.tensor([500]), model.encode([prompt]))


@pytest.mark.parametrize("method", every_method())
def test_settings_survive_json(method: str) -> None:
    settings = METHODS.get("diffusion", method)(**TINY[method])
    assert type(settings)(**json.loads(json.dumps(asdict(settings)))) == settings


@pytest.mark.parametrize("method", every_method())
def test_settings_refuse_nonsense(method: str) -> None:
    kind = METHODS.get("diffusion", method)
    for name in (item.name for item in fields(kind)):
        with pytest.raises(ErasureError, match=f"{kind.__name__}.{name}"):
            kind(**{name: object()})


@over(CASES)
def test_same_seed_same_tensors(once: Done, tmp_path: Path) -> None:
    case, first = once
    second = case.run(tmp_path / "again")
    assert first.edit.tensors.keys() == second.edit.tensors.keys()
    for name, tensor in first.edit.tensors.items():
        assert torch.equal(tensor, second.edit.tensors[name]), name


@over(CASES)
def test_only_selected_weights_change_and_the_log_is_finite(once: Done) -> None:
    case, result = once
    known = SELECTED_OF.get(case.model.name, SELECTED)
    selected = known.get(case.method) or METHODS.get("diffusion", case.method)().select
    untouched = base_of(result)
    allowed = weights_of(untouched, selected).keys()
    changed = result.edit.shapes()
    assert changed
    assert changed.keys() <= allowed
    for name, parameter in result.model.parameters().items():
        assert torch.equal(parameter, untouched.parameters()[name]) == (name not in changed), name
    log = result.folder / "log.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        assert all(
            value == value and abs(value) < 1e4
            for value in json.loads(line).values()
            if isinstance(value, float)
        )


@over(CASES)
def test_original_is_intact(once: Done) -> None:
    _, result = once
    want = ask(base_of(result), "a cat")
    with result.model.original():
        assert torch.equal(ask(result.model, "a cat"), want)
    assert not torch.equal(ask(result.model, "a cat"), want)


@over(CASES)
def test_save_load_apply_undo(once: Done) -> None:
    _, result = once
    fresh = base_of(result)
    before, edit = ask(fresh, "a cat"), Edit.load(result.folder)
    edit.apply(fresh)
    assert torch.equal(ask(fresh, "a cat"), ask(result.model, "a cat"))
    edit.undo(fresh)
    assert torch.equal(ask(fresh, "a cat"), before)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, marks=[pytest.mark.slow] if m in SLOW else [])
        for m in every_method()
        if m != "gold"  # all of it moves
    ],
)
def test_concept_moves_more_than_an_unrelated_one(method: str, tmp_path: Path) -> None:
    """On the built-in model, whose predictions mean something, with its presets and few steps."""
    few = {name: value for name, value in POCKET_FEW.items() if name in settings_of(method)}
    if method == "adapt-unlearn":
        few["images"] = str(cats(tmp_path / "cats"))
    result = erase("pocket", method, ["cat"], out=tmp_path / "run", **few)
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(8, 4, 16, 16, generator=generator), torch.full((8,), 700)

    def moved(prompt: str) -> float:
        with torch.no_grad():
            edited = result.model.predict(z, t, result.model.encode([prompt] * 8))
            with result.model.original():
                return float(
                    (edited - result.model.predict(z, t, result.model.encode([prompt] * 8))).norm()
                )

    assert moved("A cat image in Photo style.") > 1.5 * moved("A tower image in Photo style.")


@over(CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_export_opens_in_plain_diffusers(once: Done, dtype: str, tmp_path: Path) -> None:
    _, result = once
    out = export(result.folder, tmp_path / "export", dtype=dtype)
    backbone = result.model.backbone_name
    stored = load_file(next((out / backbone).glob("*.safetensors")))
    for name in result.edit.shapes():
        component, _, rest = name.partition(".")
        if component == backbone:
            want = result.model.parameters()[name].detach().to(getattr(torch, dtype)).float()
            assert torch.equal(stored[rest].float(), want), name
    for tower in result.model.towers:
        assert all(
            name.startswith(("text_model.", "text_projection."))
            for name in load_file(out / tower / "model.safetensors")
        )
    assert result.edit.method in (out / "README.md").read_text()
    if dtype == "float32":
        reopened = load_model(str(out))
        assert torch.allclose(
            ask(reopened, "a cat"), ask(open_run(result.folder), "a cat"), atol=1e-6
        )


@over(TRAINED)
def test_a_batch_in_parts_takes_the_same_steps(once: Done, tmp_path: Path) -> None:
    """Up to rounding, which Adam makes large where a gradient is next to nothing."""
    case, whole = once
    parts = case.run(tmp_path / "parts", gradient_accumulation=2)
    assert whole.edit.tensors.keys() == parts.edit.tensors.keys()
    base = load_model(str(case.model)).parameters()
    moves = [
        torch.cat(
            [(value - base[name].detach() if name in base else value).flatten()
             for name, value in edit.tensors.items()]
        )
        for edit in (whole.edit, parts.edit)
    ]  # fmt: skip
    # gs-lora's terms are ratios of means over what is computed together, as doco's surgery is of it
    least = 0.9 if case.method in ("gs-lora", "doco") else 0.99
    assert torch.cosine_similarity(*moves, dim=0) > least


def test_a_batch_that_does_not_divide_into_parts_is_refused(sd1: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        SettingError, match=r"multiple of the 3 parts \(gradient_accumulation\); got 2"
    ):
        Case("esd", sd1).run(out, gradient_accumulation=3)
    assert not out.exists()


@over(TRAINED)
def test_interrupted_and_resumed_equals_uninterrupted(
    once: Done, stopped_after: Callable[..., Any], tmp_path: Path
) -> None:
    """Stopped in mid-training, then the same call again: the same bits."""
    case, whole = once
    out = tmp_path / "stopped"
    with stopped_after(None, 5):  # in the middle of advunlearn's attack_every
        case.run(out)
    check_resumed(case, whole, out)


@over([("esd", "sd1")])
def test_a_killed_process_leaves_what_is_resumed(once: Done, tmp_path: Path) -> None:
    """As above, by SIGKILL, after which nothing is tidied up."""
    case, whole = once
    out = tmp_path / "killed"
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from contract import Case
import erasure.training.run as run
save = run.Run.save_state
def save_then_die(self, stage, step, *rest, **more):
    file = save(self, stage, step, *rest, **more)
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return file
run.Run.save_state = save_then_die
run.Run.is_due = True
Case({case.method!r}, Path({str(case.model)!r})).run(Path({str(out)!r}))
"""
    died = subprocess.run(
        [sys.executable, "-c", program],
        # the bits of a sum depend on how many threads share it
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -9, died.stderr
    check_resumed(case, whole, out)


def check_resumed(case: Case, whole: Result, out: Path) -> None:
    assert (out / "state").is_dir()
    assert not (out / "edit.json").exists()
    resumed = case.run(out)
    for name, tensor in whole.edit.tensors.items():
        assert torch.equal(tensor, resumed.edit.tensors[name]), name
    assert not (out / "state").exists()
