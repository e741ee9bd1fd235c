"""One .safetensors file with local configs opens by diffusers' own loader, to the same model."""

from pathlib import Path

import pytest
import torch
from single_file import write_single_file

from erasure.errors import ModelError
from erasure.models.load import load_model


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_it_is_the_folder_it_was_made_from(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    file = write_single_file(folder, tmp_path / "model.safetensors")
    opened, want = load_model(str(file), config=folder), load_model(str(folder))
    assert type(opened) is type(want)
    assert opened.parameters().keys() == want.parameters().keys()
    for name, parameter in want.parameters().items():
        assert torch.equal(opened.parameters()[name], parameter), name
    image = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(opened.to_latents(image), want.to_latents(image), atol=1e-5)


def test_it_is_erased_and_exported_like_any_other(sd1: Path, tmp_path: Path) -> None:
    from erasure.erasing import erase
    from erasure.exporting import export

    file = write_single_file(sd1, tmp_path / "model.safetensors")
    result = erase(str(file), "uce", ["cat"], out=tmp_path / "run", kind="object", config=sd1)
    again = load_model(str(export(tmp_path / "run", tmp_path / "export")))
    for name, tensor in result.edit.tensors.items():
        assert torch.equal(again.parameters()[name], tensor), name


def test_what_is_wrong_is_named(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="config must name a diffusers folder"):
        load_model(str(tmp_path / "model.safetensors"))
    with pytest.raises(ModelError, match="could not load"):
        load_model(str(tmp_path / "model.safetensors"), config=sd1)
