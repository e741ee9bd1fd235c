"""Models that would be asked otherwise than their own pipeline asks them."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from altered import configured, copied, one_of, weighted
from contract import Case
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from erasure.errors import ModelError, SettingError
from erasure.models.built_in import POCKET
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.one_step import OneStep, one_step_scheduler


@pytest.mark.parametrize("gone", [("tokenizer.json",), ("tokenizer.json", "tokenizer_config.json")])
def test_a_tokenizer_without_its_files_is_refused(
    gone: tuple[str, ...], sd1: Path, tmp_path: Path
) -> None:
    folder = copied(sd1, tmp_path)
    for name in gone:
        (folder / "tokenizer" / name).unlink()
    with pytest.raises(ModelError, match=r"tokenizer of .* has 1034 tokens; it has 2: are all"):
        load_model(str(folder))


def test_a_tokenizer_folder_that_is_absent_is_refused(sdxl: Path, tmp_path: Path) -> None:
    folder = copied(sdxl, tmp_path)
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(ModelError, match="tokenizer_2"):
        load_model(str(folder))


def test_merges_that_were_cut_off_are_refused(sd1: Path, tmp_path: Path) -> None:
    folder = copied(sd1, tmp_path) / "tokenizer"
    (folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(POCKET / "tokenizer" / name, folder / name)
    load_model(str(folder.parent))
    merges = (folder / "merges.txt").read_text().splitlines()
    (folder / "merges.txt").write_text("\n".join(merges[:400]))
    with pytest.raises(ModelError, match=r"tokens that its merges never make"):
        load_model(str(folder.parent))


def test_an_encoder_of_another_vocabulary_is_refused(sd1: Path, tmp_path: Path) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        name = one_of(tensors, "token_embedding.weight")
        tensors[name] = tensors[name][:1000].clone()

    weighted(sd1, tmp_path, "text_encoder", cut)
    folder = configured(tmp_path / "altered", tmp_path / "b", "text_encoder", vocab_size=1000)
    with pytest.raises(ModelError, match="which has 1000 tokens; it has 1034"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"time_cond_proj_dim": 8}, "takes a guidance embedding"),
        ({"class_embed_type": "timestep"}, "takes a class embedding"),
        ({"num_class_embeds": 4}, "takes a class embedding"),
        ({"encoder_hid_dim": 16, "encoder_hid_dim_type": "text_proj"}, "takes a projection"),
        ({"addition_embed_type": "text"}, "addition_embed_type .* must be None"),
        ({"in_channels": 9}, r"in_channels .* must be 4.* got 9 \(an inpainting model\)"),
        ({"out_channels": 8}, "out_channels .* must be 4.* got 8"),
        ({"cross_attention_dim": 48}, "cross_attention_dim .* must be 32.* got 48"),
    ],
)
def test_a_unet_of_other_inputs_is_refused(
    changes: dict[str, Any], why: str, sd1: Path, tmp_path: Path
) -> None:
    folder = copied(sd1, tmp_path)
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config({**config, **changes}).save_pretrained(folder / "unet")
    with pytest.raises(ModelError, match=why):
        load_model(str(folder))


def test_an_xl_unet_without_the_size_of_the_image_is_refused(sdxl: Path, tmp_path: Path) -> None:
    folder = copied(sdxl, tmp_path)
    config = UNet2DConditionModel.load_config(folder / "unet")
    for changes, why in (
        ({"addition_embed_type": None}, "addition_embed_type .* must be text_time"),
        ({"projection_class_embeddings_input_dim": 32 + 5 * 8}, "must be 80, .* got 72"),
    ):
        UNet2DConditionModel.from_config({**config, **changes}).save_pretrained(folder / "unet")
        with pytest.raises(ModelError, match=why):
            load_model(str(folder))


@pytest.mark.parametrize(
    "name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "VQDiffusionScheduler"]
)
def test_a_scheduler_without_the_noise_schedule_is_refused(
    name: str, sd1: Path, tmp_path: Path
) -> None:
    folder = copied(sd1, tmp_path)
    options = {"num_vec_classes": 8} if name.startswith("VQ") else {}
    getattr(diffusers, name)(**options).save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    record = json.loads(index.read_text())
    index.write_text(json.dumps({**record, "scheduler": ["diffusers", name]}))
    with pytest.raises(ModelError, match=r"noise schedule|alphas_cumprod"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "changes", [{"beta_start": -0.1}, {"beta_end": -0.5}, {"beta_end": float("nan")}]
)
def test_a_schedule_out_of_range_is_refused(
    changes: dict[str, float], sd1: Path, tmp_path: Path
) -> None:
    folder = configured(sd1, tmp_path, "scheduler", beta_schedule="linear", **changes)
    with pytest.raises(ModelError, match=r"alphas_cumprod of .* must fall"):
        load_model(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_values_that_are_not_finite_are_refused(
    part: str, value: float, sd1: Path, tmp_path: Path
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values())).view(-1)[-1] = value

    with pytest.raises(ModelError, match=rf"{part}\.\S+ of .* holds values that are not finite"):
        load_model(str(weighted(sd1, tmp_path, part, spoil)))


def test_large_values_are_finite(sd1: Path, tmp_path: Path) -> None:
    folder = weighted(sd1, tmp_path, "vae", lambda t: t[one_of(t, "conv_in.weight")].fill_(3e38))
    load_model(str(folder))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_square_may_be_given_by_both_sides(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    opened = load_model(str(configured(folder, tmp_path, "unet", sample_size=[8, 8])))
    assert opened.latent_shape == (4, 8, 8)
    want = load_model(str(folder))
    generators = [[torch.Generator().manual_seed(1)] for _ in range(2)]
    drawn = [
        model.generate(["a cat"], steps=2, guidance=3.0, generators=generator)
        for model, generator in zip((opened, want), generators, strict=True)
    ]
    assert torch.equal(*drawn)
    opened.use_resolution(32)
    drawn = opened.generate(["a cat"], steps=1, guidance=3.0, generators=generators[0])
    assert drawn.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("size", [[8, 12], None, [8], 0, "8", 8.5])
def test_another_sample_size_is_refused(size: Any, sd1: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"sample_size of the UNet of .* must be the side"):
        load_model(str(configured(sd1, tmp_path, "unet", sample_size=size)))


def test_a_tiny_autoencoder_encodes_and_decodes(sd1: Path, tmp_path: Path) -> None:
    folder = copied(sd1, tmp_path)
    shutil.rmtree(folder / "vae")
    torch.manual_seed(0)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    tiny.save_pretrained(folder / "vae")
    index = folder / "model_index.json"
    record = json.loads(index.read_text())
    index.write_text(json.dumps({**record, "vae": ["diffusers", "AutoencoderTiny"]}))
    model = load_model(str(folder))
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        want = tiny.encode(images.float().div(127.5).sub(1)).latents * tiny.config.scaling_factor
    assert torch.allclose(model.to_latents(images), want, atol=1e-6)
    generators = [torch.Generator().manual_seed(1)]
    assert model.generate(["a"], steps=1, guidance=1.0, generators=generators).shape[-1] == 16


@pytest.mark.parametrize(
    ("family", "tower", "given"),
    [("sd1", "text_encoder", None), ("sd1", "text_encoder", []), ("sdxl", "text_encoder_2", 7),
     ("flux", "text_encoder", 7)],
)  # fmt: skip
def test_a_text_that_ends_nowhere_is_refused(
    family: str, tower: str, given: object, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """CLIP's own code fails, or pools the first token of every text, which tells all alike."""
    folder = copied(request.getfixturevalue(family), tmp_path)
    file = folder / tower / "config.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "eos_token_id": 2}))
    load_model(str(folder))
    file.write_text(json.dumps({**record, "eos_token_id": given}))
    with pytest.raises(ModelError, match=rf"eos_token_id of the {tower} of .* or 2; got "):
        load_model(str(folder))


