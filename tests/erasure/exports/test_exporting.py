"""Exports: safe names, the number format that was asked for, files of older tools, no paths."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from networks import timm_folder, torchvision_folder, transformers_folder
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, ErasureError, ModelError, SettingError
from erasure.exports.exporting import export
from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run
from erasure.undoing import undo
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataWarning

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def run(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fast weights edit of the SD 1.4 miniature."""
    out = tmp_path_factory.mktemp("exports") / "run"
    return erase(str(sd1), "uce", ["church"], out=out, kind="object", anchor="a house").folder


def adapters(folder: Path, requests: list[list[str]], kind: str = "object", **more) -> Path:
    """A run with one made-up adapter per request, of rank 4 and alpha 16."""
    module = "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2"
    tensors = {}
    for number in range(len(requests)):
        made = torch.Generator().manual_seed(number)
        for word, shape in (("lora_A", (4, 128)), ("lora_B", (32, 4))):
            name = f"request.{number}.{module}.{word}.weight"
            tensors[name] = torch.randn(shape, generator=made) / 8
    concepts = [
        Concept(name, kind, ("an image of a {name}",))  # type: ignore[arg-type]
        for names in requests
        for name in names
    ]
    Edit(
        tensors, "gs-lora", concepts, "someone/sd", "lora", settings={"rank": 4, "alpha": 16.0},
        requests={str(i): names for i, names in enumerate(requests)}, **more,
    ).save(folder)  # fmt: skip
    return folder


NAMES = (
    "../up", "../../precious", "/etc/passwd", "AC/DC", "a dog", "a_dog", "Cat", "cat", "CAT",
    "x" * 300, "é" * 200, "sea/lake", 'a "b": c', "CON", ".hidden", "README.md", "con.md", "..",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["object", "class"])
def test_adapters_of_any_names_stay_inside_and_apart(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "inside" / "deep"
    place.mkdir(parents=True)
    (tmp_path / "inside" / "precious.safetensors").write_text("mine")
    run = adapters(place / "run", [[name] for name in NAMES], kind)
    before = {file for file in tmp_path.rglob("*") if run not in file.parents}
    out = export(run, place / "out", to="lora")
    assert before == {
        file for file in tmp_path.rglob("*")
        if run not in file.parents and out != file and out not in file.parents
    }  # fmt: skip
    assert (tmp_path / "inside" / "precious.safetensors").read_text() == "mine"
    made = [entry.name for entry in out.iterdir() if entry.name != "README.md"]
    assert len(made) == len({name.casefold() for name in made}) == len(NAMES)
    assert all(len(name.encode()) < 150 for name in made)
    weights = [file for file in out.rglob("*.safetensors")]
    assert len(weights) == len(NAMES)
    card = (out / "README.md").read_text()
    assert all(f"| {name} |" in card for name in made)
    assert "| AC/DC |" in card


def test_requests_of_many_names_have_short_files(tmp_path: Path) -> None:
    many = [f"class number {i}" for i in range(100)]
    out = export(adapters(tmp_path / "run", [many, [*many, "last"]]), tmp_path / "out", to="lora")
    made = list(out.glob("*.safetensors"))
    assert len(made) == 2
    assert all(len(file.name) < 150 for file in made)


def test_an_adapter_is_as_strong_with_and_without_its_metadata(sd1: Path, tmp_path: Path) -> None:
    run = adapters(tmp_path / "run", [["cat"]])
    out = export(run, tmp_path / "out", to="lora")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(out / "cat.safetensors"), bare)
    merged = load_model(str(sd1))
    Edit.load(run).apply(merged)
    condition = merged.encode(["a cat"])
    z, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    with torch.no_grad():
        want = merged.pipeline.unet(z, t, condition).sample
        for file in (out / "cat.safetensors", bare):
            plain = StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)
            before = plain.unet(z, t, condition).sample
            plain.load_lora_weights(str(file.parent), weight_name=file.name)
            assert torch.allclose(plain.unet(z, t, condition).sample, want, atol=1e-5)
            assert (before - want).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("to", ["diffusers", "delta", "lora"])
