"""GS-LoRA on a UNet: adapters in plain diffusers, one taken back, the bounded term."""

import json
from pathlib import Path

import pytest
import torch
from contract import TINY
from diffusers import StableDiffusionPipeline
from torch import Tensor

from erasure.edit import Edit
from erasure.erasing import Result, erase
from erasure.errors import EditError, SettingError
from erasure.exports.exporting import export
from erasure.files.storage import read_lines
from erasure.methods.diffusion import gs_lora
from erasure.models.diffusion.load import load_model
from erasure.models.lora import DOWN, Adapter, merge
from erasure.opening import open_run
from erasure.undoing import undo
from erasure_datasets.concept import mentions


@pytest.fixture(scope="module")
def result(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("gs") / "run"
    return erase(
        str(sd1), "gs-lora", ["cat", "dog"], out=out, kind="object", **TINY["gs-lora"], alpha=4.0
    )


def ask(unet, condition: Tensor) -> Tensor:
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return unet(z, torch.tensor([500]), condition).sample


def test_each_request_opens_in_plain_diffusers(result: Result, sd1: Path, tmp_path: Path) -> None:
    out = export(result.folder, tmp_path / "lora", to="lora")
    assert sorted(file.name for file in out.glob("*.safetensors")) == [
        "cat.safetensors", "dog.safetensors",
    ]  # fmt: skip
    plain = StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)
    condition = result.model.encode(["a cat"])
    before = ask(plain.unet, condition)
    for name in ("cat", "dog"):
        plain.load_lora_weights(str(out), weight_name=f"{name}.safetensors", adapter_name=name)
    config = plain.unet.peft_config["cat"]
    assert (config.r, config.lora_alpha) == (8, 8)  # the scale of 0.5 is in B
    plain.set_adapters(["cat", "dog"])
    both = ask(plain.unet, condition)
    assert torch.allclose(both, ask(result.model.pipeline.unet, condition), atol=1e-5)
    assert not torch.allclose(both, before, atol=1e-5)
    plain.set_adapters(["dog"])
    only = open_run(undo(result.folder, tmp_path / "undone", concepts=["cat"]))
    assert torch.allclose(ask(plain.unet, condition), ask(only.pipeline.unet, condition), atol=1e-5)


def test_undo_keeps_what_the_others_took(result: Result, tmp_path: Path) -> None:
    undone = undo(result.folder, tmp_path / "undone", concepts=["Cat"])
    edit = Edit.load(undone)
    assert [concept.name for concept in edit.concepts] == ["dog"]
    assert json.loads((undone / "config.json").read_text())["undone"] == ["Cat"]
    assert edit.adapter("1").keys() == result.edit.adapter("1").keys()
    assert not edit.adapter("0")
    with pytest.raises(EditError, match="no request took 'bird'"):
        undo(result.folder, tmp_path / "x", concepts=["bird"])
    assert not (tmp_path / "x").exists()


def test_orthogonal_adapters_read_other_directions(sd1: Path, tmp_path: Path) -> None:
    settings = {**TINY["gs-lora"], "group_weight": 0.0, "zero_below": 0.0}
    apart = {}
    for weight in (0.0, 10.0):
        out = tmp_path / f"run-{weight:g}"
        edit = erase(
            str(sd1), "gs-lora", ["cat", "dog"], out=out, kind="object", orthogonality=weight,
            **settings,
        ).edit  # fmt: skip
        first, second = (edit.adapter(number) for number in ("0", "1"))
        downs = [name for name in first if name.endswith(DOWN) and name in second]
        apart[weight] = sum(
            float((second[name].double() @ first[name].double().T).square().sum().sqrt())
            for name in downs
        )
        logged = [line for line in read_lines(out / "log.jsonl") if "overlap" in line]
        assert {line["stage"] for line in logged} == ({"request 1"} if weight else set())
        if weight:  # as the term is logged at the last step, before the step is taken
            assert logged[-1]["overlap"] == pytest.approx(weight * apart[weight], rel=0.2)
    assert apart[10.0] < 0.9 * apart[0.0]


