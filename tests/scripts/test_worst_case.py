"""The search over pocket's concepts, in its shortest form, and the tables beside it."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import noised_renders
import worst_case

from erasure.files.records import read_record
from erasure.files.storage import write_json
from erasure.models.diffusion.load import load_model
from evaluation.drawing.pocket_plan import catalogue


@pytest.mark.slow
def test_a_search_names_concepts_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (worst_case, noised_renders):
        monkeypatch.setattr(module, "TIMES", torch.tensor([400]))
    model = load_model("pocket")
    monkeypatch.setattr(worst_case, "load_model", lambda _name: model)
    before = {name: weight.clone() for name, weight in model.weights("xattn").items()}
    asked = Namespace(
        out=tmp_path, count=3, seed=0, points=1, batch_size=4, steps=1, step_size=1e-2, rounds=2,
        rate=0.5,
    )  # fmt: skip
    worst_case.search(asked)
    names = (tmp_path / "concepts.txt").read_text().splitlines()
    assert len(set(names)) == 3
    assert set(names) <= set(catalogue().targets())
    record = read_record(tmp_path / "selection.json", dict[str, list])
    assert record["chosen"] == names
    assert [sum(row) for row in record["weights"]] == pytest.approx([3, 3], abs=1e-5)
    rises = torch.tensor(record["losses"])
    assert (rises != 0).all()  # a step was taken, and the noise error is of the model after it
    for name, weight in model.weights("xattn").items():
        assert torch.equal(weight, before[name])


def test_a_set_stands_beside_the_hardest_tenth_of_random_ones() -> None:
    likely = worst_case.beside_random("likely", [0.5, *(i / 10 for i in range(11))])
    assert likely == "the judge's belief | 50 | 50 | 90 | 5 of 11"
    rise = worst_case.beside_random("rise", [0.15, *(i / 10 for i in range(11))])
    assert rise == "rise of the noise error | 0.1500 | 0.5000 | 0.1000 | 9 of 11"  # low is hard


def test_no_random_set_stands_for_the_chosen_one(tmp_path: Path) -> None:
    """The first record is the chosen set's, and without that there is no row."""
    write_json(tmp_path / "selection.json", {"chosen": ["cat"]})
    for number in range(4):
        record = {"names": ["cat"], "rise": number / 10, "images": 0}
        write_json(tmp_path / "uce" / f"{number}.json", record)
    asked = Namespace(out=tmp_path, count=1, sets=3, seed=0, images=0)
    assert worst_case.tables(asked)[-1].startswith("| uce | rise of the noise error | 0.0000 |")
    (tmp_path / "uce" / "0.json").unlink()
    assert not [line for line in worst_case.tables(asked) if line.startswith("| uce")]


def test_more_concepts_than_there_are_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "worst"
    monkeypatch.setattr(sys, "argv", ["worst_case.py", "--out", str(out), "--count", "31"])
    with pytest.raises(SystemExit) as ended:
        worst_case.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == (
        "the number of things to choose must be from 1 to 30, fewer than the 31 there are; "
        "got 31.\n"
    )
    assert not out.exists()