def test_every_form_is_stored_as_asked(run: Path, tmp_path: Path, to: str, dtype: str) -> None:
    source = adapters(tmp_path / "run", [["cat"]]) if to == "lora" else run
    out = export(source, tmp_path / "out", to=to, dtype=dtype)
    files = [f for f in out.rglob("*.safetensors")]
    kinds = {t.dtype for f in files for t in load_file(f).values() if t.is_floating_point()}
    assert kinds == {DTYPES[dtype]}
    if to == "diffusers":
        plain = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
        want = open_run(run).parameters()
        for name, weight in plain.unet.named_parameters():
            rounded = want[f"unet.{name}"].to(DTYPES[dtype]).float()
            assert torch.equal(weight.float(), rounded), name
        assert plain("a cat", num_inference_steps=1, output_type="np").images.std() > 0


@pytest.mark.parametrize("to", ["diffusers", "delta"])
def test_an_edit_that_drowns_in_rounding_is_told(
    run: Path, sd1: Path, tmp_path: Path, to: str, recwarn: pytest.WarningsRecorder
) -> None:
    """An edit of a two-thousandth of each weight is below bfloat16's step, and above float16's."""
    edit, base = Edit.load(run), load_model(str(sd1))
    names = edit.shapes()
    base.remember(list(names))
    with torch.no_grad():
        for name in names:
            base.parameters()[name].mul_(1.0005)
    small = Edit.between(base, edit.concepts, "uce", edit.settings)
    replace(small, base=edit.base, base_digest=edit.base_digest).save(tmp_path / "small")
    export(tmp_path / "small", tmp_path / "half", to=to, dtype="float16")
    export(run, tmp_path / "large", to=to, dtype="bfloat16")
    assert not [w for w in recwarn if issubclass(w.category, DataWarning)]
    with pytest.warns(DataWarning, match=r"rounding to bfloat16 moves .* \d\.\d times as far as"):
        export(tmp_path / "small", tmp_path / "brain", to=to, dtype="bfloat16")


def test_values_that_a_format_cannot_hold_are_refused(run: Path, tmp_path: Path) -> None:
    edit = Edit.load(run)
    name = next(iter(edit.tensors))
    for value, dtype, error, message in (
        (1e5, "float16", SettingError, rf"{name} holds 100000, and float16 ends at 65504"),
        (float("nan"), "float32", ModelError, rf"{name} .*not finite"),
        (float("-inf"), "bfloat16", ModelError, rf"{name} .*not finite"),
    ):
        bad = edit.tensors[name].clone()
        bad.view(-1)[3] = value
        made = tmp_path / f"run{value}"
        replace(edit, tensors={**edit.tensors, name: bad}).save(made)
        for to, named in (("delta", message), ("diffusers", message.replace("unet.", ""))):
            with pytest.raises(error, match=named):
                export(made, tmp_path / "out", to=to, dtype=dtype)
            assert not (tmp_path / "out").exists()


def test_the_tokenizer_opens_from_vocabulary_and_merges_alone(run: Path, tmp_path: Path) -> None:
    folder = export(run, tmp_path / "out") / "tokenizer"
    assert {file.name for file in folder.iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
        "special_tokens_map.json",
    }  # fmt: skip
    assert (folder / "merges.txt").read_text().startswith("#version: 0.2\n")
    whole = CLIPTokenizer.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    alone = CLIPTokenizer.from_pretrained(folder)
    for text in ("a cat", "Van Gogh's élan, 12 !!", "", "ひ"):
        assert alone(text).input_ids == whole(text).input_ids
    assert alone.model_max_length == whole.model_max_length


def test_no_path_of_this_machine_is_in_an_export(run: Path, sd1: Path, tmp_path: Path) -> None:
    for to in ("diffusers", "delta"):
        out = export(run, tmp_path / to, to=to)
        for file in (f for f in out.rglob("*") if f.suffix in (".json", ".md", ".txt")):
            assert str(sd1.parent) not in file.read_text(), file
    assert json.loads((tmp_path / "diffusers/unet/config.json").read_text())["_name_or_path"] == (
        sd1.name
    )
    delta, first = Edit.load(tmp_path / "delta"), Edit.load(run)
    assert (delta.base, delta.base_digest) == (sd1.name, first.base_digest)
    assert export(tmp_path / "delta", tmp_path / "again", base=sd1).is_dir()


def test_a_delta_goes_into_plain_diffusers_as_its_card_says(
    run: Path, sd1: Path, tmp_path: Path
) -> None:
    for source in (run, adapters(tmp_path / "run", [["cat"], ["dog"]])):
        out = export(source, tmp_path / f"delta-{source.parent.name}", to="delta")
        code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
        pipeline = StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)
        exec(code.replace("<this folder>", str(out)), {"pipeline": pipeline})
        want = load_model(str(sd1))
        Edit.load(source).apply(want)
        for name, weight in pipeline.unet.named_parameters():
            assert torch.allclose(weight, want.parameters()[f"unet.{name}"], atol=1e-6), name


