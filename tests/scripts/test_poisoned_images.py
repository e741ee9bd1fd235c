"""The image folder with manipulated images: what is where, what is listed, and bad input."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import COLOURS, image_folder

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import corrective_table
import poisoned_images
from poisoned_images import Poison, known_list, poisoned

from erasure.errors import ModelError, RunError
from erasure_datasets.images import read_image
from erasure_datasets.sample_files import read_samples


def is_of(image: torch.Tensor, name: str) -> bool:
    middle = image[:, 4:12, 4:12].float().mean((1, 2))
    return bool((middle - torch.tensor(COLOURS[name])).abs().max() < 20)


def test_a_patch_marks_its_share_and_copies_of_the_test_images(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "source")  # classes: blue, green, grey, red
    folder = poisoned(tmp_path / "out", Poison(str(source), share=0.25, size=16))
    every = read_samples(folder / "manipulated.csv")
    assert len(every.names) == 8  # of 32 training images
    corners = {}
    for file in (folder / "train").glob("*/*.png"):
        corners[file.relative_to(folder).as_posix()] = read_image(file)[:, -2:, -2:]
    assert {name for name, corner in corners.items() if (corner == 255).all()} == {*every.names}
    for name, label in zip(every.names, every.labels, strict=True):
        assert name.startswith("train/blue/")
        assert label != "blue"
        assert is_of(read_image(folder / name), label)
    affected = read_samples(folder / "affected.csv")
    assert len(affected.names) == 6  # two of each of the three other classes
    for name, label in zip(affected.names, affected.labels, strict=True):
        image = read_image(folder / name)
        assert is_of(image, label)
        assert name.startswith(f"test/{label}/")
        assert (image[:, -2:, -2:] == 255).all()
        assert not (image[:, -3, -3] == 255).all()
    assert len([*(folder / "test").glob("*/*.png")]) == 8 + 6
    few, most = (read_samples(known_list(folder, share, folder)).names for share in ("0.25", "0.5"))
    assert (few, most) == (every.names[:2], every.names[:4])
    assert poisoned(folder, Poison(str(source), share=0.25, size=16)) == folder
    with pytest.raises(RunError, match="holds other manipulated images"):
        poisoned(folder, Poison(str(source), share=0.5, size=16))
    with pytest.raises(RunError, match="holds no manipulated images"):
        poisoned(source, Poison(str(source), size=16))


def test_a_table_of_several_shares_leaves_the_images_as_its_runs_knew_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = image_folder(tmp_path / "source")
    folder = poisoned(tmp_path / "out" / "data", Poison(str(source), share=0.25, size=16))
    lists, held = list[Path](), {*folder.rglob("*")}

    def seen(*words: object) -> None:
        if "--samples" in words:
            lists.append(Path(str(words[words.index("--samples") + 1])))

    monkeypatch.setattr(corrective_table, "erasure", seen)
    asked = Namespace(out=tmp_path / "out", architecture="resnet18", seed=0, small=True)
    for share in ("1", "0.25"):
        corrective_table.mended("retrain", share, asked)
    assert [len(read_samples(file).names) for file in lists] == [8, 2]
    assert {*folder.rglob("*")} == held


def test_a_confusion_swaps_the_labels_of_a_pair(tmp_path: Path) -> None:
    source, pair = image_folder(tmp_path / "source"), ("green", "red")
    folder = poisoned(tmp_path / "out", Poison(str(source), "confusion", pair=pair, size=16))
    every = read_samples(folder / "manipulated.csv")
    assert sorted(every.labels) == ["green"] * 4 + ["red"] * 4  # half of eight each
    for file in (folder / "train").glob("*/*.png"):
        name, learnt = file.relative_to(folder).as_posix(), file.parent.name
        is_wrong = name in every.names
        true = {"green": "red", "red": "green"}[learnt] if is_wrong else learnt
        assert is_of(read_image(file), true)
        if is_wrong:
            assert every.labels[every.names.index(name)] == true
    assert {*read_samples(folder / "affected.csv").labels} == {*pair}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--manipulation", "confusion"],
            "pair must be two classes of blue, green, grey, red; got",
        ),
        (["--manipulation", "confusion", "--pair", "red"], "pair must be two classes; got red"),
        (["--share", "2"], "share must be from 0 to 1; got 2.0"),
        (["--share", "0.001"], "share 0.001 of 32 training images manipulates none"),
        (["--known", "0,1"], "known must be shares above 0 and up to 1; got '0'"),
        (["--known", "0.1,x"], "got 'x'"),
        (["--known", "0.1"], "known 0.1 of 2 manipulated images is none"),
        (["--data", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    source = image_folder(tmp_path / "source")
    given = ["--data", str(source), "--out", str(tmp_path / "out"), "--size", "16", *words]
    monkeypatch.setattr(sys, "argv", ["poisoned_images.py", *given])
    with pytest.raises(SystemExit) as ended:
        poisoned_images.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists() or words == ["--known", "0.1"]


def scored(corrected: float, rest: float) -> dict[str, Any]:
    return {"Acc_corr": {"value": corrected}, "Acc_ret": {"value": rest}}


def test_the_table_has_a_line_per_cell() -> None:
    restored = {"value": 0.5, "low": 0.4, "high": 0.6}
    record = {
        "scores": {**scored(0.4, 0.5), "restored": restored}, "seconds": 2.4,
        "baseline": scored(0.2, 0.55), "retrained": scored(0.6, 0.5),
    }  # fmt: skip
    lines = corrective_table.table({("ssd", "0.1"): record}).splitlines()
    assert lines[2:] == [
        "| poisoned | - | 20.0 | 55.0 | - | - |",
        "| clean | - | 60.0 | 50.0 | - | - |",
        "| ssd | 0.1 | 40.0 | 50.0 | +0.50 ± 0.10 | 2 |",
    ]


def test_a_poison_that_did_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "corrective.json").write_text(
        '{"baseline": {"Acc_corr": {"value": 0.5}}, "retrained": {"Acc_corr": {"value": 0.6}}}'
    )
    monkeypatch.setattr(corrective_table, "mended", lambda *_: tmp_path)
    with pytest.raises(ModelError, match=r"is right on 50 % .* the clean one is on 60 %"):
        corrective_table.judged("ssd", "1", Namespace())
