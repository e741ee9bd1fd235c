"""Tables of prompts and captions: the field's layouts, and one line for what is none."""

from pathlib import Path

import pytest

from erasure_datasets.tables import TableError, read_captions, read_column


@pytest.mark.parametrize(
    "data",
    [
        b"prompt\na dog\na red house\n",
        b"\xef\xbb\xbfprompt\r\na dog\r\na red house\r\n",
        b"case_number,prompt,evaluation_seed\n0,a dog,1\n1,a red house,2\n",
        b"sd_seed,Prompt \n1,a dog\n2, a red house \n",
        b"id;TEXT\n1;a dog\n\n2;a red house",
        b"id\tcaption\n1\ta dog\n2\ta red house\n",
        b'"prompt","seed"\n"a dog",1\n"a red house"\n',
        b"\r\nprompt\ra dog\ra red house\r",
        b"text,prompt\nx,a dog\ny,a red house\n",
    ],
)
def test_prompts(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    assert read_column(tmp_path / "a.csv").texts == ["a dog", "a red house"]


def test_a_separator_or_a_line_end_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,n\n"a dog, sitting",1\n"two\nlines",2\n')
    assert read_column(tmp_path / "a.csv").texts == ["a dog, sitting", "two\nlines"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least one row"),
        (b"prompt\n", "at least one row"),
        (b"a dog\na cat\n", r"must have a 'prompt' column; has a dog"),
        (b"seed,sentence\n1,a dog\n", r"must have a 'prompt' column; has seed, sentence"),
        (b"prompt\na dog, sitting\n", r"2 cells in line 2 and 1 columns; .* in quotes"),
        (b"seed,prompt\n1,a dog\n2\n", r"'prompt' in every row; line 3 has none"),
        (b"seed,prompt\n1,a dog\n2,  \n", r"line 3 has none"),
        (b"prompt,Prompt\na,b\n", "must have one column 'prompt'"),
        (b'prompt\n"a dog\n', "is no CSV, in line"),
        (b"prompt\na caf\xe9\n", "must be in UTF-8; byte 12"),
        ("prompt\na dog\n".encode("utf-16"), "must be in UTF-8"),
        (b"prompt\na dog\0\n", "NUL"),
    ],
)
def test_what_is_no_table_of_prompts(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(TableError, match=rf"a\.csv .*{message}") as caught:
        read_column(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.csv cannot be read: No such file"):
        read_column(tmp_path / "none.csv")
    with pytest.raises(TableError, match="it is a folder"):
        read_column(tmp_path)


def test_captions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file_name,text\n0.jpg,a dog\n1.jpg,a cat\n")
    (tmp_path / "a.jsonl").write_text(
        '{"file_name": "0.jpg", "text": "a dog", "more": [1]}\n\n'
        '{"text": "a cat", "file_name": "1.jpg"}\n'
    )
    for name in ("a.csv", "a.jsonl"):
        assert read_captions(tmp_path / name) == {"0.jpg": "a dog", "1.jpg": "a cat"}
    for name, data, message in (
        ("b.csv", "file_name,text\n0.jpg,a\n0.jpg,b\n", r"each file_name once; 0\.jpg"),
        ("b.csv", "image,text\n0.jpg,a\n", "must have a 'file_name' column; has image, text"),
        ("b.jsonl", '{"file_name": "0.jpg"}\n', "must have a 'text' column"),
        ("b.jsonl", '{"file_name": "0.jpg", "text": 3}\n', "line 1 has none"),
        ("b.jsonl", '{"file_name": "0.jpg", "text": true}\n', "line 1 has none"),
        ("b.jsonl", '{"file_name": "0.jpg", "text": ["a", "b"]}\n',
         r"a text or a number as 'text'; line 1 has \['a', 'b'\]\."),
        ("b.jsonl", '{"file_name": {"a": 1}, "text": "a"}\n', "as 'file_name'; line 1 has"),
        ("b.jsonl", '{"file_name": "0.jpg", "te\n', "is no JSON in line 1"),
        ("b.jsonl", "[1]\n", "line 1 is none"),
        ("b.jsonl", "\n", "at least one row"),
    ):  # fmt: skip
        (tmp_path / name).write_text(data)
        with pytest.raises(TableError, match=message):
            read_captions(tmp_path / name)


def test_columns_beside(tmp_path: Path) -> None:
    """Those asked for are read as a CSV holds them; what is in the rest does not matter."""
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a dog", "Seed": 1, "is_new": false, "boxes": [[0, 1]]}\n'
        '{"prompt": "a cat", "Seed": null, "words": ["x", "y"]}\n'
    )
    found = read_column(tmp_path / "a.jsonl", beside=("seed", "is_new", "kind"), several=("words",))
    assert found.others == {"seed": ["1", ""], "is_new": ["false", ""]}
    assert found.several == {"words": [(), ("x", "y")]}
    assert found.unread == ["boxes"]
    with pytest.raises(TableError, match=r"a text or a number as 'boxes'; line 1 has \[\[0, 1\]\]"):
        read_column(tmp_path / "a.jsonl", beside=("boxes",))
