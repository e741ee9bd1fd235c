"""Writes that fail, and several commands at once in one folder."""

import ctypes
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

from torture_ground import Child, Ended, contents, leftovers, limited, run
from torture_kills import Case, finish

CAPABILITIES_3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 1 << 1, 1 << 2, 1 << 3


def sizes(folder: Path) -> list[int]:
    """Bytes at which a disk may be full: before each of the files, and within it."""
    held = sorted({file.stat().st_size for file in folder.rglob("*") if file.is_file()})
    return sorted({0, *(size - 1 for size in held), *(size // 2 for size in held)})


def full_disk(case: Case, whole: dict[str, str], size: int) -> dict[str, Any]:
    """No file beyond so many bytes; then the command again, without that."""
    case.begin()
    failed = run(case.work, prepare=limited(size))
    return {"size": size, **_then_whole(case, whole, failed)}


def vanishing(case: Case, whole: dict[str, str], after: float) -> dict[str, Any]:
    """The folder is removed while the command is at work."""
    case.begin()
    child = Child(case.work)
    time.sleep(after)
    shutil.rmtree(case.folder, ignore_errors=True)
    failed = child.ended()
    case.begin()
    return {"after": after, **_then_whole(case, whole, failed)}


def read_only(case: Case, whole: dict[str, str]) -> dict[str, Any]:
    """A folder that may not be written, not even by the superuser, who gives that power up."""
    case.begin()
    target = case.folder if case.folder.exists() else case.folder.parent
    mode = target.stat().st_mode
    target.chmod(0o555)
    try:
        failed = run(case.work, prepare=_give_up_powers)
    finally:
        target.chmod(mode)
    return _then_whole(case, whole, failed)


def together(case: Case, whole: dict[str, str], count: int) -> dict[str, Any]:
    """So many of the same command at once in one folder: one does it, the others wait or say so."""
    case.begin()
    children = [Child(case.work) for _ in range(count)]
    ended = [child.ended() for child in children]
    found = contents(case.folder)
    return {
        "codes": sorted(one.code for one in ended),
        "tracebacks": sum(not one.is_clean for one in ended),
        "lost": not any(one.code == 0 for one in ended) or found != whole,
        "unlike": sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k)),
        "leftovers": leftovers(case.folder),
        "said": "\n".join(one.said[-500:] for one in ended if not one.is_clean),
    }


def moment(rng: random.Random, seconds: float) -> float:
    return rng.uniform(0, seconds)


def _then_whole(case: Case, whole: dict[str, str], failed: Ended) -> dict[str, Any]:
    ended = finish(case)
    found = contents(case.folder) if case.folder.exists() else {}
    return {
        "code": failed.code,
        "tracebacks": (not failed.is_clean) + (not ended.is_clean),
        "lost": ended.code != 0 or found != whole,
        "unlike": sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k)),
        "leftovers": leftovers(case.folder),
        "said": "\n".join(one.said[-800:] for one in (failed, ended) if not one.is_clean),
    }


def _give_up_powers() -> None:
    """Let permissions count for root as well (capset of CAP_DAC_OVERRIDE and its like)."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH | CAP_FOWNER)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
