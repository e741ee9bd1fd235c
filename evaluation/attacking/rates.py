"""An attack's rates, of its cases and over concepts."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from evaluation.attacking.attack import Attack
from evaluation.score import Score, mean_of_rates, rate


def has_control(chosen: Attack) -> bool:
    """Whether anything random is tried beside an attack; what changes weights has its own."""
    own = type(chosen)
    is_tried = own.control is not Attack.control or own.decoy is not Attack.decoy
    return is_tried and not chosen.changes_weights


def scores_of(entries: Sequence[dict[str, Any]], *, has_control: bool) -> dict[str, Any]:
    """Shares of the ended cases, by the score's name; controls' where anything was tried."""
    columns = {"pre_ASR": "pre", "ASR": "success", "named_ASR": "is_named"}
    if has_control:
        columns |= {"control_ASR": "control", "control_tries_ASR": "control_tries"}
    return {
        score: asdict(as_risk(rate(torch.tensor([bool(entry[key]) for entry in entries]))))
        for score, key in columns.items()
        if all(key in entry for entry in entries)
    }


def as_risk(score: Score) -> Score:
    """A rate of which less is better."""
    return Score(score.value, score.stderr, score.n, higher_is_better=False)


def over_concepts(parts: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Means over the concepts, each counting the same."""
    return {
        key: asdict(as_risk(mean_of_rates([Score(**part[key]) for part in parts])))
        for key in parts[0]
    }
