"""Imports go one way, and the folder `datasets` never hides Hugging Face's package of that name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("erasure_datasets", "erasure", "classifiers", "evaluation")
FOLDERS = {
    name: ROOT / "datasets" / name if name == "erasure_datasets" else ROOT / name for name in ORDER
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package: str) -> None:
    later = set(ORDER[ORDER.index(package) + 1 :])
    for file in FOLDERS[package].rglob("*.py"):
        assert not imported(file) & later, f"{file} imports {imported(file) & later}"


def test_exports_point_one_way() -> None:
    """exporting and cards to forms, forms to what they write with."""
    rooms = {"writing": ("forms", "cards", "exporting"), "forms": ("cards", "exporting")}
    for room, above in rooms.items():
        for file in (ROOT / "erasure" / "exports" / room).rglob("*.py"):
            text = file.read_text()
            assert not [name for name in above if f"erasure.exports.{name}" in text], file


def test_attacks_stand_on_attacking_and_not_the_other_way_round() -> None:
    for file in (ROOT / "evaluation" / "attacking").rglob("*.py"):
        assert "evaluation.attacks" not in file.read_text(), file


def test_nobody_imports_the_command_line() -> None:
    for package in ORDER:
        for file in FOLDERS[package].rglob("*.py"):
            if file.name != "__main__.py":
                assert "erasure.commandline.main" not in file.read_text(), file


def test_only_models_know_how_noise_is_scheduled() -> None:
    """Methods, attacks and evaluation ask `levels`, `target` and `denoised`."""
    for package in ORDER:
        for file in FOLDERS[package].rglob("*.py"):
            if "models" not in file.relative_to(FOLDERS[package]).parts:
                assert "alphas_cumprod" not in file.read_text(), file


def test_datasets_is_no_package() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_huggingface_datasets_stays_visible() -> None:
    """From the project's root, with our packages imported first, `datasets` is Hugging Face's."""
    program = "import erasure_datasets, erasure, datasets; "
    program += "print(datasets.__file__); datasets.load_dataset"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "site-packages" in done.stdout


def test_the_public_names_are_there() -> None:
    """The Python interface, whatever was imported before it."""
    program = "import evaluation.evaluating, evaluation.attacks.relearn, erasure.erasing; "
    program += "from erasure import Edit, apply, convert, diff, erase, export, forget; "
    program += "from erasure import Samples, load_model, open_run, push, train, undo; "
    program += "from evaluation import attack, compare, evaluate, report; "
    program += "public = Samples, apply, convert, diff, erase, export, forget, train, undo; "
    program += "assert all(map(callable, (*public, attack, compare, evaluate, report)))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
