"""Pictures of a folder with their captions, and what is refused with nothing left behind."""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from erasure.commandline import main as cli
from erasure.concepts import find_concepts
from erasure.errors import SettingError
from erasure.methods.shared.images_of_pairs import canvas_image
from erasure.methods.shared.taken_before import TAKEN_PART, with_taken
from erasure.methods.shared.training_data import Pictures, Plan, encoded, gather, gather_anchors
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.run import Run
from erasure_datasets.canvas import STYLES
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataWarning


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
    return gather(model, concepts, Plan(str(folder), count, count, "", 2, 7.5), run)


def test_prompts_to_keep_change_no_picture_to_forget(tmp_path: Path) -> None:
    """Pocket has pictures of its concepts; only what a file says to keep has to be drawn."""
    model = load_model("pocket")
    concepts, file = find_concepts(model, ["cat"]), tmp_path / "kept.txt"
    file.write_text("A dog image in Sketch style.\n")
    found = [
        gather(model, concepts, Plan("auto", 2, 1, text, 2, 7.5), Run(tmp_path / "run"))
        for text in ("", str(file))
    ]
    (forget, _), (same, drawn) = found
    assert same.prompts == forget.prompts
    assert torch.equal(same.latents, forget.latents)
    assert drawn.prompts == ["A dog image in Sketch style."]


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


BESIDE = [
    ("forget/0.TXT", "forget/1.Txt"),
    ("forget/0.caption", "forget/1.caption"),
    ("forget/0.CAPTION", "forget/1.txt"),
]


@pytest.mark.parametrize("names", BESIDE)
def test_captions_by_nearly_the_same_names(
    model: StableDiffusion, folder: Path, names: tuple[str, str]
) -> None:
    for i, name in enumerate(names):
        (folder / name).write_text(f"my cat {i}")
    assert gathered(model, folder)[0].prompts == ["my cat 0", "my cat 1"]
    (folder / "forget" / "0.txt").write_text("my cat again")
    with pytest.raises(SettingError, match="must stand in one place"):
        gathered(model, folder)


@pytest.mark.parametrize("name", ["metadata.tsv", "Metadata.CSV", "metadata.JSONL"])
def test_tables_by_nearly_the_same_names(model: StableDiffusion, folder: Path, name: str) -> None:
    rows = [("0.png", "my cat, red"), ("1.png", "my cats")]
    text = "file_name\ttext\n" + "".join(f"{file}\t{said}\n" for file, said in rows)
    if name.endswith("JSONL"):
        text = "".join(json.dumps({"file_name": f, "text": t}) + "\n" for f, t in rows)
    (folder / "forget" / name).write_text(text)
    assert gathered(model, folder)[0].prompts == ["my cat, red", "my cats"]


@pytest.mark.parametrize("name", ["metadata.json", "forget/metadata.parquet", "retain/METADATA"])
def test_tables_that_are_not_read_are_refused(
    model: StableDiffusion, folder: Path, name: str
) -> None:
    (folder / name).write_text("[]")
    with pytest.raises(SettingError, match=r"must stand in metadata.csv, .*; got .*(?i:metadata)"):
        gathered(model, folder)