NO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def without_signal(folder: Path, to: Path, kind: type) -> Path:
    """A copy whose noise schedule ends in nothing but noise."""
    copy = copied(folder, to)
    before = DDIMScheduler.load_config(copy / "scheduler")
    kind.from_config(before, **NO_SIGNAL).save_pretrained(copy / "scheduler")
    index = copy / "model_index.json"
    record = json.loads(index.read_text())
    index.write_text(json.dumps({**record, "scheduler": ["diffusers", kind.__name__]}))
    return copy


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler])
def test_a_schedule_that_ends_without_signal_is_sampled_as_diffusers_does(
    kind: type, sd2: Path, tmp_path: Path
) -> None:
    model = load_model(str(without_signal(sd2, tmp_path, kind)))
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    path = model.sample_path(model.encode(["a cat"]), steps=4, guidance=3.0, noise=noise)
    assert path.timesteps[0] == 999
    assert all(torch.isfinite(part).all() for part in (path.finished, path.asked, path.none))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "altered", safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    want = pipeline(
        "a cat", latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="latent"
    ).images
    assert torch.allclose(path.finished, want, atol=1e-4)


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize(
    "method",
    ["esd", "salun", "gs-lora", "advunlearn", "sfd", "uce", "uproot", "doco", "bounded"],
)
def test_methods_work_where_the_schedule_ends_without_signal(
    method: str, kind: type, sd2: Path, tmp_path: Path
) -> None:
    folder = without_signal(sd2, tmp_path, kind)
    result = Case(method, folder).run(tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in result.edit.tensors.values())


def test_noise_cannot_be_predicted_without_signal(sd1: Path, tmp_path: Path) -> None:
    folder = without_signal(sd1, tmp_path, DDIMScheduler)
    with pytest.raises(ModelError, match="cannot be sampled: its schedule ends without signal"):
        load_model(str(folder))


@pytest.mark.parametrize("given", ["rescaled", "by number"])
def test_a_generator_walks_the_same_schedule(given: str, sd2: Path, tmp_path: Path) -> None:
    if given == "rescaled":
        folder = without_signal(sd2, tmp_path, DDIMScheduler)
    else:
        betas = torch.linspace(1e-4, 3e-2, 1000).tolist()
        folder = configured(sd2, tmp_path, "scheduler", trained_betas=betas)
    teacher = load_model(str(folder))
    short = one_step_scheduler(dict(teacher.pipeline.scheduler.config))
    assert torch.allclose(short.alphas_cumprod, teacher.alphas_cumprod[:626], atol=1e-6)
    generator = OneStep.on(teacher, teacher.pipeline.unet, name="generator")
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(generator.one_call(z, generator.encode(["a cat"]))).all()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_prompts_beyond_the_window_are_refused(
    family: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(str(request.getfixturevalue(family)))
    model.check_window(["", "a cat", "a " * 30])
    with pytest.raises(SettingError, match=r"at most 30 tokens .* got 31 in 'a a .*\[\.\.\.\]'"):
        model.check_window(["a cat", "a " * 31])
    assert model.token_count("a " * 300) == 30
    with pytest.raises(SettingError, match="do not fit"):
        model.open_slots([("", "a " * 300)], 1)
    assert not caplog.records
