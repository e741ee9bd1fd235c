import hashlib

import numpy as np
import pytest
import torch

from erasure_datasets.canvas import (
    BACKGROUNDS,
    GLYPHS,
    OBJECTS,
    SPLITS,
    STYLES,
    PocketCanvas,
    is_held_out,
    render,
)
from erasure_datasets.captions import OBJECT_SYNONYMS, STYLE_SYNONYMS, random_caption


def test_label_order_is_fixed() -> None:
    assert OBJECTS[:6] == ("house", "bear", "bird", "butterfly", "cat", "dog")
    assert STYLES[:4] == ("Photo", "Sketch", "Neon Lines", "Mosaic")
    assert (len(OBJECTS), len(STYLES)) == (16, 16)


def test_render_is_deterministic() -> None:
    first, second = render(4, 7, 3), render(4, 7, 3)
    assert np.array_equal(first, second)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8


def test_render_is_the_same_on_every_machine() -> None:
    """So coarse (8 x 8 means, steps of 16 grey values) that the last bit's rounding is lost."""
    seen = b""
    for o, s in ((0, 0), (4, 1), (9, 7), (15, 15)):
        means = render(o, s, 5).reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
        seen += (np.round(means / 16)).astype(np.uint8).tobytes()
    assert hashlib.sha256(seen).hexdigest()[:16] == "dbf19fbe36869848"


def test_same_content_in_every_style() -> None:
    """The glyph's dark outline stands in the same place in Sketch and in Comic Etch.

    It stands elsewhere for another index.
    """
    sketch, etch, other = (
        render(11, s, i).astype(float).mean(2) for s, i in ((1, 2), (14, 2), (14, 3))
    )
    dark = sketch < 110
    assert (etch[dark] < 110).mean() > 0.8
    assert (other[dark] < 110).mean() < 0.6


def test_splits_do_not_share_indices_or_held_out_backgrounds() -> None:
    train, validation, test = (set(SPLITS[split]) for split in ("train", "validation", "test"))
    assert not train & validation
    assert not (train | validation) & test
    counts = [is_held_out(g, b) for g in range(2) for b in range(len(BACKGROUNDS))]
    assert 0 < sum(counts) < len(counts)


def test_every_glyph_file_opens() -> None:
    for o, name in enumerate(OBJECTS):
        images = {render(o, 0, i).tobytes() for i in range(4)}
        assert len(images) == 4, name
        assert len(GLYPHS[name]) in (1, 2)


def test_dataset_items() -> None:
    canvas = PocketCanvas("validation", per_pair=2)
    assert len(canvas) == 512
    image, o, s = canvas[4 * 16 + 1]
    assert (OBJECTS[o], STYLES[s]) == ("cat", "Sketch")
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.uint8
    with pytest.raises(ValueError, match="per_pair must be in 1 to 100"):
        PocketCanvas("validation", per_pair=101)


def test_captions_name_what_they_say_they_name() -> None:
    rng = np.random.default_rng(0)
    empty = 0
    for _ in range(2000):
        text, has_object, has_style = random_caption(4, 7, rng)
        empty += not text
        words = ("cat", *OBJECT_SYNONYMS["cat"])
        assert any(word in text.lower() for word in words) == has_object
        assert any(word in text for word in ("Van Gogh", *STYLE_SYNONYMS["Van Gogh"])) == has_style
    assert 0.08 < empty / 2000 < 0.12


def test_three_synonyms_each() -> None:
    for name, synonyms in {**OBJECT_SYNONYMS, **STYLE_SYNONYMS}.items():
        assert len(set(synonyms)) >= 3
        assert name.lower() not in synonyms
