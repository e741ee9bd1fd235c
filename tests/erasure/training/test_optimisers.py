"""Muon in float32 against torch's own, which orthogonalises in bfloat16, and against an SVD."""

import torch
from torch import nn

from erasure.training.optimisers import Float32Muon, MuonAndAdam, orthogonalised


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = (12, 40), (40, 12), (16, 16)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def test_it_takes_torchs_steps_to_bfloat16s_precision() -> None:
    own, known = matrices(), matrices()
    settings = {"lr": 0.1, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    ours, torchs = Float32Muon(own, **settings), torch.optim.Muon(known, **settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for a, b in zip(own, known, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.step()
        torchs.step()
    for a, b, start in zip(own, known, matrices(), strict=True):
        moved = (b - start).norm()
        assert moved > 0.5
        assert (a - b).norm() / moved < 0.03


def test_an_orthogonalised_matrix_keeps_its_singular_vectors() -> None:
    matrix = matrices()[1].detach().double()
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalised(matrix, (3.4445, -4.775, 2.0315), 5) @ v.T
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-9
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3)).all()


def test_on_a_cpu_matrices_get_the_float32_kind_and_the_rest_adamw() -> None:
    weights = [*matrices(), nn.Parameter(torch.zeros(5))]
    both = MuonAndAdam(weights, 1e-3, 0.01)
    assert [type(part) for part in both.parts] == [Float32Muon, torch.optim.AdamW]
    assert [len(group["params"]) for group in both.param_groups] == [3, 1]
