"""What gpu_check.py found, in Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any


def table(record: dict[str, Any]) -> str:
    """Everything in Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    memory = (
        f" ({record['memory'] / 1e9:.0f} GB, CUDA {record['cuda']})" if record["memory"] else ""
    )
    parts = [f"`{record['command']}` on {record['device']}{memory}; {versions}.", *record["notes"]]
    if record["tests"]:
        heads = ("stage", "passed", "failed", "skipped", "seconds", "farthest apart")
        parts.append(markdown(heads, stage_rows(record["tests"])))
    for outcome in ("failed", "skipped"):
        said = [test for test in record["tests"] if test["outcome"] == outcome]
        parts += [f"{outcome}: {names} ({why})" for why, names in reasons(said)]
    if record["rows"]:
        parts.append(f"Matrix rate: {record['matrix_rate'] / 1e12:.3g} TFLOP/s.")
        heads = (
            "row", "s", "naive s", "faster", "GB", "naive GB", "memory", "of matrix rate", "",
        )  # fmt: skip
        parts.append(markdown(heads, [row_cells(e, record["matrix_rate"]) for e in record["rows"]]))
    return "\n\n".join(parts) + "\n"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def stage_rows(tests: list[dict[str, Any]]) -> list[list[str]]:
    """Counts, seconds and the largest distance between two updates, for each stage."""
    rows = []
    for stage in dict.fromkeys(test["stage"] for test in tests):
        own = [test for test in tests if test["stage"] == stage]
        outcomes = [test["outcome"] for test in own]
        counts = [str(outcomes.count(word)) for word in ("passed", "failed", "skipped")]
        distances = [test["figures"]["apart"] for test in own if "apart" in test["figures"]]
        farthest = f"{max(distances):.2g}" if distances else ""
        rows.append([stage, *counts, f"{sum(test['seconds'] for test in own):.0f}", farthest])
    return rows


def reasons(tests: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each reason with the tests that have it, by their short names."""
    for why in dict.fromkeys(test["reason"] for test in tests):
        names = [test["test"].split("::")[-1] for test in tests if test["reason"] == why]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield why, ", ".join(names[:3]) + more


def row_cells(entry: dict[str, Any], rate: float) -> list[str]:
    """A row of the table, as much of it as was measured."""
    own, naive = entry.get("toolkit"), entry.get("naive")
    share = entry["flops"] / own["seconds"] / rate if own and entry["flops"] and rate else None

    def ratio(name: str) -> str:
        return f"{entry[name]:.2f}" if name in entry else ""

    return [
        f"{entry['family']} {entry['method']}",
        *(f"{side['seconds']:.3f}" if side else "" for side in (own, naive)),
        ratio("faster_than_naive"),
        *(f"{side['peak'] / 1e9:.2f}" if side else "" for side in (own, naive)),
        ratio("memory_of_naive"),
        f"{share:.0%}" if share else "",
        entry.get("error", ""),
    ]
