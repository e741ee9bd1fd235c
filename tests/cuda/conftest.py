"""What the tests marked `cuda` run on, and the miniatures they run with."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from networks import image_folder, timm_folder

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """`cuda`, or `cpu` where the option asks for it."""
    name: str = request.config.getoption("--cuda-device")
    if name == "cuda" and not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        pytest.skip(f"torch sees no CUDA card (CUDA_VISIBLE_DEVICES is {seen!r})")
    return name


@pytest.fixture(autouse=True)
def float32_is_float32() -> Iterator[None]:
    """Convolutions and products in TF32 would differ from the CPU's in the third digit."""
    parts = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = False
    yield
    for part, value in zip(parts, before, strict=True):
        part.allow_tf32 = value


@pytest.fixture(scope="session")
def families(sd1: Path, sd2: Path, sdxl: Path) -> dict[str, Path]:
    return {"sd1": sd1, "sd2": sd2, "sdxl": sdxl}


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a miniature classifier in `model` and its `images`."""
    folder = tmp_path_factory.mktemp("classes")
    timm_folder(folder / "model")
    image_folder(folder / "images")
    return folder


@pytest.fixture
def other_rounding() -> AbstractContextManager[object]:
    """For the CPU's side of a comparison: under --cuda-device cpu, both would round alike."""
    return torch.backends.mkldnn.flags(enabled=False)
