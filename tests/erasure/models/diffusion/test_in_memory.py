"""Pipelines that a user has in memory: erased from, and given back."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import TINY
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from peft import LoraConfig

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, ModelError, SettingError
from erasure.exports.exporting import export
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run

FREE = {"kind": "object", "anchor": "house"}


def opened(folder: Path, **more: Any) -> Any:
    if (folder / "transformer").is_dir():
        more |= {"text_encoder_3": None, "tokenizer_3": None}
    elif not (folder / "text_encoder_2").is_dir():
        more |= {"safety_checker": None}
    return DiffusionPipeline.from_pretrained(folder, **more)


def drawn(pipeline: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    rows = {} if "3" not in type(pipeline).__name__ else {"max_sequence_length": 3}
    return pipeline(
        "a cat", num_inference_steps=2, generator=generator, output_type="np", height=16, width=16,
        **rows,
    ).images  # fmt: skip


def values(pipeline: Any) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": weight.detach().clone()
        for part, network in pipeline.components.items() if isinstance(network, torch.nn.Module)
        for name, weight in network.named_parameters()
    }  # fmt: skip


def other(pipeline: Any) -> Any:
    """The pipeline with weights that no folder holds."""
    with torch.no_grad():
        next(pipeline.unet.parameters()).mul_(1.25)
    return pipeline


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_a_pipeline_is_erased_as_its_folder_is(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    pipeline = opened(folder)
    before, was = values(pipeline), drawn(pipeline)
    found = erase(pipeline, "uce", "cat", out=tmp_path / "run", **FREE)
    want = erase(str(folder), "uce", "cat", out=tmp_path / "want", **FREE)
    assert all(torch.equal(t, want.edit.tensors[n]) for n, t in found.edit.tensors.items())
    assert found.edit.base == str(folder)
    made = found.pipeline()
    assert type(made) is type(pipeline)
    assert made is not pipeline
    assert np.array_equal(drawn(made), drawn(opened(export(found.folder, tmp_path / "export"))))
    assert not np.array_equal(drawn(made), was)
    assert all(torch.equal(weight, before[name]) for name, weight in values(pipeline).items())
    assert np.array_equal(drawn(pipeline), was)


def test_a_pipeline_that_no_folder_holds_says_so(sd1: Path, tmp_path: Path) -> None:
    pipeline = other(opened(sd1))
    found = erase(pipeline, "uce", "cat", out=tmp_path / "run", **FREE)
    assert found.edit.base == "a pipeline in memory"
    with pytest.raises(EditError, match=r"made on a pipeline in memory.*with --base"):
        open_run(found.folder)
    with pytest.raises(EditError, match="does not hold the weights"):
        open_run(found.folder, base=sd1)
    pipeline.save_pretrained(tmp_path / "kept")
    again = open_run(found.folder, base=tmp_path / "kept").parameters()
    assert all(torch.equal(w, again[name]) for name, w in found.model.parameters().items())
    more = erase(found.folder, "uce", "dog", out=tmp_path / "more", base=tmp_path / "kept", **FREE)
    assert more.edit.base == str(tmp_path / "kept")
    # the same call finds what is there
    same = erase(pipeline, "uce", "cat", out=tmp_path / "run", **FREE)
    assert np.array_equal(drawn(same.pipeline()), drawn(found.pipeline()))


def test_a_half_precise_pipeline_is_edited_in_float32(sd1: Path, tmp_path: Path) -> None:
    pipeline = opened(sd1, dtype=torch.bfloat16)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.my_own = "kept"
    found = erase(pipeline, "uce", "cat", out=tmp_path / "run", **FREE)
    assert found.edit.base == str(sd1)  # whose weights these are, rounded
    made: Any = found.pipeline()
    assert made.unet.dtype == torch.bfloat16
    assert isinstance(made.scheduler, DPMSolverMultistepScheduler)
    assert made.my_own == "kept"
    assert made.vae is pipeline.vae
    for name, weight in values(made).items():
        want = found.model.parameters().get(name)
        assert want is None or torch.equal(weight, want.to(torch.bfloat16)), name


def test_in_lower_precision_the_pipeline_itself_is_opened_again(sd1: Path, tmp_path: Path) -> None:
    few = {**FREE, **TINY["esd"], "mixed_precision": "bf16"}
    found = erase(other(opened(sd1)), "esd", "cat", out=tmp_path / "run", **few)
    assert {weight.dtype for weight in found.model.parameters().values()} == {torch.float32}
    changed, base = Edit.load(found.folder).shapes(), load_model(other(opened(sd1))).parameters()
    for name, weight in found.model.parameters().items():
        assert torch.equal(weight, base[name]) == (name not in changed), name


def test_a_named_models_result_is_a_pipeline_of_its_own(sd1: Path, tmp_path: Path) -> None:
    found = erase(str(sd1), "uce", "cat", out=tmp_path / "run", **FREE)
    made: Any = found.pipeline()
    want = drawn(opened(export(found.folder, tmp_path / "export")))
    assert np.array_equal(drawn(made), want)
    assert all(weight.requires_grad for weight in made.unet.parameters())
    made.to(torch.float16)
    assert found.model.backbone.dtype == torch.float32
    assert np.array_equal(drawn(found.pipeline()), want)


def with_adapters(pipeline: Any) -> Any:
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    return pipeline


def with_hooks(pipeline: Any) -> Any:
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(pipeline.unet, "cpu")
    return pipeline


def with_layerwise_casting(pipeline: Any) -> Any:
    pipeline.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    return pipeline


def quantised(pipeline: Any) -> Any:
    weight = pipeline.text_encoder.get_input_embeddings()
    whole = torch.zeros(weight.weight.shape, dtype=torch.int8)
    weight.weight = torch.nn.Parameter(whole, requires_grad=False)
    return pipeline


def for_images(pipeline: Any) -> Any:
    return StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)


def without_encoder(pipeline: Any) -> Any:
    pipeline.text_encoder = None
    return pipeline


def compiled(pipeline: Any) -> Any:
    pipeline.unet = torch.nn.Sequential(pipeline.unet)
    return pipeline


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_adapters, r"unet of the pipeline holds adapters \(LoRA\).* unload_lora_weights"),
        (with_hooks, "unet of the pipeline has hooks that move or cast"),
        (with_layerwise_casting, "unet of the pipeline has hooks that move or cast"),
        (quantised, "text_encoder of the pipeline must have whole weights .* of int8"),
        (for_images, "is a StableDiffusionImg2ImgPipeline; supported are StableDiffusionPipeline"),
        (without_encoder, "has no text_encoder; a whole pipeline is needed"),
        (compiled, "unet of the pipeline must be UNet2DConditionModel; got Sequential"),
    ],
)
def test_a_pipeline_that_is_not_its_weights_alone_is_refused(
    change: Any, words: str, sd1: Path, tmp_path: Path
) -> None:
    pipeline = change(opened(sd1))
    with pytest.raises(ModelError, match=words) as told:
        erase(pipeline, "uce", "cat", out=tmp_path / "no", **FREE)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "no").exists()


def test_what_goes_with_a_name_is_refused_with_a_pipeline(sd1: Path, tmp_path: Path) -> None:
    pipeline = copy.copy(opened(sd1))
    assert isinstance(pipeline, StableDiffusionPipeline)
    with pytest.raises(SettingError, match="config and revision go with a name"):
        erase(pipeline, "uce", "cat", out=tmp_path / "no", revision="main", **FREE)
