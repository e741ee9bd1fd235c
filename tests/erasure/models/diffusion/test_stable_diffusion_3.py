"""Stable Diffusion 3 against diffusers' own pipeline, and by the formulas of rectified flow."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from erasure.errors import ModelError, SettingError
from erasure.exports.exporting import export
from erasure.methods.diffusion.esd import weights_of
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion_3 import StableDiffusion3


@pytest.fixture
def model(sd3: Path) -> StableDiffusion3:
    opened = load_model(str(sd3))
    assert isinstance(opened, StableDiffusion3)
    return opened


def plain(folder: Path) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(count: int = 1) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def test_a_condition_is_the_pipelines_own(model: StableDiffusion3) -> None:
    rows, empty_rows, pooled, empty_pooled = model.pipeline.encode_prompt(
        "a cat", None, None, device="cpu", max_sequence_length=3
    )
    condition = model.encode(["a cat", ""])
    assert condition.shape == (2, 32 + 3 + 1, 104)
    given = model._pipeline_inputs(condition)
    assert torch.allclose(given["prompt_embeds"], torch.cat([rows, empty_rows]), atol=1e-6)
    want = torch.cat([pooled, empty_pooled])
    assert torch.allclose(given["pooled_prompt_embeds"], want, atol=1e-6)
    assert torch.equal(model.states(condition), condition[:, :32])


def test_the_pipeline_asks_the_transformer_as_predict_does(
    sd3: Path, model: StableDiffusion3
) -> None:
    pipeline, asked = plain(sd3), []

    def note(_module: object, _args: tuple, given: dict, answer: tuple) -> None:
        asked.append((given["hidden_states"], given["timestep"], answer[0]))

    pipeline.transformer.register_forward_hook(note, with_kwargs=True)
    pipeline("a cat", num_inference_steps=3, guidance_scale=1.0, max_sequence_length=3,
             latents=latents(), output_type="latent")  # fmt: skip
    assert len(asked) == 3
    for z_t, t, answer in asked:
        got = model.predict(z_t, t, model.encode(["a cat"]))
        assert torch.allclose(got, answer, atol=1e-5)


def test_sample_path_ends_where_diffusers_ends(sd3: Path, model: StableDiffusion3) -> None:
    path = model.sample_path(model.encode(["a cat"]), steps=4, guidance=3.0, noise=latents())
    pipeline = plain(sd3)
    want = pipeline("a cat", latents=latents(), num_inference_steps=4, guidance_scale=3.0,
                    max_sequence_length=3, output_type="latent").images  # fmt: skip
    assert torch.allclose(path.timesteps, pipeline.scheduler.timesteps)
    assert torch.allclose(path.finished, want, atol=1e-4)
    with torch.no_grad():
        t = path.timesteps[2:3]
        asked = model.predict(path.latents[2], t, model.encode(["a cat"]))
    assert torch.allclose(path.asked[2], asked, atol=1e-5)


def test_continue_path_walks_the_same_way(model: StableDiffusion3) -> None:
    condition = model.encode(["a cat"])
    path = model.sample_path(condition, steps=4, guidance=3.0, noise=latents())
    with torch.no_grad():
        ended = model.continue_path(path.latents[1], condition, steps=4, first=1, guidance=3.0,
                                    generator=torch.Generator())  # fmt: skip
    assert torch.allclose(ended, path.finished, atol=1e-4)


def test_times_levels_target_and_denoised_are_rectified_flows(model: StableDiffusion3) -> None:
    t = torch.tensor([0.0, 250.0, 999.5])
    signal, spread = model.levels(t)
    assert torch.allclose(spread.flatten(), t / 1000)
    assert torch.allclose(signal + spread, torch.ones(3, 1, 1, 1))
    z0, noise = latents(3), latents(3).flip(0)
    z_t = model.add_noise(z0, noise, t)
    velocity = model.target(z0, noise, t)
    assert torch.allclose(z_t + (1 - spread) * velocity, noise, atol=1e-5)
    assert torch.allclose(model.denoised(z_t, velocity, t), z0, atol=1e-5)
    times = model.random_times(20_000, torch.Generator().manual_seed(0))
    # the logit of a time shifted by 3 is log 3 larger; its deviation stays 1
    logits = (times / 1000).logit()
    assert abs(float(logits.mean()) - 1.0986) < 0.03
    assert abs(float(logits.std()) - 1) < 0.02


def test_latents_are_shifted_as_the_pipeline_does(model: StableDiffusion3) -> None:
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    vae = model.pipeline.vae
    with torch.no_grad():
        mean = vae.encode(images / 127.5 - 1).latent_dist.mode()
        assert torch.allclose(model.to_latents(images), (mean - 0.06) * 1.5, atol=1e-5)
        pixels = vae.decode(latents() / 1.5 + 0.06).sample
    want = pixels.add(1).div(2).clamp(0, 1).mul(255).round()
    assert (model.to_images(latents()) - want).abs().max() <= 1  # a rounding at most


def test_generate_draws_as_plain_diffusers(sd3: Path, model: StableDiffusion3) -> None:
    def images(asked: object) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return model.generate(asked, steps=2, guidance=3.0, generators=generators)

    texts = ["a cat", "a dog"]
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    drawn = plain(sd3)(texts, num_inference_steps=2, guidance_scale=3.0, max_sequence_length=3,
                       generator=generators, height=16, width=16, output_type="pt")  # fmt: skip
    want = drawn.images.mul(255).round()
    for asked in (texts, model.encode(texts)):
        assert (images(asked) - want).abs().max() <= 1  # a rounding at most


def test_slots_filled_with_a_words_own_embeddings_change_nothing(model: StableDiffusion3) -> None:
    words = model.pipeline.tokenizer("dog", add_special_tokens=False).input_ids
    slotted = model.open_slots([("a cat and a", "")], len(words))
    vectors = model.token_table[torch.tensor([words])]
    got = model.encode_slots(slotted, vectors)
    assert torch.allclose(got, model.encode(["a cat and a dog"]), atol=1e-6)


def test_t5_is_read_beside_the_towers(sd3_with_t5: Path) -> None:
    model = load_model(str(sd3_with_t5))
    assert isinstance(model, StableDiffusion3)
    want, _, _, _ = model.pipeline.encode_prompt(
        "a cat", None, None, device="cpu", max_sequence_length=3
    )
    condition = model.encode(["a cat"])
    assert condition.shape == (1, 32 + 3 + 1, 104)
    assert torch.allclose(condition[:, :-1], want, atol=1e-6)
    assert bool(condition[:, 32:35].any())
    assert not any(name.startswith("text_encoder_3") for name in model.parameters())
    assert any(name.startswith("beside.") for name in model.constants())


def test_groups_and_selections_name_the_joint_blocks(model: StableDiffusion3) -> None:
    assert set(model.weights("text.in")) == {
        "transformer.context_embedder.weight", "transformer.context_embedder.bias",
    }  # fmt: skip
    assert all("add_k" in name or "add_v" in name for name in model.weights("xattn.kv"))
    # the last block gives no text on
    assert [len(names) for names in model.groups("ffn")] == [4, 2]
    assert [len(names) for names in model.groups("attention")] == [8, 7]
    assert any(name.startswith("text_encoder_2.") for name in model.weights("text.layers"))


def test_esds_words_leave_the_texts_side_of_attention_out(model: StableDiffusion3) -> None:
    names = weights_of(model, "u").keys()
    assert not any("attn.add_" in name or "to_add_out" in name for name in names)
    assert names | model.weights("xattn").keys() >= weights_of(model, "all").keys()


def test_an_adapter_draws_the_same_in_plain_diffusers(sd3: Path, tmp_path: Path) -> None:
    from contract import Case

    result = Case("gs-lora", sd3).run(tmp_path / "run", place="both")
    out = export(result.folder, tmp_path / "out", to="lora")
    pipeline = plain(sd3)
    pipeline.load_lora_weights(out, weight_name="cat.safetensors")
    drawn = pipeline("a cat", num_inference_steps=2, guidance_scale=3.0, max_sequence_length=3,
                     latents=latents(), output_type="latent").images  # fmt: skip
    path = result.model.sample_path(
        result.model.encode(["a cat"]), steps=2, guidance=3.0, noise=latents()
    )
    assert torch.allclose(path.finished, drawn, atol=1e-4)
    base = plain(sd3)("a cat", num_inference_steps=2, guidance_scale=3.0, max_sequence_length=3,
                      latents=latents(), output_type="latent").images  # fmt: skip
    assert not torch.allclose(base, drawn, atol=1e-3)


def test_what_does_not_fit_is_refused(sd3: Path, model: StableDiffusion3, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="DDIMScheduler cannot sample it"):
        model.use_scheduler("DDIMScheduler")
    model.use_resolution(32)
    with pytest.raises(SettingError, match="must be at most 32; got 64"):
        model.use_resolution(64)
    with pytest.raises(SettingError, match="must be a multiple of 4; got 18"):
        model.use_resolution(18)
    folder = shutil.copytree(sd3, tmp_path / "other")
    file = folder / "scheduler" / "scheduler_config.json"
    held = json.loads(file.read_text())
    file.write_text(json.dumps({**held, "invert_sigmas": True}))
    with pytest.raises(ModelError, match="must be one of flow matching"):
        load_model(str(folder))
