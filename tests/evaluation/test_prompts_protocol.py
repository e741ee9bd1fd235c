"""The protocol `prompts`: concepts that are in no benchmark, on miniatures and in plain files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import evaluation.reports.comparing as comparing
from erasure.erasing import erase
from erasure.errors import ErasureError, RunError, SettingError
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataWarning
from erasure_datasets.images import read_image
from erasure_datasets.prompt_files import Line
from evaluation.attacking.attacking import attack
from evaluation.attacking.scene import cases_of
from evaluation.criteria import All, find_criterion
from evaluation.criteria.clip import ClipLabel
from evaluation.evaluating import evaluate
from evaluation.prompts.neighbours import neighbours
from evaluation.prompts.plan import concept_lines, keep_lines, plan, wordings
from evaluation.reports.facts import asks_for

QUICK = {"seeds": [3], "steps": 2, "guidance": 3.0, "keep": 3, "neighbours": "castle,dog"}
BRIGHT = "def is_bright(images):\n    return images.float().mean((1, 2, 3)) > 128\n"


@pytest.fixture(scope="module")
def run(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two free-text concepts, erased from the miniature of SD 1."""
    out = tmp_path_factory.mktemp("prompts") / "run"
    options = {"kind": "object", "anchor": "a house"}
    erase(str(sd1), "uce", ["church", "Eiffel Tower"], out=out, **options)
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    place = tmp_path / "copy"
    place.mkdir()
    for name in ("edit.json", "edit.safetensors", "config.json"):
        (place / name).write_bytes((run / name).read_bytes())
    return place


@pytest.fixture
def criterion(tmp_path: Path) -> str:
    (tmp_path / "bright.py").write_text(BRIGHT)
    return f"{tmp_path / 'bright.py'}:is_bright"


def test_without_weights_it_says_what_is_left_out(copy: Path) -> None:
    record = evaluate(copy, **QUICK)
    assert record["protocol"] == "prompts"  # nobody's catalogue knows a church
    assert set(record["scores"]) == {"pixels"}
    assert set(record["left_out"]) == {"UA", "IRA", "CLIP", "FID", "KID", "perceptual"}
    assert "--clip" in record["left_out"]["UA"]
    names = {entry["asks_for"] for entry in record["images"]}
    assert names == {"church", "Eiffel Tower", "castle", "dog", ""}
    drawn = sorted((copy / "images" / "prompts").glob("*.png"))
    assert len(drawn) == len(record["images"]) == 2 * 14 + 2 * 3 + 3
    assert {f.name for f in drawn} == {f.name for f in (copy / "images/prompts-base").glob("*.png")}
    for name in ("church", "Eiffel_Tower"):
        assert (copy / "images" / f"before-after-{name}.png").is_file()
    gaps = [entry["pixels"] for entry in record["images"] if entry["asks_for"] != "church"]
    assert record["scores"]["pixels"]["n"] == 9
    assert all(0 <= gap <= 1 for gap in gaps)
    assert max(gaps) > 0  # the un-erased model draws otherwise


def test_resumed_it_draws_what_is_missing_and_nothing_else(copy: Path) -> None:
    first = evaluate(copy, **QUICK)
    drawn = sorted((copy / "images" / "prompts").glob("*.png"))
    want = drawn[0].read_bytes()
    drawn[0].unlink()
    drawn[1].write_bytes(drawn[2].read_bytes())  # what is there is taken as it is
    (copy / "scores" / "prompts-seeds-3.json").unlink()
    again = evaluate(copy, **QUICK)
    assert drawn[0].read_bytes() == want
    assert drawn[1].read_bytes() == drawn[2].read_bytes()
    assert [e["file"] for e in again["images"]] == [e["file"] for e in first["images"]]


