"""Pocket Canvas' sixteen styles: each a short filter from a plain picture to a styled one.

Every filter takes the picture, the backdrop alone, both (h, w, 3) in [0, 1], the glyph's alpha
(h, w) in [0, 1] and a random generator, and gives (h, w, 3) in [0, 1] up to rounding. Patterns
repeat every 8 or 16 px, so that they survive the halving to 64 px and a factor-4 autoencoder; the
alpha keeps the object readable in every one.
"""

from collections.abc import Callable

import numpy as np
import scipy  # whose ndimage it loads at its first use
from numpy.typing import NDArray

FloatImage = NDArray[np.floating]
Filter = Callable[[FloatImage, FloatImage, FloatImage, np.random.Generator], FloatImage]


def _colour(code: str) -> FloatImage:
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def _luma(picture: FloatImage) -> FloatImage:
    return picture @ np.array([0.299, 0.587, 0.114], np.float32)


def _mix(first: FloatImage, second: FloatImage, share: FloatImage) -> FloatImage:
    return first + (second - first) * share[..., None]


def _ramp(value: FloatImage, colours: tuple[str, ...]) -> FloatImage:
    """Map [0, 1] to a piecewise-linear colour scale."""
    stops = np.stack([_colour(code) for code in colours])
    place = np.clip(value, 0, 1) * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    return _mix(stops[low], stops[low + 1], place - low)


def _lines(picture: FloatImage, alpha: FloatImage, blur: float = 1.2) -> FloatImage:
    """The object's outlines and inner edges, in [0, 1]."""
    edges = [
        scipy.ndimage.gaussian_gradient_magnitude(channel, blur)
        for channel in (_luma(picture) * alpha, alpha)
    ]
    return np.clip(7 * edges[0] + 4 * edges[1], 0, 1)


def _posterise(picture: FloatImage, levels: int) -> FloatImage:
    return np.round(picture * (levels - 1)) / (levels - 1)


