from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from erasure.errors import DivergedError
from erasure.files.storage import read_lines, read_tensors
from erasure.training.fit import fit
from erasure.training.hardware import Hardware
from erasure.training.learner import Learner, trainable
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run


def new_run(folder: Path, *, parts: int = 1) -> Run:
    run = Run(folder, hardware=Hardware(device="cpu", gradient_accumulation=parts))
    run.begin({"command": "test", "method": "toy"})
    return run


def test_it_minimises_logs_and_freezes(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]), requires_grad=False)
    run = new_run(tmp_path / "run")
    fit(Learner(lambda _: {"erase": weight.square().sum()}, {"w": weight}, 0.1), steps=200, run=run)
    assert weight.abs().max() < 0.05
    assert not weight.requires_grad
    lines = read_lines(tmp_path / "run" / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(200))
    assert lines[0]["erase"] == 13.0


def test_masked_weights_keep_their_bits(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0, 1.0]))
    mask = torch.tensor([True, False, True])
    run = new_run(tmp_path / "run")
    learner = Learner(
        lambda _: {"erase": weight.square().sum()}, {"w": weight}, 0.1, masks={"w": mask}
    )
    fit(learner, steps=5, run=run)
    assert weight[1] == -2.0
    assert weight[0] != 3.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_diverges_keeps_the_last_good_state(tmp_path: Path, bad: float) -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    run = new_run(tmp_path / "run")
    seen = []

    def loss(step: int) -> dict:
        seen.append(weight.item())
        return {"erase": weight.square().sum() * (bad if step == 3 else 1.0)}

    with pytest.raises(DivergedError, match=r"NaN or infinite at step 3.*state.fit\.safetensors"):
        fit(Learner(loss, {"w": weight}, 0.1), steps=9, run=run)
    assert weight.item() == seen[-1]
    assert (tmp_path / "run" / "state" / "fit.safetensors").is_file()


def test_infinite_gradients_are_met_too(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor([0.0]))
    learner = Learner(lambda _: {"erase": weight.sqrt().sum()}, {"w": weight}, 0.1)
    with pytest.raises(DivergedError, match=r"became NaN or infinite at step 0 \(loss 0\)"):
        fit(learner, steps=1, run=new_run(tmp_path / "r"))


def test_it_ends_early_and_a_resumed_run_asks_again(tmp_path: Path) -> None:
    found = []
    for _ in range(2):  # the second finds the first one's state, as after a kill
        weight, asked = nn.Parameter(torch.tensor([3.0])), list[int]()

        def is_small(step: int, w: nn.Parameter = weight, seen: list[int] = asked) -> bool:
            seen.append(step)
            return w.item() < 2.75

        learner = Learner(lambda _, w=weight: {"erase": w.square().sum()}, {"w": weight}, 0.1)
        fit(learner, steps=9, run=new_run(tmp_path / "run"), until=is_small)
        found.append((weight.item(), asked))
    assert found[0][1] == [1, 2, 3]
    assert found[1] == (found[0][0], [3])
    _, facts = read_tensors(tmp_path / "run" / "state" / "fit.safetensors")
    assert facts["step"] == "3"
    assert [line["step"] for line in read_lines(tmp_path / "run" / "log.jsonl")] == [0, 1, 2]