UNREAD = ["forget/2.heic", "retain/more/3.png", "2.png", "captions.csv", "forget/2.avif"]


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_passed_over_is_said(model: StableDiffusion, folder: Path, name: str) -> None:
    (folder / "forget" / ".hidden.heic").write_text("")
    (folder / "forget" / "Thumbs.db").write_text("")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*not read", DataWarning)
        gathered(model, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    first = "more/" if "more" in name else Path(name).name
    with pytest.warns(DataWarning, match=rf"holds what is not read: {first}\. Pictures lie in"):
        gathered(model, folder)


@pytest.mark.parametrize("has_captions", [False, True])
def test_the_anchors_pictures_lie_beside_those_to_forget(
    model: StableDiffusion, folder: Path, has_captions: bool
) -> None:
    """Without a warning that they are not read, and whatever the others' captions are."""
    concepts, run = find_concepts(model, ["my cat"], kind="object", anchor="a dog"), Run(folder)
    plan = Plan(str(folder), 9, 9, None, 2, 7.5, has_anchors=True)
    with pytest.raises(SettingError, match=r"must hold images in anchor/"):
        gather_anchors(model, concepts, plan, run)
    (folder / "anchor").mkdir()
    Image.new("RGB", (16, 16), (0, 0, 250)).save(folder / "anchor" / "0.png")
    if has_captions:
        (folder / "metadata.csv").write_text(
            "file_name,text\nforget/0.png,my cat asleep\nforget/1.png,my cat\n"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*not read", DataWarning)
        forget, _ = gather(model, concepts, plan, run)
        anchors = gather_anchors(model, concepts, plan, run)
    assert anchors.prompts == [concepts[0].prompts()[0]]
    assert not torch.equal(anchors.latents[0], forget.latents[0])
    with pytest.warns(DataWarning, match=r"holds what is not read: anchor/"):
        gathered(model, folder)


def test_captions_that_do_not_name_the_concept_are_told(
    model: StableDiffusion, folder: Path
) -> None:
    for i, text in enumerate(("My-Cats asleep", "a kitten")):
        (folder / "forget" / f"{i}.txt").write_text(text)
        (folder / "retain" / f"{i}.txt").write_text("a boat")
    with pytest.warns(DataWarning, match=r"1 of 2 captions .* my cat; .*'a kitten', of .*1\.png"):
        gathered(model, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        gathered(model, folder, 1)


TWO = [Concept("cat", "object", anchor="dog"), Concept("church", "object", anchor="a house")]


def test_each_caption_has_the_anchor_of_what_it_names(model: StableDiffusion, folder: Path) -> None:
    """Not that of whichever concept is its turn."""
    for i, text in enumerate(("An old church", "a cat by a church")):
        (folder / "forget" / f"{i}.txt").write_text(text)
        (folder / "retain" / f"{i}.txt").write_text("a boat")
    plan = Plan(str(folder), 2, 2, "", 2, 7.5)
    forget, _ = gather(model, TWO, plan, Run(folder.parent / "run"))
    assert list(zip(forget.prompts, forget.anchors, strict=True)) == [
        ("An old church", "An old house"), ("a cat by a church", "a dog by a house"),
    ]  # fmt: skip
    (folder / "forget" / "1.txt").write_text("a kitten")
    with (
        pytest.warns(DataWarning, match="do not name cat or church"),
        pytest.raises(SettingError, match="must name one of cat, church; 'a kitten' does not"),
    ):
        gather(model, TWO, plan, Run(folder.parent / "run"))
    for file in (folder / "forget").glob("*.txt"):
        file.unlink()
    with pytest.raises(SettingError, match=r"forget must have captions.*concepts \(cat, church\)"):
        gather(model, TWO, plan, Run(folder.parent / "run"))


def test_pictures_to_keep_without_captions_are_told(model: StableDiffusion, folder: Path) -> None:
    with pytest.warns(DataWarning, match=r"retain have no captions .*'a photo of .* the first"):
        gathered(model, folder)
    kept = folder.parent / "kept.txt"
    kept.write_text("a boat\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        plan = Plan(str(folder), 2, 2, str(kept), 2, 7.5)
        gather(model, TWO[:1], plan, Run(folder.parent / "run"))


def test_captions_that_are_cut_are_told(model: StableDiffusion, folder: Path) -> None:
    for i in range(2):
        (folder / "retain" / f"{i}.txt").write_text("a red house " * (1 + 20 * i))
    with pytest.warns(DataWarning, match=r"1 of the captions of .*retain are longer than"):
        gathered(model, folder)


def test_prompts_to_keep_that_are_cut_are_one_line(
    sd1: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "keep.csv").write_text("prompt\na dog\n" + "a red house " * 20 + "\n")
    words = ["erase", "uce", "--concept", "cat", "--kind", "object", "--model", str(sd1)]
    words += ["--retain-prompts", str(folder / "keep.csv"), "--out", str(folder / "run")]
    monkeypatch.setattr(sys, "argv", ["erasure", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (0, 1)
    assert err.startswith("erasure: warning: 1 of the prompts of ")
    assert "the first is 'a red house a red" in err


def test_erasing_every_pair_is_refused(listed: Path, tmp_path: Path) -> None:
    model = load_model(str(listed))
    concepts = [model.catalogue.concept(name, "") for name in ("cat", "dog", "tree")]
    with pytest.raises(SettingError, match="must leave something to keep"):
        gather(model, concepts, Plan("generated", 2, 2, "", 2, 7.5), Run(tmp_path / "a"))
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    with pytest.raises(SettingError, match="must leave something to keep"):
        gather(model, concepts, Plan(str(tmp_path), 2, 2, "", 2, 7.5), Run(tmp_path / "a"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["uce", "--retain-prompts", "none.csv"], "none.csv cannot be read"),
        (["uce", "--retain-prompts", "cats.csv"], "each of the 1 prompts of cats.csv does"),
        (["salun", "--images", "data"], "data/retain/1.png cannot be read as a picture"),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(
    asked: list[str], message: str, sd1: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
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
    assert message in said
    assert not Path("run").exists()


def test_what_was_taken_before_is_held_as_what_it_draws_instead(tmp_path: Path) -> None:
    """From the model's own data set, but for what is erased once more, or draws nothing instead."""
    model, run = load_model("pocket"), Run(tmp_path)
    plan, none = Plan("auto", 2, TAKEN_PART, "", 2, 7.5), torch.zeros(0, *model.latent_shape)
    cat, dog, tree = (find_concepts(model, [name])[0] for name in ("cat", "dog", "tree"))
    cat = replace(cat, anchor="horse")
    model.taken = (cat, dog, replace(tree, anchor=""))
    held = with_taken(model, [dog], Pictures(none, [], []), plan, run)
    (prompt,) = held.prompts
    assert "cat" in prompt
    assert held.anchors == [prompt.replace("A cat", f"A {cat.anchor}")]
    style = prompt.partition(" in ")[2].removesuffix(" style.")
    want = encoded(model, [canvas_image(cat.anchor, style, 0)])
    assert torch.equal(held.latents, want)

    def many(count: int) -> Plan:
        return replace(plan, retain_count=count * TAKEN_PART)

    first = Pictures(none.new_ones(1, *model.latent_shape), ["a"], ["b"])
    held = with_taken(model, find_concepts(model, ["frog"]), first, many(3), run)
    assert len(held.prompts) == len(held.anchors) == len(held.latents) == 1 + 3 * 2
    assert (held.prompts[0], held.anchors[0]) == ("a", "b")
    # an anchor that goes now, or went by a method that draws none, is not held
    away, house = replace(tree, anchor="house"), find_concepts(model, ["house"])
    frog = find_concepts(model, ["frog"])
    for taken, new in (((cat, away), house), ((cat, away, *house), frog)):
        model.taken = taken
        held = with_taken(model, new, first, many(20), run)
        assert any("cat" in prompt for prompt in held.prompts)
        assert not any("tree" in prompt for prompt in held.prompts)
    model.taken = (cat,)  # a pair of what was taken and what goes now is neither
    held = with_taken(model, find_concepts(model, ["Winter"]), first, many(len(STYLES)), run)
    assert len(set(held.prompts)) == 1 + len(STYLES) - 1
    assert not any("Winter" in prompt for prompt in held.prompts)
    model.taken = ()
    assert with_taken(model, [dog], first, plan, run) is first


@pytest.mark.parametrize("images", ["auto", "a folder"])
def test_what_it_draws_instead_is_drawn_where_there_are_no_pictures(
    model: StableDiffusion, folder: Path, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the model as it is, under the anchor's prompts: a folder's are of the new request."""
    (taken,) = find_concepts(model, ["my cat"], kind="object", anchor="big dog")
    concepts, run = find_concepts(model, ["a boat"], kind="object"), Run(folder)
    plan = Plan(str(folder) if images != "auto" else "auto", 1, 1, None, 2, 7.5)
    none = torch.zeros(0, *model.latent_shape)
    monkeypatch.setattr(model, "taken", (taken,))
    told = []

    def progress(name: str, count: int, *, grows_with: tuple[str, ...]) -> object:
        told.append((name, grows_with))  # what a dry run foretells the whole time by
        return plain(name, count, grows_with=grows_with)

    plain = run.progress
    monkeypatch.setattr(run, "progress", progress)
    held = with_taken(model, concepts, Pictures(none, [], []), plan, run)
    assert told == [("drawing images to hold", ("retain_images", "sampling_steps"))]
    assert held.prompts[0] in taken.prompts()
    assert held.anchors == [held.prompts[0].replace("my cat", "big dog")]
    noise = torch.randn((1, *model.latent_shape), generator=run.generator_for("hold"))
    asked = model.encode(held.anchors)
    path = model.sample_path(asked, steps=2, guidance=7.5, noise=noise)
    assert torch.allclose(held.latents, path.finished, atol=1e-5)


def test_what_is_of_no_pair_is_drawn(tmp_path: Path) -> None:
    """A name that was free text when it was erased, and has no pictures in the data set."""
    model, run = load_model("pocket"), Run(tmp_path)
    model.taken = (Concept("my cat", "object", anchor="dog"),)
    none = Pictures(torch.zeros(0, *model.latent_shape), [], [])
    plan = Plan("auto", 2, 1, "", 2, 7.5)
    held = with_taken(model, find_concepts(model, ["frog"]), none, plan, run)
    assert len(held.latents) == len(held.prompts) == 1
    assert "my cat" in held.prompts[0]
