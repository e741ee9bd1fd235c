import json
from pathlib import Path

import pytest
import torch

from erasure.concepts import find_concepts
from erasure.erasing import Result, erase
from erasure.errors import DivergedError, SettingError
from erasure.files.storage import read_lines, read_tensors, write_tensors
from erasure.methods.diffusion import salun
from erasure.methods.diffusion.salun import SalUn
from erasure.methods.shared.saliency import attributions, largest
from erasure.methods.shared.training_data import Pictures, Plan, gather
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.run import Run

TINY = {
    "batch_size": 2,
    "forget_images": 4,
    "retain_images": 4,
    "sampling_steps": 2,
    "learning_rate": 1e-3,
}


def two_steps(model: Path, out: Path, **files: Path) -> Result:
    """SalUn on the miniature's cat, with a mask or a folder of images."""
    return erase(
        str(model), "salun", ["cat"], out=out, steps=2, **TINY,
        **{name: str(file) for name, file in files.items()},
    )  # fmt: skip


def test_mask_is_one_global_ranking_of_magnitudes() -> None:
    gradients = {"a": torch.tensor([[0.1, -5.0], [2.0, 0.0]]), "b": torch.tensor([3.0, -0.2])}
    masks = largest(gradients, keep=0.5)
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [True, False]
    assert masks["a"].dtype == torch.bool


def test_ties_go_to_the_first_and_the_count_is_floored() -> None:
    masks = largest({"a": torch.ones(3), "b": torch.ones(2)}, keep=0.5)
    assert torch.cat(list(masks.values())).tolist() == [True, True, False, False, False]


def test_it_is_the_stable_sort_of_all_magnitudes() -> None:
    """Ties across tensors, zeros and tiny numbers, against the plain way."""
    generator = torch.Generator().manual_seed(0)
    gradients = {
        "a": torch.randn(7, 11, generator=generator) * 1e-30,
        "b": torch.randn(300, generator=generator).mul(3).round() / 3,
        "c": torch.zeros(2, 5),
    }
    flat = torch.cat([g.abs().flatten() for g in gradients.values()])
    order = torch.argsort(flat, descending=True, stable=True)
    for keep in (0.001, 0.1, 0.5, 0.77, 0.99, 1.0):
        want = torch.zeros(len(flat), dtype=torch.bool)
        want[order[: int(keep * len(flat))]] = True
        got = torch.cat([mask.flatten() for mask in largest(gradients, keep).values()])
        assert torch.equal(got, want), keep


def test_a_mask_of_numbers_that_are_not_finite_is_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(DivergedError, match="not finite"):
            largest({"a": torch.tensor([1.0, bad])}, keep=0.5)


