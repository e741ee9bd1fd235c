"""Adapters in kohya's layout: its names, and diffusers adds the same as from its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from erasure.edit import Edit
from erasure.errors import EditError, SettingError
from erasure.exports.exporting import export
from erasure.models.diffusion.load import load_model
from erasure_datasets.concept import Concept

RANK = 4


def adapted(model: Path, folder: Path, towers: bool = True) -> Path:
    """A run with an adapter of every linear layer in the UNet's attention and the text towers."""
    opened, tensors = load_model(str(model)), {}
    made = torch.Generator().manual_seed(0)
    for part in (opened.backbone_name, *(opened.towers if towers else ())):
        for name, module in getattr(opened.pipeline, part).named_modules():
            is_chosen = ".attn" in name or ".ff." in name or "self_attn" in name or ".mlp." in name
            if isinstance(module, nn.Linear) and is_chosen:
                shapes = (("lora_A", (RANK, module.in_features)),
                          ("lora_B", (module.out_features, RANK)))  # fmt: skip
                for word, shape in shapes:
                    full = f"request.0.{part}.{name}.{word}.weight"
                    tensors[full] = torch.randn(shape, generator=made) / 20
    concept = Concept("cat", "object", ("an image of a {name}",))
    settings: dict[str, object] = {"rank": RANK, "alpha": 6.0}
    Edit(
        tensors, "gs-lora", [concept], str(model), "lora", settings=settings,
        requests={"0": ["cat"]},
    ).save(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_reads_the_same_from_both_layouts(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(family)
    run = adapted(model, tmp_path / "run", towers=False)
    kind: Any = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    found = {}
    for layout in ("diffusers", "kohya"):
        out = export(run, tmp_path / layout, to="lora", layout=layout)
        pipeline = kind.from_pretrained(model)
        pipeline.load_lora_weights(str(out), weight_name="cat.safetensors")
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        found[layout] = pipeline.unet.state_dict()
    merged = load_model(str(model))
    before = {name: p.clone() for name, p in merged.pipeline.unet.named_parameters()}
    Edit.load(run).apply(merged)
    assert found["kohya"].keys() == before.keys()
    moved = 0
    for name, weight in merged.pipeline.unet.named_parameters():
        assert torch.equal(found["kohya"][name], found["diffusers"][name]), name
        assert torch.allclose(found["kohya"][name], weight, atol=1e-5), name  # another order
        moved += not torch.equal(weight, before[name])
    assert moved == len(Edit.load(run).tensors) // 2


def test_names_and_metadata_are_kohyas(sd1: Path, sdxl: Path, tmp_path: Path) -> None:
    """As networks/lora.py of sd-scripts names them: XL's UNet by the original release's blocks."""
    down, text = ".lora_down.weight", "text_model_encoder_layers_1_self_attn_q_proj"
    for model, wanted, base in (
        (sd1, ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
               "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
               f"lora_te_{text}"), "sd_v1"),
        (sdxl, ("lora_unet_input_blocks_3_1_transformer_blocks_1_attn2_to_k",
                "lora_unet_middle_block_1_transformer_blocks_0_ff_net_0_proj",
                "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q",
                f"lora_te1_{text}", f"lora_te2_{text}"), "sdxl_base_v1-0"),
    ):  # fmt: skip
        run = adapted(model, tmp_path / f"run-{base}")
        out = export(run, tmp_path / base, to="lora", layout="kohya", dtype="float16")
        tensors = load_file(out / "cat.safetensors")
        assert {name + down for name in wanted} <= tensors.keys()
        modules = {name.partition(".")[0] for name in tensors}
        ends = ("lora_down.weight", "lora_up.weight", "alpha")
        assert tensors.keys() == {f"{name}.{end}" for name in modules for end in ends}
        assert all(tensors[f"{name}.alpha"].item() == RANK for name in modules)
        assert {t.dtype for n, t in tensors.items() if "alpha" not in n} == {torch.float16}
        with safe_open(out / "cat.safetensors", "pt") as reader:
            assert reader.metadata()["ss_base_model_version"] == base
            assert reader.metadata()["ss_network_dim"] == str(RANK)
        assert "ComfyUI" in (out / "README.md").read_text()


def test_layouts_that_do_not_fit_are_refused(sd1: Path, sd3: Path, tmp_path: Path) -> None:
    run = adapted(sd1, tmp_path / "run")
    out = tmp_path / "out"
    with pytest.raises(SettingError, match="layout is of lora alone, and diffusers has but one"):
        export(run, out, to="diffusers", layout="kohya")
    with pytest.raises(
        SettingError, match="layout of lora must be diffusers or kohya; got 'a1111'"
    ):
        export(run, out, to="lora", layout="a1111")
    with pytest.raises(SettingError, match="base is not needed for lora"):
        export(run, out, to="lora", base=sd1)
    with pytest.raises(SettingError, match="is a StableDiffusion3Pipeline"):
        export(adapted(sd3, tmp_path / "three", towers=False), out, to="lora", layout="kohya")
    classes = Edit.load(run)
    concept = Concept("cat", "class", ("an image of a {name}",))
    Edit(
        {"request.0.head.lora_A.weight": torch.ones(4, 2),
         "request.0.head.lora_B.weight": torch.ones(2, 4)},
        "gs-lora", [concept], "pocket-vit", "lora", settings=classes.settings,
        requests={"0": ["cat"]},
    ).save(tmp_path / "vit")  # fmt: skip
    with pytest.raises(EditError, match="kohya's layout is of a pipeline's adapters"):
        export(tmp_path / "vit", out, to="lora", layout="kohya")
    assert not out.exists()
