"""One .safetensors file with local configs opens by diffusers' own loader, to the same model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from altered import configured, copied
from safetensors.torch import load_file, save_file
from single_file import write_single_file
from torch import Tensor

from erasure.errors import ModelError
from erasure.models.diffusion.load import load_model


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_it_is_the_folder_it_was_made_from(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    file = write_single_file(folder, tmp_path / "model.safetensors")
    opened, want = load_model(str(file), config=folder), load_model(str(folder))
    assert type(opened) is type(want)
    assert opened.parameters().keys() == want.parameters().keys()
    for name, parameter in want.parameters().items():
        assert torch.equal(opened.parameters()[name], parameter), name
    image = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(opened.to_latents(image), want.to_latents(image), atol=1e-5)


def test_it_is_erased_and_exported_like_any_other(sd1: Path, tmp_path: Path) -> None:
    from erasure.erasing import erase
    from erasure.exports.exporting import export

    file = write_single_file(sd1, tmp_path / "model.safetensors")
    result = erase(str(file), "uce", ["cat"], out=tmp_path / "run", kind="object", config=sd1)
    again = load_model(str(export(tmp_path / "run", tmp_path / "export")))
    for name, tensor in result.edit.tensors.items():
        assert torch.equal(again.parameters()[name], tensor), name


def test_what_is_wrong_is_named(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="config must name a diffusers folder"):
        load_model(str(tmp_path / "model.safetensors"))
    with pytest.raises(ModelError, match="could not load"):
        load_model(str(tmp_path / "model.safetensors"), config=sd1)


def changed(file: Path, change: Callable[[dict[str, Tensor]], object], **metadata: str) -> Path:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata)
    return file


@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        ("first_stage_model.", "vae"),
        ("cond_stage_model.", "text_encoder"),
        ("model.diffusion_model.", "unet"),
    ],
)
def test_a_part_that_is_absent_is_named(
    beginning: str, part: str, sd1: Path, tmp_path: Path
) -> None:
    file = write_single_file(sd1, tmp_path / "model.safetensors")

    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(beginning)]:
            del tensors[name]

    with pytest.raises(ModelError, match=rf"holds no {part} \({beginning}…\); a whole"):
        load_model(str(changed(file, drop)), config=sd1)


LOST = [
    ("sd2", "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias", "text_encoder"),
    ("sd2", "cond_stage_model.model.positional_embedding", "text_encoder"),
    ("sd1", "model.diffusion_model.input_blocks.0.0.weight", "unet"),
    ("sd1", "first_stage_model.decoder.conv_in.bias", "vae"),
    ("sd1", "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight", "text"),
    ("sd1", "cond_stage_model.transformer.text_model.encoder.layers.0.layer_norm1.bias", "text"),
    ("sdxl", "conditioner.embedders.1.model.text_projection", "text_encoder_2"),
    ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight", "text"),
    ("sdxl", "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight", "text"),
    ("sdxl", "model.diffusion_model.label_emb.0.2.bias", "unet"),
]


@pytest.mark.parametrize(("family", "name", "part"), LOST)
def test_a_tensor_that_is_lost_is_refused(
    family: str, name: str, part: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    file = write_single_file(folder, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"lacks the {part}|could not load") as caught:
        load_model(str(changed(file, lambda tensors: tensors.pop(name))), config=folder)
    assert "\n" not in str(caught.value)


def test_a_tensor_without_a_place_is_refused(sd1: Path, tmp_path: Path) -> None:
    file = write_single_file(sd1, tmp_path / "model.safetensors")
    name = "model.diffusion_model.output_blocks.9.0.in_layers.2.weight"
    with pytest.raises(ModelError, match=rf"holds {name}, for which the unet's config\.json has"):
        load_model(str(changed(file, lambda t: t.update({name: torch.ones(2, 2)}))), config=sd1)


def test_copies_and_harmless_tensors_are_taken(sd1: Path, tmp_path: Path) -> None:
    file = write_single_file(sd1, tmp_path / "model.safetensors")
    want = load_model(str(file), config=sd1)

    def add(tensors: dict[str, Tensor]) -> None:
        text = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        tensors |= {text: torch.arange(32)[None], "model_ema.decay": torch.ones(1)}
        tensors["alphas_cumprod"] = torch.ones(1000)
        for name, tensor in list(tensors.items()):
            if tensor.is_floating_point():
                tensors[name] = tensor.half()

    changed(file, add)
    opened = load_model(str(file), config=sd1)
    for name, parameter in want.parameters().items():
        assert torch.equal(opened.parameters()[name], parameter.half().float()), name


MARKS = [
    ({"v_pred": torch.zeros(0)}, {}, "says that it predicts v_prediction, .* says epsilon"),
    ({}, {"modelspec.prediction_type": "v"}, "says that it predicts v_prediction"),
    ({}, {"modelspec.predict_key": "v"}, "says that it predicts v_prediction"),
    ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "predicts v_prediction"),
    ({"ztsnr": torch.zeros(0)}, {}, r'ends without signal .* set "rescale_betas_zero_snr"'),
]


@pytest.mark.parametrize(("tensors", "metadata", "why"), MARKS)
def test_marks_that_the_configs_deny_are_refused(
    tensors: dict[str, Tensor], metadata: dict[str, str], why: str, sdxl: Path, tmp_path: Path
) -> None:
    file = write_single_file(sdxl, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=why) as caught:
        load_model(str(changed(file, lambda t: t.update(tensors), **metadata)), config=sdxl)
    assert str(sdxl / "scheduler" / "scheduler_config.json") in str(caught.value)


def test_marks_that_the_configs_bear_out_are_taken(sdxl: Path, tmp_path: Path) -> None:
    file = write_single_file(sdxl, tmp_path / "model.safetensors")
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    changed(file, lambda t: t.update(marks), **{"modelspec.prediction_type": "v"})
    known = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config = configured(sdxl, tmp_path, "scheduler", **known, timestep_spacing="trailing")
    assert load_model(str(file), config=config)._prediction == "v_prediction"
    changed(file, lambda t: [t.pop(name) for name in marks], **{"modelspec.predict_key": "epsilon"})
    assert load_model(str(file), config=sdxl)._prediction == "epsilon"
    with pytest.raises(ModelError, match=r"says that it predicts epsilon, .* says v_prediction"):
        load_model(str(file), config=config)


def test_a_config_folder_without_tokenizer_is_refused(sd1: Path, tmp_path: Path) -> None:
    file = write_single_file(sd1, tmp_path / "model.safetensors")
    folder = copied(sd1, tmp_path)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(str(file), config=folder)
