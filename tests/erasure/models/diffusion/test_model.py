"""What all families promise: levels, target, denoised and predict agree, and paths go on."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from flow import MiniatureFlow
from torch import Tensor

from erasure.errors import DivergedError, SettingError
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import DiffusionModel, Known, guided
from erasure.models.diffusion.stable_diffusion import StableDiffusion


@pytest.fixture(params=["flow", "sd1", "sd2", "sdxl"])
def model(request: pytest.FixtureRequest) -> DiffusionModel:
    """In float64."""
    if request.param == "flow":
        return MiniatureFlow()
    made = load_model(str(request.getfixturevalue(request.param)), dtype=torch.float64)
    made.alphas_cumprod = made.alphas_cumprod.double()
    return made


def normal(model: DiffusionModel, count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, *model.latent_shape), generator=generator, dtype=torch.float64)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_prediction_that_is_the_target_gives_the_latents_back(model: DiffusionModel) -> None:
    z0, noise = normal(model), normal(model, seed=1)
    for t in (torch.tensor([1, 999]), model.random_times(2, source())):
        z_t = model.add_noise(z0, noise, t)
        signal, spread = model.levels(t)
        assert torch.equal(z_t, signal * z0 + spread * noise)
        found = model.denoised(z_t, model.target(z0, noise, t), t)
        assert torch.allclose(found, z0, rtol=1e-11, atol=1e-11)


def test_training_times_lie_in_the_schedule(model: DiffusionModel) -> None:
    t = model.random_times(1000, source(3))
    assert t.shape == (1000,)
    assert 0 <= t.min() < model.timesteps / 10
    assert 0.9 * model.timesteps < t.max() <= model.timesteps


def test_the_backbones_weights_are_called_after_it(model: DiffusionModel) -> None:
    own = {f"{model.backbone_name}.{name}" for name, _ in model.backbone.named_parameters()}
    assert own
    assert own == set(model.weights("full"))


def test_a_path_is_continued_from_each_step(model: DiffusionModel) -> None:
    """A sampled path, whose steps are another's, and its own, to the bit."""
    noise, condition = normal(model), model.encode(["a cat", "a dog"])
    path = model.sample_path(condition, steps=5, guidance=3.0, noise=noise)
    own: list[Tensor] = []

    def seen(z_t: Tensor, _t: Tensor, z0: Tensor) -> Tensor:
        own.append(z_t)
        return z0

    with torch.no_grad():
        for first in range(5):
            end = model.continue_path(
                path.latents[first], condition, steps=5, first=first, guidance=3.0,
                generator=source(), nudge=None if first else seen,
            )  # fmt: skip
            # the scheduler's own numbers are float32's
            assert torch.allclose(end, path.finished, rtol=1e-5, atol=1e-5)
        whole = model.continue_path(
            noise, condition, steps=5, guidance=3.0, generator=source(), nudge=None
        )
        for first in range(5):
            end = model.continue_path(
                own[first], condition, steps=5, first=first, guidance=3.0, generator=source()
            )
            assert torch.equal(end, whole)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_steps_are_those_of_diffusers(
    family: str, eta: float, request: pytest.FixtureRequest
) -> None:
    """DDIMScheduler, with the same noise; in float32, hence 1e-5 of values of a few units."""
    model = load_model(str(request.getfixturevalue(family)))
    z, condition = normal(model).float(), model.encode(["a cat", "a dog"])
    own = {**model.pipeline.scheduler.config, "prediction_type": "epsilon"}
    scheduler = DDIMScheduler.from_config(own, clip_sample=False)
    scheduler.set_timesteps(4)
    generator, want, empty = source(9), z, model.encode(["", ""])
    with torch.no_grad():
        for t in scheduler.timesteps:
            said = guided(model, want, t.expand(2), condition, empty, 2.0)
            fresh = torch.randn(z.shape, generator=generator) if eta else None
            want = scheduler.step(said, t, want, eta=eta, variance_noise=fresh).prev_sample  # type: ignore[arg-type]
        got = model.continue_path(z, condition, steps=4, guidance=2.0, eta=eta, generator=source(9))
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_the_descent_is_the_schedulers(sd1: Path, spacing: str) -> None:
    """Also with steps that do not divide the timesteps, and an end that is all signal."""
    model = load_model(str(sd1))
    model.pipeline.scheduler = DDIMScheduler.from_config(
        model.pipeline.scheduler.config, timestep_spacing=spacing, set_alpha_to_one=True
    )
    noise, condition = normal(model).float(), model.encode(["a cat", "a dog"])
    path = model.sample_path(condition, steps=12, guidance=1.5, noise=noise)
    times, arrivals = model.descent(12)
    assert torch.equal(times, path.timesteps)
    assert arrivals[:, -1].tolist() == [1, 0]
    with torch.no_grad():
        end = model.continue_path(noise, condition, steps=12, guidance=1.5, generator=source())
    assert torch.allclose(end, path.finished, atol=2e-5)


@pytest.mark.parametrize("first", [-1, 4])
def test_a_path_is_continued_at_one_of_its_steps(first: int) -> None:
    model = MiniatureFlow()
    with pytest.raises(SettingError, match="first must be from 0 to 3, the last step"):
        model.continue_path(
            normal(model), model.encode(["", ""]), steps=4, first=first, guidance=1,
            generator=source(),
        )  # fmt: skip


