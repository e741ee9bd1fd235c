"""`erasure compare`: several runs in one table, if they were judged alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasure.errors import SettingError
from erasure.files.storage import atomic
from evaluation.reports.facts import facts
from evaluation.reports.page import shown
from evaluation.reports.ranking import differences, how_judged, rankings, without_gold

HEAD = ("run", "method", "concepts")


def compare(
    runs: Sequence[Path], *, protocol: str | None = None, out: Path | None = None
) -> list[dict[str, str]]:
    """One row per run, the best first: its scores with 95 % intervals, its attacks, its seconds.

    `protocol` is needed where the runs share the scores of several. With `out`, a .md file, the
    table is written there too. SettingError for fewer than two runs, a run without those scores,
    and for runs that were not judged under one stamp, with the first field that differs: unlike
    figures are not ranked.
    """
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise SettingError("compare needs two runs or more, each named once.")
    if out is not None and (out.suffix != ".md" or out.is_dir()):
        raise SettingError(f"out must be a file that ends in .md; got {out}.")
    found = [facts(run) for run in runs]
    for entry, run in zip(found, runs, strict=True):
        entry["name"] = str(run)
    name = _protocol(found, protocol)
    table = _rows(found, name)
    if out is not None:
        lines = _markdown(table, f"{name}: {_ranked_by(found, name)}")
        with atomic(out) as temporary:
            temporary.write_text(lines, encoding="utf-8")
    return table


def lacking(run: Path | str, asked: str, known: Sequence[str]) -> str:
    """What to say of scores that a run has not, beside those that are known."""
    remedy = f"it has {', '.join(known)}." if known else f"run `erasure evaluate {run}`."
    return f"{run} has no scores under {asked}; {remedy}"


def _protocol(found: Sequence[Mapping[str, Any]], asked: str | None) -> str:
    """The scores that every run has; SettingError for none, for several, and for unlike stamps."""
    shared = [name for name in found[0]["scores"] if all(name in e["scores"] for e in found)]
    if asked is not None:
        without = next((e for e in found if asked not in e["scores"]), None)
        if without is not None:
            raise SettingError(lacking(without["name"], asked, [*without["scores"]]))
        shared = [asked]
    if not shared:
        bare = next((e["name"] for e in found if not e["scores"]), None)
        raise SettingError(
            f"{bare} has no scores yet; run `erasure evaluate {bare}`."
            if bare
            else "the runs must have scores under one protocol; they have "
            + "; ".join(f"{e['name']}: {', '.join(e['scores'])}" for e in found)
            + "."
        )
    if len(shared) > 1:
        raise SettingError(f"protocol must be one of {', '.join(shared)}: the runs have them all.")
    first = found[0]
    for other in found[1:]:
        one, another = (how_judged(e["scores"][shared[0]]["stamp"]) for e in (first, other))
        unlike = differences(one, another)
        if unlike:
            raise SettingError(
                f"{first['name']} and {other['name']} were not judged alike and cannot be ranked: "
                f"{unlike[0]}. Judge both in the same way."
            )
    return shared[0]


def _ranked_by(found: Sequence[Mapping[str, Any]], protocol: str) -> str:
    return _group(found, protocol)["order"] or "in the order given"


def _group(found: Sequence[Mapping[str, Any]], protocol: str) -> dict[str, Any]:
    return next(group for group in rankings(found) if group["protocol"] == protocol)


def _rows(found: Sequence[Mapping[str, Any]], protocol: str) -> list[dict[str, str]]:
    ranked = _group(found, protocol)["rows"]
    by_name = {entry["name"]: entry for entry in found}
    scores = list(dict.fromkeys(key for row in ranked for key in row["scores"]))
    attacks = _comparable_attacks(found)
    table = []
    for row in ranked:
        entry = by_name[row["name"]]
        line = {
            "run": row["name"], "method": row["method"], "concepts": ", ".join(row["concepts"]),
        }  # fmt: skip
        for key in scores:
            line[key] = _cell(row["scores"].get(key), row["baseline"].get(key))
        for name in attacks:
            record = entry["attacks"][name]
            cut = ", cut by its budget" if record["is_cut_by_budget"] else ""
            line[f"ASR {name}"] = _cell(record["scores"]["ASR"], None) + cut
        line["seconds"] = "" if entry["seconds"] is None else f"{entry['seconds']:.0f}"
        table.append(line)
    return table


def _cell(score: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> str:
    """A value, the ends of its interval, and the un-erased model's."""
    if score is None:
        return ""
    ends = "" if score["low"] is None else f" ({shown(score, 'low')}–{shown(score, 'high')})"
    return shown(score) + ends + (f", un-erased {shown(before)}" if before else "")


def _comparable_attacks(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The attacks that every run has under one stamp; what each was asked about may differ."""

    def stamps(name: str) -> list[dict[str, Any]]:
        return [without_gold(how_judged(entry["attacks"][name]["stamp"])) for entry in found]

    shared = [name for name in found[0]["attacks"] if all(name in e["attacks"] for e in found)]
    return [
        name
        for name in shared
        if all(stamp == stamps(name)[0] for stamp in stamps(name))
        and all("ASR" in entry["attacks"][name]["scores"] for entry in found)
    ]


def _markdown(table: Sequence[Mapping[str, str]], title: str) -> str:
    head = list(table[0])
    cells = [[row[key].replace("|", "\\|") for key in head] for row in table]
    lines = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]
    return "\n".join([f"Under the protocol {title}.", "", *lines]) + "\n"
