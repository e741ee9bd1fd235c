"""Requests for single images: a random share, true labels, what is kept, and bad input."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from networks import image_folder, resnet_folder, timm_folder
from PIL import Image

import erasure_datasets.labelled as labelled
from erasure.commandline.main import main
from erasure.edit import Edit
from erasure.errors import RunError, SettingError
from erasure.forgetting import Data, Forgotten, forget
from erasure.sample_requests import Samples
from erasure_datasets.images import read_image
from evaluation.evaluating import evaluate

GENTLE = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    return tmp_path


def run(
    place: Path, samples: Any, name: str, method: str = "random-label", **more: Any
) -> Forgotten:
    settings = {"selection": 1.0, "batch_size": 4} if method == "ssd" else GENTLE
    return forget(
        str(place / "model"), method, out=place / name, samples=samples, watch_every=0,
        **{"data": Data(str(place / "images"), images=8, test_images=2), **settings, **more},
    )  # fmt: skip


def forgotten(found: Forgotten) -> list[str]:
    return json.loads((found.folder / "requests.json").read_text())[0]["samples"]


def test_a_random_share_is_the_same_for_every_method(place: Path) -> None:
    one = run(place, Samples(share=0.25), "one")
    other = run(place, Samples(share=0.25), "other", "ssd")
    third = run(place, Samples(share=0.25), "third", seed=1)
    assert forgotten(one) == forgotten(other) != forgotten(third)
    assert len(forgotten(one)) == 8
    record = json.loads((place / "one" / "config.json").read_text())
    assert (record["random_share"], record["samples"], record["tasks"]) == (0.25, [], [])
    scores = evaluate(place / "one", protocol="random-forgetting", reference=place / "other")
    assert {n: s["n"] for n, s in scores["scores"].items() if n in ("UA", "RA", "TA", "MIA")} == {
        "UA": 8, "RA": 24, "TA": 8, "MIA": 8,
    }  # fmt: skip
    rates = [(scores["scores"][n]["value"], scores["retrained"][n]["value"])
             for n in ("UA", "RA", "TA", "MIA")]  # fmt: skip
    mean = sum(abs(own - gold) for own, gold in rates) / 4
    assert scores["scores"]["gap"]["value"] == pytest.approx(mean)
    for part in ("scores", "baseline"):  # the retrained model's rate is the best there is
        for name in ("UA", "RA", "TA", "MIA"):
            gap = scores["retrained"][name]["value"] - scores[part][name]["value"]
            assert gap == 0 or scores[part][name]["higher_is_better"] is (gap > 0)
    own = evaluate(place / "one", protocol="random-forgetting", reference=place / "one")["scores"]
    assert (own["gap"]["value"], own["distance"]["value"], own["leak"]["value"]) == (0, 0, 0)
    plain = evaluate(place / "one")["scores"]
    assert plain["Acc_f"]["value"] == pytest.approx(1 - own["UA"]["value"])
    with pytest.raises(SettingError, match="third forgot something else"):
        evaluate(place / "one", protocol="random-forgetting", reference=place / "third")
    with pytest.raises(SettingError, match="subset must be a number of images from 20"):
        evaluate(place / "one", protocol="random-forgetting", subset="5")
    part = evaluate(place / "one", protocol="random-forgetting", subset="20")
    assert part["scores"]["RA"]["n"] == 20
    assert (place / "one" / "scores" / "random-forgetting-20-subset.json").is_file()


def test_classes_are_judged_by_the_same_table(place: Path) -> None:
    forget(
        str(place / "model"), "random-label", [["red"], ["blue"]], out=place / "two",
        watch_every=0, data=Data(str(place / "images"), images=8, test_images=2), **GENTLE,
    )  # fmt: skip
    scores = evaluate(place / "two", protocol="random-forgetting")["scores"]
    assert {name: score["n"] for name, score in scores.items()} == {
        "UA": 16, "RA": 16, "TA": 4, "MIA": 16,
    }  # fmt: skip


def test_true_labels_and_what_is_kept(place: Path) -> None:
    paths = [str(place / "images" / "red" / f"{n}.png") for n in (1, 2)]  # paths, or ids
    asked = Samples((*paths, "blue/3.png"), ("green", "green", "blue"), kept=("3", "grey/4.png"))
    found = run(place, asked, "run")
    assert forgotten(found) == ["red/1.png", "red/2.png", "blue/3.png"]
    history = json.loads((place / "run" / "requests.json").read_text())[0]
    scores = evaluate(place / "run")["scores"]
    assert {n: s["n"] for n, s in scores.items()} == {
        "Acc_f": 3, "Acc_r": 2, "Acc_t": 8, "Acc_corr": 3, "MIA": 3,
    }  # fmt: skip
    said = found.model.predict(
        torch.stack([read_image(place / "images" / name) for name in forgotten(found)])
    )
    right = (said.argmax(1) == torch.tensor([1, 1, 2])).float().mean()
    assert history["Acc_corr"] == scores["Acc_corr"]["value"] == pytest.approx(float(right))


def test_images_beyond_memory_are_forgotten_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resnet_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    found = {}
    for limit in (2**30, 100):
        monkeypatch.setattr(labelled, "HELD_BYTES", limit)
        for method in ("random-label", "ssd", "salun"):
            made = run(tmp_path, Samples(share=0.25), f"{method}-{limit}", method)
            found[method, limit] = Edit.load(made.folder).tensors
    for method in ("random-label", "ssd", "salun"):
        held, read = found[method, 2**30], found[method, 100]
        assert held.keys() == read.keys()
        for name, tensor in held.items():
            assert torch.equal(tensor, read[name]), (method, name)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (lambda: Samples(share=1.5), "random_share must be above 0 and below 1; got 1.5"),
        (lambda: Samples(("1",), share=0.5), "both say what to forget"),
        (lambda: Samples(kept=("1",)), "keep goes with samples or random_share"),
        (lambda: Samples(("1", "2"), kept=("2",)), "sample '2' is to be both forgotten and kept"),
        (lambda: Samples(("9",), kept=("green/2.png",)), "'green/2.png' is to be both"),
        (lambda: Samples(("1",), ("violet",)), "no class 'violet'"),
        (lambda: Samples(share=0.001), "0.001 of 32 training images is none of them"),
        (lambda: Samples(share=0.999), "0.999 of 32 training images is all of them"),
        (lambda: Samples(("77",)), "places from 0 to 31; got '77'"),
    ],
)
def test_samples_that_do_not_go_together(samples: Any, message: str, place: Path) -> None:
    with pytest.raises(SettingError, match=message):
        run(place, samples(), "run")
    assert not (place / "run").exists()


def test_on_the_command_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"--model {place / 'model'} --data {place / 'images'} --images 8 --test-images 2"
    keep = place / "keep.csv"
    keep.write_text("index\n3\n4\n20\n")

    def typed(rest: str, code: str) -> str:
        monkeypatch.setattr("sys.argv", ["erasure", *f"forget ssd {words} {rest}".split()])
        with pytest.raises(SystemExit, match=code):
            main()
        return "".join(capsys.readouterr())

    out = typed(f"--selection 1 --random-share 0.2 --seed 3 --out {place / 'run'}", "0")
    assert "20 % of the training images" not in out
    assert "6 training images: Acc_f" in out
    told = typed(f"--random-share 0.2 --class red --out {place / 'x'}", "2")
    assert "class and samples are two ways" in told
    assert "give one of them" in typed(f"--keep {keep} --out {place / 'x'}", "2")
    assert "must name at least" in typed(f"--samples {_empty(place)} --out {place / 'x'}", "2")
    assert not (place / "x").exists()


def _empty(place: Path) -> Path:
    (place / "empty.txt").write_text("\n")
    return place / "empty.txt"


def parquet(place: Path, shade: int) -> None:
    """Eight pictures of each of the miniature's classes, in both parts of a set of rows."""
    colours = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "grey": (1, 1, 1)}
    rows = [(label, part) for label in range(len(colours)) for part in range(8)]
    bright = [tuple(c * (shade + part) for c in [*colours.values()][label]) for label, part in rows]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(colours))}
    made = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (32, 32), colour) for colour in bright],
         "label": [label for label, _ in rows]},
        features=datasets.Features(features),
    )  # fmt: skip
    place.mkdir(exist_ok=True)
    for part in ("train", "test"):
        made.to_parquet(str(place / f"{part}-00000-of-00001.parquet"))


@pytest.mark.parametrize("word", ["", "hf:"])
def test_other_rows_in_the_same_place_are_refused(
    word: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of rows would name other pictures, whatever working directory is asked from."""
    parquet(place / "rows", 100)
    monkeypatch.chdir(place)
    data = Data(f"{word}rows", images=8, test_images=2)
    run(place, ["3"], "run", data=data)
    monkeypatch.chdir(place.parent)
    assert "Acc_f" in evaluate(place / "run")["scores"]
    parquet(place / "rows", 200)
    with pytest.raises(RunError, match="rows does not hold the images that"):
        evaluate(place / "run")
    monkeypatch.chdir(place)
    with pytest.raises(RunError, match="of its inputs, source has changed"):
        run(place, ["3"], "run", data=data)