def test_ua_counts_any_erased_concept_and_agrees_with_the_files(copy: Path, criterion: str) -> None:
    record = evaluate(copy, criterion=criterion, **QUICK)
    by_concept: dict[str, list[bool]] = {"church": [], "Eiffel Tower": []}
    for entry in record["images"]:
        if entry["asks_for"] in by_concept:
            image = read_image(copy / "images" / "prompts" / entry["file"])
            is_shown = bool(image.float().mean() > 128)
            assert entry["shown"] == (sorted(by_concept) if is_shown else [])
            by_concept[entry["asks_for"]].append(not is_shown)
    for name, gone in by_concept.items():
        assert record["per_concept"][name]["UA"]["value"] == pytest.approx(sum(gone) / len(gone))
        assert record["per_concept"][name]["UA_own"] == record["per_concept"][name]["UA"]
    assert "knows no neighbour" in record["left_out"]["IRA"]


def test_clip_judges_the_concept_and_its_neighbours(copy: Path) -> None:
    record = evaluate(copy, clip="pocket", **QUICK)
    assert set(record["scores"]) >= {"UA", "UA_own", "IRA", "CLIP", "perceptual", "pixels"}
    model = load_model(json.loads((copy / "edit.json").read_text())["base"])
    concept = Concept("church", "object", anchor="a house")
    label = find_criterion("clip=pocket", model, concept).among(["house", "castle", "dog"])
    assert isinstance(label, ClipLabel)
    assert label.names == ("church", "house", "castle", "dog")
    castle = label.of_another("castle")
    assert castle.names == ("castle", "church", "house", "dog")
    near = [e for e in record["images"] if e["asks_for"] == "castle"]
    images = torch.stack([read_image(copy / "images" / "prompts" / e["file"]) for e in near])
    assert [e["is_shown"] for e in near] == castle(images).tolist()
    assert record["neighbours"]["after"]["castle"]["n"] == 3
    assert record["neighbours"]["before"].keys() == {"castle", "dog"}


def test_a_files_own_seed_draws_what_diffusers_draws(copy: Path, tmp_path: Path, sd1: Path) -> None:
    file = tmp_path / "church.csv"
    file.write_text("case_number,prompt,evaluation_seed\n0,a church at night,11\n1,the church,12\n")
    record = evaluate(copy, prompts=str(file), concepts=["church"], **QUICK)
    asked = [e for e in record["images"] if e["asks_for"] == "church"]
    assert [(e["prompt"], e["noise_seed"]) for e in asked] == [
        ("a church at night", 11), ("the church", 12),
    ]  # fmt: skip
    assert (copy / "scores" / "prompts-of_church-seeds-3.json").is_file()
    pipeline = StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    want = pipeline(
        ["a church at night", "the church"], num_inference_steps=2, guidance_scale=3.0,
        generator=generators, output_type="pt",
    ).images  # fmt: skip
    for entry, image in zip(asked, want, strict=True):
        found = read_image(copy / "images" / "prompts-base" / entry["file"])
        assert (found.float() - image * 255).abs().max() <= 2


