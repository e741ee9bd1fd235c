"""The protocol `corrective`: how far the harm of wrong training data is undone.

Some training images were manipulated (a patch and a false label, two classes confused), and only
some of these are known: `forget --samples` got those. `--affected FILE` names the test images in
which the manipulation shows. Acc_corr, the accuracy on these by their true labels; Acc_ret, on all
other test images. With --reference, a run of `forget retrain` without any manipulated image:

    restored  (Acc_corr - poisoned's) / (clean's - poisoned's)

poisoned the model before the edit, clean the retrained one: 0 as before, 1 as if nothing had been
manipulated; below 0 and above 1 can be. Goel et al., "Corrective Machine Unlearning" (TMLR 2024),
https://arxiv.org/abs/2402.14015, have the accuracies; `restored` is ours.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from erasure.config import resolve
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.files.storage import write_json
from erasure.models.classifier.classifier import Classifier
from erasure.registry import PROTOCOLS
from erasure.sample_requests import Samples
from erasure_datasets.errors import DataError
from erasure_datasets.labelled import Labelled
from erasure_datasets.sample_files import read_samples
from evaluation.corrective_settings import CorrectiveSettings
from evaluation.forgetting_run import ForgettingRun, open_run
from evaluation.protocols import Asked, Option, Protocol
from evaluation.protocols.class_forgetting import stamp
from evaluation.score import Score, estimate, plain, rate

NAME = "corrective"

Right = dict[str, Tensor]  # by the score's name: which of its images are named rightly, (n,)


def evaluate(
    run: Path, affected: Path, *, reference: Path | None = None, base: Path | str | None = None
) -> dict[str, Any]:
    """Score a run; returns the record that it writes to scores/corrective.json.

    `retrained` has the reference's own accuracies. SettingError for a file that names no test
    image or all, for a run that forgot no single images, and for a reference that does not fit.
    """
    found = open_run(run, reference=reference, base=base)
    if not found.samples:
        raise SettingError(f"{NAME} judges runs of `forget --samples`; {run} forgot classes.")
    parts = _affected_and_rest(found, affected)
    if reference is not None:
        _refuse_reference(reference, found)
    model = found.model
    before = _right(model, parts)
    found.edit.apply(model)
    said = _right(model, parts)
    scores, baseline, clean = _accuracies(said), _accuracies(before), dict[str, Score]()
    if found.other is not None:
        theirs = _right(found.other, parts)
        clean = _accuracies(theirs)
        corrected = (own["Acc_corr"] for own in (said, before, theirs))
        scores["restored"] = restored(*corrected)
    record = {
        "protocol": NAME,
        "scores": plain(scores),
        "per_concept": {},
        "baseline": plain(baseline),
        "retrained": plain(clean),
        "requests": found.requests,
        "seconds": found.config.get("seconds"),
        "stamp": {
            **stamp(NAME, dict(found.config["data"]), model, len(found.test), reference),
            "affected": str(affected),
        },
    }
    write_json(run / "scores" / f"{NAME}.json", record)
    return record


def _affected_and_rest(found: ForgettingRun, file: Path) -> dict[str, Labelled]:
    """The test images of a file, by their true labels (Acc_corr), and all others (Acc_ret)."""
    try:
        listed = read_samples(file)
        asked = Samples.of(Samples(listed.names, listed.labels), found.config["data"]["source"])
        touched, rest = asked.parts(found.test, torch.Generator())
    except DataError as error:
        text = str(error).replace("training images", "test images")
        raise SettingError(f"affected {file}: {text}") from error
    if not len(rest):
        raise SettingError(f"affected {file} names every test image; Acc_ret would have none.")
    labels = asked.true_labels(found.model)
    corrected = touched if labels is None else touched.relabelled(labels)
    return {"Acc_corr": corrected, "Acc_ret": rest}


def restored(
    said: Bool[Tensor, " n"], before: Bool[Tensor, " n"], clean: Bool[Tensor, " n"]
) -> Score:
    """The share of what manipulation cost the affected images that came back; 1 is all.

    Which of them each model names rightly: the edited one, the one before, the clean one. Its
    error is a ratio's, linearised, over the same images. SettingError where nothing was lost.
    """
    lost, won = (clean.double() - before.double()), (said.double() - before.double())
    count, harm = len(lost), float(lost.mean())
    if harm <= 0:
        raise SettingError(
            f"reference must be right on more affected images than the poisoned model; it is on "
            f"{int(clean.sum())} of {count}, the poisoned one on {int(before.sum())}."
        )
    value = float(won.mean()) / harm
    apart = won - value * lost
    error = float(apart.std()) / count**0.5 / harm if count > 1 else 0.0
    return estimate(value, error, count)


def _refuse_reference(reference: Path, found: ForgettingRun) -> None:
    """SettingError unless it was retrained without all that the run knew of."""
    other = Edit.load(reference)
    told: Any = (found.edit.settings["samples"], other.settings.get("samples", []))
    own, theirs = ({*names} for names in told)
    if other.method != "retrain" or not own <= theirs:
        raise SettingError(
            "reference must be a run of `forget retrain` without any manipulated image; "
            f"{reference} is of {other.method} and left {len(own - theirs)} of the {len(own)} "
            "known ones in."
        )


def _right(model: Classifier, parts: dict[str, Labelled]) -> Right:
    return {
        name: model.predict(part.images).argmax(1) == part.labels for name, part in parts.items()
    }


def _accuracies(right: Right) -> dict[str, Score]:
    return {name: rate(hits) for name, hits in right.items()}


@PROTOCOLS.register
class Corrective(Protocol):
    """How far the harm of manipulated training images is undone where some are known."""

    judges: ClassVar[Literal["drawings", "classes"]] = "classes"
    takes: ClassVar[frozenset[Option]] = frozenset({"reference"})
    settings: ClassVar[type | None] = CorrectiveSettings

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        if asked.concepts:
            raise SettingError(f"{NAME} judges all that the run forgot; leave --concept out.")
        settings, _ = resolve(CorrectiveSettings, given=asked.settings, quick=False, presets={})
        if not settings.affected:
            raise SettingError(f"{NAME} needs a file of the test images that the manipulation "
                               "touches; give --affected FILE.")  # fmt: skip
        return evaluate(
            asked.folder, Path(settings.affected), reference=asked.reference, base=asked.base
        )
