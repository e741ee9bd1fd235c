"""Probes that do not ask by text, the threshold of a win, and the model that never knew."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contract import Case, other_weights
from flow import MiniatureFlow
from test_attacks import SMALL, sampled_shortly
from torch import Tensor, nn

import erasure
from erasure.errors import ErasureError, ModelError, RunError, SettingError
from erasure.files.storage import file_digest, read_tensors, write_tensors
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.opening import open_run
from erasure.registry import ATTACKS
from evaluation.attacking import every_attack
from evaluation.attacking.attacking import OutOfTimeError, attack
from evaluation.attacking.beside_gold import beside_gold, gold_record
from evaluation.attacking.scene import LEAST_TRUE, MISSED, Scene, Targets, cases_of, sampling_of
from evaluation.attacking.tuning import Tuning, tune
from evaluation.attacks import by_level
from evaluation.attacks.classifier_guidance import LatentClassifier, towards
from evaluation.attacks.latent_inversion import walked_back
from evaluation.attacks.p4d import nearest
from evaluation.attacks.state_inversion import StateInversion
from evaluation.criteria import Criterion
from evaluation.reports.facts import facts

CRITERION = """
def rarely(images):
    return images[:, 0, 0, 0] % 4 == 0

def always(images):
    return images[:, 0, 0, 0] >= 0

def never(images):
    return images[:, 0, 0, 0] > 255
"""
SHORT = Sampling(2, 2.0, "DDIMScheduler")
WALKING = [name for name in ATTACKS.names() if ATTACKS.get(name).walks_path]


@pytest.fixture(scope="module")
def criterion(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("criteria") / "mine.py"
    file.write_text(CRITERION)
    return str(file)


@pytest.fixture
def run(sd1: Path, tmp_path: Path) -> Path:
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=tmp_path / "cat")
    return sampled_shortly(tmp_path / "cat")


@pytest.fixture
def many_steps(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that asks for no sampling of its own, as all but one-step generators; drawn shortly."""
    monkeypatch.setattr("evaluation.attacking.scene.ELSEWHERE", SHORT)
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=tmp_path / "cat")
    return tmp_path / "cat"


class Brightness(Criterion):
    """Says yes above 100, as surely as the image is bright."""

    name = "brightness"

    def __init__(self, *, is_sure: bool = True) -> None:
        self.is_sure = is_sure

    def __call__(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, 0] > 100

    def probability(self, images: Tensor) -> Tensor | None:
        return images[:, 0, 0, 0].float() / 255 if self.is_sure else None


def scene_of(run: Path, criterion: Criterion, **options: float | None) -> Scene:
    model, edit = open_run(run), erasure.Edit.load(run)
    sampling = sampling_of(model, edit.sampling)
    return Scene(
        model, edit.concepts[0], criterion, run / "scene", sampling=sampling, seed=0,
        budget=options.get("budget"),
    )  # fmt: skip


def gray(values: Tensor) -> Tensor:
    return values.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# the threshold


def test_most_true_images_pass_the_threshold_and_doubtful_ones_do_not(run: Path) -> None:
    scene = scene_of(run, Brightness())
    true = gray(torch.randint(101, 256, (60,), generator=source()))
    false = gray(torch.arange(0, 100, 5))
    scene.calibrate(torch.cat([true, false]))
    assert scene.threshold > 100 / 255
    assert scene.shows(true).float().mean() >= 1 - MISSED
    assert not scene.shows(true).all()
    assert not scene.shows(false).any()


@pytest.mark.parametrize(("is_sure", "count"), [(False, 60), (True, LEAST_TRUE - 1)])
def test_without_probabilities_or_true_images_there_is_no_threshold(
    is_sure: bool, count: int, run: Path
) -> None:
    scene = scene_of(run, Brightness(is_sure=is_sure))
    images = gray(torch.linspace(101, 255, count))
    scene.calibrate(images)
    assert scene.threshold == 0
    assert scene.shows(images).all()


