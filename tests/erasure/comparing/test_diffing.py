"""`diff`: of a base and an export exactly the edit's tensors, whatever the layouts."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from altered import configured
from networks import timm_folder
from safetensors.torch import load_file, save_file

import erasure
from erasure.comparing.differences import Difference
from erasure.comparing.diffing import diff
from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import ErasureError, ModelError, SettingError
from erasure.exports.converting import convert
from erasure.exports.exporting import export
from erasure_datasets.concept import Concept

TEXT = "text_encoder.text_model."


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "run"
    return erase(str(base), "uce", ["church"], out=out, kind="object", anchor="a house").folder


def names(found: Difference) -> set[str]:
    return {entry.name for entry in found.moved}


def test_base_and_export_differ_in_exactly_the_edit(base: Path, run: Path, tmp_path: Path) -> None:
    edit = Edit.load(run)
    exports = [run, export(run, tmp_path / "delta", to="delta")]
    exports += [export(run, tmp_path / to, to=to) for to in ("diffusers", "single-file")]
    for other in exports:
        found = diff(base, other, base=base if other in exports[:2] else None)
        assert names(found) == edit.tensors.keys()
        assert (found.only_a, found.only_b, found.shapes, found.facts) == ([], [], {}, {})
        for entry in found.moved:
            elements, gone, before = edit.moved[entry.name]
            assert entry.elements == elements
            assert entry.relative == pytest.approx((gone / before) ** 0.5, rel=1e-4)
    assert diff(*exports[2:]).is_none
    assert diff(base, convert(base, tmp_path / "same", to="single-file")).is_none


def test_the_figures_are_those_of_the_tensors(sd1: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(sd1, tmp_path / "other"))
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    weight = tensors["conv_in.weight"]
    before = weight.double().clone()
    weight.view(-1)[:6] += torch.tensor([3.0, -4.0, 0, 0, 0, 0])
    save_file(tensors, file, {"format": "pt"})
    found = diff(sd1, other)
    (entry,) = found.moved
    assert entry.name == "unet.conv_in.weight"
    assert entry.relative == pytest.approx(5 / float(before.norm()), rel=1e-5)
    assert entry.largest == pytest.approx(4, rel=1e-6)
    assert entry.share == 2 / weight.numel()
    assert found.relative is not None
    assert 0 < found.relative < 5 / float(before.norm())
    (line,) = [line for line in found.told() if "tensors in both differ" in line]
    assert f"1 of {found.same + 1} tensors" in line
    assert f"in 2 of their {weight.numel()} elements" in line


def test_half_precision_is_told_apart_from_an_edit(base: Path, run: Path, tmp_path: Path) -> None:
    for dtype in ("float16", "bfloat16"):
        out = export(run, tmp_path / dtype, to="single-file", dtype=dtype)
        found = diff(base, out)
        edited = {entry.name for entry in found.moved if not entry.is_rounding}
        assert edited == Edit.load(run).tensors.keys()
        assert len(found.moved) > len(edited)


def test_other_families_parts_and_schedules_are_told(
    sd1: Path, sd2: Path, sdxl: Path, tmp_path: Path
) -> None:
    found = diff(sd1, sdxl)
    lines = "\n".join(found.told())
    assert "They are of different families." in lines
    assert "of text_encoder_2" in lines
    assert found.shapes["unet.mid_block.attentions.0.proj_in.weight"] == ((32, 32, 1, 1), (32, 32))
    assert any(name.startswith("text_encoder_2.") for name in found.only_b)
    changed = configured(sd2, tmp_path, "scheduler", prediction_type="epsilon")
    found = diff(sd2, changed)
    assert found.facts == {"prediction_type": ("v_prediction", "epsilon")}
    assert not found.moved
    assert not found.is_none
    assert "prediction_type: v_prediction in A, epsilon in B" in found.told()


def test_text_encoders_alone(sd1: Path, sdxl: Path, tmp_path: Path) -> None:
    for number, (model, parts) in enumerate(((sd1, ("unet", "vae")), (sdxl, ("unet", "vae")))):
        settings = {"select": "text", "steps": 1, "batch_size": 1, "paths": 1, "sampling_steps": 2}
        run = erase(str(model), "esd", ["cat"], out=tmp_path / f"run{number}", kind="object",
                    learning_rate=1e-3, **settings).folder  # fmt: skip
        out = export(run, tmp_path / f"out{number}", to="text-encoder")
        found = diff(model, out)
        assert {name.partition(".")[0] for name in found.only_a} == set(parts)
        assert len(found.moved) == len(Edit.load(run).shapes())
        assert all(name.startswith("text_encoder") for name in names(found))
        assert diff(run, out).moved == []


BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
MODULES = {f"{BLOCK}.ff.net.2": (32, 128), f"{BLOCK}.attn2.to_q": (32, 32)}


def adapters(folder: Path, base: Path, scale: float = 1.0) -> Path:
    """A run with one made-up adapter of two modules."""
    made, tensors = torch.Generator().manual_seed(0), {}
    for module, (wide, narrow) in MODULES.items():
        down = torch.randn((4, narrow), generator=made) / 8
        up = torch.randn((wide, 4), generator=made) / 8 * scale
        tensors |= {f"request.0.{module}.lora_A.weight": down,
                    f"request.0.{module}.lora_B.weight": up}  # fmt: skip
    concept = Concept("cat", "object", ("an image of a {name}",))
    Edit(
        tensors, "gs-lora", [concept], str(base), "lora", settings={"rank": 4, "alpha": 16.0},
        requests={"0": ["cat"]},
    ).save(folder)  # fmt: skip
    return folder


def test_adapters_in_both_layouts(base: Path, tmp_path: Path) -> None:
    run, twice = adapters(tmp_path / "run", base), adapters(tmp_path / "twice", base, scale=2)
    first = export(run, tmp_path / "first", to="lora")
    second = export(run, tmp_path / "second", to="lora", layout="kohya")
    third = export(twice, tmp_path / "third", to="lora", layout="kohya")
    edited = {f"{module}.weight" for module in MODULES}
    assert names(diff(base, first, base=base)) == edited
    assert names(diff(base, second, base=base)) == edited
    assert diff(first, second, base=base).is_none
    assert diff(first, second / "cat.safetensors", base=base).is_none
    found = diff(second, third)  # what they add, without their base
    assert [entry.relative for entry in found.moved] == pytest.approx([1, 1], rel=1e-5)
    merged = export(run, tmp_path / "merged")
    rounded = diff(merged, first, base=base).moved  # alpha / rank is multiplied elsewhere
    assert all(entry.relative is not None and entry.relative < 1e-6 for entry in rounded)
    with pytest.raises(SettingError, match=r"holds adapters \(diffusers\) alone; base must name"):
        diff(base, first)
    with pytest.raises(SettingError, match="base must name the model that both are added to"):
        diff(first, second)


def test_classifiers(tmp_path: Path) -> None:
    timm_folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    file = tmp_path / "b" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".weight"))
    tensors[name] += 1
    save_file(tensors, file, {"format": "pt"})
    found = diff(tmp_path / "a", tmp_path / "b")
    assert names(found) == {name}
    assert found.families[0] == "classifier of timm"


READERS: dict[str, Callable[[Path], int]] = {
    ".json": lambda file: len(json.loads(file.read_text())["moved"]),
    ".csv": lambda file: sum(row["status"] == "differs" for row in csv.DictReader(file.open())),
    ".md": lambda file: sum("| unet." in line for line in file.read_text().splitlines()),
}


@pytest.mark.parametrize("ending", READERS)
def test_written_whole(ending: str, base: Path, run: Path, tmp_path: Path) -> None:
    file = tmp_path / f"found{ending}"
    found = erasure.diff(base, run, out=file)
    assert READERS[ending](file) == len(found.moved) == len(Edit.load(run).tensors)


def test_what_cannot_be_read_is_one_line(sd1: Path, tmp_path: Path) -> None:
    single = convert(sd1, tmp_path / "single", to="single-file")
    alone = tmp_path / "alone.safetensors"
    shutil.copy(next(single.glob("*.safetensors")), alone)
    assert diff(sd1, alone, config=sd1).is_none
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    (tmp_path / "empty").mkdir()
    for place, error, message in (
        (alone, ModelError, "config must name a diffusers folder"),
        (tmp_path / "bad.safetensors", ModelError, "config must name"),
        (tmp_path / "empty", ModelError, "is no classifier: it has no config.json"),
        (tmp_path / "none", ModelError, "model must be pocket"),
    ):
        with pytest.raises(error, match=message):
            diff(sd1, place)
    with pytest.raises(ErasureError, match=r"out must end in \.json, \.csv, \.md; got "):
        diff(sd1, sd1, out=tmp_path / "found.txt")
    with pytest.raises(SettingError, match="must not be empty"):
        diff(sd1, "")
