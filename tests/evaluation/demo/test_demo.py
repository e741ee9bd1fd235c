"""The demo: what it draws, its limits, its short attacks, and what its server does not give."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from erasure.commandline.main import main
from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, SettingError
from evaluation.attacking.scene import Scene
from evaluation.demo.demo import HOST, build, demo, named, serve
from evaluation.demo.page import WAITING
from evaluation.demo.studio import CASES, LONGEST, SHOWN, Picture, Studio, prompts_of

CAT, KEPT = "A cat image in Winter style.", "A house image in Winter style."


def silent(what: str, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        name: erase("pocket", "uce", [concept], out=root / name).folder
        for name, concept in (("cat", "cat"), ("winter", "Winter"))
    }


@pytest.fixture(scope="module")
def studio(runs: dict[str, Path]) -> Studio:
    return Studio(runs)


@pytest.fixture(scope="module")
def address(runs: dict[str, Path]) -> Iterator[str]:
    page = build(list(runs.values()))
    yield serve(page).rstrip("/")
    page.close()


def pixels(picture: Picture) -> Any:
    return np.asarray(picture.image, float)


def test_the_concept_differs_and_a_kept_one_agrees(studio: Studio) -> None:
    told: list[tuple[str, int, int]] = []
    rows = studio.draw(["cat"], CAT, 188000, 8, 3.0, 2, lambda *step: told.append(step))
    assert told == [("drawing", done, 4) for done in range(4)]
    assert [[(p.of, p.seed) for p in row] for row in rows] == [
        [("pocket, un-erased", seed), ("cat", seed)] for seed in (188000, 188001)
    ]
    assert {p.image.size for row in rows for p in row} == {(SHOWN, SHOWN)}
    for before, after in rows:
        assert before.seen.startswith("cat ")
        assert not after.seen.startswith("cat ")
        assert all(word.rsplit(" ", 2)[-1] == "%" for word in after.seen.split(", "))
    ((before, after),) = studio.draw(["cat"], KEPT, 188000, 8, 3.0, 1, silent)
    changed = np.abs(pixels(rows[0][0]) - pixels(rows[0][1])).mean()
    assert np.abs(pixels(before) - pixels(after)).mean() < changed / 4
    labels = [[word.rsplit(" ", 2)[0] for word in p.seen.split(", ")] for p in (before, after)]
    assert labels[0] == labels[1]


def test_a_list_of_which_every_object_is_gone_asks_for_what_was_erased(pocket) -> None:
    """A style alone is no prompt."""
    gone = [pocket.catalogue.concept(name) for name in pocket.catalogue.objects]
    assert [*prompts_of(pocket, gone)] == [f"{concept.name} (erased)" for concept in gone]
    left = prompts_of(pocket, gone[1:])
    assert left["Winter"] == pocket.catalogue.prompt(pocket.catalogue.objects[0], "Winter")


def test_two_runs_share_one_model_and_each_draws_its_own(studio: Studio) -> None:
    (row,) = studio.draw(["cat", "winter"], CAT, 188000, 8, 3.0, 1, silent)
    alone = studio.draw(["winter"], CAT, 188000, 8, 3.0, 1, silent)[0]
    assert [p.is_erased for p in row] == [False, True, True]
    # the edit comes off and on again; nothing but the order of drawing differs
    assert np.array_equal(pixels(row[0]), pixels(alone[0]))
    assert np.array_equal(pixels(row[2]), pixels(alone[1]))
    assert row[1].seen.split(", ")[1].startswith("Winter")
    assert not row[2].seen.split(", ")[1].startswith("Winter")
    assert len(studio._models) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["dog"]}, "run must be one of cat, winter; got 'dog'"),
        ({"names": []}, "runs must be 1 to 4; got 0"),
        ({"prompt": "x" * (LONGEST + 1)}, "letters of the prompt must be 0 to 300; got 301"),
        ({"steps": 1000}, "steps must be 1 to 50; got 1000"),
        ({"count": 99}, "seeds must be 1 to 6"),
        ({"guidance": -1.0}, "guidance must be 0 to 20"),
        ({"seed": -5}, "seed must be 0 to"),
    ],
)
def test_requests_beyond_the_limits_are_refused(
    studio: Studio, change: dict[str, object], message: str
) -> None:
    asked = {"names": ["cat"], "prompt": CAT, "seed": 1, "steps": 2, "guidance": 3.0, "count": 1}
    with pytest.raises(SettingError, match=message):
        studio.draw(**{**asked, **change}, tell=silent)  # type: ignore[arg-type]


def test_a_short_attack_leaves_the_run_alone_and_stops_when_told(
    studio: Studio, runs: dict[str, Path]
) -> None:
    files = sorted(runs["cat"].rglob("*"))
    before = studio.draw(["cat"], CAT, 188000, 2, 3.0, 1, silent)
    found = studio.attack("cat", "cat", "paraphrase", silent)
    assert len(found.outcomes) == len(found.images) == CASES
    for outcome, seen in zip(found.outcomes, found.seen, strict=True):
        assert outcome.success == seen.startswith("cat ")
    assert "random tokens in" in found.told("paraphrase")
    steps = []

    def stop_at_two(*step: object) -> None:
        steps.append(step)
        if len(steps) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        studio.attack("cat", "cat", "unlearndiffatk", stop_at_two)
    assert len(steps) == 2
    again = studio.draw(["cat"], CAT, 188000, 2, 3.0, 1, silent)  # nobody holds the lock
    assert np.array_equal(pixels(before[0][1]), pixels(again[0][1]))
    assert sorted(runs["cat"].rglob("*")) == files
    for name, concept, word in (("cat", "dog", "paraphrase"), ("cat", "cat", "relearn")):
        with pytest.raises(SettingError, match=r"must be one that|there is no attack 'relearn'"):
            studio.attack(name, concept, word, silent)


def test_the_pictures_of_an_attack_are_those_that_were_judged(studio: Studio) -> None:
    """The prompt drawn again would show others: the un-erased model took the first steps."""
    found = studio.attack("cat", "cat", "completion", silent)
    assert not found.untried
    assert all(image is not None and image.size == (SHOWN, SHOWN) for image in found.images)
    assert any(outcome.success for outcome in found.outcomes)
    for outcome, seen in zip(found.outcomes, found.seen, strict=True):
        assert outcome.success == seen.startswith("cat ")


def test_cases_that_the_time_left_untried_are_not_counted(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Scene.judged

    def then_over(scene: Scene, *arguments: Any) -> object:
        scene._end = 0.0
        return real(scene, *arguments)

    monkeypatch.setattr(Scene, "judged", then_over)
    monkeypatch.setattr("evaluation.demo.studio.read_presets", lambda *_: {})  # one case at a time
    found = studio.attack("cat", "cat", "unlearndiffatk", silent)
    assert len(found.outcomes) == len(found.images) == 1
    assert "of 1** pictures" in found.told("unlearndiffatk")
    assert "The time ended before 3 more." in found.told("unlearndiffatk")
    monkeypatch.setattr("evaluation.demo.studio.ATTACK_SECONDS", 0.0)
    with pytest.raises(SettingError, match="paraphrase drew nothing in its 0 seconds here"):
        studio.attack("cat", "cat", "paraphrase", silent)


def test_an_edit_that_does_not_fit_leaves_the_others_as_they_were(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    edit = Edit.load(runs["cat"])
    replace(edit, tensors={f"{n}.odd": t for n, t in edit.tensors.items()}).save(tmp_path)
    studio = Studio({"cat": runs["cat"], "odd": tmp_path})
    first = studio.draw(["cat"], CAT, 188000, 2, 3.0, 1, silent)[0]
    with pytest.raises(EditError, match="which pocket does not have"):
        studio.draw(["odd"], CAT, 188000, 2, 3.0, 1, silent)
    again = studio.draw(["cat"], CAT, 188000, 2, 3.0, 1, silent)[0]
    assert not np.array_equal(pixels(first[0]), pixels(first[1]))
    for before, after in zip(first, again, strict=True):
        assert np.array_equal(pixels(before), pixels(after))


def test_an_attack_that_has_no_place_in_the_prompts_is_refused_before_it_draws(
    sd1: Path, tmp_path: Path
) -> None:
    more = {"kind": "object", "anchor": "dog", "template": "many {name}s"}
    run = erase(str(sd1), "uce", ["cat"], out=tmp_path / "run", **more).folder
    (tmp_path / "mine.py").write_text("def never(images):\n    return images[:, 0, 0, 0] > 255\n")
    own = Studio({"run": run}, criterion=f"{tmp_path / 'mine.py'}:never")
    steps = list[object]()
    with pytest.raises(SettingError, match="'many cats' does not hold 'cat' as a word"):
        own.attack("run", "cat", "paraphrase", lambda *step: steps.append(step))
    assert not steps


def call(address: str, name: str, data: list[Any]) -> tuple[str, Any]:
    """("complete" | "error" | "busy", what came with it)."""
    told, kind = json.dumps({"data": data}), {"Content-Type": "application/json"}
    sent = httpx.post(f"{address}/gradio_api/call/{name}", content=told, headers=kind, timeout=60)
    if sent.status_code == 503:
        return "busy", sent.json()
    if sent.status_code != 200:
        return "error", sent.text
    url, event = f"{address}/gradio_api/call/{name}/{sent.json()['event_id']}", ""
    with httpx.stream("GET", url, timeout=300) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event in ("complete", "error"):
                return event, json.loads(line.removeprefix("data: "))
    return "error", "the stream ended"


def test_the_served_page_answers_and_refuses_what_is_beyond_its_limits(address: str) -> None:
    end, (pair, judged, gallery, *_) = call(address, "compare", [["cat"], CAT, 188000, 4, 3.0, 2])
    assert end == "complete"
    assert len(pair) == 2
    assert "un-erased**: cat" in judged
    assert len(gallery["value"]) == 4
    for data in (
        [["cat"], CAT, 1, 400, 3.0, 1],
        [["cat"], "x" * 301, 1, 4, 3.0, 1],
        [["cat"], CAT, 1, 4, 3.0, 99],
        [["../../etc/passwd"], CAT, 1, 4, 3.0, 1],
        [["cat", "/etc/passwd"], CAT, 1, 4, 3.0, 1],
        ["cat", None, "", [], {}, {"path": "/etc/passwd"}],
    ):
        assert call(address, "compare", data)[0] == "error"
    assert call(address, "attack", [["cat"], "cat", "../relearn"])[0] == "error"


def test_the_page_says_by_what_a_picture_was_drawn(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, (outcome, shown) = call(address, "attack", [["cat"], "cat", "completion"])
    assert end == "complete"
    assert "of 4** pictures" in outcome
    assert "its control in" in outcome
    captions = [picture["caption"] for picture in shown]
    assert len(captions) == CASES
    assert any(caption.startswith("drawn by completion, “") for caption in captions)
    monkeypatch.setattr("evaluation.attacking.scene.save_image", lambda *_: None)
    _, (outcome, shown) = call(address, "attack", [["cat"], "cat", "completion"])
    assert f"It kept no picture of {CASES - len(shown)}." in outcome
    assert all(picture["caption"].startswith("drawn by a plain prompt") for picture in shown)


def test_the_server_gives_no_file_but_its_own_and_takes_none(
    address: str, runs: dict[str, Path]
) -> None:
    edit = runs["cat"] / "edit.json"
    own = Path(__file__).resolve()
    for place in (edit, own, Path("/etc/passwd"), Path("pyproject.toml"), edit.parent / "../cat"):
        for prefix in ("file=", "file/", "file=/proc/self/root"):
            answer = httpx.get(f"{address}/gradio_api/{prefix}{place}")
            assert answer.status_code in (403, 404), answer.url
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.txt", b"x" * 99)})
    assert sent.status_code >= 400
    pages = httpx.get(address).text + httpx.get(f"{address}/config").text
    assert str(runs["cat"].parent) not in pages


def test_it_answers_its_own_page_alone(address: str) -> None:
    """A name that is rebound to this machine, another port's page and a frame get nothing."""
    port = address.rpartition(":")[2]
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        for origin in ({}, {"Origin": f"http://{name}:{port}"}):
            told = httpx.get(f"{address}/config", headers={"Host": f"{name}:{port}", **origin})
            assert told.status_code == 200
    assert "frame-ancestors 'none'" in told.headers["content-security-policy"]
    assert told.headers["x-frame-options"] == "DENY"
    other = int(port) + 1
    for host, origin in (
        (f"evil.example:{port}", f"http://evil.example:{port}"),
        (f"evil.example:{port}", None),
        ("127.0.0.1", None),
        (f"127.0.0.1:{other}", None),
        (f"127.0.0.1.evil.example:{port}", None),
        (f"127.0.0.1:{port}", f"http://127.0.0.1:{other}"),
        (f"127.0.0.1:{port}", f"https://127.0.0.1:{port}"),
        (f"127.0.0.1:{port}", "http://evil.example"),
        (f"localhost:{port}", "null"),
    ):
        headers = {"Host": host} | ({"Origin": origin} if origin else {})
        body = {"data": [], "fn_index": 0, "session_hash": "x"}
        for told in (
            httpx.get(f"{address}/config", headers=headers),
            httpx.post(f"{address}/gradio_api/queue/join", headers=headers, json=body),
            httpx.options(
                f"{address}/gradio_api/queue/join",
                headers={**headers, "Access-Control-Request-Method": "POST"},
            ),
        ):
            assert told.status_code in (403, 421), (host, origin)
            assert "access-control-allow-origin" not in told.headers
            assert "answers" in told.json()["detail"]


