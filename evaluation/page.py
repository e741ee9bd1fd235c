"""One self-contained HTML page about one run."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erasure.storage import atomic

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; \
padding: 0 1rem; color: #1d2430 }
table { border-collapse: collapse; margin: 1rem 0 } \
td, th { padding: .3rem .9rem; text-align: right }
th { border-bottom: 2px solid #1d2430 } tr:nth-child(even) td { background: #f3f5f8 } \
td:first-child { text-align: left }
img { max-width: 100%; border: 1px solid #d6dbe3 } \
code { background: #f3f5f8; padding: .1rem .3rem }
"""
MEANING = {
    "UA": "target gone: asked for it, the judge saw something else",
    "IRA": "same domain kept",
    "CRA": "other domain kept",
    "CRA_target": "other domain kept on the target's own images",
    "CLIP": "cosine of image and prompt, images without the target",
}


def write_page(run: Path, record: dict[str, Any], pictures: Sequence[Path]) -> Path:
    """Write run/report.html from a scores record and PNG files, which are embedded."""
    config = json.loads((run / "config.json").read_text())
    names = ", ".join(concept["name"] for concept in config["concepts"])
    rows = "".join(
        _row(name, score, record["baseline"].get(name)) for name, score in record["scores"].items()
    )
    images = "".join(
        f'<p><img alt="before and after" src="data:image/png;base64,{_encoded(file)}"></p>'
        for file in pictures
    )
    settings = "".join(
        f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in config["settings"].items()
    )
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8">\
<title>{html.escape(names)} erased</title>
<style>{STYLE}</style><h1>{html.escape(names)} erased from {html.escape(config["model"])}</h1>
<p>Method <b>{html.escape(config["method"])}</b>, \
{config.get("seconds", 0):.0f} s on {html.escape(config["device"])}.
Same prompts, same noise, above the un-erased model, below the erased one.</p>{images}
<table><tr><th>score</th><th>erased</th><th>± s.e.</th><th>n</th>\
<th>un-erased</th><th>meaning</th></tr>{rows}</table>
<p>Protocol: <code>{html.escape(json.dumps(record["stamp"]))}</code></p>
<details><summary>Settings</summary><table>{settings}</table></details></html>"""
    file = run / "report.html"
    with atomic(file) as temporary:
        temporary.write_text(body, encoding="utf-8")
    return file


def _row(name: str, score: dict[str, float], base: dict[str, float] | None) -> str:
    cells = [
        name,
        f"{score['value']:.3f}",
        f"{score['stderr']:.3f}",
        str(score["n"]),
        f"{base['value']:.3f}" if base else "–",
    ]
    return (
        "<tr>"
        + "".join(f"<td>{cell}</td>" for cell in (*cells, html.escape(MEANING.get(name, ""))))
        + "</tr>"
    )


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
