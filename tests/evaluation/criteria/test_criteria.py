"""Criteria that are not as they should be: each is one line, and none touches another module."""

import random
import sys
from pathlib import Path

import pytest
import torch

from erasure.errors import ErasureError, SettingError
from erasure.models.built_in import POCKET
from erasure.models.diffusion.model import Sampling
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure_datasets.concept import Concept
from evaluation.attacking.asked import contents
from evaluation.criteria import find_criterion
from evaluation.criteria.judge import JudgeLabel
from evaluation.prompts.settings import PromptsSettings
from evaluation.protocols.prompts import _stamp

CAT = Concept("cat", "object")
IMAGES = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)


def criterion(words: str, pocket: StableDiffusion) -> list[bool]:
    return find_criterion(words, pocket, CAT)(IMAGES.clone()).tolist()


def test_a_file_replaces_no_module_and_answers_as_it_likes(
    pocket: StableDiffusion, tmp_path: Path
) -> None:
    """A list, an array and a tensor of bools do; what it does to its images stays with it."""
    place = tmp_path / "random.py"
    place.write_text(
        "from dataclasses import dataclass\n"
        "import numpy\n"
        "@dataclass\n"
        "class Row:\n    seen: 'bool'\n"
        "def listed(images):\n    images += 1\n    return [Row(True).seen] * len(images)\n"
        "def array(images):\n    return (images.amax((1, 2, 3)) == 0).numpy()\n"
    )
    before = sys.modules.copy()
    assert criterion(f"{place}:listed", pocket) == [True] * 3
    assert criterion(f"{place}:listed + {place}:array", pocket) == [True] * 3
    assert sys.modules["random"] is random is before["random"]
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "random.py"
    other.write_text("def listed(images):\n    return [False] * len(images)\n")
    first = find_criterion(f"{place}:listed", pocket, CAT)
    assert criterion(f"{other}:listed", pocket) == [False] * 3
    assert first(IMAGES).tolist() == [True] * 3


def test_another_file_of_a_clips_weights_is_another_criterion(
    tmp_path: Path, pocket: StableDiffusion
) -> None:
    """A folder's, and one that stands behind the model's name; also beside another criterion."""
    file = tmp_path / "clip" / "weights.safetensors"
    file.parent.mkdir()
    how = Sampling("DDIMScheduler", 2, 3.0)

    def digests() -> list[object]:
        stamps = [
            _stamp(PromptsSettings(criterion=criterion), (188,), how, pocket, 1, clip)
            for criterion in ("", "judge")
            for clip in (str(file.parent), f"ViT-B-32:{file}")
        ]
        words = f"judge + clip=ViT-B-32:{file}"
        return [contents(words, {}), *(stamp["files"] for stamp in stamps)]

    file.write_bytes(b"one")
    before = digests()
    file.write_bytes(b"other")
    assert all(one != other for one, other in zip(before, digests(), strict=True))


TORCH = "import torch\ndef f(images): return torch.zeros"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(images:", "could not be loaded: SyntaxError"),
        ("raise RuntimeError('no\\nluck')", "could not be loaded: RuntimeError: no luck"),
        ("import sys; sys.exit(3)", "could not be loaded: SystemExit: 3"),
        ("import no_such_module", "could not be loaded: ModuleNotFoundError"),
        ("\0", "could not be loaded: "),
        ("g = 1", "could not be loaded: AttributeError: .* has no attribute 'f'"),
        ("f = 1", "must be a function; it is int"),
        ("def f(): ...", r"failed: TypeError: f\(\) takes 0"),
        ("def f(images): return 1 / 0", "failed: ZeroDivisionError"),
        ("def f(images): ...", "one bool per image, .*; got NoneType"),
        ("def f(images): return 'yes'", "got str"),
        ("def f(images): return [[True], [True, False]]", "got list"),
        ("def f(images): return [True]", r"got torch.bool \(1,\)"),
        ("def f(images): return images > 0", r"got torch.bool \(3, 3, 8, 8\)"),
        ("def f(images): return [1, 0, 1]", r"got torch.int64 \(3,\)"),
        (
            f"{TORCH}(3, dtype=torch.bool, device='meta')",
            r"\(3,\); got Tensor: NotImplementedError",
        ),
        (f"{TORCH}(3, dtype=torch.bool).to_sparse()", "got torch.sparse_coo"),
        (f"{TORCH}(3) / 0", r"got torch.float32 \(3,\)"),
        ("def f(images): return [10**400] * 3", "got list: "),
        ("def f(images): return True", r"got torch.bool \(\)"),
    ],
)
def test_a_bad_function_is_one_line(
    text: str, message: str, pocket: StableDiffusion, tmp_path: Path
) -> None:
    place = tmp_path / "mine.py"
    place.write_text(text)
    with pytest.raises(SettingError, match=message) as refused:
        criterion(f"{place}:f", pocket)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        "", "+", "judge=", "judge=nowhere", "judge+", "clip=", "clip=nowhere", "clip=:",
        "clip=ViT-B-32:", "nudenet", "nudenet=", "nudenet=x", "CLIP", ":", ":f", "x:", ".:f",
        "..x:f", "nowhere.py:f", "tests:f", "no such:f", "json:dumps", "judge=.", "=", "=judge",
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(words: str, pocket: StableDiffusion) -> None:
    with pytest.raises(ErasureError) as refused:
        criterion(words, pocket)
    assert "\n" not in str(refused.value)


def test_every_label_of_the_concepts_name_counts(pocket: StableDiffusion) -> None:
    class Judge:
        name, labels = "twins", ("crane", "cat", "crane")

        def cut(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def predict(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(len(images))

    assert JudgeLabel(Judge(), "crane")(IMAGES).tolist() == [True, False, True]  # type: ignore[arg-type]
    assert find_criterion("judge", pocket, CAT).name == "vit says cat"
    assert find_criterion(f"judge={POCKET / 'vit'}", pocket, CAT).name == "vit says cat"
