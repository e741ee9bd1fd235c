"""Stable Diffusion XL against diffusers' own pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from erasure.errors import ModelError
from erasure.exports.exporting import export
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion_xl import StableDiffusionXL


@pytest.fixture
def model(sdxl: Path) -> StableDiffusionXL:
    opened = load_model(str(sdxl))
    assert isinstance(opened, StableDiffusionXL)
    return opened


def test_a_condition_is_the_pipelines_own(model: StableDiffusionXL) -> None:
    want, empty, pooled, empty_pooled = model.pipeline.encode_prompt("a cat", device="cpu")
    condition = model.encode(["a cat", ""])
    assert torch.allclose(model.states(condition)[:1], want, atol=1e-6)
    assert torch.equal(model.states(condition)[1:], empty)  # zeros, as the pipeline's config says
    given = model._pipeline_inputs(condition)["pooled_prompt_embeds"]
    assert torch.allclose(given, torch.cat([pooled, empty_pooled]), atol=1e-6)


def test_an_empty_prompt_is_read_where_the_pipeline_reads_it(model: StableDiffusionXL) -> None:
    model.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    _, want, _, _ = model.pipeline.encode_prompt("a cat", device="cpu")
    assert torch.allclose(model.states(model.encode([""])), want, atol=1e-6)


def test_sample_path_ends_where_diffusers_ends(sdxl: Path, model: StableDiffusionXL) -> None:
    """The pooled embedding and the image's size reach the UNet as diffusers sends them."""
    from diffusers import DDIMScheduler

    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    path = model.sample_path(model.encode(["a cat"]), steps=4, guidance=3.0, noise=noise)
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    want = pipeline(
        "a cat", latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="latent"
    ).images
    assert torch.equal(path.timesteps, pipeline.scheduler.timesteps)
    assert torch.allclose(path.finished, want, atol=1e-4)


def test_generate_takes_prompts_and_conditions(model: StableDiffusionXL) -> None:
    def images(asked: object) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return model.generate(asked, steps=2, guidance=3.0, generators=generators)

    texts = ["a cat", "a dog"]
    plain, encoded = images(texts), images(model.encode(texts))
    assert plain.shape == (2, 3, 16, 16)
    assert (plain.int() - encoded.int()).abs().max() <= 1  # a rounding at most


def test_slots_filled_with_a_words_own_embeddings_change_nothing(model: StableDiffusionXL) -> None:
    """Both towers get their half of the vector, their own padding and the pooled end token."""
    words = model.pipeline.tokenizer("dog", add_special_tokens=False).input_ids
    slotted = model.open_slots([("a cat and a", "")], len(words))
    vectors = model.token_table[torch.tensor([words])]
    assert vectors.shape[-1] == 32 + 64
    got = model.encode_slots(slotted, vectors)
    assert torch.allclose(got, model.encode(["a cat and a dog"]), atol=1e-6)
    vectors = vectors.detach().clone().requires_grad_()
    model.encode_slots(slotted, vectors)[:, -1].sum().backward()  # through the pooled row alone
    assert vectors.grad is not None
    assert vectors.grad[..., 32:].abs().sum() > 0


@pytest.mark.parametrize("select", ["text", "text.layers", "text.mlp", "text.layer.0"])
def test_text_selections_hold_both_towers(model: StableDiffusionXL, select: str) -> None:
    names = model.weights(select)
    for tower in model.towers:
        assert any(name.startswith(f"{tower}.") for name in names), tower


def test_a_refiner_and_other_pipelines_are_refused(sdxl: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(sdxl, tmp_path / "other")
    index = folder / "model_index.json"
    record = json.loads(index.read_text())
    index.write_text(json.dumps({**record, "_class_name": "PixArtSigmaPipeline"}))
    with pytest.raises(
        ModelError, match=r"is a PixArtSigmaPipeline; supported are StableDiffusionPip"
    ):
        load_model(str(folder))
    index.write_text(json.dumps({**record, "text_encoder": [None, None]}))
    with pytest.raises(ModelError, match="one text encoder only"):
        load_model(str(folder))


def test_an_export_draws_the_same_in_plain_diffusers(sdxl: Path, tmp_path: Path) -> None:
    """Both encoders and the UNet of an edit, through StableDiffusionXLPipeline alone."""
    from contract import Case

    both = {"select": "text.layers,xattn"}
    result = Case("advunlearn", sdxl).run(tmp_path / "run", **both)
    assert {name.split(".")[0] for name in result.edit.tensors} == {
        "unet", "text_encoder", "text_encoder_2",
    }  # fmt: skip
    out = export(result.folder, tmp_path / "out")
    plain = StableDiffusionXLPipeline.from_pretrained(out, add_watermarker=False)
    generators = [torch.Generator().manual_seed(3)]
    drawn = plain("a cat", num_inference_steps=2, generator=generators, output_type="np").images
    generators = [torch.Generator().manual_seed(3)]
    want = result.model.generate(["a cat"], steps=2, guidance=5.0, generators=generators)
    got = torch.from_numpy(drawn).permute(0, 3, 1, 2).mul(255).round()
    assert (got - want).abs().max() <= 1  # a rounding at most
    assert "StableDiffusionXLPipeline.from_pretrained" in (out / "README.md").read_text()


def test_text_encoders_and_adapters_are_exported_alone(sdxl: Path, tmp_path: Path) -> None:
    from contract import Case
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    result = Case("advunlearn", sdxl).run(tmp_path / "text")
    out = export(result.folder, tmp_path / "encoders", to="text-encoder")
    ids = result.model.tokenize(["a cat"])
    for tower, kind in (
        ("text_encoder", CLIPTextModel),
        ("text_encoder_2", CLIPTextModelWithProjection),
    ):
        alone, own = kind.from_pretrained(out / tower), getattr(result.model.pipeline, tower)
        assert torch.allclose(alone(ids)[0], own(ids)[0], atol=1e-6)
    result = Case("gs-lora", sdxl).run(tmp_path / "lora")
    out = export(result.folder, tmp_path / "adapters", to="lora")
    plain = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
    plain.load_lora_weights(str(out), weight_name="cat.safetensors")
    z_t, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    condition = result.model.encode(["a cat"])
    want = result.model.predict(z_t, t, condition)
    result.model.pipeline.unet = plain.unet
    result.model._components["unet"] = plain.unet
    assert torch.allclose(result.model.predict(z_t, t, condition), want, atol=1e-5)
