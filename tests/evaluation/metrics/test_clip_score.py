"""CLIP score against a cosine by hand, from the suite's CLIP and from open_clip's own folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from erasure.errors import ModelError
from erasure.models.built_in import POCKET
from evaluation.metrics import clip_score
from evaluation.metrics.clip_score import NamedClip, PocketClip, clip_scores

PROMPTS = ["A cat image in Winter style.", "A tree image in Photo style.", "fish"]


@pytest.fixture(scope="module")
def pocket_clip() -> PocketClip:
    return PocketClip(POCKET)


def pictures(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, 3, height, width), generator=generator, dtype=torch.uint8)


def test_scores_are_cosines(pocket_clip: PocketClip) -> None:
    images = pictures(64, 64)
    with torch.no_grad():
        mean, std = (
            torch.tensor(pocket_clip.model.visual.preprocess_cfg[k]) for k in ("mean", "std")
        )
        pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
        seen = pocket_clip.model.encode_image(pixels).double().numpy()
        read = pocket_clip.embed_texts(PROMPTS).double().numpy() * 3  # any length will do
    lengths = np.linalg.norm(seen, axis=1) * np.linalg.norm(read, axis=1)
    expected = (seen * read).sum(1) / lengths
    found = clip_scores(pocket_clip, images, PROMPTS)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)  # float32 towers
    alone = clip_scores(pocket_clip, images[1:2], PROMPTS[1:2])
    torch.testing.assert_close(alone, found[1:2])


def test_a_folder_brings_its_own_transform_and_tokenizer(
    pocket_clip: PocketClip, clip_folder: Path
) -> None:
    clip = NamedClip(str(clip_folder))
    torch.testing.assert_close(clip.embed_texts(PROMPTS), pocket_clip.embed_texts(PROMPTS))
    images = pictures(96, 80)  # neither square nor 64
    transform = image_transform_v2(PreprocessCfg(size=64, mean=(0.5,) * 3, std=(0.25,) * 3), False)
    pixels = torch.stack([transform(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in images])
    with torch.no_grad():
        expected = clip.model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(clip.embed_images(images), expected)
    assert [tuple(layer.shape[:1]) for layer in clip.layers(images)] == [(3,)] * 5


def test_a_name_with_a_weights_file(pocket_clip: PocketClip, clip_folder: Path) -> None:
    clip = NamedClip(f"pocket-clip:{clip_folder / 'open_clip_model.safetensors'}")
    images = pictures(64, 64)
    torch.testing.assert_close(clip.embed_images(images), pocket_clip.embed_images(images))


def test_weights_that_open_clip_would_unpickle_stay_shut(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder where a pickle comes first, and tags whose repositories hold nothing else."""
    place = shutil.copytree(clip_folder, tmp_path / "clip")
    (place / "open_clip_model.safetensors").rename(place / "model.safetensors")
    assert NamedClip(str(place)).name == str(place)
    torch.save({}, place / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"name these open_clip_model\.safetensors"):
        NamedClip(str(place))
    asked: list[tuple[str, str]] = []

    def no_such_file(place: str, file: str) -> str:
        asked.append((place, file))
        raise EntryNotFoundError("404")

    monkeypatch.setattr(clip_score, "hf_hub_download", no_such_file)
    for words in ("ViT-B-32:laion2b_s34b_b79k", "ViT-B-32:openai"):
        with pytest.raises(ModelError, match=r"must be a tag with \.safetensors weights"):
            NamedClip(words)
    assert asked[0] == ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors")

    def no_network(place: str, file: str) -> str:
        raise LocalEntryNotFoundError(f"{place} has no {file} here\nand the Hub is far")

    monkeypatch.setattr(clip_score, "hf_hub_download", no_network)
    with pytest.raises(ModelError, match=r"clip=ViT-B-32:openai: timm/\S+ has no open"):
        NamedClip("ViT-B-32:openai")


def test_bad_clips(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pt")
    for words, message in (
        ("ViT-B-32", "must name its weights too"),
        ("ViT-B-33:openai", "could not load clip=ViT-B-33:openai"),
        (f"ViT-B-32:{tmp_path / 'missing.safetensors'}", "could not load"),
        (f"ViT-B-32:{tmp_path / 'weights.pt'}", "pickled weights stay shut"),
        (str(tmp_path), "holds no .safetensors weights"),
    ):
        with pytest.raises(ModelError, match=message):
            NamedClip(words)
