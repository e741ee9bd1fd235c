import json
import shutil
from pathlib import Path

import pytest
import torch

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError
from erasure.exports.exporting import export
from erasure.files.storage import read_tensors, write_tensors
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run


@pytest.fixture(scope="module")
def run(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edit") / "run"
    erase(str(listed), "uce", ["cat"], out=out)
    return out


def test_it_holds_only_what_changed(run: Path) -> None:
    edit = Edit.load(run)
    assert all(".attn2.to_k" in name or ".attn2.to_v" in name for name in edit.tensors)
    assert edit.concepts[0].name == "cat"
    assert edit.concepts[0].anchor == "dog"


def test_config_records_where_values_came_from(run: Path) -> None:
    record = json.loads((run / "config.json").read_text())
    assert record["settings"]["stay"] == 0.5
    assert record["sources"]["stay"] == "default"
    assert record["seconds"] > 0
    assert record["peak_memory_gb"] > 0
    assert torch.__version__.startswith(record["versions"]["torch"])


def test_a_record_that_names_other_things_than_its_tensors_is_refused(
    run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    file = copy / "edit.json"
    good = json.loads(file.read_text())
    for name, value in (
        ("concepts", [{**good["concepts"][0], "name": "dog"}]),
        ("requests", {"0": ["dog"]}),
        ("settings", {**good["settings"], "stay": 0.25}),
    ):
        file.write_text(json.dumps({**good, name: value}))
        with pytest.raises(EditError, match=f"changed by hand: its {name} are") as told:
            Edit.load(copy)
        assert "\n" not in str(told.value)
    tensors, _ = read_tensors(copy / "edit.safetensors")
    write_tensors(copy / "edit.safetensors", tensors)  # as older versions wrote it
    file.write_text(json.dumps({**good, "digest": ""}))
    assert Edit.load(copy).concepts[0].name == "cat"


def test_it_does_not_go_into_a_model_of_another_shape(run: Path, pocket: object) -> None:
    with pytest.raises(EditError, match=r"does not fit|does not have"):
        Edit.load(run).apply(pocket)


def test_undo_needs_apply(run: Path, listed: Path) -> None:
    with pytest.raises(EditError, match="was not applied"):
        Edit.load(run).undo(load_model(str(listed)))


def test_an_edit_that_changes_nothing_is_an_error(listed: Path) -> None:
    model = load_model(str(listed))
    model.remember(list(model.weights("xattn")))
    with pytest.raises(EditError, match=r"changed no weight.* use another --out"):
        Edit.between(model, [], "nothing", {})


def test_delta_export_is_an_edit_again(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "delta", to="delta")
    assert {file.name for file in out.iterdir()} == {"edit.safetensors", "edit.json", "README.md"}
    again, first = Edit.load(out), Edit.load(run)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_open_run_without_the_edit_is_the_base(run: Path, listed: Path) -> None:
    base, want = open_run(run, edited=False), load_model(str(listed))
    assert all(torch.equal(p, want.parameters()[name]) for name, p in base.parameters().items())


def test_without_the_edit_the_model_is_the_base(run: Path, listed: Path) -> None:
    model, base = open_run(run), load_model(str(listed)).parameters()
    edited = {name: weight.clone() for name, weight in model.parameters().items()}

    def look_and_stop() -> None:
        with model.without_edit():
            for name, weight in model.parameters().items():
                assert torch.equal(weight, base[name]), name
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_and_stop()
    for name, weight in model.parameters().items():
        assert torch.equal(weight, edited[name]), name


def test_a_text_encoder_goes_alone_and_a_unet_does_not(
    run: Path, listed: Path, tmp_path: Path
) -> None:
    from contract import TINY
    from transformers import CLIPTextModel

    with pytest.raises(
        EditError, match="outside the text encoder; export to delta, diffusers or single"
    ):
        export(run, tmp_path / "none", to="text-encoder")
    assert not (tmp_path / "none").exists()
    result = erase(str(listed), "advunlearn", ["cat"], out=tmp_path / "adv", **TINY["advunlearn"])
    out = export(result.folder, tmp_path / "encoder", to="text-encoder")
    plain = load_model(str(listed))  # an unmodified pipeline, with only the encoder set in
    before = plain.encode(["a cat"])
    plain.pipeline.text_encoder = CLIPTextModel.from_pretrained(out).requires_grad_(False)
    plain._components["text_encoder"] = plain.pipeline.text_encoder
    assert torch.allclose(plain.encode(["a cat"]), result.model.encode(["a cat"]), atol=1e-6)
    assert not torch.allclose(plain.encode(["a cat"]), before, atol=1e-4)


def test_mixed_precision_keeps_float32_weights(listed: Path, tmp_path: Path) -> None:
    from contract import TINY

    for method in ("salun", "esd", "advunlearn"):
        result = erase(
            str(listed), method, ["cat"], out=tmp_path / method, mixed_precision="bf16",
            **TINY[method],
        )  # fmt: skip
        both = (
            result.edit,
            erase(str(listed), method, ["cat"], out=tmp_path / f"{method}32", **TINY[method]).edit,
        )
        for name, tensor in result.edit.tensors.items():
            assert tensor.dtype == torch.float32 or ":" in name
            assert torch.isfinite(tensor).all(), name
        shared = [n for n in both[0].tensors if n in both[1].tensors and ":" not in n]
        first, second = (torch.cat([edit.tensors[n].flatten() for n in shared]) for edit in both)
        assert not torch.equal(first, second)  # it did compute in bf16
        assert torch.allclose(first, second, atol=2e-2)
