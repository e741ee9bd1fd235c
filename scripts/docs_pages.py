"""The pages of the documentation that are written when it is built: a hook of mkdocs (mkdocs.yml).

    mkdocs build            # or make docs: the whole site into site/
    python scripts/docs_pages.py methods/esd.md     # one page on standard output

A page per method, attack and protocol comes from its file's docstring and settings (docs_plugins),
the command line's from its own help (docs_commands), the rest are files of the repository. A
section of the navigation that is a word in braces is filled with the pages of that name.
"""

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import docs_commands
import docs_plugins

ROOT = Path(__file__).parents[1]
FILES = {  # pages that are files of the repository, one after another
    "reference/pocket.md": (
        "erasure/models/pocket/README.md", "erasure/models/pocket/flow/README.md",
    ),
    "reference/data.md": ("datasets/README.md",),
    "reference/decisions.md": ("DECISIONS.md",),
    "reference/contributing.md": ("CONTRIBUTING.md",),
    "reference/changelog.md": ("CHANGELOG.md",),
}  # fmt: skip
WIDE = ("methods/", "attacks/", "protocols/", "results/", "reference/exports", "reference/criteria")


@cache
def pages() -> dict[str, str]:
    """Every written page's Markdown, by its place in docs/."""
    copied = {
        page: "\n\n".join(copied_text(ROOT / file) for file in files)
        for page, files in FILES.items()
    }
    return {**docs_plugins.pages(), **docs_commands.pages(), **copied}


def copied_text(file: Path) -> str:
    """A file of the repository without front matter; its links to other files become their names.

    The site has no copy of those files, and no address at which the repository lies.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\[([^]]+)\]\((?!https?://)([^)]+)\)", _named, text)


def _named(link: re.Match[str]) -> str:
    text, target = link.groups()
    return text if text == target else f"{text} (`{target}`)"


def section(name: str) -> list[Any]:
    """The written pages under one heading of the navigation: its index, its pages, its folders."""
    found = sorted(page.removeprefix(f"{name}/") for page in pages() if page.startswith(f"{name}/"))
    own = sorted((page for page in found if "/" not in page), key=lambda page: page != "index.md")
    folders = dict.fromkeys(page.split("/")[0] for page in found if "/" in page)
    below = [{folder.title(): section(f"{name}/{folder}")} for folder in folders]
    return [*(f"{name}/{page}" for page in own), *below]


def filled(entry: Any) -> Any:
    """A part of the navigation with its sections in braces filled."""
    if isinstance(entry, dict):
        return {title: filled(value) for title, value in entry.items()}
    if isinstance(entry, list):
        return [filled(value) for value in entry]
    if isinstance(entry, str) and entry.startswith("{"):
        return section(entry.strip("{}"))
    return entry


def on_config(config: Any) -> Any:
    config.nav = filled(config.nav)
    return config


def on_page_markdown(markdown: str, page: Any, **_more: Any) -> str:
    """Room for wide tables and formulas: pages of few headings have no list of them beside."""
    place = page.file.src_uri
    if place in ("index.md", "explanation/erased.md"):
        page.meta["hide"] = ["navigation"]
    elif place.startswith(WIDE):
        page.meta["hide"] = ["toc"]
    return markdown


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    return files


if __name__ == "__main__":
    wanted = sys.argv[1:] or sorted(pages())
    print("\n\n".join(pages()[page] for page in wanted) if sys.argv[1:] else "\n".join(wanted))
