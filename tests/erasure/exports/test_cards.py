"""An export's card, read back by huggingface_hub as the Hub reads it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard

from erasure.edit import Edit
from erasure.errors import RunError
from erasure.exports.cards import model_card
from erasure.models.built_in import POCKET
from erasure.registry import EXPORTS
from erasure_datasets.concept import Concept

STAMP = {"judge": "a judge", "seeds": [188, 288], "versions": {"torch": "2"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with scores and an attack, as evaluate and attack write them."""
    score = {"value": 0.96875, "stderr": 0.03, "n": 32, "higher_is_better": True}
    for file, record in (
        ("scores/pocket.json", {"protocol": "pocket", "scores": {"UA": score, "CLIP": score}}),
        ("scores/pocket-subset.json", {"protocol": "pocket-subset", "scores": {"UA": score}}),
        ("attacks/paraphrase.json", {"attack": "paraphrase", "protocol": "attack-paraphrase",
                                       "scores": {"ASR": score}}),
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(exist_ok=True)
        whole = {**record, "baseline": {"CLIP": {**score, "value": 0.5}}, "stamp": STAMP}
        (tmp_path / file).write_text(json.dumps(whole))
    return tmp_path


def edit(base: str = "someone/sd@main", kind: str = "object") -> Edit:
    concept = Concept("cat", kind, ("an image of a {name}",))  # type: ignore[arg-type]
    return Edit({"unet.x": torch.zeros(1)}, "salun", [concept], base, settings={"steps": 5})


def text_of(run: Path, made: Edit, form: str) -> str:
    """A card, where what it says of opening the model does not matter."""
    chosen = EXPORTS.get(form)()
    chosen.usage = lambda *_: []
    return model_card(run, made, chosen, SimpleNamespace(library=None))  # type: ignore[arg-type]


def test_scores_are_a_model_index(run: Path) -> None:
    card = ModelCard(text_of(run, edit(), "diffusers"))
    results = card.data.eval_results
    assert results is not None
    assert card.data.model_name == "someone/sd@main without cat"
    found = {(r.dataset_config, r.metric_type): r for r in results}
    assert set(found) == {
        ("pocket", "UA"), ("pocket", "CLIP"), ("pocket-subset", "UA"), ("attack paraphrase", "ASR"),
    }  # fmt: skip
    ua = found["pocket", "UA"]
    assert (ua.metric_value, ua.metric_args) == (0.96875, {"stderr": 0.03, "n": 32})
    assert (ua.task_type, ua.dataset_type) == ("text-to-image", "pocket-canvas")
    assert ua.dataset_args == STAMP
    assert "| CLIP | 0.969 | 0.030 | 0.500 | 32 |" in card.text


@pytest.mark.parametrize(
    ("base", "form", "kind", "expected"),
    [
        ("someone/sd@main", "diffusers", "object", ("diffusers", "someone/sd", "finetune", None)),
        ("someone/sd", "lora", "object", ("diffusers", "someone/sd", "adapter", None)),
        ("pocket", "text-encoder", "object", ("transformers", None, None, "apache-2.0")),
        ("./my-sd", "delta", "object", ("diffusers", None, None, None)),
        ("pocket-vit", "lora", "class", ("peft", None, None, "apache-2.0")),
        ("timm:vit_s.in1k", "vit", "class", (None, "timm/vit_s.in1k", "finetune", None)),
        ("/somewhere/pocket-sd15", "diffusers", "object", ("diffusers", None, None, None)),
        (str(POCKET), "diffusers", "object", ("diffusers", None, None, "apache-2.0")),
    ],
)  # fmt: skip
def test_library_base_and_tags(
    tmp_path: Path, base: str, form: str, kind: str, expected: tuple[str | None, ...]
) -> None:
    data = ModelCard(text_of(tmp_path, edit(base, kind), form)).data
    relation, licence = data.get("base_model_relation"), data.license
    assert (data.library_name, data.base_model, relation, licence) == expected
    assert {"erasure-toolkit", "machine-unlearning"} <= set(data.tags or [])
    assert ("lora" in data.tags) == (form == "lora")
    is_vit = kind == "class"
    assert data.pipeline_tag == ("image-classification" if is_vit else "text-to-image")
    assert ("stable-diffusion" in data.tags) != is_vit
    assert data.eval_results is None


def test_a_local_folder_is_no_base_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sd").mkdir(parents=True)
    card = ModelCard(text_of(tmp_path, replace(edit(), base="models/sd"), "diffusers"))
    assert card.data.base_model is None


def test_no_path_of_this_machine_is_in_a_card(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "John Doe" / "my-sd"
    own.mkdir(parents=True)
    stamp = {"judge": f"clip={own}", "data": [str(own)], "at": "https://example.org/a/b"}
    for file in (*run.glob("scores/*.json"), *run.glob("attacks/*.json")):
        file.write_text(json.dumps({**json.loads(file.read_text()), "stamp": stamp}))
    made = replace(
        edit(str(own)), settings={"images": str(own / "photos"), "prompts": "~/mine/list.csv"}
    )
    text = text_of(run, made, "delta")
    assert "# my-sd without cat" in text
    assert "| images | photos |" in text
    assert "| prompts | list.csv |" in text
    assert "https://example.org/a/b" in text
    for word in (str(tmp_path), "John Doe", "~/"):
        assert word not in text


def test_a_run_without_scores_says_so_and_a_damaged_record_is_refused(
    run: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    assert "Not evaluated when this was exported." in text_of(bare, edit(), "delta")
    assert "Not evaluated" not in text_of(run, edit(), "delta")
    for file, text in (
        ("scores/pocket.json", '{"protocol": "pocket", "scores": {"UA": {}}}'),
        ("scores/pocket.json", '{"protocol": "pocket", "scores": {"UA": {"value": NaN}}}'),
        ("attacks/paraphrase.json", '{"attack": "paraph'),
        ("attacks/paraphrase.json", "[]"),
    ):
        before = (run / file).read_text()
        (run / file).write_text(text)
        with pytest.raises(RunError, match=rf"{Path(file).name} is not readable .*make it again"):
            text_of(run, edit(), "delta")
        (run / file).write_text(before)


def test_missing_numbers_and_marks_of_tables_do_not_break_a_card(run: Path) -> None:
    record = {"protocol": "own", "scores": {"a|b": {"value": 0.5, "stderr": None}}}
    (run / "scores" / "own.json").write_text(json.dumps(record))
    made = replace(edit(), settings={"prompts": "one|two\nthree"})
    card = ModelCard(text_of(run, made, "delta"))
    assert "| a\\|b | 0.500 | - | - | - |" in card.text
    assert "| prompts | one\\|two three |" in card.text
