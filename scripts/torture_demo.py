"""The demo under many clients: honest, slow, malformed, oversized, and after others' files."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

CAT = "A cat image in Winter style."
STRANGE: tuple[Any, ...] = (None, "x", [], {}, [[]], True, -1, 1e300, 1.5, {"path": "/etc/passwd"})
FOREIGN = (
    "/etc/passwd",
    "pyproject.toml",
    "../edit.json",
    "..%2f..%2fetc%2fpasswd",
    "/proc/self/environ",
)
SECRET = "root:"  # what stands in /etc/passwd


@contextmanager
def served(run_of: Path, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`erasure demo` of a run in a process of its own: its address and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "erasure", "demo", str(run_of), "--port", str(port)]
    with log.open("w") as told:
        # a shell's background jobs, such as this may be, ignore SIGINT, and so do their children
        child = subprocess.Popen(
            words, stdout=told, stderr=told, env=dict(os.environ),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            _await(address, child)
            yield address, psutil.Process(child.pid)
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(timeout=60)


def torment(run_of: Path, log: Path, clients: int, calls: int, seed: int) -> dict[str, Any]:
    """So many clients at once, each with so many calls; what the server said and how it stood."""
    with served(run_of, log) as (address, server):
        first = _draw(address)
        before = server.memory_info().rss
        slow = [_half_a_request(address) for _ in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            told = list(
                pool.map(lambda n: _client(address, random.Random(seed + n), calls), range(clients))
            )
        for one in slow:
            one.close()
        last = _draw(address)
        after = server.memory_info().rss
    answers = sum(told, Counter[str]())
    said = log.read_text()
    return {
        "clients": clients, "calls": sum(answers.values()), "answers": dict(answers),
        "leaks": answers["leak"], "down": int(first != "complete" or last != "complete"),
        "tracebacks": said.count("Traceback (most recent call last)"),
        "said": said[-1500:] if "Traceback" in said else "",
        "megabytes": [round(size / 2**20) for size in (before, after)],
    }  # fmt: skip


def _client(address: str, rng: random.Random, calls: int) -> Counter[str]:
    told = Counter[str]()
    for _ in range(calls):
        way = rng.choice((_honest, _malformed, _malformed, _oversized, _foreign, _foreign))
        try:
            told[way(address, rng)] += 1
        except httpx.HTTPError as error:
            told[type(error).__name__] += 1
    return told


def _draw(address: str) -> str:
    return _call(address, json.dumps({"data": [["run"], CAT, 188000, 2, 3.0, 1]}))


def _honest(address: str, _rng: random.Random) -> str:
    return "drawn: " + _draw(address)


def _malformed(address: str, rng: random.Random) -> str:
    data: list[Any] = [["run"], CAT, 1, 2, 3.0, 1]
    data[rng.randrange(len(data))] = rng.choice(STRANGE)
    text = json.dumps({"data": data})
    if rng.random() < 0.3:
        text = text[: rng.randrange(len(text))]
    return "malformed: " + _call(address, text)


def _oversized(address: str, rng: random.Random) -> str:
    size = rng.choice((10_000, 2_000_000))
    return "oversized: " + _call(address, json.dumps({"data": [["run"], "x" * size, 1, 2, 3.0, 1]}))


def _foreign(address: str, rng: random.Random) -> str:
    prefix = rng.choice(("file=", "file/", "gradio_api/file=", "static/", "assets/", ""))
    answer = httpx.get(f"{address}/{prefix}{rng.choice(FOREIGN)}", timeout=60)
    return "leak" if SECRET in answer.text or "PATH=" in answer.text else "foreign: refused"


def _call(address: str, content: str) -> str:
    kind = {"Content-Type": "application/json"}
    place = f"{address}/gradio_api/call/compare"
    sent = httpx.post(place, content=content, headers=kind, timeout=120)
    if sent.status_code != 200:
        return "busy" if sent.status_code == 503 else "refused"
    event = ""
    with httpx.stream("GET", f"{place}/{sent.json()['event_id']}", timeout=300) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            if event in ("complete", "error"):
                return event
    return "cut off"


def _half_a_request(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    one = socket.create_connection((host, int(port)))
    one.sendall(b"POST /gradio_api/call/compare HTTP/1.1\r\nHost: ")
    return one


def _await(address: str, child: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if child.poll() is not None:
            raise RuntimeError("the demo ended before it answered")
        try:
            httpx.get(f"{address}/config", timeout=5)
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise RuntimeError("the demo does not answer")
