"""A pytest plugin for gpu_check.py: each test's result as a line of JSON, and no test too late.

ERASURE_LINES is the number of an open file to write to, ERASURE_UNTIL the time.time() at which to
end. A test begins only if as much time is left as the longest took so far.
"""

import json
import os
import time
from math import isfinite

import pytest

KEPT = 300  # characters of a reason


def write(**values: object) -> None:
    os.write(int(os.environ["ERASURE_LINES"]), (json.dumps(values) + "\n").encode())


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test failed or was skipped, in one line."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")[:KEPT]
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return next(iter(text.splitlines()), "")[:KEPT]


class Clock:
    """When each test began, and the longest so far."""

    longest = 0.0
    seconds = 0.0


def pytest_collection_finish(session: pytest.Session) -> None:
    write(planned=[item.nodeid for item in session.items])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    Clock.seconds = 0.0
    if time.time() + Clock.longest > float(os.environ["ERASURE_UNTIL"]):
        pytest.skip("no time left")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    Clock.seconds += report.duration
    if report.when == "call":
        Clock.longest = max(Clock.longest, report.duration)
    if report.when == "call" or not report.passed:
        figures = {name: value for name, value in report.user_properties if isfinite(value)}
        write(
            test=report.nodeid, outcome=report.outcome, seconds=round(Clock.seconds, 2),
            reason="" if report.passed else reason(report), figures=figures,
        )  # fmt: skip


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        write(
            test=report.nodeid or "collection", outcome="failed", seconds=0.0,
            reason=reason(report), figures={},
        )  # fmt: skip
