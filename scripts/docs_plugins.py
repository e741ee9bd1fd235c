"""Pages about plug-ins, each from its file's docstring and settings."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from erasure.config import choices, needs
from erasure.models.built_in import POCKET
from erasure.registry import ATTACKS, CRITERIA, EXPORTS, METHODS, PROTOCOLS, Registry

PRESETS = {"pocket": POCKET, "pocket-flow": POCKET / "flow", "pocket-vit": POCKET / "vit"}

OTHERWISE = {  # commands that need more than their kind's do, by the folder and the name
    ("methods/diffusion", "adapt-unlearn"):
        "erasure erase adapt-unlearn --model MODEL --images FOLDER --out RUN",
    ("methods/classifier", "s3t"): "erasure forget s3t --model MODEL --samples FILE --out RUN",
    ("protocols", "gold"): "erasure evaluate RUN --protocol gold --gold MODEL",
    ("protocols", "corrective"): "erasure evaluate RUN --protocol corrective --affected FILE",
    ("reference", "function"): "erasure attack ATTACK RUN --criterion FILE.py:FUNCTION",
    ("reference", "nudenet"): "erasure attack ATTACK RUN --criterion nudenet=rece",
}  # fmt: skip


@dataclass(frozen=True)
class Shelf:
    """Plug-ins of one kind: where their pages lie and how one is asked for."""

    folder: str
    title: str
    registry: Registry[Any]
    command: str
    told: str
    models: tuple[str, ...] = ()


METHOD_SHELVES = (
    Shelf(
        "methods/diffusion", "For diffusion models", METHODS.kinds["diffusion"],
        "erasure erase {name} --model MODEL --concept NAME --out RUN",
        "Every command takes the [options of `erasure erase`](../../commands/erase.md) as well.",
        models=("pocket", "pocket-flow"),
    ),
    Shelf(
        "methods/classifier", "For image classifiers", METHODS.kinds["classifier"],
        "erasure forget {name} --model MODEL --class NAME --out RUN",
        "Every command takes the [options of `erasure forget`](../../commands/forget.md) as well.",
        models=("pocket-vit",),
    ),
)  # fmt: skip
ATTACK_SHELF = Shelf(
    "attacks", "Attacks", ATTACKS, "erasure attack {name} RUN",
    "Every command takes the [options of `erasure attack`](../commands/attack.md) as well. "
    "How to read the figures: [Attack](../how-to/attack.md).",
    models=("pocket", "pocket-flow"),
)  # fmt: skip
PROTOCOL_SHELF = Shelf(
    "protocols", "Protocols", PROTOCOLS, "erasure evaluate RUN --protocol {name}",
    "Without `--protocol`, `evaluate` takes the one that fits the run: "
    "[Evaluate](../how-to/evaluate.md).",
)  # fmt: skip
LISTS = {  # small ones that share a page
    "reference/criteria.md": Shelf(
        "reference", "Criteria", CRITERIA, "erasure attack ATTACK RUN --criterion {name}",
        "What counts as showing the concept. Several are joined by `+`: an image counts if all of "
        "them say so.",
    ),
    "reference/exports.md": Shelf(
        "reference", "Export forms", EXPORTS, "erasure export RUN OUT --to {name}",
        "What is written of a run. Every export has a card that says how to open it.",
    ),
}  # fmt: skip


def pages() -> dict[str, str]:
    """Every page about plug-ins, by its place in docs/."""
    written = {"methods/index.md": index("Methods", METHOD_SHELVES)}
    for shelf in (ATTACK_SHELF, PROTOCOL_SHELF):
        written[f"{shelf.folder}/index.md"] = index(shelf.title, (shelf,))
    for shelf in (*METHOD_SHELVES, ATTACK_SHELF, PROTOCOL_SHELF):
        for name in shelf.registry.names():
            written[f"{shelf.folder}/{name}.md"] = page(shelf, name)
    for place, shelf in LISTS.items():
        parts = [f"# {shelf.title}", shelf.told]
        for name in shelf.registry.names():
            parts += [f"## {name}", _code(shelf, name), told(shelf.registry.docstring(name))]
        written[place] = "\n\n".join(parts)
    return written


def page(shelf: Shelf, name: str) -> str:
    """One plug-in: its command, what its file says, and its settings."""
    plugin, text = shelf.registry.get(name), shelf.registry.docstring(name)
    file = plugin.__module__.replace(".", "/") + ".py"
    idea, _, rest = text.strip().partition("\n\n")
    parts = [f"# {name}", told(idea), _code(shelf, name), *([told(rest)] if rest else [])]
    parts += _settings(shelf, name, plugin)
    return "\n\n".join([*parts, f"Source: `{file}`. {shelf.told}"])


def index(title: str, shelves: tuple[Shelf, ...]) -> str:
    """A table of every plug-in with its idea, and of methods with what they change."""
    parts = [f"# {title}"]
    for shelf in shelves:
        rows = []
        for name in shelf.registry.names():
            idea, second = [" ".join(part.split()) for part in
                            [*shelf.registry.docstring(name).split("\n\n"), ""][:2]]  # fmt: skip
            where = f"{shelf.folder}/".partition("/")[2]  # the index lies one folder up
            cells = [f"[{name}]({where}{name}.md)", plain(idea)]
            if shelf.models and shelf is not ATTACK_SHELF:
                cells.append(plain(second.removeprefix("Changes: ")))
            rows.append(cells)
        heads = ["name", "idea", "changes"][: len(rows[0])]
        parts += [f"## {shelf.title}"] if len(shelves) > 1 else []
        is_method = shelf in METHOD_SHELVES
        parts += [table(heads, rows), _code(shelf, "METHOD" if is_method else "NAME")]
        parts += [shelf.told] if len(shelves) == 1 else []
    return "\n\n".join(parts)


def told(text: str) -> str:
    """A docstring as Markdown: formulas as code, its Choices under a heading, lists as lists."""
    parts: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        if lines[0] == "Choices":
            parts.append("## Choices")
            lines = lines[1:]
        formula = [line.startswith("    ") for line in lines]
        if lines and all(formula):
            parts.append("```text\n" + "\n".join(line[4:] for line in lines) + "\n```")
        elif lines:
            parts.append(_prose(lines))
    return "\n\n".join(parts)


def _prose(lines: list[str]) -> str:
    """A paragraph, with blank lines before a list and around a formula inside it."""
    written: list[str] = []
    for before, line in zip(["", *lines], lines, strict=False):
        is_item, was_list = line.startswith("- "), before.startswith(("- ", "  "))
        if is_item and before and not was_list:
            written.append("")
        written.append(plain(line) if not line.startswith("    ") else line)
    return "\n".join(written)


def plain(text: str) -> str:
    """Text that Markdown shows as it stands; code in backticks and addresses stay what they are."""
    parts = re.split(r"(`[^`]*`|https?://[^\s,;)]*[^\s,;).:])", text)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"([*_\\|])", r"\\\1", parts[place]).replace("<", "&lt;")
    return "".join(parts)


def _settings(shelf: Shelf, name: str, plugin: type) -> list[str]:
    """The settings as a table, with the built-in models' presets beside the defaults."""
    if not dataclasses.is_dataclass(plugin):
        return []
    presets = {model: _presets(model).get(name, {}) for model in shelf.models}
    presets = {model: values for model, values in presets.items() if values}
    items = dataclasses.fields(plugin)
    if not items:
        return []
    hints = get_type_hints(plugin)
    heads = ["option", "what it is", "range", "default", "`--quick`", *presets]
    rows = [
        [
            f"`--{item.name.replace('_', '-')}`", plain(item.metadata["help"] + needs(item)),
            _range(item, hints[item.name]), shown(item.default), shown(item.metadata["quick"]),
            *(shown(values.get(item.name)) for values in presets.values()),
        ]
        for item in items
    ]  # fmt: skip
    notes = ["## Settings", table(heads, rows)]
    if presets:
        notes.append("The last columns are what a built-in model's `presets.json` has instead.")
    return notes


def _range(item: dataclasses.Field[Any], hint: object) -> str:
    if words := choices(hint):
        return ", ".join(f"`{word}`" for word in words)
    signs = (("above", "above"), ("at_least", "at least"), ("at_most", "at most"))
    said = [
        f"{word} {item.metadata[key]:g}" for key, word in signs if item.metadata[key] is not None
    ]
    return ", ".join(said) or getattr(hint, "__name__", "")


def shown(value: object) -> str:
    if value is None:
        return ""
    return f"`{value!r}`" if isinstance(value, str) else f"{value}"


def _presets(model: str) -> Mapping[str, Mapping[str, object]]:
    file: Path = PRESETS[model] / "presets.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _code(shelf: Shelf, name: str) -> str:
    command = OTHERWISE.get((shelf.folder, name), shelf.command.format(name=name))
    return f"```sh\n{command}\n```"


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
