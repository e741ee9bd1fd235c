"""Records are read whole or refused in one line."""

from pathlib import Path

import pytest

from erasure.errors import EditError, RunError
from erasure.files.records import ScoresShape, read_record

GOOD = b'{"protocol": "p", "scores": {"UA": {"value": 1, "more": [1]}}, "labels": [[1, 2]]}'
BAD = {
    "latin-1": b'{"protocol": "\xe9", "scores": {}}',
    "utf-16": '{"protocol": "p", "scores": {}}'.encode("utf-16"),
    "cut off": GOOD[:-9],
    "power cut": b"\0" * 40,
    "nested": b"[" * 100_000,
    "another top": b"[]",
    "null": b"null",
    "digits": b'{"protocol": "p", "scores": {"UA": {"value": ' + b"9" * 5000 + b"}}}",
    "not finite": b'{"protocol": "p", "scores": {"UA": {"value": NaN}}}',
    "surrogate": b'{"protocol": "\\ud800", "scores": {}}',
    "no key": b'{"protocol": "p"}',
    "above its interval": b'{"protocol": "p", "scores": {"UA": {"value": 0.5, "high": 0.4}}}',
    "below its interval": b'{"protocol": "p", "scores": {"UA": {"value": 0.5, "low": 0.6}}}',
    "no interval": b'{"protocol": "p", "scores": {"UA": {"value": 0.5, "low": 1, "high": 0}}}',
    "infinite end": b'{"protocol": "p", "scores": {"UA": {"value": 0.5, "high": 1e999}}}',
    "fewer than none": b'{"protocol": "p", "scores": {"UA": {"value": 0.5, "n": -1}}}',
    "another type": b'{"protocol": "p", "scores": {"UA": {"value": "high"}}}',
}


def test_a_record_keeps_what_its_shape_does_not_name(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    for text in (GOOD, b"\xef\xbb\xbf" + GOOD):
        file.write_bytes(text)
        record = read_record(file, ScoresShape)
        assert record["scores"]["UA"] == {"value": 1, "more": [1]}
        assert record["labels"] == [[1, 2]]  # type: ignore[typeddict-item]


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_anything_else_is_one_line_that_names_the_file(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_bytes(text)
    with pytest.raises(RunError, match=r"scores\.json is not readable .*; make it again\.") as told:
        read_record(file, ScoresShape, remedy="make it again")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for file in (tmp_path / "no.json", tmp_path):
        with pytest.raises(EditError, match="cannot be read"):
            read_record(file, ScoresShape, error=EditError)