# a model that never knew the concept


def test_excess_is_paired_by_case(many_steps: Path, sd1: Path, criterion: str) -> None:
    run, options = many_steps, {"criterion": f"{criterion}:rarely", **SMALL["noise"]}
    gold = str(other_weights(sd1))
    record = attack(run, "noise", gold=gold, **options)
    floor = json.loads((run / "gold" / "attacks" / "noise.json").read_text())
    own, theirs = (
        {c["case"]["name"]: c["success"] for c in one["per_concept"]["cat"]["cases"]}
        for one in (record, floor)
    )
    assert own.keys() == theirs.keys()
    differences = torch.tensor([float(own[name]) - float(theirs[name]) for name in own])
    found = record["scores"]["excess"]
    assert found["value"] == pytest.approx(float(differences.mean()))
    error = differences.std(correction=0) / len(differences) ** 0.5
    assert found["stderr"] == pytest.approx(float(error), rel=0.2)  # by n or n - 1
    assert record["scores"]["ASR_gold"] == floor["scores"]["ASR"]
    gap = record["scores"]["ASR"]["value"] - record["scores"]["ASR_gold"]["value"]
    assert found["value"] == pytest.approx(gap)
    assert record["stamp"]["gold"] == gold
    assert "gold" not in floor["stamp"]
    assert attack(run, "noise", gold=gold, **options)["scores"] == record["scores"]
    assert not record["per_concept"]["cat"]["is_cut_by_budget"]
    floor["per_concept"]["cat"]["is_cut_by_budget"] = True
    (run / "gold" / "attacks" / "noise.json").write_text(json.dumps(floor))
    again = attack(run, "noise", gold=gold, **options)
    assert again["per_concept"]["cat"]["is_cut_by_budget"]


OWN = ("a drawing of {a name}", "{name} at night")


