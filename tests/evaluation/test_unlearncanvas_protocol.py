"""UnlearnCanvas' protocol: plans, an answer set with known scores, and a run from end to end."""

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import erasure
from classifiers.unlearncanvas import Judges
from erasure.commandline.main import main
from erasure.errors import RunError, SettingError
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.transform import Transform
from erasure.models.diffusion.load import load_model
from erasure.registry import PROTOCOLS
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataWarning
from erasure_datasets.unlearncanvas import OBJECTS, THEMES
from evaluation.drawing.generate import own_noise
from evaluation.evaluating import evaluate
from evaluation.protocols import Asked
from evaluation.unlearncanvas.noise import RunningNoise
from evaluation.unlearncanvas.plan import SEEDS, find_targets, plan, shots

VAN_GOGH, MONET = THEMES.index("Van_Gogh"), THEMES.index("Monet")
Seen = Callable[[str, str], tuple[str, str]]  # (object, theme) asked -> (object, theme) drawn


def test_the_whole_answer_set() -> None:
    assert len(plan(SEEDS, None, []).keys) == 5000
    whole = shots(plan(SEEDS, None, [], seed_images=True).keys)
    assert len({shot.file for shot in whole}) == 5100
    assert whole[0].file == "Abstractionism_Architectures_seed188.jpg"
    assert whole[1020 + 21].file == "Artist_Sketch_Bears_seed288.jpg"
    assert whole[21].prompt == "A Bears image in Artist Sketch style."
    assert whole[38 * 20].prompt == "A Architectures image in Photo style."
    literal = shots([(188, 38 * 20)], photo="Seed Images")
    assert literal[0].prompt == "A Architectures image in Seed Images style."


def test_targets_by_name() -> None:
    found = find_targets(["van gogh", "Dogs"])
    assert [(t.name, t.is_style, t.label) for t in found] == [
        ("Van_Gogh", True, VAN_GOGH), ("Dogs", False, 5),
    ]  # fmt: skip
    with pytest.raises(
        SettingError, match=r"no judge of unlearncanvas knows the concept 'dog'\. Did"
    ):
        find_targets(["dog"])
    with pytest.raises(SettingError, match="concept names must differ"):
        find_targets(["Van Gogh", "Van_Gogh"])


