"""An export's README.md: what it is, how to open it, its scores; for people and for the Hub."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from erasure.edit import Edit
from erasure.models.latent_diffusion import LatentDiffusion
from erasure.models.stable_diffusion import StableDiffusion
from erasure.pushing import TAG

DATASETS = {
    "pocket": ("pocket-canvas", "Pocket Canvas"),
    "unlearncanvas": ("OPTML-Group/UnlearnCanvas", "UnlearnCanvas"),
}


def model_card(run: Path, edit: Edit, form: str, model: LatentDiffusion | None = None) -> str:
    """Front matter with base model, tags and scores (`model-index`), then the same for people.

    `model` is what was written, where it says how the export is opened.
    """
    names = ", ".join(concept.name for concept in edit.concepts)
    title = f"{edit.base} without {names}"
    records = _records(run)
    lines = [
        "---", _front_matter(edit, form, title, records).to_yaml(), "---", "", f"# {title}", "",
        f"Erased with **{edit.method}** (erasure-toolkit). Concepts: {names}. "
        f"Base: `{edit.base}`.", "",
    ]  # fmt: skip
    lines += _usage(edit, form, model)
    lines += ["## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in edit.settings.items()]
    for title, record in records.items():
        lines += ["", f"## Scores ({title})", ""]
        lines += ["| score | erased | s.e. | base | n |", "|---|---|---|---|---|"]
        for name, score in record["scores"].items():
            base = record["baseline"].get(name)
            untouched = f"{base['value']:.3f}" if base else "-"
            lines.append(
                f"| {name} | {score['value']:.3f} | {score['stderr']:.3f} | {untouched} "
                f"| {score['n']} |"
            )
        lines += ["", "Stamp: `" + json.dumps(record["stamp"]) + "`"]
    return "\n".join(lines) + "\n"


def _front_matter(
    edit: Edit, form: str, title: str, records: dict[str, dict[str, Any]]
) -> ModelCardData:
    task = "image-classification" if edit.is_of_classes else "text-to-image"
    tags = [TAG, "machine-unlearning"]
    if edit.is_of_classes:
        library = "peft" if form == "lora" else "timm"
    else:
        library = "transformers" if form == "text-encoder" else "diffusers"
        tags += ["concept-erasure", "unlearned-diffusion-model", "stable-diffusion", task]
    if form == "lora":
        tags.append("lora")
    base, results = _hub_id(edit.base), _results(task, records)
    return ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if form == "lora" else "finetune") if base else None,
        library_name=library,
        license="apache-2.0" if edit.base.startswith("pocket") else None,  # else the base's own
        pipeline_tag=task,
        tags=tags,
        model_name=title if results else None,
        eval_results=results or None,
    )


def _hub_id(base: str) -> str | None:
    """The base's name on the Hub; None for a local folder or file, or a built-in model."""
    name = base.partition("@")[0]
    if name.startswith("timm:") and "." in name:  # NAME.TAG is a repository of the timm library
        name = name.replace("timm:", "timm/")
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and not Path(name).exists() else None


def _records(run: Path) -> dict[str, dict[str, Any]]:
    """Every protocol's and attack's record, by its name."""
    found = {f.stem: json.loads(f.read_text()) for f in sorted((run / "scores").glob("*.json"))}
    for file in sorted((run / "attacks").glob("*.json")):
        found[f"attack {file.stem}"] = json.loads(file.read_text())
    return found


def _results(task: str, records: dict[str, dict[str, Any]]) -> list[EvalResult]:
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
                dataset_args=record["stamp"],
                metric_type=name,
                metric_value=round(score["value"], 6),
                metric_args={"stderr": round(score["stderr"], 6), "n": score["n"]},
            )
            for name, score in record["scores"].items()
        ]
    return results


def _usage(edit: Edit, form: str, model: LatentDiffusion | None) -> list[str]:
    """The card's lines on how to open an export."""
    if form == "diffusers" and model is not None:
        kind = type(model.pipeline).__name__
        without = ", safety_checker=None" if isinstance(model, StableDiffusion) else ""
        lines = [
            "```python", f"from diffusers import {kind}", "",
            f'pipeline = {kind}.from_pretrained("<this folder>"{without})',
        ]  # fmt: skip
        if edit.sampling:
            lines.append(
                f'pipeline("...", num_inference_steps={edit.sampling.steps}, '
                f"guidance_scale={edit.sampling.guidance})  # it draws in so many calls"
            )
        lines += ["```", ""]
    elif form == "text-encoder" and model is not None:
        kinds = {tower: type(getattr(model.pipeline, tower)).__name__ for tower in model.towers}
        place = '"<this folder>"'
        lines = [
            "Only the text encoding: it erases in front of any UNet of this model's family.", "",
            "```python", f"from transformers import {', '.join(kinds.values())}", "",
        ]  # fmt: skip
        for tower, kind in kinds.items():
            inside = f'{place}, subfolder="{tower}"' if len(kinds) > 1 else place
            lines.append(f"pipeline.{tower} = {kind}.from_pretrained({inside})")
        lines += ["```", ""]
    elif form == "lora":
        lines = [
            "One adapter per request: `pipeline.load_lora_weights(folder, weight_name=...)`, or "
            "one peft folder each for a classifier.", "",
        ]  # fmt: skip
    elif form == "vit":
        lines = [
            f"A classifier of {len(edit.concepts)} classes fewer; the head keeps its size. Open it "
            "with `timm.create_model('local-dir:<this folder>', pretrained=True)`, or with "
            "transformers if its config.json names a model_type.", "",
        ]  # fmt: skip
    else:
        lines = [
            "Only the changed tensors: load them with `erasure.Edit.load(folder)` "
            "and `.apply(model)`.",
            "",
        ]
    return lines
