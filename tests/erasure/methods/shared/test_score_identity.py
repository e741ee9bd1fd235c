"""The two losses of score identity distillation against a second computation in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from erasure.methods.shared.score_identity import Draw, Rules, fake_loss, generator_loss
from erasure.models.diffusion.model import DiffusionModel, guided
from erasure.models.diffusion.noise_prediction import NoisePrediction

ABAR = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64)


class Stub:
    """A network that is one matrix, a bend, and the condition's mean."""

    add_noise, levels = DiffusionModel.add_noise, NoisePrediction.levels
    denoised = NoisePrediction.denoised

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(12, 12, generator=generator, dtype=torch.float64) / 4
        self.alphas_cumprod = ABAR

    def predict(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        flat = z_t.flatten(1) @ self.matrix + condition.mean((1, 2))[:, None] + t[:, None] / 1000
        return flat.tanh().view_as(z_t)


def a_case(seed: int = 0) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return SimpleNamespace(
        drawn=normal(3, 3, 2, 2), noise=normal(3, 3, 2, 2), t=torch.tensor([30, 500, 900]),
        conditions=[normal(3, 2, 5) for _ in range(5)],
    )  # fmt: skip


@pytest.mark.parametrize("alpha", [1.0, 1.2])
@pytest.mark.parametrize(("guidance", "fake_guidance"), [(1.0, 1.0), (4.5, 4.5), (3.0, 1.0)])
def test_generator_loss_and_gradient(alpha: float, guidance: float, fake_guidance: float) -> None:
    case, teacher, fake = a_case(), Stub(1), Stub(2)
    drawn = case.drawn.clone().requires_grad_(True)
    weight = torch.ones(3, dtype=torch.float64)
    draw = Draw(*case.conditions, weight, weight)
    rules = Rules(alpha, guidance, fake_guidance, 20, 980, 1.0, 0.1)
    losses = generator_loss(teacher, fake, drawn, case.noise, case.t, draw, rules)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(losses.sum(), [drawn])

    # once more, image by image, from the formulas
    for i in range(3):
        x = case.drawn[i : i + 1].clone().requires_grad_(True)
        a = ABAR[case.t[i]]
        z = a.sqrt() * x + (1 - a).sqrt() * case.noise[i : i + 1]
        _, real, own, negative, empty = (c[i : i + 1] for c in case.conditions)
        t = case.t[i : i + 1]

        def denoised(net: Stub, c: Tensor, u: Tensor, k: float, z=z, t=t, a=a) -> Tensor:
            none, some = net.predict(z, t, u), net.predict(z, t, c)
            return (z - (1 - a).sqrt() * (none + k * (some - none))) / a.sqrt()

        f_p = denoised(teacher, real, negative, guidance)
        f_psi = denoised(fake, own, empty, fake_guidance)
        omega = max(float((f_p - x).abs().mean()), 1e-5)
        want = (-alpha * (f_p - f_psi) ** 2 + (f_p - f_psi) * (f_p - x)).sum() / omega
        (slope,) = torch.autograd.grad(want, [x])
        assert torch.allclose(losses[i], want, rtol=1e-9)
        assert torch.allclose(gradient[i], slope[0], rtol=1e-7, atol=1e-9)


def test_alpha_one_is_the_short_form() -> None:
    """With alpha 1: d (x^_psi - x_g) / omega."""
    case, teacher, fake = a_case(5), Stub(1), Stub(2)
    weight = torch.ones(3, dtype=torch.float64)
    draw = Draw(*case.conditions, weight, weight)
    rules = Rules(1.0, 1.0, 1.0, 20, 980, 1.0, 0.1)
    losses = generator_loss(teacher, fake, case.drawn, case.noise, case.t, draw, rules)  # type: ignore[arg-type]
    a = ABAR[case.t].view(-1, 1, 1, 1)
    z = a.sqrt() * case.drawn + (1 - a).sqrt() * case.noise
    f_p, f_psi = (
        (z - (1 - a).sqrt() * net.predict(z, case.t, c)) / a.sqrt()
        for net, c in ((teacher, draw.teacher), (fake, draw.fake))
    )
    omega = (f_p - case.drawn).abs().mean((1, 2, 3))
    want = ((f_p - f_psi) * (f_psi - case.drawn)).sum((1, 2, 3)) / omega
    assert torch.allclose(losses, want, rtol=1e-9)


def test_fake_loss_sums_over_pixels() -> None:
    case = a_case(3)
    want = torch.stack([((case.drawn[i] - case.noise[i]) ** 2).sum() for i in range(3)])
    assert torch.allclose(fake_loss(case.drawn, case.noise), want)


def test_guidance_one_never_asks_for_the_empty_prompt() -> None:
    case, net = a_case(), Stub(1)
    plain = guided(net, case.drawn, case.t, case.conditions[0], case.conditions[1], 1.0)  # type: ignore[arg-type]
    assert torch.equal(plain, net.predict(case.drawn, case.t, case.conditions[0]))
