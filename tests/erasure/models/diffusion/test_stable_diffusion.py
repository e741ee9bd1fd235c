from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from erasure.errors import ModelError, SettingError
from erasure.models.diffusion.load import load_model
from erasure.models.select import select_names


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 4, 8, 8, generator=generator), torch.tensor([100, 900][:batch])


def test_v_prediction_is_converted_to_noise(sd2: Path) -> None:
    """From v and z_t, z0 = a z_t - s v; then noise = (z_t - a z0) / s."""
    model, pipeline = load_model(str(sd2)), StableDiffusionPipeline.from_pretrained(sd2)
    z_t, t = inputs()
    condition = model.encode(["a cat", "a dog"])
    v = pipeline.unet(z_t, t, condition).sample
    alpha_bar = pipeline.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    z0 = alpha_bar.sqrt() * z_t - (1 - alpha_bar).sqrt() * v
    noise = (z_t - alpha_bar.sqrt() * z0) / (1 - alpha_bar).sqrt()
    assert torch.allclose(model.predict(z_t, t, condition), noise, atol=1e-5)


def test_encode_is_the_pipelines_own(sd1: Path) -> None:
    model = load_model(str(sd1))
    want, _ = model.pipeline.encode_prompt("a cat", "cpu", 1, False)
    assert torch.equal(model.encode(["a cat"]), want)


def test_sample_path_ends_where_diffusers_ends(sd1: Path) -> None:
    """The same noise through diffusers' pipeline with DDIM gives the same latents."""
    from diffusers import DDIMScheduler

    model = load_model(str(sd1))
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    path = model.sample_path(model.encode(["a cat"]), steps=4, guidance=3.0, noise=noise)
    pipeline = StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    want = pipeline(
        "a cat", latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="latent"
    ).images
    assert path.latents.shape == (4, 1, 4, 8, 8)
    for prompt, said in (("a cat", path.asked), ("", path.none)):
        again = model.predict(path.latents[2], path.timesteps[2:3], model.encode([prompt]))
        assert torch.allclose(said[2], again, atol=1e-6)
    assert torch.equal(path.timesteps, pipeline.scheduler.timesteps)
    assert torch.allclose(path.finished, want, atol=1e-4)


def test_images_decoded_in_parts_are_the_pipelines(sd1: Path) -> None:
    """Nine images, of which at most eight are decoded at once, to within a grey level."""
    model = load_model(str(sd1))

    def seeds() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(9)]

    images = model.generate(["a cat"] * 9, steps=2, guidance=3.0, generators=seeds())
    plain = model.pipeline(
        ["a cat"] * 9, num_inference_steps=2, guidance_scale=3.0, generator=seeds(),
        output_type="pt",
    ).images  # fmt: skip
    assert (images.float() - plain.mul(255)).abs().max() <= 1


def test_generate_is_reproducible_per_image(sd1: Path) -> None:
    model = load_model(str(sd1))

    def images(seeds: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        return model.generate(["a cat"] * len(seeds), steps=2, guidance=3.0, generators=generators)

    both, second = images([1, 2]), images([2])
    assert both.dtype == torch.uint8
    assert both.shape == (2, 3, 16, 16)
    assert (both[1].int() - second[0].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("select", "holds", "lacks"),
    [
        ("xattn", "attn2", "attn1"),
        ("xattn.kv", "attn2.to_", "attn2.to_q"),
        ("selfattn", "attn1", "attn2"),
        ("text.mlp", "mlp", "self_attn"),
        ("unet.mid_block.*", "mid_block", "down_blocks"),
    ],
)
def test_selections(sd1: Path, select: str, holds: str, lacks: str) -> None:
    names = load_model(str(sd1)).weights(select)
    assert names
    assert all(holds in name and lacks not in name for name in names)


def test_noxattn_leaves_cross_attention_and_time_embedding_out(sd1: Path) -> None:
    model = load_model(str(sd1))
    rest = set(model.weights("full")) - set(model.weights("noxattn"))
    assert rest == {
        name
        for name in model.weights("full")
        if "attn2" in name or name.startswith("unet.time_embedding")
    }


def test_an_empty_selection_is_an_error() -> None:
    with pytest.raises(
        SettingError,
        match=r"select must match at least one weight; 'xatn' matched none. Known: full, xattn",
    ):
        select_names("xatn", ["unet.a"])


def test_refuses_pickles_and_strangers(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled checkpoint"):
        load_model(str(tmp_path / "model.ckpt"))
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        load_model(str(tmp_path))
    (tmp_path / "one.safetensors").touch()
    with pytest.raises(ModelError, match=r"Of the files in it name one: .*one\.safetensors\."):
        load_model(str(tmp_path))
    with pytest.raises(ModelError, match=r"or a pipeline of diffusers; got a Linear\.$"):
        load_model(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    for name in ("no-such-model", Path("no-such-model")):
        with pytest.raises(ModelError, match="must be pocket"):
            load_model(name)
    with pytest.raises(ModelError, match="there is no file"):
        load_model(str(tmp_path / "gone.safetensors"))


def test_refuses_a_damaged_file(tmp_path: Path, sd1: Path) -> None:
    import shutil

    folder = shutil.copytree(sd1, tmp_path / "damaged")
    file = next((folder / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="could not load"):
        load_model(str(folder))


def test_refuses_a_folder_with_pickled_weights_only(tmp_path: Path, sd1: Path) -> None:
    import shutil

    folder = shutil.copytree(sd1, tmp_path / "pickled")
    next((folder / "unet").glob("*.safetensors")).rename(
        folder / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(ModelError, match="only the pickled"):
        load_model(str(folder))
