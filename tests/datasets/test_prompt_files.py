"""Files of prompts in every layout that the field has, and the built-in lists."""

import warnings
from pathlib import Path

import pytest

from erasure_datasets.errors import DataWarning
from erasure_datasets.prompt_files import LISTS, Line, built_in, read_prompts
from erasure_datasets.tables import TableError


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("a.txt", "\ufeffa dog\r\n\r\n  a red house \r\n", [None, None]),
        ("a.csv", "prompt\na dog\na red house\n", [None, None]),
        ("a.csv", "case_number,prompt,evaluation_seed\n0,a dog,7\n1,a red house,0\n", [7, 0]),
        ("a.csv", ",prompt,sd_seed,categories\n0,a dog,7,x\n1,a red house,9,y\n", [7, 9]),
        ("a.tsv", "id\tcaption\n1\ta dog\n2\ta red house\n", [None, None]),
        ("a.jsonl", '{"prompt": "a dog", "seed": 3}\n{"prompt": "a red house", "seed": 4}', [3, 4]),
        ("a.json", '["a dog", "a red house"]', [None, None]),
        (
            "captions_val2014.json",
            '{"images": [], "annotations": [{"id": 1, "caption": "a dog"}, '
            '{"id": 2, "caption": "a red\\nhouse"}]}',
            [None, None],
        ),
    ],
)
def test_layouts(tmp_path: Path, name: str, text: str, want: list[int | None]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    pairs = zip(["a dog", "a red house"], want, strict=True)
    assert read_prompts(tmp_path / name) == [Line(prompt, seed) for prompt, seed in pairs]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "at least one prompt"),
        ("a.csv", "prompt,seed\na dog,x\n", "whole number from 0 as seed; line 2 has 'x'"),
        ("a.csv", "prompt,seed\na dog,1\na cat,-1\n", "line 3 has '-1'"),
        ("a.csv", "prompt,sd_seed\na dog,\n", "line 2 has ''"),
        ("a.csv", "sentence\na dog\n", "must have a 'prompt' column; has sentence"),
        ("a.json", "{}", "a list of prompts, or COCO's annotations"),
        ("a.json", '{"annotations": [{"text": "a dog"}]}', "a list of prompts, or COCO"),
        ("a.json", "[1]", "a list of prompts"),
        ("a.json", "[]", "at least one prompt"),
        ("a.json", "[", "is no JSON"),
    ],
)
def test_what_is_no_file_of_prompts(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=message) as refused:
        read_prompts(tmp_path / name)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_columns_that_would_change_the_image_are_told(tmp_path: Path) -> None:
    file = tmp_path / "i2p.csv"
    file.write_text("prompt,sd_seed,sd_guidance_scale,sd_image_width\na dog,1,7,512\n")
    with pytest.warns(DataWarning, match="sd_guidance_scale, sd_image_width will not be used"):
        read_prompts(file)
    file.write_text("prompt,sd_seed,sd_guidance_scale\na dog,1,\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_prompts(file)


def test_built_in_lists_hold_different_plain_names() -> None:
    for name in LISTS:
        words = built_in(name)
        assert len(set(map(str.casefold, words))) == len(words) >= 32
        assert all(word == word.strip() and word for word in words)
