"""Exports to single-file: plain diffusers and this toolkit read back the very weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from altered import configured
from diffusers import (
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, ErasureError, ModelError, SettingError
from erasure.exports.converting import convert
from erasure.exports.exporting import export
from erasure.exports.pushing import is_export
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.one_step import ONE_STEP
from erasure.opening import open_run

NO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
# a miniature, what its scheduler says otherwise, and how the file must be marked
CASES: dict[str, tuple[str, dict[str, Any], set[str], str, str]] = {
    "1": ("sd1", {}, set(), "epsilon", "stable-diffusion-v1"),
    "2-epsilon": (
        "sd2", {"prediction_type": "epsilon"}, set(), "epsilon", "stable-diffusion-v2-512",
    ),
    "2-v": ("sd2", {}, {"v_pred"}, "v", "stable-diffusion-v2-768-v"),
    "xl": ("sdxl", {}, set(), "epsilon", "stable-diffusion-xl-v1-base"),
    "xl-v": (
        "sdxl", {"prediction_type": "v_prediction", **NO_SNR}, {"v_pred", "ztsnr"}, "v",
        "stable-diffusion-xl-v1-base",
    ),
}  # fmt: skip


def church(model: Path, out: Path) -> Path:
    return erase(str(model), "uce", ["church"], out=out, kind="object", anchor="a house").folder


def file_of(out: Path) -> Path:
    (file,) = out.glob("*.safetensors")
    return file


def drawn(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return torch.from_numpy(
        pipeline(
            "a church by the sea", num_inference_steps=2, height=16, width=16, output_type="np",
            generator=torch.Generator().manual_seed(0),
        ).images
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_plain_diffusers_draws_the_same_from_file_and_folder(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixture, changes, marks, predicts, architecture = CASES[case]
    model = configured(request.getfixturevalue(fixture), tmp_path, "scheduler", **changes)
    run = church(model, tmp_path / "run")
    out = export(run, tmp_path / "single", to="single-file")
    folder = export(run, tmp_path / "folder")
    kind: Any = StableDiffusionXLPipeline if fixture == "sdxl" else StableDiffusionPipeline
    plain = kind.from_single_file(str(file_of(out)), config=str(out))
    want = DiffusionPipeline.from_pretrained(folder)
    assert torch.equal(drawn(plain), drawn(want))
    assert not torch.equal(drawn(plain), drawn(DiffusionPipeline.from_pretrained(model)))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if hasattr(want, part):
            same_weights(getattr(plain, part), getattr(want, part))
    opened = load_model(str(file_of(out)), config=out)
    for name, parameter in open_run(run).parameters().items():
        assert torch.equal(opened.parameters()[name], parameter), name
    with safe_open(file_of(out), "pt") as reader:
        told = reader.metadata()
        assert {name for name in reader.keys() if "." not in name} == marks  # noqa: SIM118
    assert told["modelspec.prediction_type"] == predicts
    assert told["modelspec.architecture"] == architecture
    assert told["modelspec.title"] == "altered without church"
    if marks:  # the reader holds the file to what it says
        epsilon = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
        unlike = configured(model, tmp_path / "unlike", "scheduler", **epsilon)
        with pytest.raises(ModelError, match="says that it predicts v_prediction"):
            load_model(str(file_of(out)), config=unlike)


def same_weights(got: torch.nn.Module, want: torch.nn.Module) -> None:
    wanted = want.state_dict()
    assert got.state_dict().keys() == wanted.keys()
    for name, tensor in got.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_pocket_and_what_its_card_says(tmp_path: Path) -> None:
    run = erase("pocket", "uce", ["cat"], out=tmp_path / "run").folder
    out = export(run, tmp_path / "out", to="single-file", dtype="float16")
    assert file_of(out).name == "pocket_without_cat.safetensors"
    assert is_export(out)
    stored = load_file(file_of(out)).values()
    assert {t.dtype for t in stored if t.is_floating_point()} == {torch.float16}
    card = ModelCard.load(out / "README.md")
    assert "those of no release" in card.text
    given: dict[str, Any] = {}
    code = card.text.split("```python\n")[1].split("```")[0]
    exec(code.replace("<this folder>", str(out)), given)
    wanted = open_run(run).parameters()
    for name, weight in given["pipeline"].unet.named_parameters():
        assert torch.equal(weight, wanted[f"unet.{name}"].half().float()), name
    for file in out.rglob("*"):
        if file.suffix in (".json", ".md", ".txt"):
            assert str(tmp_path) not in file.read_text(), file


def test_a_release_by_its_sizes(sd1: Path) -> None:
    """Pocket's and a miniature's sizes are no release's; with a release's, other tools read it."""
    from erasure.exports.writing.single_file import PUBLISHED, SCHEDULE, is_published_size

    model = load_model(str(sd1))
    assert not is_published_size(model)
    sizes = dict(PUBLISHED["1"])
    for name in ("num_hidden_layers", "hidden_act"):
        setattr(model.pipeline.text_encoder.config, name, sizes.pop(name))
    model.pipeline.vae.register_to_config(scaling_factor=sizes.pop("scaling_factor"))
    model.pipeline.unet.register_to_config(**sizes)
    assert is_published_size(model)
    model.pipeline.scheduler.register_to_config(**{**SCHEDULE, "beta_end": 0.02})
    assert not is_published_size(model)


def test_sparse_edits_and_merged_adapters(sd1: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"steps": 2, "batch_size": 1, "sampling_steps": 2}
    few |= {"kind": "object", "anchor": "dog"}
    own = {"paths": 2, "learning_rate": 1e-2, "group_warmup": 1}
    lora = erase(str(sd1), "gs-lora", ["cat"], out=tmp_path / "lora", **few, **own)
    own = {"forget_images": 2, "retain_images": 2, "keep": 0.05}
    sparse = erase(str(sd1), "salun", ["cat"], out=tmp_path / "sparse", **few, **own)
    for run, form in ((lora, "lora"), (sparse, "sparse")):
        assert Edit.load(run.folder).form == form
        out = export(run.folder, tmp_path / f"{form}-out", to="single-file")
        opened = load_model(str(file_of(out)), config=out).parameters()
        for name, parameter in open_run(run.folder).parameters().items():
            assert torch.equal(opened[name], parameter), name


def test_what_the_layout_cannot_hold_is_refused(sd1: Path, sd3: Path, tmp_path: Path) -> None:
    run = church(sd3, tmp_path / "run")
    with pytest.raises(
        EditError, match=r"1\.x, 2\.x and XL, and .* samples a flow; export to delta"
    ):
        export(run, tmp_path / "out", to="single-file")
    with pytest.raises(SettingError, match=r"is a StableDiffusion3Pipeline\. Take diffusers"):
        convert(sd3, tmp_path / "out", to="single-file")
    with pytest.raises(SettingError, match="cannot say how pocket-one-step is drawn"):
        convert("pocket-one-step", tmp_path / "out", to="single-file")
    replace(Edit.load(church(sd1, tmp_path / "one")), sampling=ONE_STEP).save(tmp_path / "one")
    with pytest.raises(EditError, match=r"is drawn \(1 step .*; export to delta or diffusers"):
        export(tmp_path / "one", tmp_path / "out", to="single-file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_convert_there_and_back(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    file = file_of(convert(folder, tmp_path / "single", to="single-file"))
    back = convert(file, tmp_path / "folder", to="diffusers", config=tmp_path / "single")
    want, got = load_model(str(folder)), load_model(str(back))
    for name, parameter in want.parameters().items():
        assert torch.equal(got.parameters()[name], parameter), name
    same_weights(got.pipeline.vae, want.pipeline.vae)
    assert (
        got.pipeline.scheduler.config["prediction_type"]
        == (want.pipeline.scheduler.config["prediction_type"])
    )
    card = ModelCard.load(back / "README.md")
    assert "no weight was edited" in card.text
    assert "machine-unlearning" not in (card.data.tags or [])
    assert str(tmp_path) not in (back / "README.md").read_text()


def test_bad_conversions_are_one_line(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "edit.json").write_text(json.dumps({}))
    out = tmp_path / "out"
    for model, options, message in (
        (sd1, {"to": "lora"}, "to must be diffusers or single-file; lora is a form of an edit"),
        (sd1, {"to": "ckpt"}, "there is no export form 'ckpt'"),
        (sd1, {"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16; got 'int8'"),
        (tmp_path / "none", {}, "model must be pocket"),
        (tmp_path / "run", {}, "is a run or its delta; write its model by `erasure export`"),
    ):
        with pytest.raises(ErasureError, match=message):
            convert(model, out, **options)
        assert not out.exists()
    with pytest.raises(SettingError, match="out must be a new folder"):
        convert(sd1, tmp_path / "run")
