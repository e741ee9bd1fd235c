"""The built-in flow model: what it says of itself, and that its pictures and its erasure hold."""

from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline

from erasure.erasing import erase
from erasure.exports.exporting import export
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion_3 import StableDiffusion3
from evaluation.protocols import pocket

PAIRS = [(188, index) for index in range(0, 256, 33)]  # eight objects in eight styles


def right(model: StableDiffusion3) -> list[tuple[bool, bool]]:
    """Whether object and style of each of PAIRS are what was asked for."""
    how, shots = model.sampling, pocket.shots(PAIRS)
    generators = [torch.Generator().manual_seed(shot.noise_seed) for shot in shots]
    prompts = [shot.prompt for shot in shots]
    images = model.generate(prompts, steps=how.steps, guidance=how.guidance, generators=generators)
    seen = pocket.judge(images, PAIRS)
    return [(seen[key][0] == key[1] // 16, seen[key][1] == key[1] % 16) for key in PAIRS]


def test_it_draws_what_it_is_asked_for() -> None:
    model = load_model("pocket-flow")
    assert isinstance(model, StableDiffusion3)
    assert (model.rows, model.sampling.steps, model.resolution) == (1, 12, 64)
    objects, styles = zip(*right(model), strict=True)
    assert sum(objects) >= 7
    assert sum(styles) >= 7
    labels, looks = pocket.shipped_baseline("pocket-flow")
    assert len(labels) == len(looks) == 512


def test_uce_takes_an_object_and_leaves_the_others(tmp_path: Path) -> None:
    taken = pocket.catalogue().objects[PAIRS[3][1] // 16]
    result = erase("pocket-flow", "uce", [taken], out=tmp_path / "run")
    assert isinstance(result.model, StableDiffusion3)
    objects, styles = zip(*right(result.model), strict=True)
    assert not objects[3]
    assert sum(objects) >= 6
    assert sum(styles) >= 7
    # the whole of it opens in plain diffusers, and here by what lies beside it
    out = export(result.folder, tmp_path / "out", dtype="float16")
    StableDiffusion3Pipeline.from_pretrained(out, text_encoder_3=None, tokenizer_3=None)
    assert "text_encoder_3=None" in (out / "README.md").read_text()
    again = load_model(str(out))
    assert isinstance(again, StableDiffusion3)
    assert (again.rows, again.sampling) == (1, result.model.sampling)
    assert again.catalogue is not None
