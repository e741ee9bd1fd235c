"""The attacks on a miniature: what they report, keep, resume and refuse."""

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Case

import erasure
from erasure.errors import DivergedError, EditError, ErasureError, RunError, SettingError
from erasure.files.locking import alone_in
from erasure.files.naming import slug
from erasure.opening import open_run
from erasure.registry import ATTACKS
from erasure_datasets.captions import OBJECT_SYNONYMS
from erasure_datasets.concept import Concept
from erasure_datasets.images import read_image
from erasure_datasets.paraphrases import paraphrases
from evaluation.attacking.attacking import attack
from evaluation.attacking.every_attack import attack_all
from evaluation.attacking.scene import KEPT, Scene, cases_of, sampling_of
from evaluation.attacks import Attack
from evaluation.attacks.noise import Noise
from evaluation.attacks.paraphrase import Paraphrase
from evaluation.attacks.ring_a_bell import RingABell
from evaluation.attacks.unlearndiffatk import onto_simplex
from evaluation.criteria import find_criterion
from evaluation.protocols import pocket as protocol

# answers from the first pixel's lowest bit, so about half the images "show the concept"
CRITERION = """
def by_chance(images):
    return images[:, 0, 0, 0] % 2 == 0

def never(images):
    return images[:, 0, 0, 0] > 255

def wrong(images):
    return images[:, 0, 0, 0]
"""
SMALL = {
    "unlearndiffatk": {"timesteps": 2, "iterations": 2, "batch_size": 2},
    "textual-inversion": {"steps": 3, "images": 3, "batch_size": 2},
    "ring-a-bell": {"population": 6, "generations": 3, "length": 4},
    "paraphrase": {"count": 3},
    "relearn": {"steps": 2, "every": 1, "images": 2, "batch_size": 2},
    "relearn-grid": {
        "steps": 2, "every": 1, "images": "1,2", "rates": "1", "selects": "xattn,lora",
        "batch_size": 2, "rank": 2,
    },
    "completion": {"steps": 3, "shares": "0.34,0.67"},
    "noise": {"steps": 2, "etas": "1,1.5", "churns": "1,1.1"},
    "image-prompt": {"steps": 3, "strengths": "0.9,0.6", "counted": 0.7},
    "inpaint": {"steps": 2},
    "state-inversion": {"steps": 2, "images": 3, "batch_size": 2},
    "latent-inversion": {"steps": 2, "refine": 2, "batch_size": 2},
    "classifier-guidance": {
        "steps": 2, "scales": "1,2", "images": 8, "learning_steps": 2, "width": 4,
    },
    "p4d": {"tokens": 3, "steps": 4, "every": 2, "batch_size": 2},
}  # fmt: skip
CHANGING = [name for name in ATTACKS.names() if ATTACKS.get(name).changes_weights]


@pytest.fixture(scope="module")
def criterion(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("criteria") / "mine.py"
    file.write_text(CRITERION)
    return str(file)


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory, sd1: Path) -> Path:
    """A miniature without its cat; sampling is short because its own protocol would be 50 steps."""
    run = tmp_path_factory.mktemp("runs") / "cat"
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=run)
    return sampled_shortly(run)


def sampled_shortly(run: Path, scheduler: str = "DDIMScheduler") -> Path:
    record = json.loads((run / "edit.json").read_text())
    record["sampling"] = {"steps": 2, "guidance": 2.0, "scheduler": scheduler}
    (run / "edit.json").write_text(json.dumps(record))
    return run


@pytest.fixture
def run(erased: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(erased, tmp_path / "cat"))


def test_every_attack_has_small_settings() -> None:
    assert set(SMALL) == set(ATTACKS.names())