def test_shards_are_the_whole_in_one_process(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert torch.equal(run.shard(torch.arange(4)), torch.arange(4))


def test_stage_generators_do_not_depend_on_each_other(tmp_path: Path) -> None:
    run = Run(tmp_path, seed=3)
    first = torch.randn(3, generator=run.generator_for("a"))
    torch.randn(5, generator=run.generator)
    assert torch.equal(first, torch.randn(3, generator=Run(tmp_path, seed=3).generator_for("a")))
    assert not torch.equal(first, torch.randn(3, generator=run.generator_for("b")))
    assert not torch.equal(
        first, torch.randn(3, generator=Run(tmp_path, seed=4).generator_for("a"))
    )


def duel(
    run: Run, *, steps: int = 8, die_at: int | None = None, bad: float = 1.0
) -> SimpleNamespace:
    """A maker learns to draw what a critic, a new module, rates high; from one drawing per step."""
    start = torch.linspace(-1, 1, 4)
    found = SimpleNamespace(maker=nn.Parameter(start.clone(), requires_grad=False), drawings=[])
    critic = run.module("critic", lambda: nn.Linear(4, 1))
    found.critic = dict(critic.named_parameters())
    mask = torch.tensor([[True, False, True, True]])

    def criticise(step: int) -> dict[str, Tensor]:
        if step == die_at:
            raise KeyboardInterrupt
        z = run.shard(torch.randn((4, 4), generator=run.generator))
        with trainable({"w": found.maker}):
            found.drawings.append(z * found.maker)
        assert not found.maker.requires_grad
        return {"critic": (critic(found.drawings[-1].detach()) - critic(z) + 1).square().mean()}

    def make(_step: int) -> dict[str, Tensor]:
        assert not any(weight.requires_grad for weight in critic.parameters())
        return {"maker": -bad * critic(found.drawings.pop(0)).mean()}

    learners = {
        "critic": Learner(criticise, found.critic, 0.1, clip=0.2, masks={"weight": mask}),
        "maker": Learner(make, {"w": found.maker}, 0.05, Optimiser("adamw", cosine=True)),
    }
    fit(learners, steps=steps, run=run)
    assert not found.drawings
    return found


def test_each_learner_has_its_turn_mask_and_line_in_the_log(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    found, fresh = duel(run), run.module("critic", lambda: nn.Linear(4, 1))
    moved = (found.critic["weight"] != fresh.weight)[0].tolist()
    assert moved == [True, False, True, True]
    assert (found.maker != torch.linspace(-1, 1, 4)).all()
    lines = read_lines(tmp_path / "run" / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(8))
    assert {"critic", "maker"} <= lines[0].keys()


def test_learners_resume_by_name_in_the_same_bits(tmp_path: Path) -> None:
    whole = duel(new_run(tmp_path / "whole"))
    killed = new_run(tmp_path / "killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "is_due", True)
        with pytest.raises(KeyboardInterrupt):
            duel(killed, die_at=5)
    kept, facts = read_tensors(tmp_path / "killed" / "state" / "fit.safetensors")
    assert facts["step"] == "5"
    assert {"critic.weight.bias", "critic.optimiser.0.exp_avg", "maker.weight.w"} <= kept.keys()
    resumed = duel(new_run(tmp_path / "killed"))
    assert torch.equal(resumed.maker, whole.maker)
    for name, weight in whole.critic.items():
        assert torch.equal(resumed.critic[name], weight)


def test_learners_take_a_batch_in_parts(tmp_path: Path) -> None:
    whole, parts = (duel(new_run(tmp_path / str(n), parts=n)) for n in (1, 2))
    assert torch.allclose(whole.maker, parts.maker, atol=1e-5)  # another order of sums
    assert torch.allclose(whole.critic["weight"], parts.critic["weight"], atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_learner_that_diverges_is_named(tmp_path: Path, bad: float) -> None:
    with pytest.raises(DivergedError, match=r"of fit \(maker\) became NaN or infinite at step 0"):
        duel(new_run(tmp_path / "run"), bad=bad)


def test_a_clip_bounds_one_learner_alone(tmp_path: Path) -> None:
    """Plain descent: the way is the rate times the bounded slope."""
    a, b = (nn.Parameter(torch.tensor([3.0, 0.1])) for _ in range(2))
    plain = Optimiser("sgd")
    learners = {
        "a": Learner(lambda _: {"a": a.square().sum()}, {"w": a}, 0.5, plain, clip=1.0),
        "b": Learner(lambda _: {"b": b.square().sum()}, {"w": b}, 0.5, plain),
    }
    fit(learners, steps=1, run=new_run(tmp_path / "run"))
    assert torch.allclose(a, torch.tensor([2.5, 0.0]))
    assert torch.allclose(b, torch.zeros(2))


@pytest.mark.parametrize("is_held", [False, True])
def test_two_learners_of_the_same_weight(tmp_path: Path, is_held: bool) -> None:
    """By hand: 1 - 0.1 = 0.9, then 0.9 (1 - 0.1) = 0.81; held, the last one stays; also resumed."""
    found = []
    for out, count in (("whole", 2), ("cut", 1), ("cut", 2)):
        weight = nn.Parameter(torch.ones(3))
        sgd = Optimiser("sgd", momentum=0.0, weight_decay=0.0)
        learners = {
            "first": Learner(lambda _, w=weight: {"sum": w.sum()}, {"w": weight}, 0.1, sgd),
            "second": Learner(
                lambda _, w=weight: {"half": w.square().sum() / 2}, {"w": weight}, 0.1, sgd
            ),
        }
        run = new_run(tmp_path / out)
        held = {weight: torch.tensor([True, True, False])} if is_held else {}
        with run.holding(held):
            fit(learners, steps=count, run=run)
        found.append(weight.detach().clone())
    last = 1.0 if is_held else 0.639
    assert torch.allclose(found[0], torch.tensor([0.639, 0.639, last]))
    assert torch.allclose(found[1][:2], torch.tensor(0.81))
    assert torch.equal(found[2], found[0])


def test_a_mask_moves_nothing_that_the_run_holds(tmp_path: Path) -> None:
    """Of four elements the mask lets two move, and the run one of these."""
    weight, plain = nn.Parameter(torch.ones(4)), Optimiser("sgd", momentum=0.0, weight_decay=0.0)
    mask, held = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    run = new_run(tmp_path / "run")
    with run.holding({weight: held}):
        loss = Learner(
            lambda _: {"sum": weight.sum()}, {"w": weight}, 0.5, plain, masks={"w": mask}
        )
        fit(loss, steps=1, run=run)
    assert torch.equal(weight, torch.tensor([0.5, 1.0, 1.0, 1.0]))
