"""What lies in a model's folder beside the model, and models that are no folder."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from altered import copied
from huggingface_hub import constants

from erasure.erasing import erase
from erasure.errors import EditError, ErasureError, ModelError
from erasure.models.diffusion.load import load_model, read_presets
from erasure.models.lora import deltas

CONCEPTS = {
    "objects": ["cat"], "styles": ["Photo"], "plain_style": "Photo",
    "sentence": "A {object} in {style} style.",
}  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"uce": 1}', '{"uce": [1]}', "\xe9"])
def test_presets_of_another_shape_give_one_line(text: str, sd1: Path, tmp_path: Path) -> None:
    folder = copied(sd1, tmp_path)
    (folder / "presets.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ModelError, match=r"presets\.json is not readable"):
        erase(str(folder), "uce", ["cat"], kind="object", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"objects": []}, {"objects": "cat"}, {"objects": [1]}, {"styles": None},
        {"plain_style": "Oil"}, {"sentence": []}, {"sentence": "A {object}."},
        {"sentence": "A {object} in {style} and {more}."}, {"sentence": "{object} {style} {"},
        {"sentence": "{object.name} {style}"}, {"sentence": "{object} {style} {}"},
    ],
)  # fmt: skip
def test_concepts_of_another_shape_give_one_line(
    changes: dict[str, object], sd1: Path, tmp_path: Path
) -> None:
    folder = copied(sd1, tmp_path)
    (folder / "concepts.json").write_text(json.dumps({**CONCEPTS, **changes}))
    with pytest.raises(ModelError, match=r"concepts\.json"):
        load_model(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"steps": "one"}'])
def test_sampling_of_another_shape_gives_one_line(text: str, sd1: Path, tmp_path: Path) -> None:
    folder = copied(sd1, tmp_path)
    (folder / "sampling.json").write_text(text)
    with pytest.raises(ModelError, match=r"sampling\.json is not readable"):
        load_model(str(folder))


def test_no_file_is_no_preset(tmp_path: Path) -> None:
    assert read_presets(None, "uce") == read_presets(tmp_path, "uce") == {}


def test_an_unknown_id_says_why() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModelError, match=r"neither a folder here nor in .* HF_HUB_OFFLINE"):
            load_model("nosuch/model")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_model_in_the_hubs_cache_is_opened(
    variant: str | None, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root, commit = tmp_path / "models--me--sd", "0" * 40
    folder = Path(shutil.copytree(sd1, root / "snapshots" / commit))
    if variant:
        for file in folder.rglob("*.safetensors"):
            file.rename(file.with_suffix(f".{variant}.safetensors"))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    opened, want = load_model("me/sd"), load_model(str(sd1))
    assert (opened.name, opened.folder) == ("me/sd", None)
    assert opened.pipeline.config._name_or_path == "me/sd"
    for name, parameter in want.parameters().items():
        assert torch.equal(opened.parameters()[name], parameter), name
    assert load_model("me/sd", revision=commit).name == f"me/sd@{commit}"
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        load_model("me/sd", revision="other")


def test_a_folders_name_may_hold_anything(sd1: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd1, tmp_path / "user@host [1]" / "sd@2"))
    assert load_model(str(folder)).name == str(folder)


@pytest.mark.parametrize(
    "what", ["model_index.json", "tokenizer", "unet", "text_encoder/config.json"]
)
def test_a_bad_folder_leaves_no_run_behind(what: str, sd1: Path, tmp_path: Path) -> None:
    folder = copied(sd1, tmp_path)
    gone = folder / what
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(ErasureError, match=rf"{what}\b") as caught:
        erase(str(folder), "uce", ["church"], kind="object", anchor="house", out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_adapters_that_are_not_pairs_are_refused() -> None:
    down, up = torch.ones(2, 4), torch.ones(3, 2)
    assert deltas({"a.lora_A.weight": down, "a.lora_B.weight": up}, 1.0)["a.weight"].shape == (3, 4)
    for tensors, why in (
        ({"a.lora_A.weight": down}, r"a\.lora_B\.weight is absent"),
        ({"a.lora_B.weight": up}, r"a\.lora_A\.weight is absent"),
        ({"a.lora_A.weight": up, "a.lora_B.weight": down}, r"a cannot be multiplied: \(2, 4\) by"),
        ({"a.weight": up}, r"a\.weight\.lora_A\.weight is absent"),
        ({"a.lora_A.weight": down, "a.lora_B.weight": torch.ones(())}, "cannot be multiplied"),
    ):
        with pytest.raises(EditError, match=why):
            deltas(tensors, 1.0)
