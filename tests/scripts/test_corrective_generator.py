"""Data with swapped captions: which are wrong, which are known to be, and what is restored."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import corrective_generator as corrective

from erasure.errors import ModelError, SettingError
from erasure.models.diffusion.load import load_model


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """Four images each of two objects in two styles, three swapped, one of them known."""
    monkeypatch.setattr(corrective, "OBJECTS", ("cat", "dog", "tree"))
    monkeypatch.setattr(corrective, "STYLES", ("Photo", "Sketch"))
    return Namespace(
        out=tmp_path, pair=["cat", "dog"], images=4, swapped=3, known=1, methods=["uce"],
    )  # fmt: skip


@pytest.fixture
def entries(asked: Namespace, monkeypatch: pytest.MonkeyPatch) -> list[corrective.Entry]:
    monkeypatch.setattr(corrective, "render", lambda *_: np.zeros((64, 64, 3), np.uint8))
    return corrective.write_data(asked)


def test_captions_are_swapped_in_their_share(entries: list[corrective.Entry]) -> None:
    wrong = [entry for entry in entries if entry.caption != entry.shows]
    assert len(entries) == 2 * 4 * 2 + 2
    assert len(wrong) == 2 * 3 * 2
    assert {entry.shows for entry in wrong} == {"cat", "dog"}
    assert sum(entry.is_known for entry in entries) == 2 * 2
    assert all(entry.is_known <= (entry in wrong) for entry in entries)
    assert all(entry.file.parent.name == entry.caption for entry in entries)


def test_a_method_sees_the_known_images_alone(
    asked: Namespace, entries: list[corrective.Entry]
) -> None:
    folder = corrective.known_images(entries, asked.out / "seen", "cat")
    for style in ("Photo", "Sketch"):
        assert [file.name for file in (folder / style / "cat").iterdir()] == ["dog0.png"]
        assert len(list((folder / style / "dog").iterdir())) == 4
        assert len(list((folder / style / "tree").iterdir())) == 1


def test_mended_captions_are_the_known_ones(entries: list[corrective.Entry]) -> None:
    """As captioned, or the known ones by what they show."""
    model, own = load_model("pocket"), [e for e in entries if e.style == "Photo"]
    as_written, mended = (
        corrective._pictures(model, own, is_mended).prompts for is_mended in (False, True)
    )
    differ = [e for e, a, b in zip(own, as_written, mended, strict=True) if a != b]
    assert differ == [entry for entry in own if entry.is_known]
    assert len(differ) == 2


def test_fine_tuning_starts_in_an_empty_folder(
    asked: Namespace, entries: list[corrective.Entry]
) -> None:
    """And leaves a model that opens, with what it learnt."""
    asked.seed, asked.batch_size, asked.learning_rate, asked.steps = 0, 2, 1e-3, 1
    model = load_model("pocket")
    before = {name: weight.clone() for name, weight in model.weights("full").items()}
    corrective.fine_tune(model, entries, asked.out / "poisoned", asked, is_mended=False)
    after = load_model(str(asked.out / "poisoned")).weights("full")
    assert all(not torch.equal(after[name].cpu(), value) for name, value in before.items())


def test_restored_is_a_share_of_what_was_lost(asked: Namespace) -> None:
    for name, first, second in (("pocket", 1, 0.8), ("poisoned", 0, 0.6), ("uce", 0.8, 0.4)):
        seen = {"first": first, "second": second, "others": 1.0}
        (asked.out / f"{name}.json").write_text(json.dumps(seen))
    assert corrective.table(asked)[-1] == "| uce | 80 | 40 | 100 | 0.50 |"


def test_a_poison_that_did_not_take_and_a_strange_pair_are_refused(asked: Namespace) -> None:
    seen = {"first": 0.9, "second": 1.0, "others": 1.0}
    (asked.out / "poisoned.json").write_text(json.dumps(seen))
    with pytest.raises(ModelError, match="the poison did not take: 90 %"):
        corrective.poisoned(asked, [])
    asked.pair = ["cat", "cat"]
    with pytest.raises(SettingError, match="pair must be two of the objects"):
        corrective.check_asked(asked)
    asked.pair, asked.known = ["cat", "dog"], 4
    with pytest.raises(SettingError, match="got known 4, swapped 3, images 4"):
        corrective.check_asked(asked)
