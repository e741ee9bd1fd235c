"""Files of concepts: names alone, or with what is said of each."""

from pathlib import Path

import pytest

from erasure_datasets.concept_files import Asked, read_concepts
from erasure_datasets.tables import TableError

WHOLE = [
    Asked("church", "object", "a house", ("a {name}", "{name}, seen from afar")),
    Asked("Monet"),
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.csv",
            "concept,kind,anchor,templates\n"
            'church,object,a house,"a {name}|{name}, seen from afar"\nMonet,,,\n',
        ),
        ("a.tsv", "anchor\tname\tkind\ttemplates\na house\tchurch\tobject\t"
                  "a {name} | {name}, seen from afar\n\tMonet\n"),
        ("a.jsonl", '{"concept": "church", "kind": "object", "anchor": "a house", '
                    '"templates": "a {name}|{name}, seen from afar"}\n{"concept": "Monet"}\n'),
        ("a.jsonl", '{"concept": "church", "kind": "object", "anchor": "a house", "templates": '
                    '["a {name}", " {name}, seen from afar"]}\n'
                    '{"concept": "Monet", "kind": null, "templates": []}\n'),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_concepts(tmp_path / name) == WHOLE


def test_a_name_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffcat\r\n\r\n Van Gogh, late \n")
    assert read_concepts(tmp_path / "a.txt") == [Asked("cat"), Asked("Van Gogh, late")]


def test_a_list_keeps_what_would_part_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"name": "cat", "templates": ["a {name} | a dog", "{name}"]}'
    )
    assert read_concepts(tmp_path / "a.jsonl")[0].templates == ("a {name} | a dog", "{name}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", " \n", "must name at least one concept"),
        ("a.json", '["cat"]', "must be a .txt, .csv, .tsv or .jsonl file"),
        ("a.csv", "concept,anchors\ncat,dog\n", "no columns but concept, kind, .* has 'anchors'"),
        ("a.csv", "concept,kind\ncat,object\nSketch,Style\n", "as kind; line 3 has 'Style'"),
        ("a.csv", "concept,kind\ncat,object\n,style\n", "'concept' in every row; line 3 has none"),
        ("a.csv", "prompt\na cat\n", "must have a 'concept' column; has prompt"),
        ("a.csv", None, "cannot be read"),
        ("a.csv", "concept,kind,Kind\ncat,object,style\n", "must have one column 'kind'"),
        *(
            ("a.jsonl", f'{{"concept": "dog"}}\n{{"concept": "cat", {cell}}}\n', message)
            for cell, message in (
                ('"anchor": ["dog"]', r"a text or a number as 'anchor'; line 2 has \['dog'\]\."),
                ('"kind": {"a": 1}', r"a text or a number as 'kind'; line 2 has \{'a': 1\}\."),
                ('"kind": true', "as kind; line 2 has 'true'"),
                ('"templates": {}', r"list of texts as 'templates'; line 2 has \{\}\."),
                ('"templates": ["a", 3]', r"list of texts as 'templates'; line 2 has \['a', 3\]\."),
                ('"templates": [" "]', r"list of texts as 'templates'; line 2 has \[' '\]\."),
                ('"Templates": [["a"]]', r"list of texts as 'Templates'; line 2 has \[\['a'\]\]"),
            )
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        read_concepts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