def test_a_base_with_a_safety_checker_is_named(sd1: Path, tmp_path: Path) -> None:
    shutil.copytree(sd1, tmp_path / "sd")
    index = tmp_path / "sd" / "model_index.json"
    record = json.loads(index.read_text())
    record["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index.write_text(json.dumps(record))
    options = {"kind": "object", "anchor": "a house"}
    for model, is_said in ((tmp_path / "sd", True), (sd1, False)):
        run = erase(str(model), "uce", ["church"], out=tmp_path / f"run{is_said}", **options).folder
        card = ModelCard.load(export(run, tmp_path / f"out{is_said}") / "README.md")
        assert ("safety checker is not in this folder" in card.text) == is_said


@pytest.mark.parametrize(
    ("to", "dtype", "message"),
    [
        ("lora", "float32", "made no adapters; export to delta, diffusers or single-file"),
        (
            "text-encoder",
            "float32",
            "outside the text encoder; export to delta, diffusers or single-file",
        ),
        (
            "vit",
            "float32",
            "vit is of a classifier, and .* edits a pipeline; export to delta, diffusers or sin",
        ),
        (
            "safetensors",
            "float32",
            "there is no export form .safetensors.. Known: delta, diffusers, lora, single-file",
        ),
        ("delta", "int8", "dtype must be one of float32, float16, bfloat16; got 'int8'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    run: Path, tmp_path: Path, to: str, dtype: str, message: str
) -> None:
    with pytest.raises(ErasureError, match=message):
        export(str(run), str(tmp_path / "out"), to=to, dtype=dtype)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["state", "images/x", "scores/a/b", "attacks", ".x.tmp"])
def test_nothing_goes_among_a_runs_own_files(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(run)
    before = sorted(run.rglob("*"))
    for folder in (run, tmp_path / "link"):
        with pytest.raises(SettingError, match=r"out must be no part of a run; .*exports"):
            export(run, folder / name, to="delta")
        with pytest.raises(SettingError, match="out must be no part of a run"):
            undo(run, folder / name, concepts="church")
        with pytest.raises(SettingError, match="out must be no part of a run"):
            erase("pocket", "uce", "cat", out=folder / name)
    assert sorted(run.rglob("*")) == before
    assert export(run, run / "exports" / "delta", to="delta").is_dir()
    shutil.rmtree(run / "exports")


def test_a_place_that_cannot_be_written_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(ErasureError, match=r"could not write|out must be a path"):
            export(run, out, to="delta")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingError, match="out must be a new folder"):
        export(run, tmp_path / "link", to="delta")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_request_without_an_adapter_is_refused(tmp_path: Path) -> None:
    run = adapters(tmp_path / "run", [["cat"]])
    edit = Edit.load(run)
    replace(edit, requests={**edit.requests, "1": ["dog"]}).save(run)
    with pytest.raises(EditError, match=r"has a request without an adapter, request\.1"):
        export(run, tmp_path / "out", to="lora")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("build", [timm_folder, transformers_folder, torchvision_folder])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_classifiers_are_stored_as_asked_and_open_in_their_library(
    build: Callable[[Path], object], dtype: str, tmp_path: Path
) -> None:
    build(tmp_path / "model")
    model = load_classifier(str(tmp_path / "model"))
    name = next(n for n in model.parameters() if n.endswith(".weight"))
    concept = Concept("red", "class", ("an image of {name}",))
    value = model.parameters()[name].detach() + 0.1
    edit = Edit({name: value}, "fine-tune", [concept], str(tmp_path / "model"))
    edit.save(tmp_path / "run")
    out = export(tmp_path / "run", tmp_path / "out", to="vit", dtype=dtype)
    stored = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {DTYPES[dtype]}
    card = (out / "README.md").read_text()
    assert f"library_name: {model.library}" in card
    assert "no longer knows 1 of its classes" in card
    given: dict = {}
    exec(card.split("```python\n")[1].split("```")[0].replace("<this folder>", str(out)), given)
    edit.apply(model)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = given["network"].eval()(x)
        said = getattr(said, "logits", said)
        assert torch.allclose(said, model.forward(x)[1], atol=5e-2)
    assert str(tmp_path) not in (out / "config.json").read_text() + card
