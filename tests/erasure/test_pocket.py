"""The built-in model in plain diffusers: none of our packages can be imported in that process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from erasure.erasing import erase
from erasure.exports.exporting import export
from erasure.forgetting import forget
from erasure.models.built_in import POCKET
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run
from erasure_datasets.images import read_image

PLAIN = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("erasure", "erasure_datasets", "classifiers", "evaluation"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
sys.path[:] = [p for p in sys.path if p]
import torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
for part in (pipeline.unet, pipeline.text_encoder):
    assert {p.dtype for p in part.parameters()} == {torch.float32}
noise = [torch.Generator().manual_seed(int(seed)) for seed in sys.argv[3].split(",")]
prompts = sys.argv[4].split("|")
images = pipeline(prompts, num_inference_steps=12, guidance_scale=3.0, generator=noise).images
for number, image in enumerate(images):
    image.save(f"{sys.argv[2]}/{number}.png")
try:
    import erasure
except ImportError:
    print("nothing of ours")
"""
PROMPTS = ["A cat image in Photo style.", "A tree image in Winter style."]
SEEDS = [188064, 188249]


def draw_plainly(model: Path, out: Path) -> torch.Tensor:
    out.mkdir()
    arguments = [
        sys.executable,
        "-c",
        PLAIN,
        str(model),
        str(out),
        ",".join(map(str, SEEDS)),
        "|".join(PROMPTS),
    ]
    done = subprocess.run(
        arguments, cwd=out, env={**os.environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "nothing of ours"
    return torch.stack([read_image(out / f"{i}.png") for i in range(len(PROMPTS))])


def draw_ours(model: object) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return model.generate(PROMPTS, steps=12, guidance=3.0, generators=generators)


def test_the_suite_opens_in_plain_diffusers_and_draws_what_we_draw(tmp_path: Path) -> None:
    plain, ours = draw_plainly(POCKET, tmp_path / "plain"), draw_ours(load_model("pocket"))
    assert (plain.int() - ours.int()).abs().max() <= 1


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float16"])
def test_an_export_opens_in_plain_diffusers_and_draws_the_runs_images(
    tmp_path: Path, dtype: str
) -> None:
    erase("pocket", "uce", ["cat"], out=tmp_path / "run")
    export(tmp_path / "run", tmp_path / "export", dtype=dtype)
    plain, ours = (
        draw_plainly(tmp_path / "export", tmp_path / "plain"),
        draw_ours(open_run(tmp_path / "run")),
    )
    difference = (plain.int() - ours.int()).abs().float()
    # the base is stored as float16, the edit as float32: a float16 export rounds the edit alone
    assert difference.max() <= (1 if dtype == "float32" else 64)
    assert difference.mean() <= (0.01 if dtype == "float32" else 1.0)
    base = draw_ours(load_model("pocket"))
    assert (ours[0].int() - base[0].int()).abs().float().mean() > 5


def test_no_file_is_large_and_the_whole_stays_small() -> None:
    sizes = {file: file.stat().st_size for file in POCKET.rglob("*") if file.is_file()}
    assert max(sizes.values()) <= 14e6
    assert sum(sizes.values()) <= 60e6


def test_weights_are_half_and_the_text_encoder_says_float32() -> None:
    for file in POCKET.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
        in_eight_bits = {"I8", "F32"} if file.parent.name == "gold" else set()
        assert kinds <= {"F16", "I64", *in_eight_bits}, file
    assert '"dtype": "float32"' in (POCKET / "text_encoder" / "config.json").read_text()


def test_any_text_tokenises_without_unknowns() -> None:
    model = load_model("pocket")
    for text in ("Ein Haus am Meer, 3 €!", "日本語 \U0001f431", "q\tz\n~"):
        ids = model.tokenize([text])[0]
        decoded = model.pipeline.tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == "".join(text.lower().split()), decoded


def test_word_tokens_are_those_that_a_text_can_hold() -> None:
    model = load_model("pocket")
    tokenizer = model.pipeline.tokenizer
    words, generator = model.word_tokens, torch.Generator().manual_seed(0)
    assert 300 < len(words) < len(model.token_table) / 2  # the rest are parts of words and of bytes
    for _ in range(20):
        chosen = words[torch.randint(len(words), (8,), generator=generator)]
        text = model.decode(chosen)
        assert tokenizer(text, add_special_tokens=False).input_ids == chosen.tolist()
    part = tokenizer.convert_tokens_to_ids("photogra")
    assert part != tokenizer.unk_token_id
    assert part not in words
    assert not set(words.tolist()) & set(model.special_tokens)


@pytest.mark.parametrize(
    ("method", "classes"),
    [("ssd", ["rabbit", "sandwich", "tower"])]
    + [
        pytest.param(name, ["cat", "dog", "bird"], marks=pytest.mark.slow)
        for name in ("salun", "random-label", "gs-lora", "rocr", "ihl", "npo")
    ],
)
def test_presets_of_the_classifier_forget_as_the_tables_say(
    method: str, classes: list[str], tmp_path: Path
) -> None:
    """They were chosen by what a method did then; a change of the method may leave them idle."""
    out = tmp_path / "run"
    forget("pocket-vit", method, tasks=[classes], out=out, watch_every=0)
    (told,) = json.loads((out / "requests.json").read_text())
    assert told["Acc_f"] <= 0.03
    assert told["Acc_r"] >= 0.95
