"""The training of pocket-flow sees what diffusers' pipeline computes, learns, and can be opened."""

import copy
import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import pocket_flow
from pocket_clip import tokens
from pocket_flow import EMPTY_ROWS, Batches, Learner, RepeatedRow, new_pipeline, new_transformer

TEXTS = ["A cat image in Sketch style.", ""]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion3Pipeline:
    """Two blocks of width 64, all of whose weights do something."""
    torch.manual_seed(0)
    transformer = new_transformer(64, layers=2)
    for weight in transformer.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.1)
    return new_pipeline(transformer)


def latents(pairs: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, pairs, 4, 16, 16, generator=generator)


def test_conditions_are_the_pipelines(pipeline: StableDiffusion3Pipeline) -> None:
    rows, pooled = pocket_flow.encode(pipeline, TEXTS)
    wanted, none, wanted_pooled, none_pooled = pipeline.encode_prompt(TEXTS[:1], None, None)
    wanted, wanted_pooled = torch.cat([wanted, none]), torch.cat([wanted_pooled, none_pooled])
    assert wanted.shape == (2, 32 + EMPTY_ROWS, 256)
    # the tower's batches differ, and with them the last bits
    torch.testing.assert_close(rows[:, :32], wanted[:, :32], rtol=1e-4, atol=1e-5)
    assert not rows[:, 32:].any()
    assert not wanted[:, 32:].any()
    torch.testing.assert_close(pooled, wanted_pooled, rtol=1e-4, atol=1e-5)


def test_pooled_is_pocket_clips(pipeline: StableDiffusion3Pipeline) -> None:
    suite = pocket_flow.SUITE / "clip"
    open_clip.add_model_config(suite / "pocket-clip.json")
    clip = open_clip.create_model("pocket-clip").eval()
    clip.load_state_dict({k: v.float() for k, v in load_file(suite / "model.safetensors").items()})
    _, pooled = pocket_flow.encode(pipeline, TEXTS)
    with torch.no_grad():
        wanted = clip.encode_text(tokens(pipeline.tokenizer, TEXTS))
    torch.testing.assert_close(pooled, torch.cat([wanted, wanted], dim=1), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_one_row_stands_for_many(pipeline: StableDiffusion3Pipeline) -> None:
    """In float64, where the sum over equal rows is the same to 10 digits."""
    plain, quick = (copy.deepcopy(pipeline.transformer).double() for _ in range(2))
    quick.set_attn_processor(RepeatedRow())
    batch = Batches(latents(4), pipeline, captions=2).draw(6)
    batch = pocket_flow.Batch(**{name: part.double() for name, part in vars(batch).items()})
    assert EMPTY_ROWS in batch.repeats
    found = pocket_flow.predict(quick, batch)
    for i, many in enumerate(batch.repeats.int().tolist()):
        text = torch.cat([batch.rows[i, :32], batch.rows.new_zeros(many, 256)])[None]
        wanted = plain(
            batch.z_t[i : i + 1],
            encoder_hidden_states=text,
            pooled_projections=batch.pooled[i : i + 1],
            timestep=batch.t[i : i + 1],
            return_dict=False,
        )[0]
        torch.testing.assert_close(found[i : i + 1], wanted, rtol=1e-9, atol=1e-10)


def test_the_targets(pipeline: StableDiffusion3Pipeline) -> None:
    """With one image in a pair, the mean velocity is noise - z0 whatever the caption says."""
    only = latents(4)[:1]
    batch = Batches(only, pipeline, captions=4).draw(64)
    sigma = batch.t.view(-1, 1, 1, 1) / 1000
    z0 = batch.z_t - sigma * batch.target
    noise = batch.z_t + (1 - sigma) * batch.target
    nearest = (z0[:, None] - only[0]).flatten(2).norm(dim=2).min(dim=1).values
    assert nearest.max() < 1e-2
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert 0 < batch.t.min() < 200
    assert 950 < batch.t.max() <= 1000


def test_the_loss_falls(pipeline: StableDiffusion3Pipeline) -> None:
    torch.manual_seed(0)
    plain = latents(2)[..., :1, :1].expand(-1, -1, -1, 16, 16)
    batches = Batches(plain, pipeline, captions=4)
    learner = Learner(new_transformer(64, layers=2), 3e-3)
    losses = [float(learner.learn(batches.draw(16), 1.0)) for _ in range(40)]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_folder_opens_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket_flow, "load_latents", lambda _: latents(2).half())
    pocket_flow.train(0.02, width=32, batch=4, out=tmp_path)
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["steps"] > 0
    opened = pocket_flow.open_folder(tmp_path)
    assert opened.transformer.dtype == opened.text_encoder.dtype == torch.float32
    images = opened(TEXTS[:1], num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 64, 64)
    pocket_flow.train(0.01, width=32, batch=4, out=tmp_path, resume=True)


def test_the_transformer_fits_the_suite() -> None:
    assert new_transformer().num_parameters() < 5.5e6