def test_a_part_has_the_targets_and_what_was_drawn() -> None:
    targets = find_targets(["Van Gogh", "Dogs"])
    chosen = plan((188, 288), "10x5", targets)
    assert len(chosen.keys) == 2 * 11 * 6
    assert chosen.keys == plan((188, 288), "10x5", targets).keys
    assert (chosen.among, chosen.seeds) == ((49, 19), 0.4)
    assert {place // 20 for _, place in chosen.keys} == {VAN_GOGH, *chosen.drawn[0]}
    for seeds, subset, message in (
        ((1,), None, "seeds must be among 188"),
        ((188, 188), None, "seeds must differ"),
        ((188,), "96", "such as 10x5"),
        ((188,), "50x5", "subset must have 1 to 49 styles; got 50"),
    ):
        with pytest.raises(SettingError, match=message):
            plan(seeds, subset, targets)


def test_noise_that_runs_on(sd1: Path) -> None:
    """One generator per seed; every prompt takes its first noise and one unused tensor per step."""
    model = load_model(str(sd1))
    asked = shots([(188, 0), (188, 2), (288, 1), (188, 1)])
    noise = RunningNoise(model, steps=3)
    seen = [torch.randn(1, *model.latent_shape, generator=noise(shot)) for shot in asked]
    for shot, place, value in zip(asked, (0, 2, 1, 1), seen, strict=True):
        generator = torch.Generator().manual_seed(int(shot.file[-7:-4]))
        drawn = [torch.randn(1, *model.latent_shape, generator=generator) for _ in range(9)]
        assert torch.equal(value, drawn[4 * place])
    assert not torch.equal(own_noise(asked[0]).get_state(), noise(asked[0]).get_state())


class Colour(nn.Module):
    """A judge that reads the label from one channel of a flat picture."""

    def __init__(self, channel: int, labels: int, step: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, labels)
        levels = step * torch.arange(labels) / 127.5 - 1  # -|x - level|^2 but for x^2
        with torch.no_grad():
            self.head.weight.zero_()[:, channel] = 2 * levels
            self.head.bias.copy_(-(levels**2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))

    def forward_intermediates(self, x: Tensor, *, intermediates_only: bool) -> list[Tensor]:
        assert intermediates_only
        return [x]


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges that see flat colours: themes in red, objects in green."""
    parts = (THEMES, 0, 5), (OBJECTS, 1, 12)
    judges = [
        Classifier(
            Colour(channel, len(labels), step),
            name="colour",
            labels=labels,
            library="timm",
            transform=Transform(16, (0.5,) * 3, (0.5,) * 3),
        )
        for labels, channel, step in parts
    ]
    known = Judges(judges[0], judges[1], {"style": "colour", "object": "colour"})
    monkeypatch.setattr(Judges, "load", lambda *_, **__: known)


def answer_set(place: Path, seen: Seen, *, photos: bool = False) -> Path:
    """Seed 188 of an answer set, in the colours of what is to be seen."""
    place.mkdir()
    for shot in shots(plan((188,), None, [], seed_images=photos).keys):
        stem = shot.file.removesuffix("_seed188.jpg")
        theme = next(t for t in sorted(THEMES, key=len, reverse=True) if stem.startswith(f"{t}_"))
        name, style = seen(stem.removeprefix(f"{theme}_"), theme)
        flat = Image.new("RGB", (16, 16), (5 * THEMES.index(style), 12 * OBJECTS.index(name), 0))
        flat.save(place / f"{stem}_seed188.png")
    return place


def erased_style(name: str, theme: str) -> tuple[str, str]:
    """Van Gogh is seen in 5 of 20 objects, Monet never; Van Gogh's Dogs and Monet's Cats vanish."""
    if theme == "Van_Gogh":
        return "Cats" if name == "Dogs" else name, theme if name in OBJECTS[:5] else "Winter"
    if theme == "Monet":
        return "Dogs" if name == "Cats" else name, "Winter"
    return name, theme


@pytest.mark.usefixtures("colours")
def test_an_answer_set_of_another_tool_with_known_scores(tmp_path: Path) -> None:
    images = answer_set(tmp_path / "style", erased_style, photos=True)
    options = {"concepts": ["Van Gogh"], "seeds": (188,), "resolution": 16}
    record = evaluate(images=images, out=tmp_path / "out", protocol="unlearncanvas", **options)
    values = {name: score["value"] for name, score in record["scores"].items()}
    # 20 of Van Gogh: 15 gone, Dogs wrong; 980 others: Monet's 20 gone, one of its objects wrong
    hand = {"UA": 15 / 20, "IRA": 960 / 980, "CRA": 979 / 980, "CRA_target": 19 / 20}
    assert values == pytest.approx(hand)
    assert {n: s["n"] for n, s in record["scores"].items()} == {
        "UA": 20, "IRA": 980, "CRA": 980, "CRA_target": 20,
    }  # fmt: skip
    assert (
        json.loads((tmp_path / "out" / "scores" / "unlearncanvas-seeds-188.json").read_text())
        == record
    )
    assert (record["stamp"]["steps"], record["stamp"]["resolution"]) == (None, 16)
    # with the photographs' theme, all right, and Van Gogh's own images in CRA
    record = evaluate(
        images=images, out=tmp_path / "compat", seed_images=True, target_in_cra=True, **options
    )
    values = {name: score["value"] for name, score in record["scores"].items()}
    hand = {"UA": 15 / 20, "IRA": 980 / 1000, "CRA": 1018 / 1020, "CRA_target": 19 / 20}
    assert values == pytest.approx(hand)
    assert record["stamp"]["target_in_cra"] is True


@pytest.mark.usefixtures("colours")
def test_an_object_target_a_part_and_a_reference(tmp_path: Path) -> None:
    right = answer_set(tmp_path / "right", lambda name, theme: (name, theme))
    options = {"seeds": (188,), "resolution": 16}
    base = evaluate(images=right, out=tmp_path / "base", **options)
    assert {name: score["value"] for name, score in base["scores"].items()} == {
        "IRA": 1.0, "CRA": 1.0,
    }  # fmt: skip
    images = answer_set(
        tmp_path / "object",
        lambda name, theme: ("Cats" if name == "Dogs" and theme != "Rust" else name, theme),
    )
    options |= {"concepts": ["Dogs"], "reference": tmp_path / "base"}
    record = evaluate(images=images, out=tmp_path / "out", **options)
    assert record["scores"]["UA"]["value"] == pytest.approx(49 / 50)
    assert record["scores"]["IRA"]["value"] == 1.0
    assert record["baseline"]["UA"]["value"] == 0.0
    part = evaluate(images=images, out=tmp_path / "out", subset="8x4", **options)
    assert part["protocol"] == "unlearncanvas-subset"
    assert part["stamp"]["images"] == 8 * 5
    low, high = (part["scores"]["UA"][end] for end in ("low", "high"))
    assert low <= 49 / 50 <= high
    bigger = answer_set_of_size(images, tmp_path / "bigger", 32)
    with pytest.raises(SettingError, match="differs in resolution: 16, not 32"):
        evaluate(images=bigger, out=tmp_path / "no", **{**options, "resolution": 32})


def answer_set_of_size(images: Path, place: Path, size: int) -> Path:
    place.mkdir()
    for file in images.iterdir():
        Image.open(file).resize((size, size)).save(place / file.name)
    return place


@pytest.mark.usefixtures("colours")
def test_quality_of_kept_images_by_hand(tmp_path: Path) -> None:
    """Flat colours: a judge's features are the colour itself, and so is its one layer."""
    right = answer_set(tmp_path / "right", lambda name, theme: (name, theme))
    base = tmp_path / "base"
    (base / "images").mkdir(parents=True)
    right.rename(base / "images" / "unlearncanvas")
    for file in (base / "images" / "unlearncanvas").iterdir():
        with Image.open(file) as png:
            png.save(file.with_suffix(".jpg"), quality=100, subsampling=0)
        file.unlink()
    options = {"seeds": (188,), "resolution": 16}
    evaluate(images=base / "images" / "unlearncanvas", out=base, **options)
    moved = answer_set(
        tmp_path / "moved", lambda name, theme: ("Cats" if name == "Dogs" else name, theme)
    )
    asked = options | {"concepts": ["Dogs"], "reference": base}
    same = evaluate(images=moved, out=tmp_path / "same", **asked)
    assert same["scores"]["FID"]["value"] == pytest.approx(0, abs=1e-3)
    assert same["scores"]["FID"]["n"] == 50 * 19  # Dogs are not among the kept
    assert same["scores"]["perceptual"]["value"] == pytest.approx(0, abs=1e-3)
    assert "FID" not in same["baseline"]  # it is what the erased images are compared with
    # a data set whose images are less red by 20, where they are so red:
    data = tmp_path / "data"
    for shot in shots(plan((188,), None, []).keys):
        stem = shot.file.removesuffix("_seed188.jpg")
        theme = next(t for t in sorted(THEMES, key=len, reverse=True) if stem.startswith(f"{t}_"))
        name = stem.removeprefix(f"{theme}_")
        place = data / theme / name
        place.mkdir(parents=True)
        red = 5 * THEMES.index(theme)
        flat = Image.new("RGB", (16, 16), (red - 20 * (red >= 20), 12 * OBJECTS.index(name), 0))
        flat.save(place / "1.jpg", quality=100, subsampling=0)
    far = evaluate(images=moved, out=tmp_path / "far", data=str(data), **asked)
    shifts = torch.tensor(
        [20.0 * (5 * THEMES.index(t) >= 20) for t in THEMES if t != "Seed_Images"]
    )
    red = torch.tensor([5.0 * THEMES.index(t) for t in THEMES if t != "Seed_Images"])
    mean = float((shifts / 127.5).mean() ** 2)
    spread = float(((red.std(correction=0) - (red - shifts).std(correction=0)) / 127.5) ** 2)
    assert far["scores"]["FID"]["value"] == pytest.approx(mean + spread, rel=0.05)
    assert far["baseline"]["FID"]["value"] == pytest.approx(mean + spread, rel=0.05)
    assert far["stamp"]["reference"] == "the data set's images 1 to 5"
    part = evaluate(images=moved, out=tmp_path / "part", data=str(data), subset="4x4", **asked)
    assert part["scores"]["FID"]["n"] == 4 * 4
    assert part["left_out"]["KID"].startswith("it needs two seeds")
    for more, message in (
        ({"data": str(tmp_path / "none")}, "data: .* lacks 1000 of 1000 images"),
        ({"features": "clip"}, "need clip=NAME:PRETRAINED"),
    ):
        with pytest.raises(SettingError, match=message):
            evaluate(images=moved, out=tmp_path / "no", **{**asked, **more})


TRUNCATED = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x10\x00\x00\x00\x10\x08\x02\x00\x00\x00\x90\x91h6"
    b"\x00\x00\x00\x0cIDATx\x9c"
)


