"""One-step generators: the formula, plain diffusers, more steps, folders."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from contract import Case
from diffusers import StableDiffusionPipeline

from erasure.erasing import erase
from erasure.errors import ModelError, SettingError
from erasure.exports.exporting import export
from erasure.exports.writing.saving import save_model
from erasure.models.diffusion.load import load_generator, load_model
from erasure.models.diffusion.one_step import ONE_STEP, OneStep, one_step_scheduler


def generator_on(folder: Path) -> OneStep:
    model = load_model(str(folder))
    return OneStep.on(model, deepcopy(model.pipeline.unet), name="generator")


@pytest.mark.parametrize("shape", ["sd1", "sd2"])
def test_one_call_is_the_papers_formula(shape: str, request: pytest.FixtureRequest) -> None:
    generator = generator_on(request.getfixturevalue(shape))
    teacher = load_model(str(request.getfixturevalue(shape)))
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    condition, t = generator.encode(["a cat", "a dog"]), torch.full((2,), 625)
    abar = teacher.alphas_cumprod[625]
    with torch.no_grad():
        said = teacher.predict((1 - abar).sqrt() * z, t, condition)
        want = (1 / abar - 1).sqrt() * (z - said)
        assert torch.allclose(generator.one_call(z, condition), want, atol=1e-4)


@pytest.mark.parametrize("shape", ["sd1", "sd2"])
def test_plain_diffusers_draws_the_same(
    shape: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    generator = generator_on(request.getfixturevalue(shape))
    save_model(generator, tmp_path / "out")
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    options = {"guidance_scale": 1.0, "num_inference_steps": 1, "output_type": "latent"}
    rngs = [torch.Generator().manual_seed(i) for i in range(2)]
    drawn = plain(["a cat", "a dog"], generator=rngs, **options).images
    z = torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    )
    with torch.no_grad():
        own = generator.one_call(z, generator.encode(["a cat", "a dog"]))
    assert torch.allclose(drawn, own, atol=1e-5 * float(own.abs().max()))
    reopened = load_model(str(tmp_path / "out"))
    assert isinstance(reopened, OneStep)
    assert reopened.sampling == generator.sampling


def test_a_forgetting_generator_is_exported_and_drawn_without_us(sd2: Path, tmp_path: Path) -> None:
    result = Case("sfd", sd2).run(tmp_path / "run")
    assert result.edit.sampling == ONE_STEP
    assert isinstance(result.model, OneStep)
    out = export(tmp_path / "run", tmp_path / "out")
    assert "num_inference_steps=1" in (out / "README.md").read_text()
    plain = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    rng = torch.Generator().manual_seed(3)
    options = {"guidance_scale": 1.0, "num_inference_steps": 1, "output_type": "pt"}
    drawn = plain(["a cat"], generator=[rng], **options).images
    own = result.model.generate(
        ["a cat"], steps=1, guidance=1.0, generators=[torch.Generator().manual_seed(3)]
    )
    assert (drawn.mul(255).round() - own).abs().max() <= 1


def test_more_steps_go_on_from_the_first(sd1: Path) -> None:
    generator = generator_on(sd1)
    drawn = {
        steps: generator.generate(
            ["a cat"], steps=steps, guidance=1.0, generators=[torch.Generator().manual_seed(0)]
        )
        for steps in (1, 2, 4)
    }
    assert len({image.numpy().tobytes() for image in drawn.values()}) == 3
    again = generator.generate(
        ["a cat"], steps=2, guidance=1.0, generators=[torch.Generator().manual_seed(0)]
    )
    assert torch.equal(drawn[2], again)


def test_a_schedule_that_ends_early_is_the_same_schedule(sd1: Path) -> None:
    teacher = load_model(str(sd1))
    short = one_step_scheduler(dict(teacher.pipeline.scheduler.config), 625)
    assert torch.allclose(short.alphas_cumprod, teacher.alphas_cumprod[:626], atol=1e-6)
    with pytest.raises(ModelError, match="squaredcos"):
        one_step_scheduler(
            {**teacher.pipeline.scheduler.config, "beta_schedule": "squaredcos_cap_v2"}
        )


def test_a_generator_of_another_shape_is_refused(sd1: Path, sd2: Path) -> None:
    with pytest.raises(SettingError, match="generator must have"):
        load_generator(str(sd2), load_model(str(sd1)))


def test_a_generator_is_no_model_for_other_methods(sd1: Path, tmp_path: Path) -> None:
    save_model(generator_on(sd1), tmp_path / "out")
    with pytest.raises(ModelError, match="erase with sfd"):
        erase(str(tmp_path / "out"), "uce", ["cat"], out=tmp_path / "run", kind="object")
    assert not (tmp_path / "run").exists()
