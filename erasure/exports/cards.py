"""An export's README.md: what it is, how to open it, its scores; for people and for the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from erasure.composing import parts_of
from erasure.edit import Edit
from erasure.exports.forms import Form, cell, title_of
from erasure.exports.pushing import TAG
from erasure.exports.writing.publishing import hub_id, is_built_in, public_name, without_paths
from erasure.files.records import AttackShape, ScoresShape, read_record
from erasure.models.classifier.classifier import Classifier
from erasure.models.diffusion.latent_diffusion import LatentDiffusion

DATASETS = {
    "pocket": ("pocket-canvas", "Pocket Canvas"),
    "unlearncanvas": ("OPTML-Group/UnlearnCanvas", "UnlearnCanvas"),
}


def model_card(
    run: Path, edit: Edit, form: Form, model: LatentDiffusion | Classifier | None = None
) -> str:
    """Front matter with base model, tags and scores (`model-index`), then the same for people.

    `model` is what is written, where it says how the export is opened. No path of this machine is
    in it. RunError for a damaged record of scores.
    """
    names, base = ", ".join(concept.name for concept in edit.concepts), public_name(edit.base)
    title = title_of(edit)
    records = _records(run)
    lines = [
        "---", _front_matter(edit, form, title, records, model).to_yaml(), "---", "",
        f"# {title}", "",
        f"Erased with **{edit.method}** (erasure-toolkit). Concepts: {names}. Base: `{base}`.", "",
    ]  # fmt: skip
    lines += form.usage(edit, model)
    for part in parts_of(edit):
        whose = f" of {part['method']} ({', '.join(part['concepts'])})" if edit.parts else ""
        lines += _settings_lines(f"Settings{whose}", part["settings"])
    for title, record in records.items():
        lines += _score_lines(title, record)
    if not records:
        lines += ["## Scores", "", "Not evaluated when this was exported."]
    return "\n".join(lines).rstrip("\n") + "\n"


def _settings_lines(title: str, settings: Mapping[str, object]) -> list[str]:
    lines = [f"## {title}", "", "| setting | value |", "|---|---|"]
    lines += [
        f"| {name} | {cell(without_paths(value))} |"
        for name, value in settings.items()
        if name != "samples"  # whose images they were is nobody's business
    ]
    return [*lines, ""]


def _score_lines(title: str, record: Mapping[str, Any]) -> list[str]:
    lines = [f"## Scores ({title})", ""]
    lines += ["| score | erased | s.e. | base | n |", "|---|---|---|---|---|"]
    for name, score in record["scores"].items():
        baseline = record.get("baseline", {}).get(name, {})
        known = [score["value"], score.get("stderr"), baseline.get("value")]
        value, stderr, before = ("-" if number is None else f"{number:.3f}" for number in known)
        count = "-" if score.get("n") is None else score["n"]
        lines.append(f"| {cell(name)} | {value} | {stderr} | {before} | {count} |")
    return [*lines, "", "Stamp: `" + json.dumps(without_paths(record.get("stamp", {}))) + "`", ""]


def _front_matter(
    edit: Edit, form: Form, title: str, records: dict[str, Any], model: object
) -> ModelCardData:
    task = "image-classification" if edit.is_of_classifier else "text-to-image"
    tags = [TAG, "machine-unlearning"]
    if not edit.is_of_classifier:
        tags += ["concept-erasure", "unlearned-diffusion-model", "stable-diffusion", task]
    if form.name == "lora":
        tags.append("lora")
    base, results = hub_id(edit.base), _results(task, records)
    return ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if form.is_adapter else "finetune") if base else None,
        library_name=form.library(edit, model),
        license="apache-2.0" if is_built_in(edit.base) else None,  # else the base's own
        pipeline_tag=task,
        tags=tags,
        model_name=title if results else None,
        eval_results=results or None,
    )


def _records(run: Path) -> dict[str, Any]:
    """Every protocol's and attack's record, by its name."""
    remedy = "remove it and make it again"
    found: dict[str, Any] = {
        file.stem: read_record(file, ScoresShape, remedy=remedy)
        for file in sorted((run / "scores").glob("*.json"))
    }
    for file in sorted((run / "attacks").glob("*.json")):
        found[f"attack {file.stem}"] = read_record(file, AttackShape, remedy=remedy)
    return found


def _results(task: str, records: dict[str, Any]) -> list[EvalResult]:
    results = []
    for title, record in records.items():
        protocol = record["protocol"].removesuffix("-subset")
        dataset, dataset_name = DATASETS.get(protocol, (protocol, protocol))
        results += [
            EvalResult(
                task_type=task,
                dataset_type=dataset,
                dataset_name=f"{dataset_name} ({title})",
                dataset_config=title,
                dataset_args=without_paths(record.get("stamp", {})),
                metric_type=name,
                metric_value=round(score["value"], 6),
                metric_args={"stderr": _rounded(score.get("stderr")), "n": score.get("n")},
            )
            for name, score in record["scores"].items()
        ]
    return results


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