@pytest.mark.usefixtures("colours")
def test_answer_sets_that_are_none(tmp_path: Path) -> None:
    images = answer_set(tmp_path / "images", lambda name, theme: (name, theme))
    options = {"concepts": ["Dogs"], "out": tmp_path / "out", "seeds": (188,)}
    bad: list[tuple[Callable[[], object], dict[str, object], str]] = [
        (lambda: None, {}, r"images must be 512 x 512 px; .* is 16 x 16\."),
        (lambda: None, {"resolution": 16, "seeds": None}, "lacks 4000 of the answer set's 5000"),
        (
            lambda: (images / "Rust_Dogs_seed188.png").rename(images / "Rust_Dog_seed188.png"),
            {"resolution": 16},
            r"has 1 images that the answer set does not; the first is Rust_Dog_seed188\.png",
        ),
        (
            lambda: (images / "Rust_Dog_seed188.png").unlink(),
            {"resolution": 16},
            r"lacks 1 of the answer set's 1000 images; the first is Rust_Dogs_seed188\.jpg",
        ),
        (
            lambda: (images / "Rust_Dogs_seed188.png").write_bytes(b"no image"),
            {"resolution": 16},
            "cannot be read as a picture: its format is unknown",
        ),
        (  # whole up to its size, then cut off
            lambda: (images / "Rust_Dogs_seed188.png").write_bytes(TRUNCATED),
            {"resolution": 16},
            r"images: .*Rust_Dogs_seed188\.png cannot be read as a picture",
        ),
        (
            lambda: (images / "Rust_Dogs_seed188.jpg").write_bytes(b"no image"),
            {"resolution": 16},
            "has Rust_Dogs_seed188 twice",
        ),
    ]
    for change, more, message in bad:
        change()
        with pytest.raises(SettingError, match=message):
            evaluate(images=images, **{**options, **more})
    with pytest.raises(SettingError, match="there is no folder"):
        evaluate(images=tmp_path / "none", **options)
    with pytest.raises(SettingError, match="needs --out"):
        evaluate(images=images, concepts=["Dogs"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--concept", "church"], "no judge of unlearncanvas knows the concept 'church'"),
        (["--concept", "Dogs"], "lacks 5000 of the answer set's 5000 images"),
        (["--concept", "Dogs", "--subset", "5"], "subset must be STYLESxOBJECTS, such as 10x5"),
        (["--steps", "0"], "UnlearnCanvasSettings.steps must be above 0; got 0."),
        (["--noise", "mine"], "noise must be one of own, run-on; got 'mine'."),
        (["--model", "pocket"], "one and no other"),
    ],
)
def test_one_line_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], message: str,
) -> None:  # fmt: skip
    (tmp_path / "images").mkdir()
    words = ["evaluate", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["erasure", *words, *more])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert (ended.value.code, len(error.strip().splitlines())) == (2, 1)
    assert message in error
    assert not (tmp_path / "out").exists()


