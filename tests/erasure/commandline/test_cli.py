"""Bad input: one line on standard error, exit code 2, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from erasure.commandline.main import main
from erasure.files.locking import alone_in
from erasure_datasets.canvas import OBJECTS


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object
) -> tuple[int, str, str]:
    """Run the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["erasure", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def uce(model: Path, out: Path) -> list[object]:
    """The arguments that erase the cat from a model."""
    return ["erase", "uce", "--concept", "cat", "--model", model, "--out", out]


BAD = [
    (["erase", "salum", "--concept", "cat"], "there is no method 'salum'. Did you mean salun?"),
    (["erase", "uce", "--concept", "catt"], "'catt'. Did you mean cat?"),
    (["erase", "uce", "--concept", "cat", "--model", "no-such"], "model must be pocket"),
    (["erase", "uce", "--concept", "cat", "--stai", "1"], "--stai"),
    (["erase", "uce", "--concept", "cat", "--stay", "0"], "UCE.stay must be above 0; got 0.0."),
    (
        ["erase", "uce", "--concept", "cat", "--positions", "first"],
        "UCE.positions must be one of last, onward; got 'first'.",
    ),
    (
        ["erase", "esd", "--concept", "cat", "--select", "xatn"],
        "select must match at least one weight; 'xatn' matched none.",
    ),
    (["erase", "uce", "--concept", "cat", "--concept", "CAT"], "concept names must differ"),
    (
        ["erase", "salun", "--concept", "cat", "--images", "/no/such/folder"],
        "there is no folder /no/such/folder",
    ),
    (["erase", "uce"], "concept"),
    (["erase", "uce", "--concept", "cat", "--anchor", "dgo"], "got 'dgo'. Did you mean dog?"),
    (["erase", "esd", "--concept", "cat", "--images", "here"], "--images"),
    (["erase", "adapt-unlearn"], "images must be a folder of pictures that show what to erase"),
    (["erase", "adapt-unlearn", "--images", "/no/such"], "to erase; got '/no/such'."),
    (["erase", "adapt-unlearn", "--kind", "object"], "kind is that of a concept that is named"),
    (["erase", "adapt-unlearn", "--anchor", "dog"], "anchor has no effect on adapt-unlearn"),
    (["erase", "adapt-unlearn", "--contexts", "Photo"], "contexts has no effect on adapt-unlearn"),
    (
        ["erase", "uproot", "--concept", "cat", "--distil-steps", "50"],
        "Uproot.distil_steps has no effect without renew; got 50 with renew 0.",
    ),
    (["list", "concepts", "--model", ""], "--model must not be empty."),
    (["list", "concepts", "--model="], "--model must not be empty."),
    (["export", "", "x"], "what follows export must not be empty."),
    *[
        (["erase", "salun", "--concept", "cat", f"--{name}", " "], f"--{name} must not be empty.")
        for name in ("config", "model", "images", "mask", "retain-prompts", "revision", "out")
    ],
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    listed: Path,
    arguments: list[str],
    message: str,
) -> None:
    out = tmp_path / "run"
    model = [] if "--model" in arguments else ["--model", listed]
    code, _, err = call(monkeypatch, capsys, *arguments, *model, "--out", out)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert not out.exists()


def test_pickled_and_damaged_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, listed: Path
) -> None:
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"x")
    code, _, err = call(monkeypatch, capsys, *uce(pickled, tmp_path / "a"))
    assert (code, "pickled checkpoint" in err) == (2, True)
    damaged = shutil.copytree(listed, tmp_path / "damaged")
    file = next((damaged / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:500])
    code, _, err = call(monkeypatch, capsys, *uce(damaged, tmp_path / "b"))
    assert (code, "could not load" in err, len(err.strip().splitlines())) == (2, True, 1)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_erase_export_and_a_second_run_in_the_same_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, listed: Path
) -> None:
    run = tmp_path / "run"
    base = ("erase", "uce", "--model", listed, "--concept", "cat", "--out", run)
    assert call(monkeypatch, capsys, *base)[0] == 0
    before = (run / "edit.safetensors").read_bytes()
    assert call(monkeypatch, capsys, *base)[0] == 0
    code, _, err = call(monkeypatch, capsys, *base, "--stay", "2")
    assert code == 2
    assert "holds a different run: its settings.stay is 0.5, this one's is 2.0." in err
    code, _, err = call(monkeypatch, capsys, *base[:4], "--concept", "dog", "--out", run)
    assert (code, "holds a different run: its concepts is cat, this one's is dog" in err) == (
        2,
        True,
    )
    assert (run / "edit.safetensors").read_bytes() == before
    code, _, err = call(monkeypatch, capsys, "export", run, tmp_path / "out", "--dtype", "int8")
    assert (code, "dtype must be one of float32, float16" in err) == (2, True)
    assert call(monkeypatch, capsys, "export", run, tmp_path / "out", "--dtype", "float16")[0] == 0
    code, _, err = call(monkeypatch, capsys, "export", run, tmp_path / "out")
    assert (code, "out must be a new folder" in err) == (2, True)