@pytest.fixture(scope="module")
def run(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("salun") / "run"
    erase(str(listed), "salun", ["cat"], out=out, steps=3, keep=0.25, **TINY)
    return out


def test_weights_outside_the_mask_keep_their_bits(run: Path, listed: Path) -> None:
    from erasure.edit import Edit

    masks, _ = read_tensors(run / "mask.safetensors")
    assert (
        abs(
            sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
            - 0.25
        )
        < 1e-3
    )
    assert {mask.dtype for mask in masks.values()} == {torch.bool}
    model = load_model(str(listed))
    Edit.load(run).apply(model)
    for name, before in model.originals.items():
        outside, after = ~masks[name], model.parameters()[name].detach()
        assert torch.equal(after[outside], before[outside]), name
        assert not torch.equal(after, before), name


def gathered(model: StableDiffusion, run: Run) -> tuple[Pictures, Pictures]:
    return gather(model, find_concepts(model, ["cat"]), Plan("auto", 4, 4, "", 2, 7.5), run)


def gradients(
    model: StableDiffusion, pictures: Pictures, generator: torch.Generator, guidance: float
) -> list[list[torch.Tensor]]:
    """Each picture's gradient of its noise loss, alone, by the formula."""
    weights, found = model.weights("xattn.kv"), []
    t = torch.randint(1000, (4,), generator=generator)
    noise = torch.randn(4, 4, 8, 8, generator=generator)
    for i in range(4):
        z_t = model.add_noise(pictures.latents[i][None], noise[i][None], t[i][None])
        for w in weights.values():
            w.requires_grad_(True)
        some = model.predict(z_t, t[i][None], model.encode([pictures.prompts[i]]))
        none = model.predict(z_t, t[i][None], model.encode([""]))
        loss = (guidance * some - (guidance - 1) * none - noise[i][None]).square().mean()
        found.append(list(torch.autograd.grad(loss, list(weights.values()))))
    return found


def check_ranking(got: dict[str, torch.Tensor], wanted: torch.Tensor, share: float) -> None:
    """float32 sums in another order may swap weights that lie at the threshold, and no others."""
    threshold = wanted.sort(descending=True).values[int(share * len(wanted)) - 1]
    chosen = torch.cat([mask.flatten() for mask in got.values()])
    assert int(chosen.sum()) == int(share * len(wanted))
    wrong = chosen != (wanted >= threshold)
    assert ((wanted[wrong] - threshold).abs() < 1e-3 * threshold).all()


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def test_mask_signs_are_summed_before_the_magnitude(listed: Path, tmp_path: Path) -> None:
    """Computed again from single-image gradients with autograd, by the formula.

    The last of the two batches is short, and its image weighs as much as the others.
    """
    method = SalUn(select="xattn.kv", keep=0.3, **{**TINY, "batch_size": 3})
    model, run = load_model(str(listed)), Run(tmp_path / "mask")
    forget, retain = gathered(model, run)
    got = method.saliency(model, forget, retain, run)
    parts = gradients(model, forget, run.generator_for("mask"), 8.5)
    check_ranking(got, flat([sum(p) for p in zip(*parts, strict=True)]).abs(), 0.3)  # type: ignore[arg-type]


def test_wagles_mask_squares_each_batchs_mean_gradient(listed: Path, tmp_path: Path) -> None:
    """Of batches of three and one; what is kept is asked without guidance."""
    method = SalUn(select="xattn.kv", keep=0.3, score="wagle", **{**TINY, "batch_size": 3})
    model, run = load_model(str(listed)), Run(tmp_path / "mask")
    forget, retain = gathered(model, run)
    got = method.saliency(model, forget, retain, run)
    gone = gradients(model, forget, run.generator_for("mask"), 8.5)
    kept = [flat(part) for part in gradients(model, retain, run.generator_for("mask retain"), 1)]
    batches = torch.stack([torch.stack(kept[:3]).mean(0), kept[3]]).double()
    theta = flat([w.detach() for w in model.weights("xattn.kv").values()]).double()
    step = batches.mean(0) / batches.square().mean(0).clamp(min=1e-12)
    moved = 1.001 * (theta - 0.001 * step) - theta
    check_ranking(got, (moved * flat([sum(p) for p in zip(*gone, strict=True)])).abs(), 0.3)  # type: ignore[arg-type]


def test_wagles_score_is_what_a_mask_does_to_the_forget_loss() -> None:
    """In float64: a mask entry of 1 + mu, the rest fitted anew by one diagonal Newton step.

    Where the forget loss is a sum over weights and linear, that is its very change, weight for
    weight, found here from losses alone.
    """
    generator = torch.Generator().manual_seed(0)
    theta, slope = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    losses = torch.randn(6, 50, generator=generator, dtype=torch.float64)  # a retain gradient each
    got = attributions(
        {"a": theta}, {"a": slope}, {"a": losses.mean(0)}, {"a": losses.square().mean(0)}
    )["a"]
    entry = 1 + 1e-3
    fitted = theta - (entry - 1) * losses.mean(0) / losses.square().mean(0)
    change = slope * (entry * fitted) - slope * theta
    assert torch.allclose(got, change.abs(), rtol=1e-9, atol=1e-15)
    still = torch.zeros(50, dtype=torch.float64)  # nothing learned: only theta speaks
    dead = attributions({"a": theta}, {"a": slope}, {"a": still}, {"a": still})["a"]
    assert torch.allclose(dead, (1e-3 * theta * slope).abs(), rtol=1e-9)


def test_a_random_mask_has_exactly_its_share(listed: Path, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        erase(
            str(listed), "salun", ["cat"], out=out, steps=1, keep=0.05, score="random", seed=seed,
            **TINY,
        )  # fmt: skip
        found.append(read_tensors(out / "mask.safetensors")[0])
    sizes = [sum(int(mask.sum()) for mask in masks.values()) for masks in found]
    count = sum(mask.numel() for mask in found[0].values())
    assert sizes == [int(0.05 * count)] * 2
    both = sum(int((found[0][name] & found[1][name]).sum()) for name in found[0])
    assert both < 0.1 * sizes[0]  # 0.05 by chance


@pytest.mark.parametrize("target", ["current", "original"])
def test_the_terms_are_the_papers(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Of the second step, when the target's two models differ, once more in float64 by eq. 7."""
    model, real, seen = load_model(str(listed)), salun.draw, []

    def noted(*given: object) -> tuple:
        state = {name: w.detach().double() for name, w in model.parameters().items()}
        seen.append((real(*given), state))
        return seen[-1][0]

    monkeypatch.setattr(salun, "draw", noted)
    erase(
        model, "salun", ["cat"], out=tmp_path / "run", steps=2, retain_weight=0.3, target=target,
        **{**TINY, "learning_rate": 1e-2},
    )  # fmt: skip
    (_, _), (_, _), (forget, state), (retain, _) = seen
    edited, other = (load_model(str(listed), dtype=torch.float64) for _ in range(2))
    for name, parameter in edited.parameters().items():
        parameter.data = state[name]

    def ask(who: StableDiffusion, picked: tuple, texts: list[str]) -> torch.Tensor:
        z0, _, _, t, noise = picked
        abar = other.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        z_t = abar.sqrt() * z0.double() + (1 - abar).sqrt() * noise.double()
        with torch.no_grad():
            return who.predict(z_t, t, who.encode(texts))

    wanted = ask(edited if target == "current" else other, forget, forget[2])
    erased = (ask(edited, forget, forget[1]) - wanted).square().mean()
    kept = (ask(edited, retain, retain[1]) - retain[4].double()).square().mean()
    got = read_lines(tmp_path / "run" / "log.jsonl")[1]
    assert got["erase"] == pytest.approx(float(erased), rel=1e-3, abs=2e-6)
    assert got["retain"] == pytest.approx(0.3 * float(kept), rel=1e-3)


def test_a_mask_from_a_file_is_used(run: Path, listed: Path, tmp_path: Path) -> None:
    masks, _ = read_tensors(run / "mask.safetensors")
    only = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    first = next(iter(only))
    only[first][:] = True
    write_tensors(tmp_path / "mask.safetensors", only)
    result = two_steps(listed, tmp_path / "run", mask=tmp_path / "mask.safetensors")
    assert list(result.edit.tensors) == [first]


def test_a_mask_that_does_not_fit_is_refused(listed: Path, tmp_path: Path) -> None:
    write_tensors(tmp_path / "mask.safetensors", {"unet.x": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(
        SettingError, match=r"SalUn\.mask must hold a mask for every selected weight"
    ):
        two_steps(listed, tmp_path / "run", mask=tmp_path / "mask.safetensors")


def test_images_from_a_folder_in_unlearncanvas_layout(listed: Path, tmp_path: Path) -> None:
    from PIL import Image

    for style in ("Photo", "Sketch"):
        for name in ("cat", "dog", "tree"):
            (tmp_path / "data" / style / name).mkdir(parents=True)
            Image.new("RGB", (20, 24), (len(name) * 30, 80, 90)).save(
                tmp_path / "data" / style / name / "1.jpg"
            )
    result = two_steps(listed, tmp_path / "run", images=tmp_path / "data")
    assert result.edit.tensors
    (tmp_path / "data" / "Sketch" / "cat" / "1.jpg").unlink()
    with pytest.raises(SettingError, match="has no Sketch/cat"):
        two_steps(listed, tmp_path / "run2", images=tmp_path / "data")


def test_free_text_images_from_two_folders(sd1: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("forget", "retain"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (16, 16), (i * 90, 80, 90)).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "retain" / "metadata.csv").write_text(
        "file_name,text\n0.png,a red house\n1.png,a boat\n"
    )
    result = erase(
        str(sd1),
        "salun",
        ["my cat"],
        out=tmp_path / "run",
        kind="object",
        steps=2,
        images=str(tmp_path / "data"),
        **TINY,
    )
    assert json.loads((result.folder / "config.json").read_text())["settings"]["images"].endswith(
        "data"
    )
    with pytest.raises(SettingError, match="must hold images in forget/"):
        erase(
            str(sd1),
            "salun",
            ["my cat"],
            out=tmp_path / "run2",
            kind="object",
            images=str(tmp_path),
            **TINY,
        )
