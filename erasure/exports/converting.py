"""Write a model as it is, un-edited, in another layout."""

import os
from pathlib import Path

from huggingface_hub import ModelCardData

from erasure.errors import SettingError
from erasure.exports.forms import WholeModel
from erasure.exports.pushing import TAG
from erasure.exports.writing.publishing import (
    DTYPES,
    clean_configs,
    hub_id,
    is_built_in,
    public_name,
)
from erasure.files.naming import checked_path
from erasure.files.storage import atomic
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.registry import EXPORTS
from erasure.training.run_folder import refuse_inside


def convert(
    model: Path | str, out: Path | str, *, to: str = "diffusers", dtype: str = "float32",
    config: Path | str | None = None, revision: str | None = None,
) -> Path:  # fmt: skip
    """Write a model, un-edited, to `out`, a new folder, which appears whole or not at all.

    `model`, with `config` and `revision`: as for `load_model`. `to`: "diffusers" for a folder that
    diffusers opens, "single-file" for one .safetensors by the original releases' names, with its
    configs beside it. Weights are stored as `dtype`: float32, float16 or bfloat16. SettingError for
    a form or a value that cannot be, ModelError for a model that cannot be read.
    """
    place, out, form = checked_path(model, "model"), checked_path(out, "out"), _form(to)
    if dtype not in DTYPES:
        raise SettingError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if os.path.lexists(out):
        raise SettingError(f"out must be a new folder; {out} exists.")
    refuse_inside(out)
    if (place / "edit.json").is_file():
        raise SettingError(f"{model} is a run or its delta; write its model by `erasure export`.")
    configs = None if config is None else checked_path(config, "config")
    opened = load_model(str(model), config=configs, revision=revision)
    title = public_name(opened.name)
    about = f"{title}, converted by erasure-toolkit; no weight was edited."
    with atomic(out) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        form.save(opened, temporary, DTYPES[dtype], title=title, about=about)
        clean_configs(temporary, opened.name)
        card = _card(opened, form, title, about)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return out


def _form(name: str) -> WholeModel:
    kind = EXPORTS.get(name)
    if not issubclass(kind, WholeModel):
        known = [word for word in EXPORTS.names() if issubclass(EXPORTS.get(word), WholeModel)]
        raise SettingError(f"to must be {' or '.join(known)}; {name} is a form of an edit.")
    return kind()


def _card(model: LatentDiffusion, form: WholeModel, title: str, about: str) -> str:
    base = hub_id(model.name)
    front = ModelCardData(
        base_model=base, library_name="diffusers", pipeline_tag="text-to-image",
        license="apache-2.0" if is_built_in(model.name) else None,  # else the model's own
        tags=[TAG, "stable-diffusion", "text-to-image"],
    )  # fmt: skip
    lines = ["---", front.to_yaml(), "---", "", f"# {title}", "", about, ""]
    return "\n".join([*lines, *form.opening(model, title)])