@pytest.fixture
def own_prompts(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `many_steps`, with templates of its own."""
    monkeypatch.setattr("evaluation.attacking.scene.ELSEWHERE", SHORT)
    out = tmp_path / "own"
    erasure.erase(
        str(sd1), "uce", ["cat"], kind="object", anchor="dog", template=list(OWN), out=out
    )
    return out


def test_gold_is_attacked_by_the_runs_own_prompts(
    own_prompts: Path, sd1: Path, tmp_path: Path, criterion: str
) -> None:
    run, options = own_prompts, {"criterion": f"{criterion}:rarely", "seeds": (188,)}
    weights = str(other_weights(sd1))
    record = attack(run, "noise", gold=weights, **options, **SMALL["noise"])
    assert record["scores"]["ASR_gold"]["n"] == record["scores"]["excess"]["n"] == len(OWN)
    floor = json.loads((run / "gold" / "attacks" / "noise.json").read_text())
    cases = [
        [case["case"] for case in one["per_concept"]["cat"]["cases"]] for one in (record, floor)
    ]
    assert cases[0] == cases[1]
    assert [case["prompt"] for case in cases[0]] == ["a drawing of a cat", "cat at night"]
    # so does a run of gold that has these prompts
    made = {"kind": "object", "anchor": "tree", "weights": weights}
    erasure.erase(str(sd1), "gold", ["cat"], template=list(OWN), out=tmp_path / "gold", **made)
    again = attack(run, "inpaint", gold=tmp_path / "gold", **options, **SMALL["inpaint"])
    assert again["scores"]["ASR_gold"]["n"] == len(OWN)


def test_gold_with_other_prompts_is_refused_before_anything_is_attacked(
    own_prompts: Path, sd1: Path, tmp_path: Path, criterion: str
) -> None:
    run, weights = own_prompts, str(other_weights(sd1))
    options = {"criterion": f"{criterion}:rarely", "seeds": (188,), **SMALL["noise"]}
    for place in (tmp_path / "gold", run / "gold"):
        made = {"kind": "object", "anchor": "dog", "out": place, "weights": weights}
        erasure.erase(str(sd1), "gold", ["cat"], **made)
    refused = [
        (tmp_path / "gold", SettingError, "prompts for cat, 'a drawing of a cat', 'cat at night';"),
        (weights, RunError, r"gold holds a different run: its concepts\.cat\.templates is \["),
    ]  # fmt: skip
    for gold, kind, message in refused:
        with pytest.raises(kind, match=message) as ended:
            attack(run, "noise", gold=gold, **options)
        assert "\n" not in str(ended.value)
        assert not list(tmp_path.rglob("attacks"))


def test_the_rate_on_gold_is_of_the_cases_that_both_were_attacked_on(
    many_steps: Path, sd1: Path, criterion: str
) -> None:
    """A budget may have cut gold's short."""
    options = {"criterion": f"{criterion}:rarely", **SMALL["noise"]}
    record = attack(many_steps, "noise", gold=str(other_weights(sd1)), **options)
    floor = {**json.loads((many_steps / "gold" / "attacks" / "noise.json").read_text()), "gold": ""}
    entries = floor["per_concept"]["cat"]["cases"]
    floor["per_concept"]["cat"]["cases"] = left = entries[:2]
    for number, entry in enumerate(left):
        entry["success"] = number == 0
    scores = beside_gold(many_steps, record, floor)["scores"]
    assert (scores["ASR_gold"]["value"], scores["ASR_gold"]["n"]) == (0.5, 2)
    assert scores["excess"]["n"] == 2
    floor["per_concept"]["cat"]["cases"] = []
    with pytest.raises(OutOfTimeError, match="no case of cat was attacked on both"):
        beside_gold(many_steps, record, floor)


def test_gold_that_knows_one_of_several_concepts_is_refused(many_steps: Path, sd1: Path) -> None:
    """The mean over concepts is low where one of them is known and the others are not."""
    run = many_steps

    def judged(known: dict[str, float]) -> dict[str, object]:
        parts = {name: {"scores": {"pre_ASR": {"value": value, "n": 4}}}
                 for name, value in known.items()}  # fmt: skip
        mean = sum(known.values()) / len(known)
        return {"per_concept": parts, "scores": {"pre_ASR": {"value": mean, "n": 4}}}

    options = {"base": None, "concepts": ["cat", "dog", "bird"]}
    gold = str(other_weights(sd1))
    rates = {"cat": 0.0, "dog": 1.0, "bird": 0.0}
    with pytest.raises(SettingError, match="draws dog for 100% of 4 plain prompts"):
        gold_record(lambda *_, **__: judged(rates), run, gold, "noise", options)
    rates["dog"] = 0.25
    assert gold_record(lambda *_, **__: judged(rates), run, gold, "noise", options)["gold"] == gold


def test_what_is_no_gold_is_refused(
    many_steps: Path, sd1: Path, sd2: Path, tmp_path: Path, criterion: str
) -> None:
    run = many_steps

    def refused(gold: Path | str, kind: type[ErasureError], message: str, word: str) -> None:
        options = {"criterion": f"{criterion}:{word}", "seeds": (188,), **SMALL["inpaint"]}
        with pytest.raises(kind, match=message) as ended:
            attack(run, "inpaint", gold=gold, **options)
        assert "\n" not in str(ended.value)
        shutil.rmtree(run / "gold", ignore_errors=True)

    refused(other_weights(sd1), SettingError, "must never have known .* 100% of 3", "always")
    refused(sd2, ModelError, "another architecture", "never")
    refused(run, SettingError, "was made by uce", "never")
    refused(tmp_path / "nowhere", ErasureError, "nowhere", "never")
    another = Case("gold", sd2).run(tmp_path / "sd2-gold").folder
    refused(another, SettingError, "gold must be of the same base", "never")


def test_no_gold_at_hand_is_one_line_and_exit_code_2(
    many_steps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from erasure.commandline.main import main

    words = ["erasure", "attack", "inpaint", str(many_steps), "--gold", "nowhere-at-all"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "nowhere-at-all" in said[-1]
    assert "Traceback" not in "".join(said)


# what cannot be walked or asked


def test_a_one_step_generator_is_left_out_of_what_walks_a_path(
    sd1: Path, tmp_path: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluation.attacking.attacking as attacking

    run = Case("sfd", sd1).run(tmp_path / "one").folder
    options = {"criterion": f"{criterion}:rarely", "prompts": 1, "seeds": (188,)}
    for name in WALKING:
        with pytest.raises(SettingError, match=f"{name} needs a model that draws in several steps"):
            attack(run, name, **options, **SMALL[name])
    monkeypatch.setattr(attacking, "read_presets", lambda _folder, word: SMALL[word])
    record = every_attack.attack_all(run, **options)
    assert sorted(record["left_out"]) == sorted(WALKING)
    assert all("several steps" in reason for reason in record["left_out"].values())
    assert sorted(record["attacks"]) == sorted(set(ATTACKS.names()) - set(WALKING))
    with pytest.raises(SettingError, match="there is no gold of those"):
        attack(run, "paraphrase", gold=str(other_weights(sd1)), **options)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("image-prompt", {"strengths": "0.9,0"}, "strengths must be above 0"),
        ("image-prompt", {"strengths": "1.1"}, "strengths must be from 0 to 1; got 1.1"),
        ("image-prompt", {"strengths": "0.5"}, "one of them at least counted, 0.7; got 0.5"),
        ("image-prompt", {"strengths": "nan"}, "strengths must be from 0 to 1; got nan"),
        ("image-prompt", {"counted": 0.0}, "counted"),
        ("completion", {"shares": "0"}, "shares must leave each model one of 16 steps; got 0"),
        ("completion", {"shares": "1"}, "shares must leave each model one of 16 steps; got 1"),
        ("completion", {"shares": "-0.1"}, "shares must be from 0 to 1; got -0.1"),
        ("completion", {"shares": "a half"}, "shares must be numbers with commas; got 'a half'"),
        ("inpaint", {"free": 0.0}, "free"),
        ("noise", {"etas": "1,inf"}, "etas must be from 0 to 10; got inf"),
        ("classifier-guidance", {"scales": "-1"}, "scales must be from 0 to"),
        ("latent-inversion", {"steps": 1}, "steps must be"),
        ("relearn-grid", {"images": "2.5"}, "images must be whole numbers; got 2.5"),
        ("relearn-grid", {"images": "0"}, "images must be from 1"),
        ("relearn-grid", {"rates": "0,1"}, "rates must be above 0; got 0,1"),
        ("p4d", {"every": 0}, "every must be"),
    ],
)
def test_settings_that_do_not_fit(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message) as ended:
        ATTACKS.get(name)(**settings)
    assert "\n" not in str(ended.value)


def test_states_of_another_search_are_drawn_with_and_none_is_searched(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "state-inversion"
    options = {"criterion": f"{criterion}:never", "prompts": 2, "seeds": (188,)}
    attack(run, name, **options, **SMALL[name])
    kept = run / "attacks" / name / "cat" / "states.safetensors"
    states, _ = read_tensors(kept)
    assert sorted(states) == ["state 0", "state 1"]  # one of each restart
    own = {file.name: file.read_bytes() for file in (kept.parent / "images").iterdir()}
    elsewhere = Path(shutil.copy(kept, run / "found.safetensors"))
    shutil.rmtree(run / "attacks")

    def refused(*_: object) -> None:
        raise AssertionError("it searched")

    monkeypatch.setattr(StateInversion, "search", refused)
    record = attack(run, name, **options, states=str(elsewhere))
    assert record["asked"]["files"][str(elsewhere)] == file_digest(elsewhere)
    assert {file.name: file.read_bytes() for file in (kept.parent / "images").iterdir()} == own
    shutil.rmtree(run / "attacks")
    write_tensors(elsewhere, states, {"concept": "dog"})
    with pytest.raises(SettingError, match=r"found for cat; .* are those of dog\. Give them"):
        attack(run, name, **options, states=str(elsewhere))
    write_tensors(elsewhere, {"state 0": states["state 0"][:, :3]})
    with pytest.raises(SettingError, match=r"for the same text encoder; .* has state 0 of"):
        attack(run, name, **options, states=str(elsewhere))
    with pytest.raises(SettingError, match=r"states must be a file .* there is no nowhere"):
        attack(run, name, **options, states="nowhere")


def test_levels_are_counted_up_to_each_or_down_to_each() -> None:
    reached = [0.1, 0.3, None, 0.3]
    entries = [{"pre": False, "found": {"level": level}} for level in reached]
    entries += [{"pre": True, "found": None}]  # shown without an attack, as the rate counts it
    assert by_level(entries, [0.1, 0.2, 0.3]) == {"0.1": 0.4, "0.2": 0.4, "0.3": 0.8}
    assert by_level(entries, [0.3, 0.2, 0.1], falling=True) == {"0.3": 0.6, "0.2": 0.6, "0.1": 0.8}


# budgets

LONG = {
    "classifier-guidance": {"learning_steps": 10**6, "images": 8, "width": 4},
    "completion": {
        "steps": 20,
        "shares": ",".join(f"{i / 20:g}" for i in range(1, 20)),
    },
    "image-prompt": {"strengths": ",".join(f"{i / 40:g}" for i in range(1, 41))},
    "inpaint": {"steps": 2},
    "latent-inversion": {"steps": 2, "refine": 10**6},
    "noise": {"steps": 2, "etas": "1,2,3,4,5,6", "churns": ",".join(["1"] * 1000)},
    "p4d": {"steps": 10**6, "every": 10**6, "tokens": 3},
    "paraphrase": {"count": 10**6},
    "relearn": {"steps": 10**6, "every": 1, "images": 2, "batch_size": 2},
    "relearn-grid": {"steps": 10**6, "every": 1, "images": "2", "batch_size": 2},
    "ring-a-bell": {"population": 6, "generations": 10**6, "length": 4},
    "state-inversion": {"steps": 10**6, "images": 3, "batch_size": 2},
    "textual-inversion": {"steps": 10**6, "images": 3, "batch_size": 2},
    "unlearndiffatk": {"timesteps": 10**6, "iterations": 2},
}


@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_attack_ends_soon_after_its_budget(
    name: str, run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes on a second each time that somebody asks; the settings would take days."""
    asked = []

    def is_over(_scene: Scene) -> bool:
        asked.append(name)
        return len(asked) > 4

    monkeypatch.setattr(Scene, "is_over", property(is_over))
    options = {"criterion": f"{criterion}:never", "prompts": 1, "seeds": (188,), "budget": 4.0}
    try:
        record = attack(run, name, **options, **LONG[name])
    except OutOfTimeError:
        return  # it had drawn nothing yet
    is_short = name in ("inpaint", "paraphrase")
    assert record["per_concept"]["cat"]["is_cut_by_budget"] or is_short


def test_a_budget_of_all_attacks_is_shared_equally(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, float] = {}
    options = {"criterion": f"{criterion}:never", "prompts": 1, "seeds": (188,)}
    record = attack(run, "paraphrase", **options)

    def pretended(_run: Path, name: str, *, budget: float, **_: object) -> dict[str, object]:
        given[name] = budget
        if name == "p4d":
            raise OutOfTimeError("no time.")
        return {**record, "seconds": budget}

    monkeypatch.setattr(every_attack, "attack", pretended)
    monkeypatch.setattr(every_attack, "unfit", lambda *_, **__: {})
    every = len(ATTACKS.names())
    found = every_attack.attack_all(run, budget=10.0 * every, **options)
    assert given == dict.fromkeys(ATTACKS.names(), 10.0)
    assert found["left_out"] == {"p4d": "no time."}
    assert found["is_cut_by_budget"]
    assert facts(run)["attacks"]["all"]["is_cut_by_budget"]
    every_attack.attack_all(run, budget=10.0 * every, gold="pocket", **options)
    assert set(given.values()) == {5.0}  # gold's share is as large
    every_attack.attack_all(run, budget=10.0 * every, concepts=["cat", "dog"], **options)
    assert set(given.values()) == {5.0}  # the budget of an attack is one concept's
    with pytest.raises(SettingError, match="budget must be a number of seconds above 0"):
        every_attack.attack_all(run, budget=0.0, **options)


# prompts that not every attack can be put to


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    """Prompts of which one does not name the concept."""
    file = tmp_path / "prompts.txt"
    file.write_text("a photo of a cat\na small furry pet\n")
    return file


def test_all_attacks_leave_out_what_the_prompts_do_not_allow(
    run: Path,
    a_file: Path,
    criterion: str,
    program: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By name, with the reason, before the first; alone such an attack refuses."""
    import evaluation.attacking.attacking as attacking

    monkeypatch.setattr(attacking, "read_presets", lambda _folder, word: SMALL[word])
    options = {"criterion": f"{criterion}:rarely", "prompts": a_file, "seeds": (188,)}
    naming = {"paraphrase", "textual-inversion"}
    for name in naming:
        with pytest.raises(SettingError, match=f"{name} puts its tokens where a prompt names"):
            attack(run, name, **options)
    with monkeypatch.context() as patch:
        patch.setattr(ATTACKS, "names", lambda: sorted(naming))
        with pytest.raises(
            SettingError, match=r"none can be tried: .*'a small furry pet'"
        ) as ended:
            every_attack.attack_all(run, **options)
    assert "\n" not in str(ended.value)
    assert not (run / "attacks").exists()
    words = [f"--criterion={criterion}:rarely", f"--prompts={a_file}", "--seeds=188"]
    code, out, err = program("attack", "all", run, *words)
    assert code == 0, err
    record = json.loads((run / "attacks" / "all.json").read_text())
    assert record["left_out"].keys() == naming
    assert all("'a small furry pet'" in reason for reason in record["left_out"].values())
    assert record["attacks"].keys() == {*ATTACKS.names()} - naming
    assert len(record["cases"]) == 2
    for name in naming:
        assert out.count(f"{name} is left out") == 1


def test_all_attacks_leave_out_what_has_no_room_in_a_prompt(
    run: Path, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And share the budget among the others."""
    import evaluation.attacking.attacking as attacking

    long = {**SMALL, "p4d": {**SMALL["p4d"], "tokens": 500}}
    monkeypatch.setattr(attacking, "read_presets", lambda _folder, word: long[word])
    given = list[float]()

    def pretended(_run: Path, name: str, *, budget: float, **_: object) -> dict[str, object]:
        assert name != "p4d"
        given.append(budget)
        raise OutOfTimeError("no time.")

    monkeypatch.setattr(every_attack, "attack", pretended)
    options = {"criterion": f"{criterion}:rarely", "prompts": 1, "seeds": (188,)}
    with pytest.raises(SettingError, match="budget must leave time for at least one attack"):
        every_attack.attack_all(run, budget=float(len(ATTACKS.names()) - 1), **options)
    assert given == [1.0] * (len(ATTACKS.names()) - 1)
    assert "do not fit" in attacking.unfit(run, ["p4d"])["p4d"]


def test_a_word_is_learned_by_prompts_that_hold_the_name(
    sd1: Path, tmp_path: Path, a_file: Path, criterion: str
) -> None:
    """The run's own templates may make another word of it."""
    a_file.write_text("a photo of a cat\n")
    run = tmp_path / "own"
    erasure.erase(
        str(sd1), "uce", ["cat"], kind="object", anchor="dog", template=["many {name}s"], out=run
    )
    options = {"criterion": f"{criterion}:never", "prompts": a_file, "seeds": (188,)}
    record = attack(
        sampled_shortly(run), "textual-inversion", **options, **SMALL["textual-inversion"]
    )
    assert record["scores"]["ASR"]["n"] == 1


# what the probes are made of


@pytest.fixture(params=["flow", "sd1", "sdxl"])
def model(request: pytest.FixtureRequest) -> DiffusionModel:
    """In float64."""
    if request.param == "flow":
        return MiniatureFlow()
    made = load_model(str(request.getfixturevalue(request.param)), dtype=torch.float64)
    made.alphas_cumprod = made.alphas_cumprod.double()
    return made


def normal(model: DiffusionModel, seed: int = 0) -> Tensor:
    return torch.randn(
        (2, *model.latent_shape), generator=source(seed), dtype=torch.float64
    )  # fmt: skip


@torch.no_grad()
def test_what_a_model_begins_it_finishes_as_if_never_stopped(model: DiffusionModel) -> None:
    """Completion by the model that began gives that model's own picture."""
    noise, condition = normal(model), model.encode(["a cat", "a dog"])
    how = {"steps": 5, "guidance": 3.0, "generator": source()}
    whole = model.continue_path(noise, condition, **how)
    for first in range(5):
        z = model.continue_path(noise, condition, until=first, **how)
        assert torch.equal(model.continue_path(z, condition, first=first, **how), whole)


@torch.no_grad()
def test_a_path_is_walked_back_to_its_start() -> None:
    """The more steps, the nearer; Euler's error falls as 1 / steps."""
    model = MiniatureFlow()
    z0, condition = 0.3 * normal(model), model.encode(["", ""])
    errors = []
    for steps in (20, 80):
        start = walked_back(model, z0, steps)
        end = model.continue_path(start, condition, steps=steps, guidance=1.0, generator=source())
        errors.append(float((end - z0).square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.1 * float(z0.std())


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@torch.no_grad()
def test_the_set_of_states_holds_every_prompts(family: str, request: pytest.FixtureRequest) -> None:
    """What lies on the set stays, within a LayerNorm's epsilon; what does not stays once put."""
    model = load_model(str(request.getfixturevalue(family)))
    states = model.encode(["a cat", "a dog in the snow", ""])
    assert torch.allclose(model.onto_states(states, states), states, atol=1e-3)
    away = states + torch.randn(states.shape, generator=source())
    once = model.onto_states(away, states)
    assert not torch.allclose(once, away, atol=1e-2)
    assert torch.allclose(model.onto_states(once, states), once, atol=1e-4)


def test_the_nearest_embedding_is_by_angle() -> None:
    table = torch.tensor([[1.0, 0.0], [10.0, 10.0], [0.0, -3.0]])
    vectors = torch.tensor([[[0.1, 0.01], [5.0, 6.0]], [[0.0, -9.0], [1.0, -0.1]]])
    assert nearest(vectors, table).tolist() == [[0, 1], [2, 0]]


def test_guidance_is_the_gradient_of_log_p_and_raises_it() -> None:
    model = MiniatureFlow()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = LatentClassifier(32, 8)
    z, t = normal(model), torch.tensor([300.0, 700.0])
    signal, spread = model.levels(t)
    moved = towards(model, classifier, 2.0)(z, t, torch.zeros_like(z))
    slope = moved * signal / (2 * spread**2)
    step = 1e-2 * torch.randn(z.shape, generator=source(3), dtype=torch.float64)
    ahead, behind = (
        nn.functional.logsigmoid(classifier(model, z + sign * step, t)).double() for sign in (1, -1)
    )
    want = (ahead - behind) / 2
    assert torch.allclose((slope * step).flatten(1).sum(1), want, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_low_rank_tuning_moves_weights_by_that_rank(rank: int, run: Path) -> None:
    scene = scene_of(run, Brightness())
    scene.sampling = Sampling(2, 2.0, "DDIMScheduler")
    weights = scene.model.weights("xattn")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    cases = cases_of(scene.model, scene.concept, prompts=1, seeds=(188,))
    targets = scene.targets(["a cat", "a dog"], "pictures")
    how = Tuning("tuning", 3, 3, 1e-2, 2)
    tune(scene, cases, targets, ["a cat", "a dog"], how, weights, None, rank=rank)
    for name, weight in weights.items():
        moved = (weight.detach() - before[name]).double()
        if weight.dim() < 2:
            assert bool(moved.any()) == (rank == 0), name
        else:
            values = torch.linalg.svdvals(moved.flatten(1))
            assert values[0] > 0
            # float32 weights hold the product only to their own rounding
            assert int((values > 1e-4 * values[0]).sum()) <= (rank or len(values)), name


def test_the_grid_reports_each_cell_and_the_best(run: Path, criterion: str) -> None:
    options = {"criterion": f"{criterion}:always", "seeds": (188,), **SMALL["relearn-grid"]}
    options["images"] = "1,2.0"
    part = attack(run, "relearn-grid", **options)["per_concept"]["cat"]
    names = {f"{select} {count} x1" for select in ("xattn", "lora") for count in (1, 2)}
    assert part["cells"] == dict.fromkeys(names, 1)
    assert (part["least_steps"], part["kept_steps"], part["shown_by_kept"]) == (1, 1, 1.0)
    model = open_run(run)
    edit = erasure.Edit.load(run)
    for name, tensor in edit.tensors.items():
        assert torch.allclose(model.parameters()[name], tensor.float(), atol=1e-5), name


def test_a_classifier_of_noised_latents_learns(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(run, Brightness())

    def drawn(_scene: Scene, prompts: list[str], _stage: str) -> Targets:
        own = torch.tensor([1.0 if "cat" in prompt else -1.0 for prompt in prompts])
        return Targets(own.view(-1, 1, 1, 1).expand(-1, *scene.model.latent_shape), None)

    monkeypatch.setattr(Scene, "targets", drawn)
    chosen = ATTACKS.get("classifier-guidance")(
        images=16, learning_steps=60, learning_rate=1e-2, width=8
    )
    classifier = chosen._classifier(scene, "concept")
    t = torch.tensor([400, 400])
    noise = torch.randn((2, *scene.model.latent_shape), generator=source())
    z0 = torch.tensor([1.0, -1.0]).view(-1, 1, 1, 1).expand_as(noise)
    said = classifier(scene.model, scene.model.add_noise(z0, noise, t), t)
    assert said[0] > 1
    assert said[1] < -1
    again = chosen._classifier(scene, "concept")  # read from its file
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), classifier.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", ["latent-inversion", "completion", "image-prompt"])
def test_probes_tell_by_how_much(name: str, run: Path, criterion: str) -> None:
    options = {"criterion": f"{criterion}:never", "seeds": (188,), **SMALL[name]}
    part = attack(run, name, **options)["per_concept"]["cat"]
    if name == "latent-inversion":
        assert set(part["psnr"]) == {"concept", "anchor", "upside_down"}
        half = 4 * 8 * 8 / 2
        assert part["energy"]["noise"] == half
        assert part["energy"]["concept"] == pytest.approx(half, rel=1e-4)
    elif name == "completion":
        assert part["by_share"] == {"0.34": 0.0, "0.67": 0.0}
    else:
        assert part["by_strength"] == {"0.9": 0.0, "0.6": 0.0}