def test_nothing_is_pushed_below_the_bound(sd1: Path, tmp_path: Path) -> None:
    """With a bound above 1 the forget term is never on, and a lone retain term moves nothing."""
    settings = {**TINY["gs-lora"], "bound": 2.0, "group_weight": 0.0}
    with pytest.raises(EditError, match="moves no weight"):
        erase(str(sd1), "gs-lora", ["cat"], out=tmp_path / "run", kind="object", **settings)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["erase"] for line in log] == [0.0] * 6
    assert not (tmp_path / "run" / "edit.json").exists()


def test_what_is_forgotten_now_is_not_kept_from_earlier_requests(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, list[str]] = {}
    draw = gs_lora.draw_paths

    def noted(
        settings: object, model: object, asked: list[tuple[str, ...]], name: str, run: object
    ) -> object:
        rows[name] = [row[0] for row in asked]
        return draw(settings, model, asked, name, run)

    monkeypatch.setattr(gs_lora, "draw_paths", noted)
    settings = {**TINY["gs-lora"], "steps": 3, "batch_size": 1}
    erase(str(listed), "gs-lora", ["cat", "Sketch"], out=tmp_path / "run", **settings)
    assert "A cat image in Photo style." in rows["retain 1"]
    assert "A cat image in Sketch style." in rows["forget 1"]
    assert not [prompt for prompt in rows["retain 1"] if mentions(prompt, "Sketch")]


def test_the_terms_are_the_formulas(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step's, with an adapter that does something already, once more in float64."""
    points, seen, adapters = gs_lora.points, [], []

    def busy(*given: object) -> Adapter:
        adapter = fresh(*given)
        for number, matrix in enumerate(adapter.up.values()):
            noise = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(number))
            matrix.data.copy_(noise / 4)
        adapters.append({name: w.detach().double() for name, w in adapter.weights().items()})
        return adapter

    fresh = Adapter.fresh
    monkeypatch.setattr(Adapter, "fresh", busy)
    monkeypatch.setattr(gs_lora, "points", lambda *g: seen.append(points(*g)) or seen[-1])
    settings = {
        **TINY["gs-lora"], "steps": 1, "group_warmup": 0, "push": 1.5, "retain_weight": 0.3,
        "alpha": 4.0, "bound": 0.01, "group_weight": 0.02, "zero_below": 0.0,
    }  # fmt: skip
    erase(str(listed), "gs-lora", ["cat"], out=tmp_path / "run", **settings)
    got, (forget, retain) = read_lines(tmp_path / "run" / "log.jsonl")[0], seen
    before, after = (load_model(str(listed), dtype=torch.float64) for _ in range(2))
    groups, matrices = after.groups("ffn"), adapters[0]
    merge(after, matrices, 4.0 / 8)

    def ask(model: object, at: object, texts: list[str]) -> Tensor:
        with torch.no_grad():
            return model.predict(at.z_t.double(), at.t, model.encode(texts))

    texts = forget.prompts[0]
    some, none = (ask(before, forget, t) for t in (texts, [""] * len(texts)))
    wanted = some - 1.5 * (some - none)
    unit = (some - wanted).square().mean()
    left = (ask(after, forget, texts) - wanted).square().mean() / unit
    moved = ask(after, retain, retain.prompts[0]) - ask(before, retain, retain.prompts[0])
    norms = [
        torch.cat([matrices[f"{n}.lora_{x}.weight"].flatten() for n in g for x in "AB"]).norm()
        for g in groups
    ]
    assert got["erase"] == pytest.approx(float(left - 0.01), rel=1e-3)
    assert got["retain"] == pytest.approx(0.3 * float(moved.square().mean() / unit), rel=1e-3)
    assert got["groups"] == pytest.approx(0.02 * float(sum(norms)), rel=1e-3)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(SettingError, match=r"GSLoRA\.push must be above 0"):
        gs_lora.GSLoRA(push=0.0)
