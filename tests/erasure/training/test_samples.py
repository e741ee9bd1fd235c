"""Pictures for the trackers while a model learns: the same training, and the same noise again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines, read_tensors
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.training.trackers import Trackers

CHURCH: dict[str, Any] = {
    "concepts": "church", "kind": "object", "anchor": "a house", "steps": 6, "paths": 2,
    "sampling_steps": 2, "learning_rate": 1e-2, "checkpoint_seconds": 0,
}  # fmt: skip
PROMPT = "an image of a church"
Shown = dict[tuple[str, int], Tensor]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What a tracker is shown, by tag and step; the tracker itself is none."""
    found: Shown = {}
    monkeypatch.setattr("erasure.training.trackers.get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: [])
    monkeypatch.setattr(
        Trackers, "show", lambda _self, name, step, images: found.update({(name, step): images})
    )
    return found


def sampled(model: Path | LatentDiffusion, out: Path, method: str = "esd", **more: Any) -> Any:
    given = {**CHURCH, "report_to": "tensorboard", "sample_every": 2, **more}
    return erase(model, method, given.pop("concepts"), out=out, **given)


def test_the_training_is_the_same_to_the_bit(sd1: Path, tmp_path: Path, shown: Shown) -> None:
    plain = erase(sd1, "esd", out=tmp_path / "plain", **CHURCH)
    watched = sampled(sd1, tmp_path / "watched")
    for name, tensor in plain.edit.tensors.items():
        assert torch.equal(tensor, watched.edit.tensors[name])
    logs = [read_lines(tmp_path / name / "log.jsonl") for name in ("plain", "watched")]
    assert logs[0] == logs[1]
    prompts = {name.partition("/")[2] for name, _ in shown}
    assert PROMPT in prompts
    assert len(prompts) == 2  # and one to keep
    assert {key for key in shown if PROMPT in key[0]} == {
        (f"un-erased/{PROMPT}", 0), *((f"fit/{PROMPT}", step) for step in (2, 4, 6)),
    }  # fmt: skip
    images = [shown[f"fit/{PROMPT}", step] for step in (2, 4, 6)]
    assert images[0].shape == (1, 3, 16, 16)
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images[0], shown[f"un-erased/{PROMPT}", 0])


def test_an_interrupted_run_shows_the_same_again(
    sd1: Path, tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sampled(sd1, tmp_path / "whole")
    expected = dict(shown)
    shown.clear()
    log = Trackers.log

    def die(self: Trackers, stage: str, step: int, values: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt
        log(self, stage, step, values)

    with monkeypatch.context() as patched:
        patched.setattr(Trackers, "log", die)
        with pytest.raises(KeyboardInterrupt):
            sampled(sd1, tmp_path / "run")
    assert (f"fit/{PROMPT}", 2) in shown
    assert (f"fit/{PROMPT}", 4) not in shown
    resumed = sampled(sd1, tmp_path / "run")
    assert shown.keys() == expected.keys()
    for key, images in expected.items():
        assert torch.equal(images, shown[key]), key
    for name, tensor in whole.edit.tensors.items():
        assert torch.equal(tensor, resumed.edit.tensors[name])


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("gs-lora", {"rank": 1}),
        pytest.param(
            "advunlearn", {"warmup": 1, "attack_steps": 1, "paths": 2}, marks=pytest.mark.slow
        ),
        pytest.param(
            "salun",
            {"images": "generated", "forget_images": 2, "retain_images": 2, "paths": None},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "sfd", {"generator": "pocket-one-step", "paths": None, "sampling_steps": None},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_every_training_can_be_watched(
    method: str, more: dict[str, Any], tmp_path: Path, shown: Shown
) -> None:
    """SFD's pictures are its generator's, which draws otherwise than the model it began from."""
    given = {"concepts": "cat", "kind": None, "anchor": None, "steps": 2, "batch_size": 2, **more}
    kept = {name: value for name, value in {**CHURCH, **given}.items() if value is not None}
    for name in ("kind", "anchor", *(n for n, v in more.items() if v is None)):
        kept.pop(name, None)
    results = [
        erase("pocket", method, out=tmp_path / str(every), sample_every=every,
              report_to="tensorboard", **kept)
        for every in (0, 1)
    ]  # fmt: skip
    first, second = (read_tensors(r.folder / "edit.safetensors")[0] for r in results)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    stages = {name.partition("/")[0] for name, _ in shown}
    assert "un-erased" in stages
    assert len(stages) == 2
    assert {step for _, step in shown} == {0, 1, 2}
    assert all(len(images.unique()) > 10 for images in shown.values())


def test_what_cannot_be_shown_is_refused(sd1: Path, tmp_path: Path, shown: Shown) -> None:
    for change, message in (
        ({"report_to": None}, "sample_every needs report_to tensorboard or wandb.* got None"),
        ({"report_to": "mlflow"}, "sample_every needs report_to .* got mlflow"),
        ({"sample_every": -1}, "sample_every must be a whole number from 0 on; got -1"),
    ):
        with pytest.raises(SettingError, match=message):
            sampled(sd1, tmp_path / "run", **change)
    given = {"kind": "object", "out": tmp_path / "run", "report_to": "tensorboard"}
    with pytest.raises(SettingError, match="sample_every has no effect on uce"):
        erase(sd1, "uce", "church", sample_every=1, **given)
    assert not shown
    assert not (tmp_path / "run").exists()


def test_tensorboard_holds_losses_and_pictures(sd1: Path, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = sampled(sd1, tmp_path / "run").folder
    found = reading.EventAccumulator(str(run / "erasure"), size_guidance={"images": 0})
    found.Reload()
    losses = {event.step: event.value for event in found.Scalars("fit/erase")}
    assert losses == pytest.approx(
        {line["step"]: line["erase"] for line in read_lines(run / "log.jsonl")}, abs=1e-6
    )
    tags = [tag for tag in found.Tags()["images"] if PROMPT in tag]
    assert sorted(tag.partition("/")[0] for tag in tags) == ["fit", "un-erased"]
    drawn = found.Images(next(tag for tag in tags if tag.startswith("fit")))
    assert [event.step for event in drawn] == [2, 4, 6]
    assert (drawn[0].width, drawn[0].height) == (16, 16)
    assert drawn[0].encoded_image_string.startswith(b"\x89PNG")
    assert drawn[0].encoded_image_string != drawn[2].encoded_image_string