def test_an_unerased_model(sd1: Path, tmp_path: Path) -> None:
    options = {key: value for key, value in QUICK.items() if key != "neighbours"}
    record = evaluate(
        model=str(sd1), out=tmp_path / "out", protocol="prompts", clip="pocket", **options
    )
    assert set(record["scores"]) == {"CLIP"}
    assert record["per_concept"] == {}
    for name, value in (("prompts", "x.txt"), ("neighbours", "dog"), ("criterion", "clip")):
        with pytest.raises(SettingError, match=f"{name} asks about an erased concept"):
            evaluate(
                model=str(sd1), out=tmp_path / "other", protocol="prompts",
                **{**options, "clip": "pocket", name: value},
            )  # fmt: skip
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "nowhere.csv"}, "prompts: nowhere.csv cannot be read"),
        (
            {"keep_prompts": "caption"},
            "keep_prompts: caption cannot be read.* Built in are captions",
        ),
        ({"prompts": "empty.csv"}, "at least one row"),
        ({"prompts": "sentence.csv"}, "must have a 'prompt' column; has sentence"),
        ({"prompts": "other.txt"}, "must each name one of church, Eiffel Tower, or stand for one"),
        ({"prompts": "church.txt"}, "prompts must name Eiffel Tower too"),
        ({"keep_prompts": "church.txt"}, "must not name church or Eiffel Tower; each of the 1"),
        ({"neighbours": "old church"}, "neighbours must stay; 'old church'"),
        ({"criterion": "judge"}, "no judge knows the concept 'church'"),
        ({"criterion": "clip"}, "ships no CLIP; name one of open_clip's"),
        ({"clip": "ViT-B-32"}, "must name its weights too"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"features": "judge"}, "features must be one of clip, inception"),
        ({"scheduler": "DDIM"}, "scheduler must be one of usual, DDIMScheduler"),
        ({"concepts": ["cat"]}, "one that the run erased; got 'cat'. Known: church, Eiffel Tower"),
        ({"subset": 5}, "the protocol prompts takes no subset"),
        ({"judge_style": "x"}, "judge_style is no setting of the protocol prompts"),
        ({"seeds": [-1]}, "seeds must be 0 to"),
    ],
)
def test_refused_in_one_line(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("empty.csv", "prompt\n"), ("sentence.csv", "sentence\na church\n"),
        ("other.txt", "a horse\n"), ("church.txt", "a church\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    with pytest.raises(ErasureError, match=message) as refused:
        evaluate(copy, **{"protocol": "prompts", **QUICK, **options})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert not (copy / "scores").exists()


def test_scores_of_other_prompts_are_not_overwritten(copy: Path, tmp_path: Path) -> None:
    evaluate(copy, **QUICK)
    (tmp_path / "keep.txt").write_text("a horse\na boat\na bee\n")
    with pytest.raises(RunError, match=r"scores with keep_prompts captions, not sha256"):
        evaluate(copy, keep_prompts=str(tmp_path / "keep.txt"), **QUICK)


def test_what_is_asked() -> None:
    church = Concept("church", "object", anchor="a house")
    tower = Concept("Eiffel Tower", "object")
    assert wordings(church)[:4] == [
        "an image of a church", "a photo of a church", "a church", "a close-up of a church",
    ]  # fmt: skip
    lines = concept_lines([church, tower], "")
    assert all("Eiffel Tower" in line.prompt for line in lines["Eiffel Tower"])
    kept = [line.prompt for line in keep_lines("captions", [church], 12)]
    assert len(set(kept)) == 12
    assert not any("church" in prompt for prompt in kept)
    assert next(line.prompt for line in keep_lines("animals", [church], 2)) == "a photo of a dog"


def test_a_files_own_seed_and_the_same_given_one_share_no_picture(sd1: Path) -> None:
    """Their noise differs, so that one's picture is never taken for the other's."""
    cat, model = Concept("cat", "object"), load_model(str(sd1))
    given, own = [Line("a cat")], [Line("a cat", 188)]
    one, other = (plan({"cat": lines}, {"cat": []}, [cat], lines, (188,)) for lines in (given, own))
    assert [row.shot.noise_seed for row in one] != [row.shot.noise_seed for row in other]
    assert not {row.shot.file for row in one} & {row.shot.file for row in other}
    (first,), (second,) = (
        cases_of(model, cat, prompts=1, seeds=(188,), lines=lines) for lines in (given, own)
    )
    assert first.noise_seed != second.noise_seed
    assert first.name != second.name
    assert all(asks_for(f"{case.name}.png", "cat") for case in (first, second))


def test_neighbours_are_of_the_concepts_kind_and_none_is_erased() -> None:
    church, chapel = Concept("church", "object"), Concept("chapel", "object")
    near = neighbours([church, chapel], "", None)
    assert near["church"] == ["cathedral", "mosque", "temple", "synagogue", "monastery"]
    assert not {"church", "chapel"} & {name for names in near.values() for name in names}
    style = neighbours([Concept("Van Gogh", "style")], "", None)["Van Gogh"]
    assert "watercolor" in style
    assert neighbours([church], "none", None) == {"church": []}
    assert neighbours([church], " barn , castle,barn", None) == {"church": ["barn", "castle"]}


def test_a_criterion_of_several_parts_asks_all_of_another_name(run: Path, criterion: str) -> None:
    model, concept = open_run(run), Concept("church", "object", anchor="a house")
    both = find_criterion(f"clip=pocket+{criterion}", model, concept)
    assert isinstance(both, All)
    assert both.of_another("castle") is None  # the function is of its own concept alone
    assert both.among(["dog"]).parts[0].names == ("church", "dog")  # type: ignore[attr-defined]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "asked.csv"
    place.write_text("prompt,seed\nA Church at night,5\na church,6\nthe village,7\n")
    return place


def test_an_attack_on_prompts_of_a_file(copy: Path, file: Path, criterion: str) -> None:
    options = {"criterion": criterion, "seeds": [3, 4], "quick": True, "concepts": ["church"]}
    record = attack(copy, "completion", prompts=file, **options)
    cases = [entry["case"] for entry in record["per_concept"]["church"]["cases"]]
    assert [(case["prompt"], case["noise_seed"]) for case in cases] == [
        ("A Church at night", 5), ("a church", 6), ("the village", 7),
    ]  # fmt: skip
    with pytest.raises(RunError, match="prompts"):
        attack(copy, "completion", prompts=f"{file}:2", **options)
    with pytest.raises(SettingError, match="paraphrase puts its tokens where a prompt names the"):
        attack(copy, "paraphrase", prompts=file, **options)
    record = attack(copy, "paraphrase", prompts=f"{file}:2", **options)
    assert len(record["per_concept"]["church"]["cases"]) == 2


def test_a_decoy_never_names_the_concept(run: Path) -> None:
    from evaluation.attacking.scene import Scene  # what an attack's controls are made of

    model = open_run(run)
    scene = object.__new__(Scene)
    scene.concept = replace(Concept("church", "object"), anchor="a house")
    assert scene.anchored("A Church at night") == "a house at night"
    assert scene.anchored("two (churches) by the church") == "two (churches) by a house"
    assert scene.anchored("a churchyard") == "an image of a house"
    scene.concept = replace(scene.concept, anchor="owl")
    assert scene.anchored("A church in a field") == "An owl in a field"
    assert scene.anchored("the church at night") == "the owl at night"
    scene.concept = replace(Concept("photo", "object"), anchor="drawing")
    assert scene.anchored("a photo of a photo") == "a photo of a drawing"
    assert model.catalogue is None


def test_runs_judged_alike_stand_in_one_table(
    copy: Path, run: Path, tmp_path: Path, criterion: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("edit.json", "edit.safetensors", "config.json"):
        (other / name).write_bytes((run / name).read_bytes())
    with pytest.raises(SettingError, match="has no scores yet; run `erasure evaluate"):
        comparing.compare([copy, other])
    evaluate(copy, criterion=criterion, **QUICK)
    evaluate(other, criterion=criterion, **{**QUICK, "keep": 2})
    with pytest.raises(SettingError, match=r"cannot be ranked: kept: 3 there, 2 here"):
        comparing.compare([copy, other])
    (other / "scores" / "prompts-seeds-3.json").unlink()
    evaluate(other, criterion=criterion, **QUICK)
    with pytest.raises(SettingError, match="no scores under prompts; it has prompts-seeds-3"):
        comparing.compare([copy, other], protocol="prompts")
    table = comparing.compare([copy, other], out=tmp_path / "table.md")
    assert [row["run"] for row in table] == [str(copy), str(other)]
    assert "un-erased" in table[0]["UA"]
    assert (tmp_path / "table.md").read_text().count("\n|") == 4
    with pytest.raises(SettingError, match="two runs or more"):
        comparing.compare([copy, copy])


@pytest.mark.filterwarnings("always")
def test_a_file_of_many_columns_is_told(copy: Path, tmp_path: Path) -> None:
    place = tmp_path / "i2p.csv"
    place.write_text("prompt,sd_seed,sd_guidance_scale\na church,1,7\n")
    with pytest.warns(DataWarning, match="sd_guidance_scale will not be used"):
        evaluate(copy, prompts=str(place), concepts=["church"], **QUICK)
