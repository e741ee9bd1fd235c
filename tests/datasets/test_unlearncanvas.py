import io
import random
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from erasure_datasets.unlearncanvas import (
    ALL_THEMES,
    EXCLUDED,
    OBJECTS,
    STYLES,
    THEMES,
    UnlearnCanvas,
    caption,
)

TWO = ("Van_Gogh", "Seed_Images")


def test_the_lists_are_the_benchmarks_own() -> None:
    assert (len(ALL_THEMES), len(THEMES), len(STYLES), len(OBJECTS)) == (61, 51, 50, 20)
    assert THEMES.index("Seed_Images") == 38
    assert (THEMES[37], THEMES[39], THEMES[0], THEMES[-1]) == (
        "Rust", "Sketch", "Abstractionism", "Winter",
    )  # fmt: skip
    assert ALL_THEMES.index("Palette_Knife") < ALL_THEMES.index("Magic_Cube")  # never sorted
    assert len(set(ALL_THEMES) & set(EXCLUDED)) == 10
    assert not set(THEMES) & set(EXCLUDED)


def test_captions() -> None:
    assert caption("Dogs", "Van_Gogh") == "A Dogs image in Van Gogh style."
    assert caption("Dogs", "Seed_Images") == "A Dogs image in Photo style."
    assert caption("Dogs", "Seed_Images", "Seed Images") == "A Dogs image in Seed Images style."


def colour(theme: str, name: str, number: int) -> tuple[int, int, int]:
    return 5 * THEMES.index(theme), 12 * OBJECTS.index(name), 10 * number


def encoded(theme: str, name: str, number: int) -> bytes:
    """A JPEG of the pair's colour, wider than high."""
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), colour(theme, name, number)).save(stream, "JPEG")
    return stream.getvalue()


KEYS = [(theme, name, number) for theme in TWO for name in OBJECTS for number in (1, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("canvas")
    for theme, name, number in KEYS:
        file = place / theme / name / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(theme, name, number))
    return place


def hub_text(theme: str, name: str) -> str:
    """As the Hub's rows have it: "photo" for the photographs, "An" before a vowel, no full stop."""
    style = "photo" if theme == "Seed_Images" else theme.replace("_", " ")
    return f"A{'n' if name[0] == 'A' else ''} {name} image in {style} style"


def parquet(place: Path, keys: list[tuple[str, str, int]], texts: list[str]) -> str:
    pictures = [{"bytes": encoded(*key), "path": f"{key[2]}.jpg"} for key in keys]
    rows = datasets.Dataset.from_dict({"image": pictures, "text": texts})
    rows = rows.cast_column("image", datasets.Image())
    (place / "data").mkdir()
    rows.to_parquet(str(place / "data" / "train-00000-of-00001.parquet"))
    return f"hf:{place}"


def test_items_of_a_folder(folder: Path) -> None:
    data = UnlearnCanvas(folder, "train", 2, size=8, themes=TWO)
    assert len(data) == 80
    image, name, theme = data[3]  # number 1, the second object, the second theme
    assert (OBJECTS[name], THEMES[theme], image.shape) == ("Bears", "Seed_Images", (3, 8, 8))
    seen = data[40][0].float().mean((1, 2))  # number 2 of the first pair
    # JPEG moves a flat colour by a few levels
    assert torch.allclose(seen, torch.tensor(colour("Van_Gogh", OBJECTS[0], 2)).float(), atol=4)


def test_the_hubs_parquet_gives_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    keys = random.Random(0).sample(KEYS, len(KEYS))
    source = parquet(tmp_path, keys, [hub_text(*key[:2]) for key in keys])
    ours = UnlearnCanvas(source, "train", 2, size=8, themes=TWO)
    theirs = UnlearnCanvas(folder, "train", 2, size=8, themes=TWO)
    assert all(ours[i][1:] == theirs[i][1:] for i in range(80))
    assert all(torch.equal(ours[i][0], theirs[i][0]) for i in range(80))
    with pytest.raises(ValueError, match=r"lacks 40 of 40 images; .* Monet/Architectures/1\.jpg"):
        UnlearnCanvas(source, "train", 2, themes=("Monet",))


def test_what_is_not_unlearncanvas(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ValueError, match=r"lacks 20 of 20 images.*Van_Gogh/Architectures/20\.jpg"):
        UnlearnCanvas(folder, "test", 1, themes=("Van_Gogh",))
    with pytest.raises(ValueError, match="no theme 'Techno'"):
        UnlearnCanvas(folder, "train", 1, themes=("Techno",))
    with pytest.raises(ValueError, match="none of UnlearnCanvas': 'a cat'"):
        UnlearnCanvas(parquet(tmp_path, KEYS[:1], ["a cat"]), "train", 1)
