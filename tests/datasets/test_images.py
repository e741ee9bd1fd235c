"""Pictures are read as a viewer shows them, and what is none is refused in one line."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erasure_datasets.images import ImageError, find_images, image_size, read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def at(file: Path, x: int, y: int) -> tuple[int, ...]:
    return tuple(read_image(file)[:, y, x].tolist())


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_turns_the_picture(tmp_path: Path, ending: str) -> None:
    picture, exif = Image.new("RGB", (60, 32), "white"), Image.Exif()
    picture.paste(RED, (0, 0, 30, 32))  # the left half; orientation 6 brings it to the top
    exif[0x0112] = 6
    picture.save(tmp_path / f"a.{ending}", exif=exif, quality=100)
    image = read_image(tmp_path / f"a.{ending}").float()
    assert image.shape == (3, 60, 32)
    # JPEG and WebP blur the edge
    assert torch.allclose(image[:, :25].mean((1, 2)), torch.tensor(RED).float(), atol=4)
    assert torch.allclose(image[:, 35:].mean((1, 2)), torch.tensor(WHITE).float(), atol=4)


def cut_out() -> Image.Image:
    """Opaque red on the left, junk under full transparency on the right, a half between them."""
    junk = np.random.default_rng(0).integers(0, 255, (8, 24, 4), dtype=np.uint8)
    junk[:, :8], junk[:, 8:16], junk[:, 16:, 3] = (*RED, 255), (*RED, 128), 0
    return Image.fromarray(junk)


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_what_is_transparent_is_white(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    lossless = ending == "webp"  # the others know no such option, and ignore it
    cut_out().save(file, lossless=lossless, exact=lossless)
    assert (at(file, 0, 0), at(file, 12, 0), at(file, 20, 3)) == (RED, (255, 127, 127), WHITE)


def test_grey_and_palettes_with_transparency(tmp_path: Path) -> None:
    cut_out().convert("LA").save(tmp_path / "la.png")
    assert at(tmp_path / "la.png", 20, 3) == WHITE
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, *RED, 0, 255, 0])
    palette.putpixel((3, 3), 2)
    palette.save(tmp_path / "p.png", transparency=2)
    palette.save(tmp_path / "p.gif", transparency=2)
    for name in ("p.png", "p.gif"):
        assert (at(tmp_path / name, 0, 0), at(tmp_path / name, 3, 3)) == (RED, WHITE)
    Image.new("RGB", (4, 4), RED).save(tmp_path / "key.png", transparency=RED)
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.png", transparency=7)
    assert at(tmp_path / "key.png", 0, 0) == at(tmp_path / "grey.png", 0, 0) == WHITE


def test_deep_grey_is_scaled(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(levels).save(tmp_path / name)
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "b.tif")
    for name in ("a.png", "a.tif", "b.tif"):
        assert read_image(tmp_path / name)[0, 0].tolist() == [0, 1, 128, 255], name
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "f.tif")
    assert read_image(tmp_path / "f.tif")[1, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0, 200]], np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match=r"f\.tif .* must be in 0 to 1; got 0 to 200"):
        read_image(tmp_path / "f.tif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_plain_modes_are_as_ever(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (9, 5), WHITE).convert(mode)
    file = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    picture.save(file)
    assert torch.equal(read_image(file), torch.full((3, 5, 9), 255, dtype=torch.uint8))
    assert read_image(file, 4).shape == (3, 4, 4)
    assert image_size(file) == (9, 5)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame(tmp_path: Path, ending: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), "blue")
    lossless = ending == "webp"
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second], lossless=lossless)
    assert at(tmp_path / f"a.{ending}", 0, 0) == RED


def encoded(kind: str, picture: Image.Image | None = None) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    (picture or Image.fromarray(noise)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "format is unknown"),
        (b"<html>404</html>", "format is unknown"),
        (encoded("PNG")[:400], "cannot be read as a picture"),
        (encoded("JPEG")[:-400], "truncated"),
        (encoded("WEBP")[:400], "cannot be read as a picture"),
        (encoded("GIF")[:400], "cannot be read as a picture"),
        (encoded("TIFF")[:400], "cannot be read as a picture"),
        (encoded("PNG")[:60] + b"\xff" + encoded("PNG")[61:], "cannot be read as a picture"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=rf"a\.png .*{reason}") as caught:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_bombs_folders_and_dead_links_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    for name, reason in (
        ("bomb.png", "exceeds limit"),
        ("folder.jpg", "is a folder"),
        ("link.png", "cannot be read: No such file"),
    ):
        with pytest.raises(ImageError, match=rf"{name} .*{reason}"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"bomb\.png"):
        image_size(tmp_path / "bomb.png")


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "2.JPG", "._2.png", ".a.png", "a.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [file.name for file in find_images(tmp_path)] == ["2.JPG", "2.png", "10.png"]
    assert find_images(tmp_path / "none") == []
