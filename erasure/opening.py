"""Open what a run made: its model with the edit in it, on the base that the edit was made on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from erasure.edit import Edit
from erasure.errors import EditError, ErasureError, ModelError, RunError, SettingError
from erasure.files.naming import checked_path
from erasure.models.built_in import DIFFUSION
from erasure.models.diffusion.in_memory import IN_MEMORY
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.one_step import ONE_STEP, OneStep
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.models.digest import digest_of
from erasure.models.editable import Editable
from erasure.training.run_folder import run_record
from erasure_datasets.hub import HUB

if TYPE_CHECKING:
    from erasure.models.classifier.classifier import (
        Classifier,
    )  # timm, which erasing need not wait for

CLASSIFIERS = ("pocket-vit", "pocket-style-vit")  # load_classifier's; timm takes long to import
ModelT = TypeVar("ModelT", bound=Editable)


def open_run(
    run: Path | str, *, device: torch.device | str = "cpu", edited: bool = True,
    base: Path | str | None = None,
) -> LatentDiffusion:  # fmt: skip
    """A run's model, with its edit applied unless `edited` is false.

    `base` says where its base model is now, if it has moved. EditError if the weights there are not
    those that the edit was made on.
    """
    return open_edit(Path(run), device=device, edited=edited, base=base)[0]


def open_edit(
    run: Path, *, device: torch.device | str = "cpu", edited: bool = True,
    base: Path | str | None = None,
) -> tuple[LatentDiffusion, Edit]:  # fmt: skip
    """As `open_run`, with the edit, which is read once."""
    edit, record = Edit.load(run), run_record(run)
    name = _where(run, edit, base)
    config, where = record.get("config"), f"config in {run / 'config.json'}"
    config = None if config is None else checked_path(config, where, error=RunError)
    if not name.endswith(".safetensors"):  # the base is a folder by now
        config = None
    revision = revision_of(name, edit, base)
    model = _loaded(lambda: load_model(name, config=config, revision=revision, device=device), run)
    if edit.sampling == ONE_STEP and isinstance(model, StableDiffusion) and not model.sampling:
        model = OneStep.on(model, model.backbone, name=model.name)  # from a bare UNet
    refuse_another_base(model, edit, name)
    if edited:
        edit.apply(model)
    return model, edit


def open_classifier(
    run: Path | str, *, device: torch.device | str = "cpu", edited: bool = True,
    base: Path | str | None = None,
) -> "Classifier":  # fmt: skip
    """A forgetting run's classifier, with its edit applied unless `edited` is false."""
    from erasure.models.classifier.load import load_classifier

    edit = Edit.load(Path(run))
    name = _where(Path(run), edit, base)
    revision = revision_of(name, edit, base)
    model = _loaded(lambda: load_classifier(name, revision=revision, device=device), Path(run))
    refuse_another_base(model, edit, name)
    if edited:
        edit.apply(model)
    return model


def _loaded(load: Callable[[], ModelT], run: Path) -> ModelT:
    """The base that an edit names; ModelError says how to name it otherwise."""
    try:
        return load()
    except ModelError as error:
        raise ModelError(f"{error} {run} was made on it: --base says where it is now.") from error


def refuse_another_base(model: Editable, edit: Edit, name: str) -> None:
    """EditError if the edit was made on other weights than this un-erased model's."""
    if edit.base_digest and digest_of(model) != edit.base_digest:
        raise EditError(
            f"{name} does not hold the weights that the edit was made on: they have changed since, "
            "or it is another model. Name the right one with --base."
        )


def lasting_name(
    model: str, what: str = "model", *, error: type[ErasureError] = SettingError
) -> str:
    """A model's name that means the same in every working directory.

    `error` for an empty one, and for one that no file can have; `what` names it there.
    """
    place = checked_path(model, what, error=error).expanduser()
    is_built_in = model in DIFFUSION or model in CLASSIFIERS
    return str(place.resolve()) if not is_built_in and place.exists() else model


def lasting_source(source: str) -> str:
    """As `lasting_name`, of a data set; "hf:" may stand before a folder of one."""
    bare = source.removeprefix(HUB)
    return source[: len(source) - len(bare)] + lasting_name(bare, "data")


def revision_of(name: str, edit: Edit, base: Path | str | None) -> str | None:
    """A Hub id's, which a folder does not have, whatever the run was given."""
    return None if base is not None or Path(name).exists() else edit.revision


def _where(run: Path, edit: Edit, base: Path | str | None) -> str:
    """The base's name or place: as given, as noted, or where a moved run keeps its own."""
    if base is not None:
        return lasting_name(str(base), "base")
    if edit.base == IN_MEMORY:
        raise EditError(
            f"{run} was made on a pipeline in memory, which no folder holds; name one that has its "
            "weights with --base."
        )
    checked_path(edit.base, f"the base in {run / 'edit.json'}", error=EditError)
    inside = run / Path(edit.base).name  # a generator that the run itself distilled
    is_path = Path(edit.base).is_absolute()
    if is_path and not Path(edit.base).exists():
        if inside.is_dir():
            return str(inside)
        raise EditError(
            f"{run} was made on {edit.base}, which is not there any more; "
            "say with --base where it is now."
        )
    return edit.base
