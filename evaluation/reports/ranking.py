"""Runs side by side: those that were judged alike in one ranking, the others in rankings apart."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

# (erased, kept) of a text-to-image model, and of a classifier; a minus stands for 1 - value
FAMILIES = ((("UA",), ("IRA", "CRA")), (("-Acc_f", "-Acc_o"), ("Acc_r",)))


def rankings(
    found: Sequence[Mapping[str, Any]], kind: Literal["scores", "attacks"] = "scores"
) -> list[dict[str, Any]]:
    """One ranking per protocol (or attack) and stamp, best run first.

    A ranking after the first of its protocol names the stamp's fields that differ from the
    first's. Runs are `facts`.
    """
    groups: list[dict[str, Any]] = []
    for entry in found:
        for protocol, record in entry[kind].items():
            stamp = how_judged(record["stamp"])
            same = [group for group in groups if group["protocol"] == protocol]
            group = next((g for g in same if _are_alike(g["stamp"], stamp)), None)
            if group is not None:
                group["stamp"] = {**stamp, **group["stamp"]}  # with its gold, if one has it
            else:
                differs = differences(same[0]["stamp"], stamp) if same else []
                group = {
                    "protocol": protocol, "stamp": stamp, "differs": differs,
                    "order": "", "rows": [],
                }  # fmt: skip
                groups.append(group)
            group["rows"].append(_row(entry, record))
    for group in groups:
        _order(group)
    return groups


def how_judged(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """A stamp without what was judged: the run's concepts and its edit stand in its row."""
    return {key: value for key, value in stamp.items() if key not in ("concepts", "edit")}


def _are_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two stamps stand in one ranking: what has no gold beside it goes with any gold."""
    golds = [stamp["gold"] for stamp in (one, other) if "gold" in stamp]
    return without_gold(one) == without_gold(other) and golds[:1] == golds[-1:]


def without_gold(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """What an attack's own rates were made by, whatever they were compared with."""
    return {key: value for key, value in stamp.items() if key != "gold"}


def differences(first: Mapping[str, Any], second: Mapping[str, Any], of: str = "") -> list[str]:
    """The fields in which two stamps differ, with both values."""
    found: list[str] = []
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{of}{name}.")
        elif one != other:
            found.append(f"{of}{name}: {one} there, {other} here")
    return found


def _row(entry: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    same = ("name", "run", "method", "concepts", "seconds", "peak_memory_gb", "storage_mb")
    row: dict[str, Any] = {key: entry[key] for key in same}
    row |= {key: record.get(key, {}) for key in ("scores", "baseline", "floor", "retrained")}
    row["is_cut"] = record.get("is_cut_by_budget", False)
    for erased, kept in FAMILIES:
        if erased[0].lstrip("-") in record["scores"]:
            row["erased"], row["kept"] = (_mean(part, record["scores"]) for part in (erased, kept))
            row["untouched"] = _mean(kept, record["baseline"])
            row["order"] = [
                name for name in (*erased, *kept) if name.lstrip("-") in record["scores"]
            ]
    return row


def _order(group: dict[str, Any]) -> None:
    """Sort a group's rows and say by what."""
    rows = group["rows"]
    if all(row.get("kept") for row in rows):
        names = [n for n in rows[0]["order"] if all(n in row["order"] for row in rows)]
        rows.sort(key=lambda row: -sum(_value(name, row["scores"]) for name in names))
        words = [name.replace("-", "1 − ") for name in names]
        first = f"{', '.join(words[:-1])} and " if words[1:] else ""
        group["order"] = f"the mean of {first}{words[-1]}" if words else ""
    elif all("ASR" in row["scores"] for row in rows):
        rows.sort(key=lambda row: row["scores"]["ASR"]["value"])
        group["order"] = "ASR, the lowest first"


def _mean(names: Sequence[str], scores: Mapping[str, Any]) -> dict[str, float] | None:
    """The mean of the scores that are there, between the means of their intervals' ends."""
    known = [name for name in names if name.lstrip("-") in scores]
    if not known:
        return None
    ends = [
        sorted(_value(name, scores, end) for end in ("low", "high"))
        for name in known
    ]  # fmt: skip
    count = len(known)
    return {
        "value": sum(_value(name, scores) for name in known) / count,
        "low": sum(low for low, _ in ends) / count,
        "high": sum(high for _, high in ends) / count,
    }


def _value(name: str, scores: Mapping[str, Any], end: str = "value") -> float:
    score = scores.get(name.lstrip("-"))
    if score is None:
        return 0.0
    value = score["value"] if score[end] is None else score[end]
    return 1 - value if name.startswith("-") else value
