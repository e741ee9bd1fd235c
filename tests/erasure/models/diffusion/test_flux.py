"""FLUX.1 against diffusers' own pipeline: dev with its guidance, schnell with none."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from contract import Case
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn import functional as F

from erasure.errors import EditError, ModelError, SettingError
from erasure.exports.exporting import export
from erasure.methods.diffusion.esd import weights_of
from erasure.models.diffusion.flux import Flux
from erasure.models.diffusion.load import load_model

BOTH = pytest.mark.parametrize("form", ["flux", "schnell"])
ASKED = {"num_inference_steps": 3, "guidance_scale": 3.0, "max_sequence_length": 32}


@pytest.fixture
def model(flux: Path) -> Flux:
    return opened(flux)


def opened(folder: Path) -> Flux:
    model = load_model(str(folder))
    assert isinstance(model, Flux)
    return model


def plain(folder: Path) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(count: int = 1) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def drawn(pipeline: FluxPipeline, noise: Tensor) -> Tensor:
    """Finished latents by diffusers, (b, c, h, w)."""
    count, channels, height, width = noise.shape
    packed = pipeline._pack_latents(noise, count, channels, height, width)
    given = {"latents": packed, "height": 16, "width": 16, "output_type": "latent"}
    found = pipeline(["a cat"] * count, **ASKED, **given).images
    return pipeline._unpack_latents(found, 16, 16, 2)


def test_a_condition_is_the_pipelines_own(model: Flux) -> None:
    rows, pooled, _ = model.pipeline.encode_prompt(["a cat", ""], None, max_sequence_length=32)
    condition = model.encode(["a cat", ""])
    assert condition.shape == (2, 32 + 1, 32)
    assert torch.allclose(model.states(condition), rows, atol=1e-6)
    assert torch.allclose(model.pooled(condition), pooled, atol=1e-6)


def test_a_name_ends_where_t5_reads_its_end(model: Flux) -> None:
    (part,) = model.text_parts()
    tokenizer = model.pipeline.tokenizer_2
    read = tokenizer.convert_ids_to_tokens(tokenizer("a photo of a cat on a tree").input_ids)
    assert read[part.count("a photo of a cat")] == "\u2581cat"
    model.check_window([" ".join(["cat"] * 31)])
    with pytest.raises(SettingError, match="at most 31 tokens"):
        model.check_window([" ".join(["cat"] * 32)])


@BOTH
def test_the_pipeline_asks_the_transformer_as_a_drawing_does(
    form: str, request: pytest.FixtureRequest
) -> None:
    """Its packing, places, times and guidance; `predict` asks dev with another guidance."""
    model, asked = opened(request.getfixturevalue(form)), []
    pipeline = plain(request.getfixturevalue(form))

    def note(_module: object, _args: tuple, given: dict, answer: tuple) -> None:
        asked.append((given["hidden_states"], given["timestep"], answer[0]))

    pipeline.transformer.register_forward_hook(note, with_kwargs=True)
    drawn(pipeline, latents())
    assert len(asked) == 3
    condition = model.encode(["a cat"])
    for rows, t, answer in asked:
        z_t, want = (pipeline._unpack_latents(part, 16, 16, 2) for part in (rows, answer))
        got = model.predict_guided(z_t, 1000 * t, condition, condition, 3.0)
        assert torch.allclose(got, want, atol=1e-5)
        trained = model.predict(z_t, 1000 * t, condition)
        assert torch.allclose(trained, want, atol=1e-5) == (form == "schnell")


@BOTH
def test_paths_end_where_diffusers_ends(form: str, request: pytest.FixtureRequest) -> None:
    model, pipeline = (make(request.getfixturevalue(form)) for make in (opened, plain))
    noise, condition = latents(2), model.encode(["a cat", "a cat"])
    path = model.sample_path(condition, steps=3, guidance=3.0, noise=noise)
    want = drawn(pipeline, noise)
    assert torch.allclose(path.timesteps, pipeline.scheduler.timesteps)
    assert torch.allclose(path.finished, want, atol=1e-4)
    with torch.no_grad():
        ended = model.continue_path(path.latents[1], condition, steps=3, first=1, guidance=3.0,
                                    generator=torch.Generator())  # fmt: skip
        said = model.predict(path.latents[2], path.timesteps[2:3].expand(2), condition)
    assert torch.allclose(ended, want, atol=1e-4)
    # what dev says at another guidance than a training's is no training's target
    assert (path.asked is None) == (form == "flux")
    assert path.asked is None or torch.allclose(path.asked[2], said, atol=1e-5)


@BOTH
def test_generate_draws_as_plain_diffusers(form: str, request: pytest.FixtureRequest) -> None:
    model, pipeline = (make(request.getfixturevalue(form)) for make in (opened, plain))
    texts = ["a cat", "a dog"]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    found = pipeline(texts, **ASKED, generator=generators(), height=16, width=16, output_type="pt")
    want = found.images.mul(255).round()
    for asked in (texts, model.encode(texts)):
        got = model.generate(asked, steps=3, guidance=3.0, generators=generators())
        assert (got - want).abs().max() <= 1  # a rounding at most


def test_times_shift_with_the_size_in_dev_alone(flux: Path, schnell: Path) -> None:
    def logits(model: Flux) -> Tensor:
        times = model.random_times(20_000, torch.Generator().manual_seed(0))
        return (times / 1000).logit()

    dev = opened(flux)
    small = logits(dev)
    dev.use_resolution(256)  # 128 by 128 latents, 4096 places
    # a shift by mu moves the logit by it: 1.15 at 4096 places, on a line that 256 have at 0.5
    assert float(logits(dev).mean()) == pytest.approx(1.15, abs=0.03)
    assert float(small.mean()) == pytest.approx(0.5 - 240 * 0.65 / 3840, abs=0.03)
    assert float(logits(opened(schnell)).mean()) == pytest.approx(0, abs=0.03)


def test_a_target_is_the_velocity_on_latents_that_are_not_packed(model: Flux) -> None:
    z0, noise, t = latents(2), latents(2).flip(0), torch.tensor([300.0, 900.0])
    z_t = model.add_noise(z0, noise, t)
    assert torch.allclose(model.denoised(z_t, model.target(z0, noise, t), t), z0, atol=1e-5)
    condition = model.encode(["a cat", "a dog"])
    condition.requires_grad_()
    F.mse_loss(model.predict(z_t, t, condition), noise - z0).backward()
    assert condition.grad is not None
    assert bool(condition.grad[:, -1, :16].any())  # the pooled embedding
    assert not bool(condition.grad[:, -1, 16:].any())  # what it is padded with
    assert bool(condition.grad[:, 0].any())


def test_groups_and_selections_name_both_sorts_of_blocks(model: Flux) -> None:
    assert set(model.weights("text.in")) == {
        "transformer.context_embedder.weight", "transformer.context_embedder.bias",
    }  # fmt: skip
    assert len(model.weights("pooled.in")) == 2
    assert len(model.weights("xattn.kv")) == 4
    assert all(".single_transformer_blocks." in name for name in model.weights("single"))
    assert [len(names) for names in model.groups("ffn")] == [4, 2]
    assert [len(names) for names in model.groups("attention")] == [8, 3]
    assert not weights_of(model, "u").keys() & model.weights("xattn").keys()


def test_an_adapter_draws_the_same_in_plain_diffusers(flux: Path, tmp_path: Path) -> None:
    result = Case("gs-lora", flux).run(tmp_path / "run", place="both")
    export(result.folder, tmp_path / "out", to="lora")
    pipeline = plain(flux)
    base = drawn(pipeline, latents())
    pipeline.load_lora_weights(tmp_path / "out", weight_name="cat.safetensors")
    edited = drawn(pipeline, latents())
    path = result.model.sample_path(
        result.model.encode(["a cat"]), steps=3, guidance=3.0, noise=latents()
    )
    assert torch.allclose(path.finished, edited, atol=1e-4)
    assert not torch.allclose(base, edited, atol=1e-3)


def test_an_export_keeps_how_it_is_drawn(flux: Path, tmp_path: Path) -> None:
    result = Case("uce", flux).run(tmp_path / "run")
    out = export(result.folder, tmp_path / "out")
    again = opened(out)
    assert (again.resolution, again.rows, again.sampling) == (16, 32, result.model.sampling)
    condition = again.encode(["a cat"])
    path = again.sample_path(condition, steps=3, guidance=3.0, noise=latents())
    assert torch.allclose(path.finished, drawn(plain(out), latents()), atol=1e-4)
    assert "height=16, width=16" in (out / "README.md").read_text()


def test_uce_rewrites_what_t5_and_clip_are_read_through(flux: Path, tmp_path: Path) -> None:
    """The concept's last row of T5's, and its pooled embedding, now give what the anchor's did."""
    result = Case("uce", flux).run(tmp_path / "run", stay=1e-6, preserve_weight=0.0)
    model, prompts = result.model, [
        text
        for concept in result.edit.concepts
        for text in (concept.prompts()[0], concept.anchor_prompts()[0])
    ]  # fmt: skip
    with torch.no_grad():
        condition = model.encode(prompts)
    rows = [model.token_count(text) for text in prompts]
    maps = {
        "transformer.context_embedder": model.states(condition)[torch.arange(2), rows],
        "transformer.time_text_embed.text_embedder.linear_1": model.pooled(condition),
    }
    for name, (concept, anchor) in maps.items():
        now = F.linear(concept, model.module(name).weight)  # the bias stays
        was, wanted = (
            F.linear(row, model.originals[f"{name}.weight"]) for row in (concept, anchor)
        )
        assert (now - wanted).norm() < 0.05 * (was - wanted).norm(), name