def test_routes_that_the_page_has_no_use_for_are_closed(address: str) -> None:
    for place in (
        "openapi.json",
        "dev/reload",
        "upload_progress?upload_id=1",
        "runs",
        "monitoring",
    ):
        for start in ("", "/gradio_api"):
            assert httpx.get(f"{address}{start}/{place}").status_code == 404, place
    for name, content in (("a.txt", b"x"), ("", b"x"), ("a.txt", b"")):
        for place in ("upload", "upload/"):
            files = {"files": (name, content)}
            told = httpx.post(f"{address}/gradio_api/{place}", files=files)
            assert told.status_code == 404


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize(
    "value", [None, "x", [], {}, [[]], True, -1, 1e300, 1.5, "\ud800", {"path": "/etc/passwd"}]
)
def test_malformed_values_are_answered_in_words(
    place: int, value: object, address: str, capfd: pytest.CaptureFixture
) -> None:
    data: list[Any] = [["cat"], CAT, 1, 1, 3.0, 1]
    data[place] = value
    end, said = call(address, "compare", data)
    assert end == "complete" or said
    assert "Traceback" not in capfd.readouterr().err


def test_too_few_values_and_foreign_names_are_answered_in_words(
    address: str, capfd: pytest.CaptureFixture
) -> None:
    cases: list[tuple[str, list[Any]]] = [
        ("compare", []), ("compare", [["cat"]]), ("attack", []), ("attack", [None, None, None]),
        ("attack", [["cat"], [], {}]), ("attack", ["cat", "cat", "paraphrase"]),
        ("attack", [[{}], "cat", "paraphrase"]), ("attack", [["cat"], "dog", "paraphrase"]),
    ]  # fmt: skip
    for name, data in cases:
        end, said = call(address, name, data)
        assert end == "error", data
        assert said, data
    assert "Traceback" not in capfd.readouterr().err