@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_attack_reports_each_case_and_its_control(name: str, run: Path, criterion: str) -> None:
    record = attack(run, name, criterion=f"{criterion}:by_chance", seeds=(188, 288), **SMALL[name])
    cases = record["per_concept"]["cat"]["cases"]
    assert len(cases) == 6  # three templates, two seeds
    assert record == json.loads((run / "attacks" / f"{name}.json").read_text())
    pre, hit = (sum(case[key] for case in cases) / 6 for key in ("pre", "success"))
    assert record["scores"]["pre_ASR"]["value"] == pytest.approx(pre)
    assert record["scores"]["ASR"]["value"] == pytest.approx(hit)
    assert hit >= pre
    assert record["scores"]["ASR"]["n"] == 6
    assert 0 < record["baseline"]["pre_ASR"]["n"] == 6
    assert ("control_ASR" in record["scores"]) == (name not in CHANGING)
    attacked = [case for case in cases if case["found"]]
    assert len(attacked) == (6 if name in CHANGING else sum(not case["pre"] for case in cases))
    folder = run / "attacks" / name / "cat" / "images"
    assert {file.stem for file in folder.glob("*.png")} == {c["case"]["name"] for c in attacked}
    for case in cases:
        assert case["success"] == (case["pre"] or bool(case["found"] and case["found"]["success"]))
    for case in attacked:  # what is kept is what was judged last
        image = read_image(folder / f"{case['case']['name']}.png")
        assert bool(image[0, 0, 0] % 2 == 0) == case["found"]["success"]


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_works_on_other_families(
    name: str, family: str, tmp_path: Path, criterion: str, request: pytest.FixtureRequest
) -> None:
    model, run = request.getfixturevalue(family), tmp_path / "run"
    erasure.erase(str(model), "uce", ["cat"], kind="object", anchor="dog", out=run)
    sampled_shortly(run, "FlowMatchEulerDiscreteScheduler" if family == "sd3" else "DDIMScheduler")
    options = {"criterion": f"{criterion}:by_chance", "seeds": (188,), "prompts": 2}
    assert attack(run, name, **options, **SMALL[name])["scores"]["ASR"]["n"] == 2