def judge_files(place: Path) -> dict[str, str]:
    """Random judges, as the benchmark saves them."""
    torch.manual_seed(0)
    files = {}
    for kind, labels in (("style", THEMES), ("object", OBJECTS)):
        network = timm.create_model("test_vit", num_classes=len(labels))
        files[f"judge_{kind}"] = str(place / f"{kind}.pth")
        torch.save({"model_state_dict": network.state_dict()}, files[f"judge_{kind}"])
    return {**files, "judge_architecture": "test_vit"}


def test_a_run_from_end_to_end(sd1: Path, tmp_path: Path) -> None:
    run, judges = tmp_path / "run", judge_files(tmp_path)
    erasure.erase(str(sd1), "uce", ["Van Gogh"], out=run, kind="style")
    options = {"subset": "2x2", "seeds": (188,), **judges}
    record = evaluate(run, steps=2, noise="run-on", **options)
    assert record["protocol"] == "unlearncanvas-subset"
    assert record["stamp"]["resolution"] == 16  # the model's own, below 512
    assert (record["stamp"]["noise"], record["stamp"]["seed_prompt"]) == ("run-on", "photo")
    assert set(record["baseline"]) == {"UA", "IRA", "CRA", "CRA_target"}
    assert {"seconds", "peak_memory_gb", "storage_gb"} == set(record["cost"])
    drawn = sorted((run / "images" / "unlearncanvas").glob("*.jpg"))
    assert len(drawn) == len(record["labels"]) == 3 * 2
    before = run / "images" / "unlearncanvas-base"
    own = [file for file in drawn if file.name.startswith("Van_Gogh")]
    assert any((before / file.name).read_bytes() != file.read_bytes() for file in own)
    with Image.open(drawn[0]) as first:
        assert (first.format, first.size) == ("JPEG", (16, 16))
    # the same images, judged as another tool's
    again = evaluate(
        images=run / "images" / "unlearncanvas", out=tmp_path / "again", concepts=["Van Gogh"],
        resolution=16, **options,
    )  # fmt: skip
    assert again["labels"] == record["labels"]
    with pytest.raises(RunError, match=r"scores with steps 2, not 3"):
        evaluate(run, steps=3, noise="run-on", **options)
    with pytest.raises(SettingError, match="resolution must be a multiple of 2; got 7"):
        evaluate(run, resolution=7, **options)
    with pytest.raises(SettingError, match="judge_style must name"):
        evaluate(run)


def test_a_free_text_concept_and_others_settings(sd1: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    erasure.erase(str(sd1), "uce", ["church"], out=run, kind="object")
    with pytest.raises(SettingError, match="knows the concept 'church'"):
        evaluate(run, protocol="unlearncanvas")
    with pytest.raises(SettingError, match=r"steps is no setting of the protocol pocket; it has"):
        evaluate(model="pocket", out=tmp_path / "out", steps=3)
    with pytest.raises(SettingError, match="number of images for the protocol pocket; got '2x2'"):
        evaluate(model="pocket", out=tmp_path / "out", subset="2x2")


def test_what_the_run_erased_beside_the_asked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.protocols.unlearncanvas.evaluate", lambda *_, **__: {})
    protocol = PROTOCOLS.get("unlearncanvas")()
    erased = [Concept("Cats", "object"), Concept("Dogs", "object")]
    asked = Asked(tmp_path, model=object(), concepts=["cats"], erased=erased)  # type: ignore[arg-type]
    with pytest.warns(DataWarning, match="erased Dogs, too"):
        protocol.evaluate(asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        protocol.evaluate(replace(asked, concepts=["Cats", "Dogs"]))
