"""A report as one self-contained HTML page: pictures embedded, no script, nothing fetched."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

MEANING = {
    "UA": "the concept is gone: asked for it, the judge saw something else",
    "IRA": "the rest of its kind is still drawn",
    "CRA": "the other kind is still drawn",
    "CRA_target": "the other kind is still drawn where the concept was asked for",
    "CLIP": "cosine between image and prompt, on images without the concept",
    "pre_ASR": "drawn by a plain prompt",
    "ASR": "drawn under attack",
    "control_ASR": "drawn with random tokens of the same length",
    "control_tries_ASR": "the same, as many tries as the attack had",
}
WIDTH, HEIGHT, EDGE = 420, 300, 44  # of the plot, in SVG units


def render(
    found: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Sequence[Path]],
) -> str:
    """HTML of runs (report.facts), their comparison (report.comparable) and their PNG files."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"embedded": embedded, "percent": lambda value: f"{100 * value:.1f}"}
    return environment.get_template("report.html.jinja").render(
        runs=found,
        groups=groups,
        pictures=pictures,
        meaning=MEANING,
        plots=[plot(group["rows"]) for group in groups],
        frame={"width": WIDTH, "height": HEIGHT, "edge": EDGE},
    )


def embedded(file: Path | str) -> str:
    """A PNG as a data: address."""
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()


def plot(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where each run stands in the plane of erased (across) and kept (up), with its interval."""
    shares = [row["erased"] for row in rows] + [row["kept"] for row in rows]
    least = max(0.0, min([0.8, *(share - 0.05 for share in shares)]))

    def across(share: float) -> float:
        return EDGE + (share - least) / (1 - least) * (WIDTH - 2 * EDGE)

    def up(share: float) -> float:
        return HEIGHT - EDGE - (share - least) / (1 - least) * (HEIGHT - 2 * EDGE)

    points = [
        {
            "x": round(across(row["erased"]), 1),
            "y": round(up(row["kept"]), 1),
            "low": round(across(max(row["scores"]["UA"]["low"], least)), 1),
            "high": round(across(row["scores"]["UA"]["high"]), 1),
            "number": number,
        }
        for number, row in enumerate(rows, 1)
    ]
    ticks = [least + (1 - least) * step / 4 for step in range(5)]
    return {
        "points": points,
        "across": [(round(across(tick), 1), f"{100 * tick:.0f}") for tick in ticks],
        "up": [(round(up(tick), 1), f"{100 * tick:.0f}") for tick in ticks],
    }