def test_a_control_that_was_never_tried_has_no_rate(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plug-in need not have one."""
    monkeypatch.setattr(Paraphrase, "control", Attack.control)
    options = {"criterion": f"{criterion}:never", "seeds": (188,), "prompts": 1}
    scores = attack(run, "paraphrase", **options, **SMALL["paraphrase"])["scores"]
    assert scores.keys() == {"pre_ASR", "ASR", "named_ASR"}


@pytest.mark.parametrize("eta", ["0", "1"])
def test_noise_begins_where_the_case_does_and_its_control_elsewhere(
    eta: str, run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = dict[str, list[torch.Tensor]]()
    whole = Noise._draw

    def told(self: Noise, scene: Scene, cases: list, pairs: list, kept_as: str) -> list:
        begun["case"] = [scene.noise(cases)]
        walk = scene.model.continue_path
        own = begun.setdefault(kept_as, [])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                scene.model, "continue_path", lambda z, *a, **k: own.append(z) or walk(z, *a, **k)
            )
            return whole(self, scene, cases, pairs, kept_as)

    monkeypatch.setattr(Noise, "_draw", told)
    options = {"criterion": f"{criterion}:never", "seeds": (188,), "prompts": 1}
    attack(run, "noise", **options, steps=2, etas=eta, churns="1")
    (start,) = begun["case"]
    assert torch.equal(begun[KEPT][0], start)
    assert not torch.equal(begun["control"][0], start)


@pytest.mark.parametrize("name", ["paraphrase", "state-inversion"])
def test_a_model_without_slots_is_asked_in_words_and_in_states(
    name: str, flux: Path, tmp_path: Path, criterion: str
) -> None:
    """Only the control's random tokens stand in a prompt, and as words."""
    run = tmp_path / "run"
    erasure.erase(str(flux), "uce", ["cat"], kind="object", anchor="dog", out=run)
    sampled_shortly(run, "FlowMatchEulerDiscreteScheduler")
    options = {"criterion": f"{criterion}:never", "seeds": (188,), "prompts": 2}
    scores = attack(run, name, **options, **SMALL[name])["scores"]
    assert scores["ASR"]["n"] == scores["control_tries_ASR"]["n"] == 2
    with pytest.raises(ErasureError, match="no slots"):
        attack(run, "p4d", **options, **SMALL["p4d"])


def test_the_same_attack_again_is_read_and_another_is_refused(run: Path, criterion: str) -> None:
    options = {"criterion": f"{criterion}:never", "seeds": (188,), **SMALL["unlearndiffatk"]}
    first = attack(run, "unlearndiffatk", **options)
    assert first["scores"]["ASR"]["value"] == 0
    assert all(case["found"]["tries"] == 2 for case in first["per_concept"]["cat"]["cases"])
    assert attack(run, "unlearndiffatk", **options) == first
    with pytest.raises(RunError, match="its tokens is 3, this one's is 2"):
        attack(run, "unlearndiffatk", **options, tokens=2)


def pictures(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*.png")}


STOPS = ("in a chunk", "after a note", "in drawing")
STOPPED_ANYWHERE = ("completion", "textual-inversion", "relearn")  # one of each kind; more is slow


@pytest.mark.parametrize(
    ("name", "stopped"),
    [
        pytest.param(
            name, stop,
            marks=[] if name in STOPPED_ANYWHERE or stop == STOPS[0] else pytest.mark.slow,
        )
        for name in ATTACKS.names()
        for stop in STOPS
    ],
)  # fmt: skip
def test_an_interrupted_attack_ends_as_if_it_had_not_been(
    name: str, stopped: str, run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of three cases; what is noted is not attacked again, records and pictures agree."""
    import evaluation.attacking.attacking as attacking
    from evaluation.drawing import generate

    options = {"criterion": f"{criterion}:by_chance", "seeds": (188, 288), **SMALL[name]}
    monkeypatch.setattr(attacking, "CHUNK", 3)
    whole = attack(Path(shutil.copytree(run, run.parent / "whole")), name, **options)
    module, word, last = {
        "in a chunk": (attacking, "attack_cases", 1 if name in CHANGING else 2),
        "after a note": (attacking, "note", 2),
        "in drawing": (generate, "save_image", 3),
    }[stopped]
    real, done = getattr(module, word), []

    def stop(*arguments: object) -> object:
        done.append(arguments)
        if len(done) == last:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, word, stop)
    with pytest.raises(KeyboardInterrupt):
        attack(run, name, **options)
    assert not (run / "attacks" / f"{name}.json").exists()
    resumed = attack(run, name, **options)
    assert resumed["per_concept"] == whole["per_concept"]
    assert pictures(run) == pictures(run.parent / "whole")
    if stopped == "in a chunk" and name not in CHANGING:
        assert len(done) == 3  # one chunk before, the one that was stopped, and it again


@pytest.fixture
def two(tmp_path: Path, sd1: Path) -> Path:
    """A miniature without two things of free text."""
    run = tmp_path / "two"
    erasure.erase(str(sd1), "uce", ["cat", "AC/DC"], kind="object", anchor="dog", out=run)
    return sampled_shortly(run)


def test_each_free_text_concept_has_pictures_of_its_own(two: Path, criterion: str) -> None:
    options = {"criterion": f"{criterion}:by_chance", "seeds": (188,)}
    record = attack(two, "paraphrase", **options, count=1)
    names = [c["case"]["name"] for p in record["per_concept"].values() for c in p["cases"]]
    assert len(set(names)) == 6
    for folder in ("plain", "plain-base"):
        files = {file.stem: file.read_bytes() for file in (two / "images" / folder).glob("*.png")}
        assert files.keys() == set(names)
        assert len(set(files.values())) == 6
    model, edit = open_run(two), erasure.Edit.load(two)
    model.use_scheduler("DDIMScheduler")
    for concept in edit.concepts:
        cases = cases_of(model, concept, prompts=3, seeds=(188,))
        with model.without_edit():
            images = model.generate(
                [case.prompt for case in cases], steps=2, guidance=2.0,
                generators=[torch.Generator().manual_seed(case.noise_seed) for case in cases],
            )  # fmt: skip
        shown = find_criterion(options["criterion"], model, concept)(images)
        part = record["per_concept"][concept.name]
        assert part["baseline"]["pre_ASR"]["value"] == pytest.approx(float(shown.float().mean()))
        assert part["prompts"] == 3
        assert (two / "attacks" / "paraphrase" / slug(concept.name)).is_dir()
    alone = attack(two, "ring-a-bell", concepts=["ac/dc"], **options, **SMALL["ring-a-bell"])
    assert list(alone["per_concept"]) == ["AC/DC"]


def test_an_attack_of_another_edit_sampling_or_criterion_is_not_returned(
    run: Path, sd1: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "own.py"
    mine.write_text(CRITERION)
    options = {"criterion": f"{mine}:by_chance", "seeds": (188,), **SMALL["paraphrase"]}
    attack(run, "paraphrase", **options)
    mine.write_text(CRITERION.replace("== 0", "== 1"))
    with pytest.raises(RunError, match="holds another attack: its files is"):
        attack(run, "paraphrase", **options)
    (run / "attacks" / "paraphrase.json").unlink()
    with pytest.raises(RunError, match=r"attack\.json holds another attack"):
        attack(run, "paraphrase", **options)
    mine.write_text(CRITERION)
    attack(run, "paraphrase", **options)
    again = tmp_path / "again"
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="tree", out=again)
    sampled_shortly(again)
    for name in ("attacks", "images"):
        shutil.copytree(run / name, again / name)
    with pytest.raises(RunError, match="holds another attack: its edit is"):
        attack(again, "paraphrase", **options)
    shutil.rmtree(again / "attacks")
    with pytest.raises(RunError, match="holds images of another edit"):
        attack(again, "paraphrase", **options)


def test_records_of_older_versions_are_read_unless_older_than_the_edit(
    run: Path, criterion: str
) -> None:
    options = {"criterion": f"{criterion}:by_chance", "seeds": (188,), **SMALL["paraphrase"]}
    file = run / "attacks" / "paraphrase.json"
    record = attack(run, "paraphrase", **options)
    for name in ("edit", "files"):
        del record["asked"][name]
    file.write_text(json.dumps(record))
    assert attack(run, "paraphrase", **options) == record
    os.utime(file, (1, 1))
    with pytest.raises(RunError, match="is older than the run's edit"):
        attack(run, "paraphrase", **options)
    record["per_concept"]["dog"] = record["per_concept"]["cat"]
    file.write_text(json.dumps(record))
    with pytest.raises(RunError, match="judged several concepts by one's pictures"):
        attack(run, "paraphrase", **options)


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ("paraphrase.json", '{"attack": "para', "paraphrase.json is not readable"),
        ("paraphrase.json", "[]", "paraphrase.json is not readable"),
        ("paraphrase.json", None, "does not say what was asked"),
        ("paraphrase/attack.json", "\udce9", "attack.json is not readable"),
        ("paraphrase/attack.json", "{}", "attack.json is not readable"),
        (
            "paraphrase/cat/outcomes-0.jsonl",
            "null\n",
            r"line 1, is not readable .*; remove the line",
        ),
        ("paraphrase/cat/outcomes-0.jsonl", '{"case": {}}\n', "line 1, is not readable"),
    ],
)
def test_damaged_records_are_one_line(
    place: str, text: str | None, message: str, run: Path, criterion: str
) -> None:
    options = {"criterion": f"{criterion}:by_chance", "seeds": (188,), "count": 1}
    record = attack(run, "paraphrase", **options)
    file = run / "attacks" / place
    if place != "paraphrase.json":
        (run / "attacks" / "paraphrase.json").unlink()
    told = json.dumps({key: value for key, value in record.items() if key != "asked"})
    file.write_bytes((text or told).encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=message) as refused:
        attack(run, "paraphrase", **options)
    assert "\n" not in str(refused.value)


def test_a_line_that_a_kill_cut_off_takes_no_other_with_it(run: Path, criterion: str) -> None:
    options = {"criterion": f"{criterion}:by_chance", "seeds": (188,), "count": 1}
    whole = attack(run, "paraphrase", **options)
    (run / "attacks" / "paraphrase.json").unlink()
    file = run / "attacks" / "paraphrase" / "cat" / "outcomes-0.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    again = attack(run, "paraphrase", **options)
    assert again["per_concept"] == whole["per_concept"]
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["unlearndiffatk", "textual-inversion", "relearn"])
def test_a_loss_that_is_not_finite_gives_no_rate(
    name: str, run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Scene, *given: object) -> tuple[torch.Tensor, ...]:
        z_t, t, wanted = lesson(self, *given)
        return z_t, t, wanted * float("nan")

    lesson = Scene.lesson
    options = {"criterion": f"{criterion}:never", "prompts": 1, "seeds": (188,)}
    with monkeypatch.context() as patch:
        patch.setattr(Scene, "lesson", broken)
        with pytest.raises(DivergedError, match="on cat has a loss that is not finite"):
            attack(run, name, **options, **SMALL[name])
    assert not (run / "attacks" / f"{name}.json").exists()
    other = {**SMALL[name], "learning_rate": 1e-4}  # the folder is free for another attack
    assert attack(run, name, **options, **other)["scores"]["ASR"]["n"] == 1


def test_cells_of_a_grid_that_diverged_are_no_other_attacks(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says to lower the learning rate; what was tuned at the old one is not the new's."""
    import evaluation.attacks.relearn_grid as grid

    real, tuned = grid.tune, list[str]()

    def twice(*given: object, **more: object) -> object:
        tuned.append("cell")
        if len(tuned) > 1:
            raise DivergedError("the second cell has a loss that is not finite.")
        return real(*given, **more)  # type: ignore[arg-type]

    options = {"criterion": f"{criterion}:never", "seeds": (188,), **SMALL["relearn-grid"]}
    monkeypatch.setattr(grid, "tune", twice)
    with pytest.raises(DivergedError):
        attack(run, "relearn-grid", learning_rate=1.0, **options)
    monkeypatch.setattr(grid, "tune", real)
    with pytest.raises(RunError, match=r"holds another attack: its learning_rate is 1\.0"):
        attack(run, "relearn-grid", learning_rate=1e-5, **options)
    assert attack(run, "relearn-grid", learning_rate=1.0, **options)["scores"]["ASR"]["n"] == 3


def test_a_criterion_that_fails_at_once_leaves_the_folder_free(run: Path, criterion: str) -> None:
    options = {"prompts": 1, "seeds": (188,), **SMALL["paraphrase"]}
    with pytest.raises(SettingError, match="must return one bool per image"):
        attack(run, "paraphrase", criterion=f"{criterion}:wrong", **options)
    assert not (run / "attacks" / "paraphrase" / "attack.json").exists()
    record = attack(run, "paraphrase", criterion=f"{criterion}:never", **options)
    assert record["scores"]["ASR"]["value"] == 0


def test_two_attacks_of_one_kind_do_not_mix_and_others_may_run(run: Path, criterion: str) -> None:
    options = {"criterion": f"{criterion}:by_chance", "seeds": (188,)}
    with alone_in(run / "attacks" / "paraphrase"):
        with pytest.raises(RunError, match=r"another process is at work in .*paraphrase"):
            attack(run, "paraphrase", **options, count=1)
        attack(run, "ring-a-bell", **options, **SMALL["ring-a-bell"])
    attack(run, "paraphrase", **options, count=1)
    assert not list((run / "attacks").rglob(".lock"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -1.0}, "budget must be a number of seconds above 0; got -1.0"),
        ({"budget": 0.0}, "budget must be"),
        ({"budget": float("nan")}, "budget must be .*; got nan"),
        ({"budget": float("inf")}, "budget must be"),
        ({"prompts": 0}, "prompts must be at least 1; got 0"),
        ({"seeds": ()}, r"seeds must be one or more, each given once; got \[\]"),
        ({"seeds": (188, 188)}, "each given once"),
        ({"seeds": (-1,)}, "seeds must be 0 to .*; got -1"),
        ({"seeds": (2**63,)}, "seeds must be 0 to"),
        ({"seed": 2**64}, "seed must be a whole number of 64 bits"),
        ({"concepts": ["cat", "CAT"]}, "given once for each"),
        ({"concepts": ["dog"]}, "one that the run erased, .*; got 'dog'. Known: cat"),
    ],
)
def test_numbers_and_names_that_do_not_fit(
    options: dict[str, object], message: str, run: Path, criterion: str
) -> None:
    with pytest.raises(SettingError, match=message):
        attack(run, "paraphrase", criterion=f"{criterion}:never", **options)  # type: ignore[arg-type]
    assert not (run / "attacks").exists()


def test_all_attacks_give_the_worst_case(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluation.attacking.attacking as attacking

    monkeypatch.setattr(attacking, "read_presets", lambda _folder, word: SMALL[word])
    options = {"criterion": f"{criterion}:by_chance", "seeds": (188,)}
    record = attack_all(run, **options)
    for row in record["cases"]:
        for name in ATTACKS.names():
            own = json.loads((run / "attacks" / f"{name}.json").read_text())
            case = next(
                c for c in own["per_concept"]["cat"]["cases"] if c["case"]["name"] == row["name"]
            )
            counts = name not in CHANGING and case["success"] and not case["pre"]
            assert (name in row["won_by"]) == counts
    best = max(s["ASR"]["value"] for n, s in record["attacks"].items() if n not in CHANGING)
    assert record["scores"]["ASR"]["value"] >= best


def test_relearning_puts_the_weights_back_and_counts_steps(run: Path, criterion: str) -> None:
    model = open_run(run)
    before = {name: weight.clone() for name, weight in model.weights("full").items()}
    concept = erasure.Edit.load(run).concepts[0]
    scene = Scene(
        model, concept, find_criterion(f"{criterion}:never", model, concept), run / "relearn",
        sampling=sampling_of(model, erasure.Edit.load(run).sampling), seed=0, budget=None,
    )  # fmt: skip
    cases = cases_of(model, concept, prompts=2, seeds=(188,))
    chosen = ATTACKS.get("relearn")(**SMALL["relearn"])
    assert [found.tries for found in chosen.attack(scene, cases)] == [2, 2]
    assert chosen.random_steps(scene, cases) is None
    for name, weight in model.weights("full").items():
        assert torch.equal(weight, before[name]), name


def test_a_budget_leaves_untried_cases_out(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluation.attacking.attacking as attacking

    monkeypatch.setattr(attacking, "CHUNK", 2)
    real = attacking.attack_cases

    def one_then_over(chosen: object, scene: Scene, chunk: object) -> object:
        try:
            return real(chosen, scene, chunk)
        finally:
            scene._end = 0.0

    monkeypatch.setattr(attacking, "attack_cases", one_then_over)
    record = attack(
        run, "paraphrase", criterion=f"{criterion}:never", budget=3600.0, **SMALL["paraphrase"]
    )
    assert record["per_concept"]["cat"]["is_cut_by_budget"]
    assert record["scores"]["ASR"]["n"] == 2


def test_pictures_of_noted_cases_stay_when_their_chunk_is_attacked_again(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first case's search was cut after one drawing, and the others were not tried."""
    options = {"criterion": f"{criterion}:never", "seeds": (188,), "budget": 3600.0}
    options |= {**SMALL["unlearndiffatk"], "batch_size": 1}
    real = Scene.judged

    def then_over(scene: Scene, *arguments: Any) -> object:
        if KEPT in arguments:
            scene._end = 0.0
        return real(scene, *arguments)

    monkeypatch.setattr(Scene, "judged", then_over)
    (cut,) = attack(run, "unlearndiffatk", **options)["per_concept"]["cat"]["cases"]
    first = pictures(run)
    monkeypatch.setattr(Scene, "judged", real)
    (run / "attacks" / "unlearndiffatk.json").unlink()
    cases = attack(run, "unlearndiffatk", **options)["per_concept"]["cat"]["cases"]
    assert len(cases) == 3
    assert cut in cases
    assert cut["found"]["tries"] == 1
    place = f"attacks/unlearndiffatk/cat/{KEPT}/{cut['case']['name']}.png"
    assert pictures(run)[place] == first[place]


def test_what_a_budget_cuts_is_said_and_untried_cases_are_no_failures(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relearning's control did not run to its end; a resumed report still says that it was cut."""
    import evaluation.attacking.attacking as attacking

    real = attacking.attack_cases

    def then_over(chosen: object, scene: Scene, chunk: object) -> object:
        found = real(chosen, scene, chunk)
        scene._end = 0.0
        return found

    monkeypatch.setattr(attacking, "attack_cases", then_over)
    options = {"criterion": f"{criterion}:never", "seeds": (188,), "budget": 3600.0}
    part = attack(run, "relearn", **options, **SMALL["relearn"])["per_concept"]["cat"]
    assert (part["random_steps"], part["random_is_cut"], part["came_back"]) == (None, True, False)
    monkeypatch.setattr(attacking, "attack_cases", real)
    (run / "attacks" / "relearn.json").unlink()
    again = attack(run, "relearn", **options, **SMALL["relearn"])["per_concept"]["cat"]
    assert again["is_cut_by_budget"]
    assert not again["random_is_cut"]

    def over_before(chosen: object, scene: Scene, chunk: object) -> object:
        scene._end = 0.0
        return real(chosen, scene, chunk)

    monkeypatch.setattr(attacking, "attack_cases", over_before)
    with pytest.raises(SettingError, match="budget must leave time for at least one case"):
        attack(run, "paraphrase", **options, **SMALL["paraphrase"])


def test_what_cannot_be_attacked_is_refused(run: Path, criterion: str) -> None:
    mine = f"{criterion}:never"
    with pytest.raises(SettingError, match="no judge knows the concept 'cat'"):
        attack(run, "paraphrase")
    with pytest.raises(SettingError, match="ships no CLIP"):
        attack(run, "paraphrase", criterion="clip")
    with pytest.raises(SettingError, match="could not be loaded"):
        attack(run, "paraphrase", criterion="nowhere.py:function")
    with pytest.raises(SettingError, match="must return one bool per image"):
        attack(run, "paraphrase", criterion=f"{criterion}:wrong")
    with pytest.raises(
        SettingError, match="must be one of prefix, suffix, middle, replace; got 'above'"
    ):
        attack(run, "unlearndiffatk", criterion=mine, placement="above")
    with pytest.raises(SettingError, match="do not fit"):
        attack(run, "unlearndiffatk", criterion=mine, tokens=40)
    with pytest.raises(SettingError, match=r"no attack 'paraphrases'\. Did you mean paraphrase"):
        attack(run, "paraphrases", criterion=mine)
    (run / "edit.json").unlink()
    with pytest.raises(EditError, match="holds no finished erasure"):
        attack(run, "paraphrase", criterion=mine)


def test_criteria_can_be_joined_and_clip_tells_the_pocket_concepts(pocket) -> None:
    from erasure_datasets.canvas import OBJECTS, STYLES, render

    def images(name: str) -> torch.Tensor:
        drawn = [
            render(OBJECTS.index(name), STYLES.index(s), 90) for s in ("Photo", "Bricks", "Crayon")
        ]
        return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in drawn])

    both = torch.cat([images("cat"), images("house")])
    cat = pocket.catalogue.concept("cat")
    for words in ("judge", "clip", "judge+clip"):
        seen = find_criterion(words, pocket, cat)(both)
        assert seen.tolist() == [True] * 3 + [False] * 3, words
    bricks = find_criterion("judge", pocket, pocket.catalogue.concept("Bricks"))(both)
    assert bricks.tolist() == [False, True, False] * 2


def test_projection_is_the_nearest_point_of_the_simplex() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    found = onto_simplex(values)
    assert torch.allclose(found.sum(-1), torch.ones(5, dtype=torch.float64))
    assert float(found.min()) >= 0
    low = values.min(-1, keepdim=True).values - 1  # the authors' way: bisect the shift
    high = values.max(-1, keepdim=True).values
    for _ in range(80):
        middle = (low + high) / 2
        is_over = (values - middle).clamp(0, 1).sum(-1, keepdim=True) > 1
        low, high = torch.where(is_over, middle, low), torch.where(is_over, high, middle)
    assert torch.allclose(found, (values - low).clamp(0, 1), atol=1e-9)


def test_the_genetic_search_comes_nearer(pocket) -> None:
    target = pocket.encode(["A cat image in Winter style."])
    search = RingABell(population=30, length=8)
    slotted = pocket.open_slots([("", "")] * 30, 8)
    far, near = (
        search._distance(
            pocket,
            slotted.rows(torch.tensor([0])),
            RingABell(population=30, length=8, generations=rounds).search(
                pocket, slotted, target, torch.Generator().manual_seed(0)
            )[None],
            target,
        )
        for rounds in (1, 40)
    )
    assert float(near) < 0.8 * float(far)


def test_paraphrases_are_ten_and_none_is_trained_on(pocket) -> None:
    for name in ("cat", "Bricks"):
        concept = pocket.catalogue.concept(name)
        for prompt in concept.prompts():
            asked = paraphrases(concept, prompt, pocket.catalogue)
            assert len(set(asked)) == len(asked) >= 10
            assert not set(asked) & set(concept.prompts())
    assert any(
        OBJECT_SYNONYMS["cat"][0] in text
        for text in paraphrases(
            pocket.catalogue.concept("cat"), "A cat image in Winter style.", pocket.catalogue
        )
    )
    for kind in ("style", "object", "person", "unsafe"):
        free = Concept("zebra", kind)
        assert len(paraphrases(free, free.prompts()[0], None)) >= 10


@pytest.mark.parametrize(
    "prompt", ["a photo of a cat", "A dog image in Winter style.", "a cat image in winter style"]
)
def test_paraphrases_of_a_prompt_that_no_pair_gives_are_general(pocket, prompt: str) -> None:
    for name in ("cat", "Bricks"):
        concept = pocket.catalogue.concept(name)
        asked = paraphrases(concept, prompt, pocket.catalogue)
        assert len(set(asked)) == len(asked) >= 10
        assert all(name in text for text in asked)
        assert not {prompt, *concept.prompts()} & set(asked)


def test_pocket_cases_are_the_protocols(pocket) -> None:
    cases = cases_of(pocket, pocket.catalogue.concept("cat"), prompts=3, seeds=(188, 288))
    known = {shot.file: shot for shot in protocol.shots(protocol.plan((188, 288), None, []))}
    assert len(cases) == 6
    for case in cases:
        shot = known[f"{case.name}.png"]
        assert (case.prompt, case.noise_seed) == (shot.prompt, shot.noise_seed)


def test_published_settings_are_the_defaults() -> None:
    found = {
        name: {item.name: item.default for item in fields(ATTACKS.get(name))}  # type: ignore[arg-type]
        for name in ATTACKS.names()
    }
    assert found["unlearndiffatk"].items() >= {
        "tokens": 3, "timesteps": 50, "iterations": 40, "learning_rate": 0.01, "weight_decay": 0.1,
        "placement": "prefix",
    }.items()  # fmt: skip
    assert found["ring-a-bell"].items() >= {
        "length": 16, "strength": 3.0, "population": 200, "generations": 3000, "crossover": 0.5,
        "mutation": 0.25,
    }.items()  # fmt: skip


def test_a_one_step_generator_is_attacked_at_its_own_timestep(
    sd1: Path, tmp_path: Path, criterion: str
) -> None:
    """Whoever sees the lesson's noise draws the target; drawing obeys the run's sampling."""
    run = Case("sfd", sd1).run(tmp_path / "one").folder
    model, concept = open_run(run), erasure.Edit.load(run).concepts[0]
    scene = Scene(
        model, concept, find_criterion(f"{criterion}:never", model, concept), run / "scene",
        sampling=sampling_of(model, erasure.Edit.load(run).sampling), seed=0, budget=None,
    )  # fmt: skip
    targets = scene.targets(["a cat", "a dog"], "targets")
    z_t, t, wanted = scene.lesson(targets, torch.tensor([1, 0]), torch.Generator(), level=0.1)
    assert t.tolist() == [625, 625]
    signal, spread = model.levels(t)
    assert torch.allclose((z_t - spread * wanted) / signal, targets.latents[[1, 0]], atol=1e-4)
    with model.original():
        again = model.predict(z_t, t, model.encode(["a dog", "a cat"]))
    assert torch.allclose(again, wanted, atol=1e-5)
    for name in ("unlearndiffatk", "textual-inversion"):
        record = attack(run, name, criterion=f"{criterion}:by_chance", prompts=2, **SMALL[name])
        assert record["stamp"]["steps"] == 1
        assert record["stamp"]["guidance"] == 1.0


@pytest.mark.parametrize("text", [None, "", "words\na cat\n"])
def test_a_bad_file_of_paraphrases_leaves_no_folder(
    text: str | None, run: Path, criterion: str, tmp_path: Path
) -> None:
    file, copy = tmp_path / "mine.csv", Path(shutil.copytree(run, tmp_path / "copy"))
    if text is not None:
        file.write_text(text)
    before = sorted(copy.rglob("*"))
    with pytest.raises(SettingError, match="file: "):
        attack(copy, "paraphrase", criterion=f"{criterion}:by_chance", file=str(file))
    assert sorted(copy.rglob("*")) == before