def test_what_does_not_fit_is_refused(flux: Path, model: Flux, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="FLUX reads its text from T5"):
        model.open_slots([("a cat and", "")], 2)
    with pytest.raises(SettingError, match="must be a multiple of 4; got 18"):
        model.use_resolution(18)
    result = Case("uce", flux).run(tmp_path / "run")
    with pytest.raises(EditError, match=r"1\.x, 2\.x and XL, and .* samples a flow"):
        export(result.folder, tmp_path / "no", to="single-file")
    changed(flux, tmp_path / "fill", "transformer/config.json", in_channels=20)
    with pytest.raises(ModelError, match=r"fill/transformer: .*expected shape .*20.*got .*16"):
        load_model(str(tmp_path / "fill"))
    changed(flux, tmp_path / "no-t5", "model_index.json", text_encoder_2=[None, None])
    with pytest.raises(ModelError, match="has no text_encoder_2, T5's"):
        load_model(str(tmp_path / "no-t5"))
    changed(
        flux,
        tmp_path / "sd3",
        "model_index.json",
        transformer=["diffusers", "SD3Transformer2DModel"],
    )
    with pytest.raises(ModelError, match="must be FluxTransformer2DModel"):
        load_model(str(tmp_path / "sd3"))


def changed(folder: Path, other: Path, name: str, **fields: object) -> None:
    """A copy of the folder with other fields in one of its records."""
    shutil.copytree(folder, other)
    held = json.loads((other / name).read_text())
    (other / name).write_text(json.dumps({**held, **fields}))