def test_a_folder_of_somebody_elses_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, listed: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = call(monkeypatch, capsys, *uce(listed, tmp_path))
    assert (code, "is not a run of ours" in err) == (2, True)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_in_which_another_process_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, listed: Path
) -> None:
    run = tmp_path / "run"
    assert call(monkeypatch, capsys, *uce(listed, run))[0] == 0
    (run / "edit.json").unlink()  # as before its end
    with alone_in(run):
        code, _, err = call(monkeypatch, capsys, *uce(listed, run))
        assert (code, f"another process is at work in {run}; wait for it" in err) == (2, True)
    assert not (run / "edit.json").exists()
    assert call(monkeypatch, capsys, *uce(listed, run))[0] == 0
    assert not (run / ".lock").exists()


def test_underscores_are_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, listed: Path
) -> None:
    out = tmp_path / "run"
    code, _, err = call(monkeypatch, capsys, *uce(listed, out), "--preserve_weight", "0.5")
    assert code == 0, err
    assert (
        json.loads((out / "config.json").read_text())["sources"]["preserve_weight"]
        == "command line"
    )


OTHERS = ",".join(name for name in OBJECTS if name != "cat")
FORGET = ["forget", "gs-lora", "--model", "pocket-vit"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "zebra"], "pocket-vit has no class 'zebra'"),
        (["--task", "cat,dog", "--task", "Cat"], "class 'cat' is asked for twice"),
        (["--class", "cat", "--rank", "0"], "GSLoRA.rank must be at least 1; got 0"),
        ([], "class must be given at least once"),
        (["--class", "cat", "--data", "nowhere"], "there is no folder nowhere"),
        (["--class", "cat", "--model", "nowhere"], "model must be pocket-vit"),
        (["--class", "cat", "--images", "1", "--missing", OTHERS], "there are no retain images"),
    ],
)
def test_bad_requests_to_forget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path,
    options: list[str], message: str,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    code, _, err = call(monkeypatch, capsys, *FORGET, *options, "--out", str(out))
    assert code == 2
    assert err.startswith("erasure: ")
    assert message in err
    assert err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("what", ["methods", "models", "concepts", "attacks", "protocols"])
def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, what: str) -> None:
    code, out, _ = call(monkeypatch, capsys, "list", what)
    assert code == 0
    one = {
        "methods": "salun", "models": "pocket", "concepts": "Van Gogh", "attacks": "ring-a-bell",
        "protocols": "pocket",
    }  # fmt: skip
    assert one[what] in out