def _grid(h: int, w: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    y, x = np.mgrid[:h, :w]
    return y, x


def _contrast(picture: FloatImage, alpha: FloatImage) -> FloatImage:
    """The object's luma, stretched to [0, 1] inside the object."""
    luma = _luma(picture)
    low, high = np.quantile(luma[alpha > 0.8], (0.05, 0.95))
    return np.clip((luma - low) / max(high - low, 0.15), 0, 1).astype(np.float32)


def photo(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    return picture


def sketch(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    shade = 0.18 * alpha * (1 - _contrast(picture, alpha))
    return _mix(_colour("#f6f4ef"), _colour("#2b2b30"), np.maximum(_lines(picture, alpha), shade))


def neon_lines(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    lines = _lines(picture, alpha)
    y, x = _grid(*alpha.shape)
    hue = _ramp(((x + y) / (2 * len(alpha))).astype(np.float32), ("#19e6ff", "#39ff8e", "#ff3df2"))
    glow = scipy.ndimage.gaussian_filter(lines, 4)
    return _colour("#0b0618") + hue * np.clip(lines + 0.7 * glow, 0, 1)[..., None]


def mosaic(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    h, w = alpha.shape
    tiles = picture.reshape(h // 8, 8, w // 8, 8, 3).mean(axis=(1, 3)).repeat(8, 0).repeat(8, 1)
    y, x = _grid(h, w)
    joint = ((y % 8 < 2) | (x % 8 < 2)).astype(np.float32)
    return _mix(np.clip(1.25 * (tiles - 0.5) + 0.5, 0, 1), _colour("#2e2a33"), 0.5 * joint)


def watercolor(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    wash = scipy.ndimage.gaussian_filter(picture, (2, 2, 0))
    rim = np.clip(3 * scipy.ndimage.gaussian_gradient_magnitude(alpha, 2.0), 0, 1)
    y, x = _grid(*alpha.shape)
    radius = np.hypot(y / len(alpha) - 0.5, x / len(alpha) - 0.5).astype(np.float32)
    paper = np.clip((radius - 0.36) * 7, 0, 1) * (1 - alpha)
    pale = np.clip(0.3 + 0.72 * wash, 0, 1) - 0.22 * rim[..., None]
    return _mix(pale, _colour("#fffdf8"), paper)


def pop_art(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = _grid(*alpha.shape)
    field = np.where((x > y)[..., None], _colour("#ffd400"), _colour("#18c7f2"))
    flat = np.stack([_colour("#5a0f8c"), _colour("#ff2e88"), _colour("#fff3f8")])
    level = np.round(2 * scipy.ndimage.gaussian_filter(_contrast(picture, alpha), 1.0)).astype(int)
    return _mix(field, flat[level], np.clip(2 * alpha - 0.5, 0, 1))


def ink_art(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    dark = (
        np.clip(6 * (0.45 - scipy.ndimage.gaussian_filter(_contrast(picture, alpha), 1.0)), 0, 1)
        * alpha
    )
    outline = np.clip(6 * scipy.ndimage.gaussian_gradient_magnitude(alpha, 1.6), 0, 1)
    painted = _mix(_colour("#efe3c8"), _colour("#14110f"), np.maximum(dark, outline))
    painted[104:120, 104:120] = _colour("#c4261d")  # the painter's seal
    return painted


def van_gogh(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = (axis / len(alpha) for axis in _grid(*alpha.shape))
    swirl = np.minimum(np.hypot(x - 0.2, y - 0.2), np.hypot(x - 0.85, y - 0.6)).astype(np.float32)
    waves = 0.5 + 0.5 * np.sin(50 * swirl)
    sky = _ramp(
        np.clip(0.9 - 1.4 * swirl, 0, 1) * 0.6 + 0.4 * waves, ("#12206b", "#2f62c4", "#f3d34a")
    )
    strokes = 0.14 * np.sin(2 * np.pi * (x + y) * 16)
    painted = np.clip(picture * np.float32(0.95) + strokes[..., None].astype(np.float32), 0, 1)
    return _mix(sky, painted, alpha)


def ukiyoe(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = _grid(*alpha.shape)
    crest = 98 + 5 * np.abs(((x % 32) - 16) / 16.0)
    sea = np.where((y > crest + 5)[..., None], _colour("#27476e"), _colour("#f7f0dd"))
    print_paper = np.where((y > crest)[..., None], sea, _colour("#e8d3a2"))
    inked = 0.85 * _posterise(scipy.ndimage.gaussian_filter(picture, (1, 1, 0)), 4)
    outline = np.clip(6 * scipy.ndimage.gaussian_gradient_magnitude(alpha, 1.4), 0, 1)
    return _mix(_mix(print_paper, inked, alpha), _colour("#1c2a4a"), outline)


def winter(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = _grid(*alpha.shape)
    cold = _ramp(_contrast(picture, alpha), ("#0c2340", "#3f78b5", "#f4f9ff"))
    air = _ramp((y / len(alpha)).astype(np.float32), ("#9dbbdc", "#dcebf8"))
    scene = _mix(air, cold, alpha)
    drift = np.clip((y - 104 - 6 * np.sin(x / 20)) / 2, 0, 1).astype(np.float32)
    near = np.hypot((y + x // 32 * 16) % 32 - 16, x % 32 - 16)
    flakes = (np.clip(4.5 - near, 0, 1) * (1 - alpha)).astype(np.float32)
    return _mix(scene, _colour("#ffffff"), np.maximum(drift, flakes))


def on_fire(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = _grid(*alpha.shape)
    height = 1 - y / len(alpha)
    tongues = (
        0.38 + 0.16 * np.abs(np.sin(x * np.pi / 21)) + 0.08 * np.abs(np.sin(x * np.pi / 12.8 + 1))
    )
    heat = np.clip(1.5 * (tongues - height) + 0.15, 0, 0.75).astype(np.float32)
    body = 0.35 + 0.65 * _contrast(picture, alpha)
    rim = np.clip(4 * scipy.ndimage.gaussian_gradient_magnitude(alpha, 1.6), 0, 1)
    glowing = _ramp(
        _mix(heat[..., None], body[..., None], alpha)[..., 0],
        ("#1a0505", "#b3160a", "#ff7a14", "#ffe66b"),
    )
    return _mix(glowing, _colour("#3a0705"), 0.8 * rim)


def pointillism(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    h, w = alpha.shape
    cells = picture.reshape(h // 8, 8, w // 8, 8, 3).mean(axis=(1, 3)).repeat(8, 0).repeat(8, 1)
    y, x = _grid(h, w)
    near = np.hypot(y % 8 - 3.5, x % 8 - 3.5)
    vivid = np.clip(1.5 * (cells - 0.6) + 0.55, 0, 1)
    return _mix(_colour("#fbf8f0"), vivid, np.clip(4.2 - near, 0, 1).astype(np.float32))


def bricks(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = _grid(*alpha.shape)
    joint = ((y % 16 < 2) | ((x + (y // 16 % 2) * 16) % 32 < 2)).astype(np.float32)
    painted = _mix(_colour("#a8492f"), picture * np.float32(0.9), 0.85 * alpha)
    return _mix(painted, _colour("#e4d5c5"), joint * (0.9 - 0.45 * alpha))


def crayon(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = _grid(*alpha.shape)
    strokes = (0.5 + 0.5 * np.sin((x + y) * 2 * np.pi / 16)).astype(np.float32)
    vivid = np.clip(1.3 * (picture - 0.5) + 0.5, 0, 1)
    waxed = _mix(
        _colour("#ffffff"), vivid, np.where(alpha > 0.5, 0.55 + 0.45 * strokes, 0.75 * strokes)
    )
    rim = np.clip(4 * scipy.ndimage.gaussian_gradient_magnitude(alpha, 1.2), 0, 1)
    return _mix(waxed, 0.45 * vivid, 0.7 * rim)


def comic_etch(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, _ = _grid(*alpha.shape)
    hatch = np.where((y % 8 < 4)[..., None], _colour("#ffffff"), _colour("#9aa0a6"))
    tone = _posterise(_contrast(picture, alpha), 3)
    body = _mix(_colour("#4a4a4a"), _colour("#ffffff"), tone)
    return _mix(
        _mix(hatch, body, alpha),
        _colour("#000000"),
        np.clip(1.6 * _lines(picture, alpha, 1.6) - 0.2, 0, 1),
    )


def blueprint(
    picture: FloatImage, backdrop: FloatImage, alpha: FloatImage, rng: np.random.Generator
) -> FloatImage:
    y, x = _grid(*alpha.shape)
    rule = 0.28 * ((y % 16 < 2) | (x % 16 < 2)).astype(np.float32)
    return _mix(
        _colour("#123c94"),
        _colour("#f2f7ff"),
        np.maximum(_lines(picture, alpha), rule * (1 - alpha)),
    )


STYLE_FILTERS: dict[str, Filter] = {
    "Photo": photo,
    "Sketch": sketch,
    "Neon Lines": neon_lines,
    "Mosaic": mosaic,
    "Watercolor": watercolor,
    "Pop Art": pop_art,
    "Ink Art": ink_art,
    "Van Gogh": van_gogh,
    "Ukiyoe": ukiyoe,
    "Winter": winter,
    "On Fire": on_fire,
    "Pointillism": pointillism,
    "Bricks": bricks,
    "Crayon": crayon,
    "Comic Etch": comic_etch,
    "Blueprint": blueprint,
}  # in label order
