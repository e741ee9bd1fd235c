"""Draw, judge, score, report."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluation.attacking.attacking import attack
    from evaluation.evaluating import evaluate
    from evaluation.reports.comparing import compare
    from evaluation.reports.reporting import report

_HOMES = {
    "attack": "evaluation.attacking.attacking",
    "compare": "evaluation.reports.comparing",
    "evaluate": "evaluation.evaluating",
    "report": "evaluation.reports.reporting",
}
__all__ = ["attack", "compare", "evaluate", "report"]


def __getattr__(name: str) -> object:
    """Import on first use: a command that judges nothing does not wait for the judges."""
    if name not in _HOMES:
        raise AttributeError(f"module 'evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
