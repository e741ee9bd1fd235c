"""Sparse edits: exact, small, and refused when damaged."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erasure.edit import Edit
from erasure.errors import EditError
from erasure.exports.exporting import export
from erasure.files.records import read_record
from erasure.files.storage import file_digest, write_json
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.opening import open_run
from erasure.sparse import Sparse, changed, opened, put, stored
from erasure_datasets.concept import Concept

CAT = Concept("cat", "object", ("an image of {name}",))


def masked(model: StableDiffusion, share: float) -> Edit:
    """An edit that moves this share of each value projection."""
    weights = model.weights("xattn.kv")
    model.remember(weights)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in weights.values():
            chosen = torch.rand(weight.shape, generator=generator) < share
            chosen.view(-1)[0] = True
            weight.add_(chosen * 0.5)
    return Edit.between(model, [CAT], "masked", {})


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_few_changed_elements_are_put_exactly(order: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 3, 5, 2, generator=generator).to(memory_format=order)
    value = base.clone()
    value[1, 2, 3, 1], value[3, 0, 0, 0] = 7.0, -2.5
    new = changed(value, base)
    assert isinstance(new, Sparse)
    assert new.values.tolist() == [7.0, -2.5]
    again = opened(stored({"a": new}), "here")["a"]
    put(again, base)
    assert torch.equal(base, value)
    assert isinstance(changed(torch.randn(8), torch.zeros(8)), torch.Tensor)


def test_a_sparse_run_is_small_and_exact(pocket: StableDiffusion, tmp_path: Path) -> None:
    run, dense = tmp_path / "run", tmp_path / "dense"
    edit = masked(pocket, 0.01)
    expected = {name: p.detach().clone() for name, p in pocket.weights("xattn.kv").items()}
    edit.save(run)
    edit.undo(pocket)
    masked(pocket, 0.9).save(dense)
    assert read_record(run / "edit.json", dict[str, object])["form"] == "sparse"
    assert read_record(dense / "edit.json", dict[str, object])["form"] == "weights"
    sizes = [(place / "edit.safetensors").stat().st_size for place in (run, dense)]
    assert sizes[0] < sizes[1] / 10
    loaded, model = Edit.load(run), open_run(run)
    assert all(torch.equal(model.parameters()[n], value) for n, value in expected.items())
    loaded.undo(model)
    assert not model.originals
    # the delta opens as the run does, and as its card says
    out = export(run, tmp_path / "delta", to="delta")
    Edit.load(out).apply(model)
    assert all(torch.equal(model.parameters()[n], value) for n, value in expected.items())
    Edit.load(out).undo(model)
    text = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(text.replace("<this folder>", str(out)), {"pipeline": model.pipeline})
    assert all(torch.equal(model.parameters()[n], value) for n, value in expected.items())


def test_what_moved_is_in_the_record(pocket: StableDiffusion, tmp_path: Path) -> None:
    before = {name: p.detach().clone() for name, p in pocket.weights("xattn.kv").items()}
    edit = masked(pocket, 0.2)
    edit.save(tmp_path)
    now = pocket.parameters()
    for name, (size, gone, whole) in Edit.load(tmp_path).moved.items():
        old, new = before[name].double(), now[name].detach().double()
        assert size == old.numel()
        assert gone == pytest.approx(float((new - old).square().sum()), rel=1e-5)
        assert whole == pytest.approx(float(old.square().sum()), rel=1e-5)
    assert edit.moved.keys() == before.keys()


@pytest.mark.parametrize(
    ("name", "new"),
    [
        (":indices", torch.tensor([0, 99], dtype=torch.int32)),
        (":indices", torch.tensor([1, 0], dtype=torch.int32)),
        (":indices", torch.tensor([-1, 0], dtype=torch.int32)),
        (":values", torch.zeros(3)),
        (":shape", torch.tensor([1, 1])),
        (":shape", torch.tensor([-4, -4])),
        (":values", None),
        (":indices", None),
        (":shape", None),
    ],
)
def test_damaged_indices_are_one_line(
    pocket: StableDiffusion, tmp_path: Path, name: str, new: torch.Tensor | None
) -> None:
    masked(pocket, 0.01).save(tmp_path)
    file = tmp_path / "edit.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as reader:
        told = reader.metadata()
    first = min(key for key in tensors if key.endswith(":indices")).removesuffix(":indices")
    short = {
        ":indices": torch.tensor([0, 2], dtype=torch.int32),
        ":values": torch.ones(2),
        ":shape": torch.tensor([4, 4]),
    }
    tensors |= {first + end: tensor for end, tensor in short.items()}
    if new is None:
        del tensors[first + name]
    else:
        tensors[first + name] = new
    save_file(tensors, file, told)
    record = read_record(tmp_path / "edit.json", dict[str, object])
    write_json(tmp_path / "edit.json", {**record, "digest": file_digest(file)})
    with pytest.raises(EditError) as refused:
        Edit.load(tmp_path)
    assert "\n" not in str(refused.value)
