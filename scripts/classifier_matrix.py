"""Every forgetting method on a miniature of every kind of classifier: works, or says why not.

    python scripts/classifier_matrix.py --markdown docs/results/tables/classifier-matrix.md

A cell is a class and then single images, forgotten in a few steps, saved, read again by the model's
own library and asked. tests/scripts/test_classifier_matrix.py goes through the same cells.
"""

import argparse
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import markdown_file
import torch
from classifier_networks import LABELS, MINIATURES, SIDE
from torch import Tensor

from erasure.config import resolve
from erasure.errors import ModelError, SettingError
from erasure.exports.writing.saving import save_classifier
from erasure.forgetting import Request, refuse_unsuited
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.registry import METHODS
from erasure.sample_requests import Samples
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled

COLOURS = ((220, 40, 40), (40, 200, 40), (40, 40, 220), (128, 128, 128))
PER_CLASS = 6
SMALL = {
    "steps": 2, "epochs": 2, "epochs_without": 1, "batch_size": 8, "learning_rate": 1e-3,
    "selection": 1.0, "after_settings": "selection=1",
}  # fmt: skip
OWN: dict[str, dict[str, float]] = {
    "gradient-ascent": {"learning_rate": 1e-2},  # a smaller step moves nothing that float32 shows
    "gs-lora": {"learning_rate": 0.05, "zero_below": 0.0},
    "s3t": {"shards": 2, "orders": 2},  # of fewer, three images leave nothing alive
    "retrain": {"epochs": 20},  # the default: its recipe goes by steps
}


def pictures() -> Labelled:
    """A few images of four colours, in memory."""
    noise = torch.Generator().manual_seed(0)
    images, labels, ids = [], [], []
    for label, colour in enumerate(COLOURS):
        for number in range(PER_CLASS):
            grain = torch.randint(-30, 30, (3, SIDE, SIDE), generator=noise)
            images.append((torch.tensor(colour).view(3, 1, 1) + grain).clamp(0, 255).byte())
            labels.append(label)
            ids.append(f"{LABELS[label]}/{number}.png")
    return Labelled(torch.stack(images), torch.tensor(labels), tuple(ids))


def requests() -> dict[str, Request]:
    """A class, and three images of three classes."""
    train, every = pictures(), list(range(len(LABELS)))
    forget, retain = train.split(["red/0.png", "green/1.png", "blue/2.png"])
    return {
        "class": Request(0, [0], [], every[1:], train.of([0]), train.of(every[1:])),
        "samples": Request(0, [], [], every, forget, retain),
    }


def tried(method: str, folder: Path, kind: str, out: Path) -> str:
    """Forget, save, read again: why the method refuses, or nothing.

    AssertionError for what no method may do.
    """
    model, request = load_classifier(str(folder)), requests()[kind]
    before = {name: tensor.detach().clone() for name, tensor in model.tensors().items()}
    samples = Samples(request.forget.ids if kind == "samples" else ())
    method_class: Any = METHODS.get("classifier", method)
    small = {**SMALL, **OWN.get(method, {})}
    given = {item.name: small[item.name] for item in fields(method_class) if item.name in small}
    (out / "run").mkdir(parents=True)
    try:
        refuse_unsuited(method_class, method, samples)
        settings, _ = resolve(method_class, given=given, quick=True, presets={})
        # nothing is resumed here, and writing states would take most of the time
        with mock.patch.object(Run, "save_state", return_value=out):
            settings.forget(model, request, Run(out / "run", seed=0))
    except (SettingError, ModelError) as error:
        told = str(error).strip().replace(str(folder), "this classifier")
        assert len(told.splitlines()) == 1, f"no single line: {told!r}"
        return told
    _check(model, before, folder, out)
    return ""


def _check(model: Classifier, before: dict[str, Tensor], folder: Path, out: Path) -> None:
    """Some tensors moved, only remembered ones, to finite values; saved, they answer the same."""
    x = model.prepare(pictures().images)
    with torch.no_grad():
        said = model.forward(x)[1]
        with model.original():
            untouched = model.forward(x)[1]
    moved = {n for n, tensor in model.tensors().items() if not torch.equal(tensor, before[n])}
    assert moved, "nothing changed"
    assert moved <= model.originals.keys(), "changed without being remembered"
    assert torch.isfinite(said).all(), "answers are not finite"
    first = load_classifier(str(folder))
    with torch.no_grad():
        assert torch.allclose(untouched, first.forward(x)[1], atol=1e-6), "the original is lost"
    save_classifier(model, out / "saved")
    again = load_classifier(str(out / "saved"))
    with torch.no_grad():
        assert torch.allclose(again.forward(x)[1], said, atol=1e-5), "saved, it answers otherwise"


def lines(cells: dict[tuple[str, str, str], str]) -> list[str]:
    """The table in Markdown, and a note for each refusal."""
    methods = list(dict.fromkeys(method for method, _, _ in cells))
    kinds = list(dict.fromkeys(kind for _, kind, _ in cells))
    notes: list[str] = []

    def shown(refusal: str) -> str:
        if not refusal:
            return "yes"
        if refusal not in notes:
            notes.append(refusal)
        return f"no ({notes.index(refusal) + 1})"

    rows = ["| method | " + " | ".join(kinds) + " |", "|" + "---|" * (len(kinds) + 1)]
    for method in methods:
        pairs = [(cells[method, kind, "class"], cells[method, kind, "samples"]) for kind in kinds]
        words = [" / ".join(dict.fromkeys([shown(a), shown(b)])) for a, b in pairs]
        rows.append("| " + " | ".join([method, *words]) + " |")
    told = [f"{number}. {text}" for number, text in enumerate(notes, 1)]
    return [*rows, "", "Where two words stand, the second is of single images.", "", *told]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default=",".join(METHODS.names("classifier")))
    markdown_file.add_option(parser)
    chosen = parser.parse_args()
    found: dict[tuple[str, str, str], str] = {}
    for name, build in MINIATURES.items():
        with tempfile.TemporaryDirectory() as place:
            build(Path(place) / "model")
            for word in chosen.methods.split(","):
                for asked in ("class", "samples"):
                    out = Path(place) / f"{word}-{asked}"
                    found[word, name, asked] = tried(word, Path(place) / "model", asked, out)
    told = "\n".join(lines(found))
    print(told)
    markdown_file.write(chosen.markdown, told)
