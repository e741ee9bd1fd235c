"""Pictures reach a classifier as its own library prepares them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from networks import LABELS, timm_folder, transformers_folder
from PIL import Image
from timm.data import create_transform

from erasure.errors import ModelError
from erasure.files.storage import write_json
from erasure.models.classifier.load import load_classifier
from erasure.models.classifier.transform import Transform, from_processor
from erasure.requested import Data, load_parts

SIZES = [(500, 400), (600, 400), (333, 500), (20, 90), (32, 32)]


def picture(width: int, height: int) -> Image.Image:
    """Stripes of two pixels under noise: what scaling and cutting change most."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 128, (height, width, 3)) + 120 * (np.arange(width) // 2 % 2)[:, None]
    return Image.fromarray(pixels.astype(np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_as_timm_itself(size: tuple[int, int], mode: Any, interpolation: Any) -> None:
    words = {"crop_pct": 0.9, "crop_mode": mode, "interpolation": interpolation,
             "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}  # fmt: skip
    want = create_transform((3, 32, 32), **words)(picture(*size))
    ours = Transform(32, words["mean"], words["std"], 0.9, mode, interpolation)
    got = ours(tensor(picture(*size))[None])[0]
    assert torch.allclose(got, want, atol=1e-5)  # float32's rounding; levels are the same


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
        transformers.ViTImageProcessor(
            size={"height": 32, "width": 32}, do_normalize=False, resample=3
        ),
        transformers.ViTImageProcessor(
            size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False
        ),
        transformers.BitImageProcessor(
            size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
        ),
        transformers.DeiTImageProcessor(
            size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32},
            image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4],
        ),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.9),
    ],
)  # fmt: skip
def test_as_transformers_itself(size: tuple[int, int], processor: Any) -> None:
    want = processor(picture(*size), return_tensors="pt")["pixel_values"][0]
    got = from_processor(processor)(tensor(picture(*size))[None])[0]
    assert torch.allclose(got, want.float(), atol=1e-5)


class Darkened(transformers.ViTImageProcessor):
    """Levels are squared on the way to the network."""

    def __call__(self, images: Any, **steps: Any) -> Any:
        found = super().__call__(images, **steps)
        if steps.get("do_rescale", True):
            found["pixel_values"] = [image * image.abs() for image in found["pixel_values"]]
        return found


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (Darkened(size={"height": 32, "width": 32}), "Darkened does more to pictures than"),
        (  # levels a second time, which bytes are not made for
            transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}),
            "EfficientNetImageProcessor cannot prepare a picture",
        ),
        (
            transformers.ViTImageProcessor(size={"height": 32, "width": 48}),
            "must give square pictures of one size; it gives 32 x 48",
        ),
        (transformers.ViTImageProcessor(do_resize=False), "it gives 96 x 128"),
    ],
)  # fmt: skip
def test_what_is_more_than_scaling_and_levelling_is_refused(processor: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_processor(processor)


def test_what_is_told_is_what_decides() -> None:
    """Not the rest of a processor's record, which changes from release to release."""
    size = {"height": 32, "width": 32}
    plain = transformers.ViTImageProcessor(size=size)
    told = from_processor(plain).told()
    plain.note = "of no effect"
    assert from_processor(plain).told() == told
    for other in ({"resample": 0}, {"image_mean": [0.1] * 3}, {"size": {**size, "width": 32}}):
        changed = transformers.ViTImageProcessor(**{"size": size, **other})
        assert (from_processor(changed).told() == told) == (other.get("size") == size), other
    larger = transformers.ViTImageProcessor(size={"height": 48, "width": 48})
    assert from_processor(larger).told() != told


def test_a_folder_of_pictures_reaches_the_network_so(tmp_path: Path) -> None:
    """Through the loader of labelled images, and as a judge sees whole pictures."""
    place, model = tmp_path / "images", timm_folder(tmp_path / "model")
    for label in LABELS:
        (place / label).mkdir(parents=True)
        for number in range(6):
            picture(90, 60).save(place / label / f"{number}.png")
    record = load_classifier(str(model)).transform
    words = {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bicubic",
             "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    config = load_vit_config(model)
    write_json(
        model / "config.json", {**config, "pretrained_cfg": {**config["pretrained_cfg"], **words}}
    )
    want = create_transform((3, 32, 32), **words)(picture(90, 60))
    opened = load_classifier(str(model))
    assert opened.transform != record
    for part in load_parts(opened, Data(source=str(place))):
        assert torch.allclose(opened.prepare(part.images)[0], want, atol=1e-5)
    cut = opened.cut(tensor(picture(90, 60))[None])
    assert torch.allclose(opened.prepare(cut)[0], want, atol=1e-5)
    square = tensor(picture(32, 32))[None]  # of the network's side, and yet to be cut
    assert not torch.equal(opened.cut(square), square)


def load_vit_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_a_transformers_folder_squashes_as_its_processor_says(tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path / "model")
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, do_normalize=False, resample=3
    )
    processor.save_pretrained(folder)
    want = processor(picture(600, 400), return_tensors="pt")["pixel_values"][0]
    got = load_classifier(str(folder)).prepare(tensor(picture(600, 400))[None])[0]
    assert torch.allclose(got, want, atol=1e-5)
    (folder / "preprocessor_config.json").write_text('{"auto_map": {"AutoImageProcessor": "x.X"}}')
    with pytest.raises(ModelError, match="may not hold auto_map"):
        load_classifier(str(folder))
    for text in ("[]", "{", '{"image_processor_type": "Nothing"}', '{"size": "big"}'):
        (folder / "preprocessor_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
            load_classifier(str(folder))