def test_help_needs_no_torch() -> None:
    """`erasure --help` and `erasure list methods` must not pay for torch."""
    program = "import sys; sys.argv = ['erasure', 'list', 'methods']\n"
    program += "try:\n import erasure.commandline.main; erasure.commandline.main.main()\n"
    program += "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert {"erase advunlearn", "erase sfd", "forget gs-lora", "forget retrain"} <= set(lines)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, listed: Path) -> None:
    """RLIMIT_FSIZE stands for the disk: every write over 20 kB fails."""
    out = tmp_path / "run"
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = ["erasure", "erase", "uce", "--model", {str(listed)!r}]
sys.argv += ["--concept", "cat", "--out", {str(out)!r}]
import erasure.commandline.main; erasure.commandline.main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "could not write" in done.stderr.splitlines()[-1]
    assert not out.exists()


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(tmp_path: Path, listed: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "erasure", "erase", "esd", "--model", str(listed), "--concept", "cat",
        "--out", str(out), "--paths", "2", "--sampling-steps", "2", "--steps",
    ]  # fmt: skip
    with subprocess.Popen(
        [*command, "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a test run in the background inherits an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            while not (out / "log.jsonl").is_file() and process.poll() is None:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1] == (
        "erasure: interrupted; run the same command again to go on."
    )
    assert not (out / "edit.json").exists()
    refused = subprocess.run([*command, "5"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "its settings.steps is 100000" in refused.stderr) == (2, True)


ATTACKS = [
    (["attack", "paraphrases", "RUN"], "there is no attack 'paraphrases'. Did you mean"),
    (["attack", "unlearndiffatk", "RUN", "--placement", "above"], "must be one of prefix, suffix"),
    (["attack", "unlearndiffatk", "RUN", "--tokens", "40"], "do not fit"),
    (["attack", "paraphrase", "RUN", "--criterion", "jugde"], "criterion must be judge"),
    (["attack", "paraphrase", "RUN", "--concept", "zebra"], "knows no concept 'zebra'"),
    (["attack", "paraphrase", "NOWHERE"], "holds no finished erasure"),
    (["export", "RUN", "OUT", "--to", "text-encoder"], "outside the text encoder"),
    (["export", "RUN", "OUT", "--to", "gguf"], "there is no export form 'gguf'. Known: delta"),
]


@pytest.fixture(scope="module")
def pocket_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from erasure.erasing import erase

    return erase("pocket", "uce", ["cat"], out=tmp_path_factory.mktemp("runs") / "cat").folder


@pytest.mark.parametrize(("arguments", "message"), ATTACKS)
def test_a_bad_attack_is_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path,
    pocket_run: Path, arguments: list[str], message: str,
) -> None:  # fmt: skip
    places = {"RUN": pocket_run, "OUT": tmp_path / "out", "NOWHERE": tmp_path / "nowhere"}
    code, _, err = call(monkeypatch, capsys, *(places.get(a, a) for a in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (pocket_run / "attacks").exists()
    assert not (tmp_path / "out").exists()


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for flag in ("--version", "-V"):
        code, out, _ = call(monkeypatch, capsys, flag)
        assert (code, out) == (0, f"erasure {version('erasure-toolkit')}\n")


def test_alone_it_shows_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, _, err = call(monkeypatch, capsys)
    assert code == 2
    assert "\nCommands:\n  evaluate " in err


def test_an_abbreviation_is_answered_with_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, _, err = call(monkeypatch, capsys, "erase", "esd", "--lr", "1", "--concept", "cat")
    assert (code, err) == (
        2, "erasure: No such option: --lr. Did you mean --learning-rate?\n",
    )  # fmt: skip


def test_help_keeps_a_methods_formula_and_choices_in_their_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for command, name in (("erase", "salun"), ("forget", "ssd")):
        code, out, _ = call(monkeypatch, capsys, command, name, "--help")
        lines = [line.strip() for line in out.splitlines()]
        assert code == 0
        assert "Choices" in lines
        assert lines[lines.index("Choices") + 1].startswith("- ")
        assert any(line.startswith("- ") for line in lines[lines.index("Choices") + 2 :])


def test_every_method_says_its_idea_and_what_it_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, out, _ = call(monkeypatch, capsys, "list", "methods")
    entries = out.strip().split("\n")
    assert code == 0
    assert len(entries) % 3 == 0
    for name, idea, facts in zip(*(entries[i::3] for i in range(3)), strict=True):
        assert name.split()[0] in ("erase", "forget")
        assert idea.endswith(".")
        assert ("text-to-image model; changes: " in facts) == name.startswith("erase")
        assert facts.endswith(".")


def test_help_of_a_method_needs_no_diffusers() -> None:
    """They take as long as torch itself to import, each."""
    program = """
import sys
import erasure.commandline.main
sys.argv = ["erasure", "erase", "salun", "--help"]
try:
    erasure.commandline.main.main()
finally:
    heavy = {"diffusers", "transformers", "torchvision", "peft", "timm", "scipy.ndimage"}
    print(sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("model", ["x" * 5000, "no-such", "."])
def test_a_list_of_no_model_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, model: str
) -> None:
    code, _, err = call(monkeypatch, capsys, "list", "concepts", "--model", model)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("erasure: model must be")


def test_runs_are_put_together_and_erased_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, listed: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / "tree", tmp_path / "sketch", tmp_path / "both"]
    erase = ["erase", "uce", "--concept"]
    assert call(monkeypatch, capsys, *erase, "tree", "--model", listed, "--out", runs[0])[0] == 0
    assert call(monkeypatch, capsys, *erase, "Sketch", "--model", listed, "--out", runs[1])[0] == 0
    code, _, err = call(monkeypatch, capsys, "apply", *runs[:2], "--out", runs[2])
    assert code == 2
    assert "erase one after the other with `erasure erase METHOD --model RUN`" in err
    assert not runs[2].exists()
    code, out, err = call(
        monkeypatch, capsys, "apply", *runs[:2], "--out", runs[2], "--overlap", "add"
    )
    assert (code, out) == (0, f"{runs[2]} written\n")
    assert err.startswith("erasure: warning: ")
    below, more = ["--model", runs[0], "--base", listed], tmp_path / "more"
    assert call(monkeypatch, capsys, *erase, "dog", *below, "--out", more)[0] == 0
    record = json.loads((more / "edit.json").read_text())
    assert [concept["name"] for concept in record["concepts"]] == ["tree", "dog"]
