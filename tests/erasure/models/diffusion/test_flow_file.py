"""One .safetensors file of SD 3 or FLUX opens to the very model, or is refused in one line."""

import inspect
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from altered import configured
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders import single_file_model, single_file_utils
from flow_names import transformer_tensors, write_flow_file
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from erasure.erasing import erase
from erasure.errors import ModelError, SettingError
from erasure.exports.converting import convert
from erasure.exports.exporting import export
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.single_file import DIFFUSION
from erasure.opening import open_run
from erasure_datasets.errors import DataWarning

CONVERTERS = {
    "3": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "flux": single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLUX's width, which diffusers' converter has as a number, as the miniature's."""
    source = inspect.getsource(CONVERTERS["flux"])
    assert source.count("inner_dim = 3072") == 1
    made = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 16"), made)
    known = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(known, "checkpoint_mapping_fn", made[CONVERTERS["flux"].__name__])


def pipeline_of(folder: Path) -> Any:
    return load_model(str(folder)).pipeline


WHOLE = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
# what a file holds, and what its transformer's names begin with: as SD 3's releases with CLIP and
# without, and as FLUX's, which is its transformer alone
FILES = {
    "whole": (WHOLE, "model.diffusion_model."),
    "without text": (("transformer", "vae"), "model.diffusion_model."),
    "alone": (("transformer",), ""),
}


@pytest.mark.parametrize("held", FILES)
@pytest.mark.parametrize("family", ["sd3", "sd3_with_t5", "flux", "schnell"])
def test_it_is_the_folder_it_was_made_from(
    family: str, held: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    parts, start = FILES[held]
    file = write_flow_file(
        pipeline_of(folder), tmp_path / "model.safetensors", parts=parts, start=start
    )
    # what the file holds is read from nowhere else
    config = shutil.copytree(folder, tmp_path / "configs")
    for part in parts:
        shutil.rmtree(config / part, ignore_errors=True)
        if (folder / part).is_dir():
            (config / part).mkdir()
            shutil.copy(folder / part / "config.json", config / part)
    opened, want = load_model(str(file), config=config), load_model(str(folder))
    assert type(opened) is type(want)
    assert opened.parameters().keys() == want.parameters().keys()
    for name, parameter in want.parameters().items():
        assert torch.equal(opened.parameters()[name], parameter), name
    assert opened.sampling == want.sampling
    assert opened.resolution == want.resolution
    # T5, the autoencoder and what stands in text.json, size.json
    assert torch.equal(opened.encode(["a cat"]), want.encode(["a cat"]))
    image = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(opened.to_latents(image), want.to_latents(image))


def test_dual_attention_is_read(sd3: Path, tmp_path: Path) -> None:
    """SD 3.5 medium's first blocks attend to the image a second time."""
    pipeline = pipeline_of(sd3)
    config = {**pipeline.transformer.config, "dual_attention_layers": (0,)}
    torch.manual_seed(7)
    pipeline.transformer = SD3Transformer2DModel.from_config(config)
    pipeline.save_pretrained(tmp_path / "own")
    file = write_flow_file(pipeline, tmp_path / "model.safetensors")
    opened = load_model(str(file), config=tmp_path / "own").pipeline.transformer.state_dict()
    for name, tensor in pipeline.transformer.state_dict().items():
        assert torch.equal(opened[name], tensor), name


def test_the_converter_finds_every_weight_at_the_releases_sizes() -> None:
    """Shapes alone: SD 3 medium, 3.5 medium and FLUX.1 dev."""
    medium: dict[str, Any] = {
        "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    }  # fmt: skip
    later = {"dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
    built: list[tuple[str, Callable[[], Any], int]] = [
        ("3", lambda: SD3Transformer2DModel(**medium), 491),
        ("3", lambda: SD3Transformer2DModel(**medium, **later), 491 + 24 * 4 + 13 * 6),
        ("flux", lambda: FluxTransformer2DModel(guidance_embeds=True), 780),
    ]
    with FakeTensorMode():
        for layout, build, count in built:
            want = build().state_dict()
            released = transformer_tensors(want, layout)
            assert len(released) == count
            prefixed = {f"model.diffusion_model.{name}": t for name, t in released.items()}
            found = CONVERTERS[layout](prefixed)
            assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in want.items()}


def test_it_is_erased_opened_again_and_exported(sd3: Path, tmp_path: Path) -> None:
    file = write_flow_file(pipeline_of(sd3), tmp_path / "model.safetensors", parts=["vae"])
    run = tmp_path / "run"
    options: dict[str, Any] = {"kind": "object", "anchor": "dog", "config": sd3}
    edit = erase(str(file), "uce", ["cat"], out=run, **options).edit
    exported = load_model(str(export(run, tmp_path / "export")))
    assert exported.rows == load_model(str(sd3)).rows == 3
    again = exported.parameters()
    opened = open_run(run).parameters()
    for name, tensor in edit.tensors.items():
        assert torch.equal(again[name], tensor), name
        assert torch.equal(opened[name], tensor), name
    # the base may be a folder with the same weights by now
    moved = open_run(run, base=sd3).parameters()
    assert all(torch.equal(moved[name], tensor) for name, tensor in edit.tensors.items())


def test_rounded_weights_are_read_as_they_are(sd3_with_t5: Path, tmp_path: Path) -> None:
    """SD 3's release with T5 has that in eight bits."""
    file = write_flow_file(pipeline_of(sd3_with_t5), tmp_path / "model.safetensors")
    tensors = load_file(file)
    for name in [name for name in tensors if ".t5xxl." in name]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, file)
    t5 = load_model(str(file), config=sd3_with_t5).pipeline.text_encoder_3
    want = tensors["text_encoders.t5xxl.transformer.shared.weight"].float()
    assert torch.equal(t5.shared.weight, want)
    assert torch.equal(t5.encoder.embed_tokens.weight, want)


def test_a_projection_that_is_left_out_is_the_identity(sd3: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(sd3)
    name = "text_encoders.clip_g.transformer.text_projection.weight"
    file = write_flow_file(pipeline, tmp_path / "model.safetensors")
    config = configured(sd3, tmp_path, "text_encoder_2", projection_dim=64)
    config = configured(config, tmp_path / "wide", "transformer", pooled_projection_dim=16 + 64)
    wide = SD3Transformer2DModel.from_config(
        SD3Transformer2DModel.load_config(config / "transformer")
    )
    pipeline.transformer = wide
    file = write_flow_file(pipeline, tmp_path / "wide.safetensors")
    changed(file, lambda tensors: tensors.pop(name))
    tower = load_model(str(file), config=config).pipeline.text_encoder_2
    assert torch.equal(tower.text_projection.weight, torch.eye(64))


def changed(file: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return file


LOST = [
    ("sd3", "model.diffusion_model.pos_embed", "transformer"),
    ("sd3", "model.diffusion_model.joint_blocks.1.context_block.attn.ln_k.weight", "transformer"),
    ("sd3", "model.diffusion_model.final_layer.adaLN_modulation.1.bias", "transformer"),
    ("sd3", "first_stage_model.decoder.conv_in.bias", "vae"),
    ("sd3", "text_encoders.clip_l.transformer.text_projection.weight", "text_encoder"),
    ("sd3", "text_encoders.clip_g.transformer.text_model.final_layer_norm.bias", "text_encoder_2"),
    ("flux", "model.diffusion_model.guidance_in.in_layer.weight", "transformer"),
    ("flux", "model.diffusion_model.single_blocks.0.linear1.bias", "transformer"),
    ("flux", "text_encoders.t5xxl.transformer.encoder.final_layer_norm.weight", "text_encoder_2"),
    ("flux", "text_encoders.t5xxl.transformer.shared.weight", "text_encoder_2"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "part"), LOST)
def test_a_tensor_that_is_lost_is_refused(
    family: str, name: str, part: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    file = write_flow_file(pipeline_of(folder), tmp_path / "model.safetensors")
    why = rf"lacks the {part}'s|lacks weights of the {part} |\({part}\) (?:lacks|holds)"
    with pytest.raises(ModelError, match=why) as caught:
        load_model(str(changed(file, lambda tensors: tensors.pop(name))), config=folder)
    told = str(caught.value)
    assert "\n" not in told
    assert str(file) in told


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.joint_blocks.0.x_block.mlp.fc3.weight",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.9.layer_norm1.bias",
    ],
)
def test_a_tensor_without_a_place_is_refused(name: str, sd3: Path, tmp_path: Path) -> None:
    file = write_flow_file(pipeline_of(sd3), tmp_path / "model.safetensors")
    changed(file, lambda tensors: tensors.update({name: torch.full((2, 2), 0.5)}))
    with pytest.raises(ModelError, match=r"config\.json has no place"):
        load_model(str(file), config=sd3)


@pytest.mark.parametrize("shape", [(), (1,), (2, 2)])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("sd3", "joint_blocks.0.x_block.adaLN_modulation.1.scale_weight"),
        ("sd3", "joint_blocks.0.x_block.attn.qkv.weight_scale"),
        ("flux", "single_blocks.0.linear1.scale_weight"),
        ("flux", "single_blocks.0.linear1.weight.absmax"),
        ("flux", "double_blocks.0.img_mlp.0.comfy_quant"),
    ],
)
def test_scaled_weights_are_refused(
    family: str, name: str, shape: tuple[int, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    file = write_flow_file(pipeline_of(folder), tmp_path / "model.safetensors")
    changed(file, lambda tensors: tensors.update({f"{DIFFUSION}{name}": torch.ones(shape)}))
    with pytest.raises(ModelError, match=rf"{name}: its weights are quantised, or come with"):
        load_model(str(file), config=folder)


def test_what_is_of_no_part_is_refused_and_marks_are_taken(sd3: Path, tmp_path: Path) -> None:
    file = write_flow_file(pipeline_of(sd3), tmp_path / "model.safetensors")
    marks = ("v_pred", "model_ema.decay", "text_encoders.clip_l.logit_scale")
    changed(file, lambda tensors: tensors.update({name: torch.ones(1) for name in marks}))
    load_model(str(file), config=sd3)
    name = "text_encoders.clip_g.text_model.final_layer_norm.bias"
    changed(file, lambda tensors: tensors.update({name: torch.ones(64)}))
    with pytest.raises(ModelError, match=rf"holds {name}, which is of no part of StableDiffusion3"):
        load_model(str(file), config=sd3)


def test_an_encoders_config_that_is_none_is_one_line(sd3: Path, tmp_path: Path) -> None:
    file = write_flow_file(pipeline_of(sd3), tmp_path / "model.safetensors")
    config = configured(sd3, tmp_path, "text_encoder", hidden_size="x")
    with pytest.raises(ModelError, match=r"could not load .*text_encoder: ") as caught:
        load_model(str(file), config=config)
    assert "\n" not in str(caught.value)
    start = "text_encoders.clip_l.transformer."
    names = ("text_projection.weight", "text_model.final_layer_norm.weight")
    changed(file, lambda tensors: [tensors.pop(start + name) for name in names])
    with pytest.raises(ModelError, match=r"\(text_encoder\) lacks .*final_layer_norm"):
        load_model(str(file), config=sd3)


def test_another_family_is_named(sd3: Path, flux: Path, schnell: Path, tmp_path: Path) -> None:
    file = write_flow_file(pipeline_of(sd3), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no transformer of Flux, .*\(double_blocks\.0\.…\)"):
        load_model(str(file), config=flux)
    file = write_flow_file(pipeline_of(flux), tmp_path / "flux.safetensors")
    with pytest.raises(ModelError, match=r"guidance_in\..*, for which the transformer's config"):
        load_model(str(file), config=schnell)
    file = write_flow_file(pipeline_of(schnell), tmp_path / "schnell.safetensors")
    with pytest.raises(
        ModelError, match=r"lacks weights of the transformer that .*config\.json asks"
    ):
        load_model(str(file), config=flux)


def test_a_part_that_neither_holds_is_named(sd3_with_t5: Path, tmp_path: Path) -> None:
    whole = pipeline_of(sd3_with_t5)
    file = write_flow_file(whole, tmp_path / "model.safetensors", parts=WHOLE[:-1])
    (file_of_t5,) = (sd3_with_t5 / "text_encoder_3").glob("*.safetensors")
    file_of_t5.unlink()
    with pytest.raises(ModelError, match=r"holds no text_encoder_3, and neither does .*encoder_3;"):
        load_model(str(file), config=sd3_with_t5)
    # a folder that says so goes without T5
    index = sd3_with_t5 / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "text_encoder_3": [None, None]}))
    assert load_model(str(file), config=sd3_with_t5).pipeline.text_encoder_3 is None
    file = write_flow_file(whole, tmp_path / "whole.safetensors")
    with pytest.warns(DataWarning, match="holds text_encoder_3, which .* leaves out"):
        assert load_model(str(file), config=sd3_with_t5).pipeline.text_encoder_3 is None


def test_config_and_revision_of_a_model_that_has_none_are_refused(
    sd1: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=r"config is of a single \.safetensors file, which pock"):
        load_model("pocket", config=sd1)
    with pytest.raises(SettingError, match="config is of a single"):
        load_model(str(sd1), config=tmp_path)
    for name in ("pocket", str(sd1)):
        with pytest.raises(SettingError, match=r"revision is of a Hub id, which .* is not"):
            load_model(name, revision="main")


def test_an_export_without_t5_says_nothing(
    sd3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """diffusers warns of every part that a pipeline does without."""
    library = logging.getLogger("diffusers")
    level = library.level
    library.addHandler(caplog.handler)
    library.setLevel(logging.WARNING)
    try:
        convert(sd3, tmp_path / "out", to="diffusers")
    finally:
        library.removeHandler(caplog.handler)
        library.setLevel(level)
    assert "cannot be saved" not in caplog.text