def test_it_ends_at_once_with_clients_that_are_idle_or_wait(runs: dict[str, Path]) -> None:
    page = build([runs["cat"]])
    place = serve(page).rstrip("/")
    with httpx.Client() as idle, httpx.Client() as alive:
        idle.get(f"{place}/config")
        with alive.stream("GET", f"{place}/gradio_api/heartbeat/someone") as beats:
            next(beats.iter_lines())
            sent = idle.post(
                f"{place}/gradio_api/call/compare",
                json={"data": [["cat"], CAT, 1, 50, 3.0, 6]},
            )
            assert sent.status_code == 200
            start = time.monotonic()
            page.stop_all()
            page.close()
            assert time.monotonic() - start < 3


def test_twenty_clients_at_once_get_an_answer_or_a_polite_busy(address: str) -> None:
    ends: list[tuple[str, Any]] = []
    data = [["cat"], CAT, 188000, 2, 3.0, 1]
    clients = [
        threading.Thread(target=lambda: ends.append(call(address, "compare", data)))
        for _ in range(20)
    ]
    start = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    count = Counter(end for end, _ in ends)
    print(f"20 clients: {dict(count)} in {time.monotonic() - start:.1f} s")
    assert count["complete"] + count["busy"] == 20
    assert count["complete"] >= WAITING
    assert all("full" in str(said) for end, said in ends if end == "busy")
    assert call(address, "compare", data)[0] == "complete"


