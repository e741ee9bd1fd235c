"""Folders whose weights are not whole, or lie in half precision only."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from altered import configured, copied, one_of, weighted
from diffusers import StableDiffusionPipeline
from torch import Tensor

from erasure.errors import ModelError
from erasure.models.diffusion.load import load_model

PARTS = [
    ("unet", "conv_in.weight"),
    ("vae", "decoder.conv_in.bias"),
    ("text_encoder", "encoder.layers.1.mlp.fc1.weight"),
    ("text_encoder", "embeddings.position_embedding.weight"),
]


@pytest.mark.parametrize(("part", "ending"), PARTS)
def test_a_weight_that_the_files_lack_is_refused(
    part: str, ending: str, sd1: Path, tmp_path: Path
) -> None:
    folder = weighted(sd1, tmp_path, part, lambda t: t.pop(one_of(t, ending)))
    with pytest.raises(ModelError, match=rf"{part} lacks \S*{ending}"):
        load_model(str(folder))


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_both_towers_are_looked_at(part: str, sdxl: Path, tmp_path: Path) -> None:
    folder = weighted(sdxl, tmp_path, part, lambda t: t.pop(one_of(t, "layers.0.mlp.fc2.bias")))
    with pytest.raises(ModelError, match=rf"{part} lacks \S*fc2.bias"):
        load_model(str(folder))


def test_a_projection_that_is_absent_is_refused(sdxl: Path, tmp_path: Path) -> None:
    folder = weighted(sdxl, tmp_path, "text_encoder_2", lambda t: t.pop("text_projection.weight"))
    with pytest.raises(ModelError, match="lacks text_projection"):
        load_model(str(folder))


@pytest.mark.parametrize(("part", "ending"), PARTS)
def test_another_shape_is_refused(part: str, ending: str, sd1: Path, tmp_path: Path) -> None:
    def cut(tensors: dict[str, Tensor]) -> None:
        name = one_of(tensors, ending)
        tensors[name] = tensors[name][:2].clone()

    with pytest.raises(ModelError, match=rf"{part}.*{ending}.*\b2\b"):
        load_model(str(weighted(sd1, tmp_path, part, cut)))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_weight_without_a_place_is_refused(part: str, sd1: Path, tmp_path: Path) -> None:
    folder = weighted(sd1, tmp_path, part, lambda t: t.update(extra=torch.zeros(3)))
    with pytest.raises(ModelError, match=rf"{part} holds extra, for which"):
        load_model(str(folder))


def test_a_config_of_fewer_or_more_layers_is_refused(sd1: Path, tmp_path: Path) -> None:
    for layers, why in ((1, r"holds \S*layers\.1\.\S+ and 15 more"), (3, r"lacks \S*layers\.2\.")):
        folder = configured(sd1, tmp_path, "text_encoder", num_hidden_layers=layers)
        with pytest.raises(ModelError, match=why):
            load_model(str(folder))


def test_old_names_and_harmless_tensors_are_taken(sd1: Path, tmp_path: Path) -> None:
    """Encoders by `text_model.` with position_ids, autoencoders with query, key and value."""

    def old_text(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[f"text_model.{name.removeprefix('text_model.')}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(32)[None]

    def old_vae(tensors: dict[str, Tensor]) -> None:
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for name in [name for name in tensors if ".attentions." in name]:
            for ours, theirs in old.items():
                if f".{ours}." in name:
                    tensors[name.replace(ours, theirs)] = tensors.pop(name)

    weighted(sd1, tmp_path, "text_encoder", old_text)
    folder = weighted(tmp_path / "altered", tmp_path / "again", "vae", old_vae)
    opened, want = load_model(str(folder)), load_model(str(sd1))
    assert torch.equal(opened.encode(["a cat"]), want.encode(["a cat"]))
    image = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(opened.to_latents(image), want.to_latents(image), atol=1e-5)


@pytest.mark.parametrize("shard", ["10GB", "30KB"])
def test_half_precision_alone_is_opened(shard: str, sd1: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(sd1, dtype=torch.float16)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16", max_shard_size=shard)
    names = [file.name for file in (tmp_path / "half").rglob("*.safetensors")]
    assert all("fp16" in name for name in names)
    opened, want = load_model(str(tmp_path / "half")), load_model(str(sd1))
    for name, parameter in want.parameters().items():
        assert opened.parameters()[name].dtype == torch.float32
        assert torch.equal(opened.parameters()[name], parameter.half().float()), name
    both = copied(sd1, tmp_path)
    pipeline.unet.save_pretrained(both / "unet", variant="fp16")
    kept = load_model(str(both)).parameters()["unet.conv_in.weight"]
    assert torch.equal(kept, want.parameters()["unet.conv_in.weight"])


def test_variants_between_which_nothing_chooses_are_refused(sd1: Path, tmp_path: Path) -> None:
    folder = copied(sd1, tmp_path)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".ema.safetensors"))
    load_model(str(folder))
    file.with_suffix(".non_ema.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="unet holds its weights as ema and non_ema"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"block_out_channels": -1}),
        ("unet", {"block_out_channels": []}),
        ("unet", {"norm_num_groups": 0}),
        ("unet", {"attention_head_dim": 0}),
        ("unet", {"down_block_types": ["Nothing", "DownBlock2D"]}),
        ("vae", {"norm_num_groups": "four"}),
        ("vae", {"latent_channels": None}),
        ("text_encoder", {"vocab_size": float("inf")}),
        ("text_encoder", {"num_attention_heads": 0}),
        ("text_encoder", {"hidden_act": "nothing"}),
        ("text_encoder", {"num_hidden_layers": "two"}),
        ("scheduler", {"beta_schedule": "nothing"}),
        ("scheduler", {"num_train_timesteps": "many"}),
        ("tokenizer", {"model_max_length": "long"}),
    ],
)
def test_malformed_configs_give_one_line(
    part: str, changes: dict[str, Any], sd1: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)) as caught:
        load_model(str(configured(sd1, tmp_path, part, **changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", "null", '"x"', "[" * 100_000, "\xe9", "{}", "[1]"])
@pytest.mark.parametrize(
    "file",
    [
        "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
        "scheduler/scheduler_config.json", "tokenizer/tokenizer.json",
    ],
)  # fmt: skip
def test_files_that_hold_no_config_give_one_line(
    file: str, text: str, sd1: Path, tmp_path: Path
) -> None:
    folder = copied(sd1, tmp_path)
    (folder / file).write_bytes(text.encode("latin1"))
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"_class_name": ["StableDiffusionPipeline"]}, "is a \\['StableDiffusionPipeline'\\]"),
        ({"vae": [None, None]}, "vae of .* must be AutoencoderKL"),
        ({"unet": ["os", "system"]}, "unet of .* must be UNet2DConditionModel; .* has system"),
        ({"text_encoder": None}, "text_encoder of .* must be CLIPTextModel or"),
        ({"tokenizer": [None, None]}, "has no tokenizer"),
        ({"scheduler": [None, None]}, "has no scheduler"),
        ({"tokenizer": ["builtins", "exec"]}, "could not load"),
        ({"scheduler": ["diffusers", "Nothing"]}, "could not load"),
    ],
)
def test_an_index_of_other_parts_gives_one_line(
    entry: dict[str, Any], why: str, sd1: Path, tmp_path: Path
) -> None:
    index = copied(sd1, tmp_path) / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **entry}))
    with pytest.raises(ModelError, match=why) as caught:
        load_model(str(index.parent))
    assert "\n" not in str(caught.value)
