"""The documentation's written pages: one per plug-in and command, with every setting in it."""

import dataclasses
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import typer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import attack_table
import docs_pages
import docs_plugins
import forgetting_table
import markdown_file

from erasure.commandline.main import app
from erasure.registry import CRITERIA, EXPORTS

TABLES = Path(__file__).parents[2] / "docs" / "results" / "tables"
SHELVES = (*docs_plugins.METHOD_SHELVES, docs_plugins.ATTACK_SHELF, docs_plugins.PROTOCOL_SHELF)


@pytest.mark.parametrize("shelf", SHELVES, ids=lambda shelf: shelf.title)
def test_every_plugin_has_a_page_with_its_settings(shelf: docs_plugins.Shelf) -> None:
    pages = docs_pages.pages()
    for name in shelf.registry.names():
        page = pages[f"{shelf.folder}/{name}.md"]
        kind = shelf.registry.get(name)
        for item in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            assert f"`--{item.name.replace('_', '-')}`" in page
        top, _, folder = shelf.folder.partition("/")
        assert f"]({folder and folder + '/'}{name}.md)" in pages[f"{top}/index.md"]


def test_small_plugins_share_a_page() -> None:
    pages = docs_pages.pages()
    for name in CRITERIA.names():
        assert f"\n## {name}\n" in pages["reference/criteria.md"]
    for name in EXPORTS.names():
        assert f"\n## {name}\n" in pages["reference/exports.md"]


def test_every_command_has_a_page_with_its_options() -> None:
    pages, root = docs_pages.pages(), typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        page = pages[f"commands/{name}.md"]
        folded = page.casefold().replace("`[", "`")  # older typer writes `[RUN]` for an argument
        words = command.list_commands(None) if hasattr(command, "list_commands") else [None]
        for word in words:
            one = command if word is None else command.get_command(None, word)
            assert word is None or f"\n## {word}\n" in page
            for entry in one.params:
                assert f"`{entry.opts[0].casefold()}" in folded, (name, word, entry.name)


def test_commands_of_their_own_are_of_plugins_that_there_are() -> None:
    shelves = (*SHELVES, *docs_plugins.LISTS.values())
    known = {(shelf.folder, name) for shelf in shelves for name in shelf.registry.names()}
    assert docs_plugins.OTHERWISE.keys() <= known


def test_formulas_are_code_and_choices_a_list() -> None:
    text = (
        "Idea: a*b < c*d, to_k.\n\n    x* = y_i\n      z\n\nChoices\n- `a_b` stays.\n  So.\n- Two."
    )
    assert docs_plugins.told(text) == (
        "Idea: a\\*b &lt; c\\*d, to\\_k.\n\n```text\nx* = y_i\n  z\n```\n\n"
        "## Choices\n\n- `a_b` stays.\n  So.\n- Two."
    )


def test_the_navigation_names_every_written_page() -> None:
    nav = docs_pages.filled([{"Methods": "{methods}"}, {"Home": "index.md"}])
    assert nav[1] == {"Home": "index.md"}
    assert nav[0]["Methods"][0] == "methods/index.md"
    kinds = {title: pages for part in nav[0]["Methods"][1:] for title, pages in part.items()}
    assert "methods/diffusion/esd.md" in kinds["Diffusion"]
    assert "methods/classifier/ssd.md" in kinds["Classifier"]
    text = (docs_pages.ROOT / "mkdocs.yml").read_text()
    for page in docs_pages.pages():
        assert page in text or f'"{{{page.split("/")[0]}}}"' in text, page


def test_files_of_the_repository_lose_front_matter_and_links(tmp_path: Path) -> None:
    file = tmp_path / "card.md"
    file.write_text(
        "---\nlicense: x\n---\n# T\n[code](a/b.py), [web](https://x.org), [c.md](c.md)\n"
    )
    assert docs_pages.copied_text(file) == "# T\ncode (`a/b.py`), [web](https://x.org), c.md\n"


def test_tables_of_results_have_the_form_that_their_scripts_write(tmp_path: Path) -> None:
    """So that a new measurement replaces the file and nothing else."""

    def heads(name: str) -> list[str]:
        lines = (TABLES / f"{name}.md").read_text().splitlines()
        return [above for above, line in pairwise(lines) if line.startswith("|--")]

    import erasure_table  # the protocol's list of concepts takes a moment

    assert heads("erasing") == [erasure_table.rows([], tmp_path, "pocket")[0]]
    assert heads("under-attack") == [attack_table.rows({}, list(attack_table.BY_TEXT))[0]]
    score = {"value": 0.5}
    single = {name: score for name in ("Acc_f", "Acc_r", "H", "MIA", "distance")}
    record = {"scores": single, "weights_touched": 1.0, "seconds": 3.0}
    later = {**record, "scores": {**single, "Acc_o": score}, "worst": {"Acc_r": 0.5}}
    assert heads("classes") == [
        forgetting_table.rows({"ssd": one})[0] for one in (record, later)
    ]  # fmt: skip


def test_every_table_that_a_page_shows_has_rows() -> None:
    for page in TABLES.parent.glob("*.md"):
        for name in re.findall(r'^--8<-- "results/tables/(.+)"$', page.read_text(), re.MULTILINE):
            rows = [line for line in (TABLES / name).read_text().splitlines() if line[:2] == "| "]
            assert len(rows) > 1, f"{page.name}: {name}"


def test_a_written_table_tells_command_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tables" / "new.md"
    monkeypatch.setattr(sys, "argv", ["scripts/x.py", "--seeds", "188", "--markdown", str(file)])
    markdown_file.write(file, "| a |\n|---|\n")
    table, told = file.read_text().split("\n\n")
    assert table == "| a |\n|---|"
    assert told.startswith("`python scripts/x.py --seeds 188`, ")
    assert "threads, torch" in told