def test_what_cannot_be_served_is_one_clear_error(runs: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(SettingError, match=r"cannot be used .*; name another with --port"):
            demo([runs["cat"]], port=taken.getsockname()[1])
    with pytest.raises(EditError, match="holds no finished erasure"):
        build([tmp_path])
    with pytest.raises(SettingError, match="at least one run"):
        demo([])
    with pytest.raises(SettingError, match="port must be 1 to 65535; got 0"):
        demo([runs["cat"]], port=0)
    Edit.load(runs["cat"]).save(tmp_path / "vit")
    record = json.loads((tmp_path / "vit" / "edit.json").read_text())
    record["concepts"][0]["kind"] = "class"
    (tmp_path / "vit" / "edit.json").write_text(json.dumps(record))
    with pytest.raises(SettingError, match="forgot classes of a classifier"):
        build([tmp_path / "vit"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "Missing argument"),
        (["report"], "Missing argument"),
        (["demo", "no-such-run", "--port", "47861"], "no-such-run holds no finished erasure"),
        (["report", "no-such-run"], "no-such-run holds no finished erasure"),
        (["report", "no-such-run", "--out", "page.pdf"], "out must end in .html; got page.pdf"),
        (["demo", "no-such-run", "--port", "70000"], "port must be 1 to 65535; got 70000"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["erasure", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    _, said = capsys.readouterr()
    assert ended.value.code == 2
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_runs_of_one_name_are_told_apart_by_their_parents() -> None:
    found = named([Path("/a/cat"), Path("/b/cat"), Path("/b/dog")])
    assert list(found) == ["a/cat", "b/cat", "b/dog"]
    alike = [Path("/a/runs/cat"), Path("/b/runs/cat")]
    assert named(alike) == {"a/runs/cat": alike[0], "b/runs/cat": alike[1]}
    assert list(named([Path("/a/cat"), Path("/a/dog")])) == ["cat", "dog"]
    with pytest.raises(SettingError, match="/a/cat is named twice"):
        named([Path("/a/cat"), Path("/a/cat")])
