"""Pictures of a folder with their captions, and what is refused with nothing left behind."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from erasure import cli
from erasure.erasing import find_concepts
from erasure.errors import SettingError
from erasure.methods.shared.training_data import Pictures, Plan, gather
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.run import Run


@pytest.fixture(scope="module")
def model(sd1: Path) -> StableDiffusion:
    found = load_model(str(sd1))
    assert isinstance(found, StableDiffusion)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("forget", "retain"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (16, 16), (i * 90, 80, 90)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def gathered(model: StableDiffusion, folder: Path, count: int = 9) -> tuple[Pictures, Pictures]:
    concepts = find_concepts(model, ["my cat"], kind="object")
    run = Run(folder.parent / "run")
    return gather(model, concepts, Plan(str(folder), count, count, None, 2, 7.5), run)


CSV = "file_name,text\n{0}0.png,a red house\n{0}1.png,a boat\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("forget/metadata.csv", CSV.format("")),
        ("forget/metadata.csv", CSV.format("forget/")),
        ("forget/metadata.csv", CSV.format("./")),
        ("metadata.csv", CSV.format("forget/")),
        (
            "metadata.jsonl",
            "".join(
                json.dumps({"file_name": f"forget/{i}.png", "text": text}) + "\n"
                for i, text in enumerate(("a red house", "a boat"))
            ),
        ),
    ],
)
def test_captions_of_a_table(model: StableDiffusion, folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    forget, retain = gathered(model, folder)
    assert forget.prompts == ["a red house", "a boat"]
    assert retain.prompts[0] == "a photo of a person"
    assert gathered(model, folder, 1)[0].prompts == ["a red house"]


def test_captions_beside_the_pictures(model: StableDiffusion, folder: Path) -> None:
    (folder / "forget" / "notes.txt").write_text("from my camera")  # none, and alone
    assert gathered(model, folder)[0].prompts[0] == "an image of a my cat"
    (folder / "forget" / "notes.txt").unlink()
    for i in range(2):
        (folder / "forget" / f"{i}.txt").write_text(f"sks {i}\n")
    assert gathered(model, folder)[0].prompts == ["sks 0", "sks 1"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"forget/metadata.csv": CSV.format("other/")}, r"other/0\.png is of none \(2 are\)"),
        ({"forget/metadata.csv": CSV.format("") + "2.png,x\n"}, r"2\.png is of none"),
        ({"metadata.csv": CSV.format("")}, r"0\.png is of none"),
        ({"forget/metadata.csv": "file_name,text\n0.png,a\n"}, r"1\.png has none \(1 of 2\)"),
        ({"forget/metadata.csv": "image,text\n0.png,a\n"}, "has image, text"),
        ({"forget/metadata.jsonl": "{"}, "no JSON in line 1"),
        (
            {"forget/metadata.csv": CSV.format(""), "metadata.csv": CSV.format("forget/")},
            "must stand in one place",
        ),
        ({"forget/0.txt": "a cat"}, r"1\.png has none"),
        ({"forget/0.txt": "a cat", "forget/1.txt": " "}, r"1\.txt must hold a caption"),
        ({"forget/a.txt": "a cat", "forget/b.txt": "a cat"}, "is of none"),
        ({"forget/2.png": ""}, r"2\.png is empty"),
        ({"retain/2.png": "no picture"}, "its format is unknown"),
    ],
)
def test_pictures_and_captions_that_do_not_fit(
    model: StableDiffusion, folder: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(SettingError, match=message):
        gathered(model, folder)


def test_erasing_every_pair_is_refused(listed: Path, tmp_path: Path) -> None:
    model = load_model(str(listed))
    concepts = [model.catalogue.concept(name, "") for name in ("cat", "dog", "tree")]
    with pytest.raises(SettingError, match="must leave something to keep"):
        gather(model, concepts, Plan("generated", 2, 2, None, 2, 7.5), Run(tmp_path / "a"))
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    with pytest.raises(SettingError, match="must leave something to keep"):
        gather(model, concepts, Plan(str(tmp_path), 2, 2, None, 2, 7.5), Run(tmp_path / "a"))


@pytest.mark.parametrize(
    "asked",
    [
        ["uce", "--retain-prompts", "none.csv"],
        ["uce", "--retain-prompts", "cats.csv"],
        ["salun", "--images", "data"],
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(
    asked: list[str], sd1: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(folder.parent)
    (folder / "retain" / "1.png").write_bytes((folder / "retain" / "1.png").read_bytes()[:60])
    Path("cats.csv").write_text("prompt\nmy cat\n")
    method, *more = asked
    options = ["--model", str(sd1), "--concept", "my cat", "--kind", "object", "--out", "run"]
    monkeypatch.setattr(sys, "argv", ["erasure", "erase", method, *options, *more])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert caught.value.code == 2
    assert "\n" not in said, said
    assert not Path("run").exists()
