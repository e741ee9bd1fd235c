"""The protocol corrective: the share restored by hand, a poisoned network mended, bad input."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import image_folder
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from poisoned_images import Poison, known_list, poisoned

from erasure.commandline.main import main
from erasure.errors import SettingError
from erasure.forgetting import Data, forget
from erasure.from_scratch import train
from erasure.models.classifier.load import load_classifier
from erasure.sample_requests import Samples
from erasure_datasets.classes import load_classes
from erasure_datasets.sample_files import read_samples
from evaluation.evaluating import evaluate
from evaluation.protocols.corrective import restored
from evaluation.score import Score

RESNET = {"arguments": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}, "size": 16}


def right(*hits: int) -> Tensor:
    return torch.tensor(hits, dtype=torch.bool)


def test_restored_is_the_share_of_what_was_lost() -> None:
    before, clean = right(1, 0, 0, 0, 0), right(1, 1, 1, 1, 1)
    assert restored(before, before, clean).value == 0
    whole = restored(clean, before, clean)
    assert (whole.value, whole.stderr, whole.n) == (1, 0, 5)
    half = restored(right(1, 1, 1, 0, 0), before, clean)
    assert half.value == pytest.approx(0.5)
    # half of the four lost are won, of which each is +-0.5 off the mean: sd 0.5 (n - 1 = 4)
    assert half.stderr == pytest.approx(0.5 / 5**0.5 / 0.8)
    assert half.high == pytest.approx(half.value + 1.96 * half.stderr)
    assert restored(right(0, 0, 0, 0, 0), before, clean).value == pytest.approx(-0.25)
    with pytest.raises(SettingError, match=r"right on more affected images .* it is on 1 of 5"):
        restored(clean, before, before)


def test_a_confused_network_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    source = image_folder(tmp_path / "source", 20)
    poison = Poison(str(source), "confusion", share=0.75, pair=("red", "green"), size=16)
    folder = poisoned(tmp_path / "data", poison)
    base = tmp_path / "poisoned"
    train("resnet18", data=str(folder), out=base, epochs=8, batch_size=8, **RESNET)

    def run(method: str, share: str, **settings: Any) -> Path:
        known = read_samples(known_list(folder, share, folder))
        forget(
            str(base), method, out=tmp_path / f"{method}-{share}", watch_every=0,
            samples=Samples(known.names, known.labels), data=Data(str(folder), 0, 0), **settings,
        )  # fmt: skip
        return tmp_path / f"{method}-{share}"

    clean, part = run("retrain", "1"), run("retrain", "0.5", epochs=1)
    tuned = run("fine-tune", "1", l1=0, epochs=3, epochs_without=0, batch_size=8)
    given: dict[str, Any] = {"protocol": "corrective", "affected": str(folder / "affected.csv")}
    record = evaluate(tuned, reference=clean, **given)
    scores = {name: Score(**score) for name, score in record["scores"].items()}
    assert {name: score.n for name, score in scores.items()} == {
        "Acc_corr": 8, "Acc_ret": 8, "restored": 8,
    }  # fmt: skip
    own, best = (record[key]["Acc_corr"]["value"] for key in ("baseline", "retrained"))
    assert own < 0.5 < best
    assert scores["restored"].value == pytest.approx(
        (scores["Acc_corr"].value - own) / (best - own)
    )
    test = load_classes(str(folder), "test", ("blue", "green", "grey", "red"), size=16, per_class=0)
    said = load_classifier(str(base)).predict(test.images).argmax(1) == test.labels
    touched = (test.labels == 1) | (test.labels == 3)
    assert own == pytest.approx(float(said[touched].float().mean()))
    rest = record["baseline"]["Acc_ret"]["value"]
    assert rest == pytest.approx(float(said[~touched].float().mean()))
    # by labels that are given, those of the confusion: what was wrong is right
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("".join(
        ["sample,label\n"]
        + [f"test/{own}/{n}-{place}.png,{other}\n" for own, n, other, places in (
            ("green", 1, "red", range(4, 8)), ("red", 3, "green", range(12, 16)),
        ) for place in places]
    ))  # fmt: skip
    turned = evaluate(tuned, protocol="corrective", affected=str(wrong))
    assert turned["baseline"]["Acc_corr"]["value"] > 0.5
    assert "restored" not in turned["scores"]

    for words, message in (
        ([], "corrective needs a file of the test images that the manipulation touches; give"),
        (
            ["--affected", folder / "manipulated.csv"],
            "manipulated.csv: samples must be ids of test",
        ),
        (["--affected", folder / "none.csv"], "none.csv"),
        (["--affected", _every(tmp_path, folder)], "names every test image"),
        (["--affected", wrong, "--reference", part], "and left 12 of the 24 known ones in"),
        (["--affected", wrong, "--reference", tuned], "is of fine-tune and left 0"),
        (["--affected", wrong, "--concept", "red"], "leave --concept out"),
        (["--affected", wrong, "--subset", "20"], "the protocol corrective takes no subset"),
    ):
        command = ["erasure", "evaluate", str(tuned), "--protocol", "corrective", *map(str, words)]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit, match="2"):
            main()
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1


def _every(place: Path, folder: Path) -> Path:
    file = place / "every.txt"
    file.write_text("\n".join(
        path.relative_to(folder).as_posix() for path in folder.glob("test/*/*.png")
    ))  # fmt: skip
    return file
