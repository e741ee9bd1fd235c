"""`erasure demo RUN --space OUT`: a folder that runs as a Hugging Face Space."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData

from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.exports.forms import cell
from erasure.exports.pushing import TAG
from erasure.exports.writing.publishing import (
    clean_configs,
    hub_id,
    is_built_in,
    public_name,
    without_paths,
)
from erasure.exports.writing.saving import save_model
from erasure.files.naming import checked_path
from erasure.files.storage import atomic, write_json, write_tensors
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.stable_diffusion_3 import StableDiffusion3
from erasure.opening import open_edit
from erasure.training.run_folder import refuse_inside
from evaluation.attacking.scene import sampling_of
from evaluation.demo.studio import prompts_of, refuse_classifier

APP = Path(__file__).with_name("space_app.py")
NEEDED = ("diffusers", "transformers", "accelerate", "safetensors", "torch")
LOOK = {"emoji": "🧽", "colorFrom": "blue", "colorTo": "gray", "pinned": False}


def write_space(run: Path | str, out: Path | str) -> Path:
    """Write app.py, requirements.txt, the card and the weights to `out`, a new folder, or nothing.

    A base with a Hub id is named and not copied; any other is written beside the erased weights,
    so that the un-erased model can be drawn. No path of this machine is in it. EditError for a
    folder without a finished erasure, SettingError for one of a classifier or an `out` that exists.
    """
    run, out = checked_path(run, "run"), checked_path(out, "space")
    if os.path.lexists(out):
        raise SettingError(f"space must be a new folder; {out} exists.")
    refuse_inside(out)
    refuse_classifier(run, Edit.load(run))
    gradio = _gradio()
    model, edit = open_edit(run, edited=False)
    base = hub_id(edit.base) if edit.sampling is None else None  # a generator lies in no Hub
    edit.apply(model)
    current = model.parameters()
    erased = {name: current[name].detach().clone() for name in model.originals}
    title = f"{public_name(edit.base)} without {', '.join(c.name for c in edit.concepts)}"
    with atomic(out) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        write_tensors(temporary / "erased.safetensors", erased)
        if base is None:
            with model.without_edit():
                save_model(model, temporary / "model")
            clean_configs(temporary / "model", edit.base)
        write_json(temporary / "space.json", _told(model, edit, base, title))
        shutil.copyfile(APP, temporary / "app.py")
        needs = "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in NEEDED)
        (temporary / "requirements.txt").write_text(needs, encoding="utf-8")
        card = _card(edit, base, title, gradio)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return out


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError as error:
        raise SettingError("the demo needs gradio: pip install 'erasure-toolkit[demo]'.") from error


def _told(model: LatentDiffusion, edit: Edit, base: str | None, title: str) -> dict[str, Any]:
    """What app.py reads."""
    how = sampling_of(model, edit.sampling)
    is_without_t5 = isinstance(model, StableDiffusion3) and model.pipeline.text_encoder_3 is None
    return {
        "title": title,
        "told": "The same prompt from the same noise, by the model before and after the erasure.",
        "base": base,
        "revision": edit.revision if base else None,
        "without": ["text_encoder_3", "tokenizer_3"] if is_without_t5 else [],
        "sampling": {
            "steps": how.steps, "guidance": how.guidance, "scheduler": how.scheduler,
        },
        "resolution": model.resolution,
        "options": model.pipeline_options,
        "prompts": prompts_of(model, edit.concepts),
    }  # fmt: skip


def _card(edit: Edit, base: str | None, title: str, gradio: str) -> str:
    """README.md: front matter that the Hub reads, and what is in the folder."""
    data: Any = SpaceCardData(
        title=title, sdk="gradio", sdk_version=gradio, app_file="app.py",
        license="apache-2.0" if is_built_in(edit.base) else None,  # else the base's own
        models=[base] if base else None, tags=[TAG, "concept-erasure", "machine-unlearning"],
        **LOOK,
    )  # fmt: skip
    names = ", ".join(concept.name for concept in edit.concepts)
    where = f"from the Hub, `{base}`" if base else "in `model/`"
    lines = [
        "---", data.to_yaml(), "---", "", f"# {title}", "",
        f"Erased with **{edit.method}** (erasure-toolkit). Concepts: {names}. The page draws a "
        "prompt with the un-erased model and with the erased one, from the same noise.", "",
        f"The un-erased model is {where}; `erased.safetensors` holds the weights that changed.",
        "Elsewhere: `pip install gradio -r requirements.txt`, then `python app.py`.", "",
        "## Settings", "", "| setting | value |", "|---|---|",
    ]  # fmt: skip
    lines += [f"| {name} | {cell(without_paths(value))} |" for name, value in edit.settings.items()]
    return "\n".join(lines) + "\n"