class Knowing(MiniatureFlow):
    """Predicts what leads to latents that it knows."""

    known: Tensor

    def predict(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:  # noqa: ARG002
        return (z_t - self.known) / self.levels(t)[1]


@pytest.mark.parametrize(("eta", "churn"), [(0, 1), (1, 1), (1.85, 1.04)])
def test_whoever_knows_the_latents_arrives_at_them(eta: float, churn: float) -> None:
    model = Knowing()
    model.known = normal(model, seed=5)
    end = model.continue_path(
        normal(model), model.encode(["", ""]), steps=6, first=2, guidance=1, eta=eta, churn=churn,
        generator=source(),
    )  # fmt: skip
    assert torch.allclose(end, model.known, atol=1e-12)


def test_reversed_diffusion_keeps_the_levels() -> None:
    """With eta 1 and z0 known, latents before each step hold spread^2 of noise, as add_noise's."""
    model = Knowing()
    model.known = torch.zeros(4000, *model.latent_shape, dtype=torch.float64)
    seen: list[tuple[float, float]] = []

    def note(z_t: Tensor, t: Tensor, z0: Tensor) -> Tensor:
        seen.append((float(z_t.std()), float(model.levels(t[:1])[1])))
        return z0

    model.continue_path(
        normal(model, 4000), model.encode([""]).expand(4000, -1, -1), steps=6, guidance=1, eta=1.0,
        nudge=note, generator=source(),
    )  # fmt: skip
    for got, spread in seen:  # 128000 values: 1 % is five standard errors
        assert got == pytest.approx(spread, rel=1e-2)


def test_the_known_part_stays_and_the_rest_is_drawn(model: DiffusionModel) -> None:
    z0, condition = normal(model, seed=7), model.encode(["a cat", "a dog"])
    is_kept = torch.zeros(2, 1, *model.latent_shape[1:], dtype=torch.bool)
    is_kept[:, :, :2] = True
    seen: list[tuple[Tensor, Tensor]] = []

    def note(z_t: Tensor, t: Tensor, predicted: Tensor) -> Tensor:
        seen.append((z_t, t))
        return predicted

    with torch.no_grad():
        end = model.continue_path(
            normal(model), condition, steps=4, guidance=2.0, known=Known(z0, is_kept), nudge=note,
            generator=source(4),
        )  # fmt: skip
    noise = torch.randn(z0.shape, generator=source(4), dtype=z0.dtype)
    for z_t, t in seen:
        want = model.add_noise(z0, noise, t)
        assert torch.equal(z_t[:, :, :2], want[:, :, :2])
        assert not torch.isclose(z_t[:, :, 2:], want[:, :, 2:]).any()
    assert torch.equal(end[:, :, :2], z0[:, :, :2])


def test_a_nudge_is_a_classifiers_guidance(sd1: Path) -> None:
    """eps - spread * gradient, as Dhariwal and Nichol 2021 (alg. 2) have it."""
    model = load_model(str(sd1), dtype=torch.float64)
    model.alphas_cumprod = model.alphas_cumprod.double()
    z, slope, condition = normal(model), normal(model, seed=2), model.encode(["a cat", "a dog"])

    def nudge(_z: Tensor, t: Tensor, z0: Tensor) -> Tensor:
        signal, spread = model.levels(t)
        return z0 + spread**2 / signal * slope

    with torch.no_grad():
        got = model.continue_path(
            z, condition, steps=3, guidance=1, nudge=nudge, generator=source()
        )
        times, arrivals = model.descent(3)
        for time, (signal_after, after) in zip(times, arrivals.T, strict=True):
            t = time.expand(2)
            signal, spread = model.levels(t)
            eps = model.predict(z, t, condition) - spread * slope
            z = signal_after * (z - spread * eps) / signal + after * eps
    assert torch.allclose(got, z, rtol=1e-9)


def test_gradients_reach_the_start_of_a_path(model: DiffusionModel) -> None:
    z = normal(model).requires_grad_(True)
    end = model.continue_path(
        z, model.encode(["a cat", "a dog"]), steps=2, guidance=2.0, generator=source()
    )
    (slope,) = torch.autograd.grad(end.sum(), [z])
    assert bool((slope != 0).any())


def test_a_picture_that_is_not_finite_is_not_a_black_one(sd2: Path) -> None:
    model = load_model(str(sd2))
    latents = normal(model).float()
    assert model.to_images(latents).shape[0] == len(latents)
    latents[-1, 0, 0, 0] = torch.nan
    with pytest.raises(DivergedError, match="diverged, or its autoencoder overflows in float32"):
        model.to_images(latents)


def test_noise_alone_is_not_continued_where_it_is_all_there_is(sd2: Path) -> None:
    """Noise does not say what z0 is where the schedule has no signal; one step later it does."""
    model: StableDiffusion = load_model(str(sd2))  # type: ignore[assignment]
    model.pipeline.scheduler = DDIMScheduler.from_config(
        model.pipeline.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    model.alphas_cumprod = model.pipeline.scheduler.alphas_cumprod
    noise, condition = normal(model).float(), model.encode(["a cat", "a dog"])
    path = model.sample_path(condition, steps=4, guidance=3.0, noise=noise)
    with torch.no_grad():
        with pytest.raises(DivergedError, match="from step 0 is not finite"):
            model.continue_path(noise, condition, steps=4, guidance=3.0, generator=source())
        end = model.continue_path(
            path.latents[1], condition, steps=4, first=1, guidance=3.0, generator=source()
        )
    assert torch.allclose(end, path.finished, atol=1e-4)
