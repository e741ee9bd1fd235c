import os
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from classifiers.train import save_classifier
from classifiers.unlearncanvas import LABELS, Judges, load_judge
from erasure.errors import ModelError, SettingError
from erasure_datasets.unlearncanvas import OBJECTS, THEMES

SMALL = "test_vit"  # timm's own miniature, 160 px


def network(labels: int) -> torch.nn.Module:
    torch.manual_seed(labels)
    return timm.create_model(SMALL, num_classes=labels).eval()


def write(place: Path, labels: int) -> torch.nn.Module:
    """A checkpoint as the benchmark saves it."""
    made = network(labels)
    torch.save({"model_state_dict": made.state_dict(), "epoch": 3, "acc": 0.9}, place)
    return made


def test_every_form_of_a_judge_says_the_same(tmp_path: Path) -> None:
    """Also as the benchmark's script: PIL's bilinear scaling, then (x - 0.5) / 0.5."""
    file = tmp_path / "style50.pth"
    made = write(file, 51)
    save_file(made.state_dict(), tmp_path / "style50.safetensors")
    save_classifier(
        made, tmp_path / "folder", architecture=SMALL, labels=list(THEMES), size=160, model_args={}
    )
    pixels = torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8)
    places = (file, tmp_path / "style50.safetensors", tmp_path / "folder")
    judges = [load_judge(place, "style", architecture=SMALL) for place in places]
    seen = torch.cat([judge.logits(pixels[None]) for judge in judges])
    script = transforms.Compose([
        transforms.Resize((160, 160)), transforms.ToTensor(), transforms.Normalize([0.5], [0.5]),
    ])  # fmt: skip
    with torch.no_grad():
        theirs = made(script(Image.fromarray(pixels.permute(1, 2, 0).numpy()))[None])
    # the same numbers, but a mapped file's lie at other addresses, which changes the last bits
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    assert torch.allclose(seen[0], seen[2], atol=1e-5)
    # PIL rounds the scaled picture to whole levels, 1/255 of the range
    assert (seen[0] - theirs[0]).abs().max() < 0.02 * theirs.abs().max()
    assert judges[0].labels == THEMES


def test_an_official_checkpoint_is_a_vit_l(tmp_path: Path) -> None:
    """Its shapes in full; the values are one number each, so that the file is small."""
    with torch.device("meta"):
        shapes = timm.create_model("vit_large_patch16_224", num_classes=20).state_dict()
    tensors = {name: torch.zeros(1).expand(value.shape) for name, value in shapes.items()}
    torch.save({"model_state_dict": tensors}, tmp_path / "style50_cls.pth")
    judge = load_judge(tmp_path / "style50_cls.pth", "object")
    assert (judge.size, judge.mean, judge.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert (len(judge.model.blocks), judge.model.head.weight.shape) == (24, (20, 1024))  # type: ignore[arg-type, union-attr]
    assert sum(p.numel() for p in judge.model.parameters()) == 303_322_132


class Code:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    file, made = tmp_path / "style50.pth", network(51)
    torch.save({"model_state_dict": made.state_dict(), "more": Code(tmp_path / "ran")}, file)
    with pytest.raises(ModelError, match=r"was not loaded: .* can run code"):
        load_judge(file, "style", architecture=SMALL)
    assert not (tmp_path / "ran").exists()


def test_judges_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "judge.pth"
    write(file, 20)
    with pytest.raises(ModelError, match=r"needs a head of 51 labels; .*judge\.pth has one of 20"):
        load_judge(file, "style", architecture=SMALL)
    with pytest.raises(ModelError, match="does not fit vit_tiny_patch16_224"):
        load_judge(file, "object", architecture="vit_tiny_patch16_224")
    with pytest.raises(ModelError, match="timm has no model 'vit_huge'"):
        load_judge(file, "object", architecture="vit_huge")
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ModelError, match="has no model_state_dict"):
        load_judge(file, "object")
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="was not loaded: it is damaged"):
        load_judge(file, "object")
    with pytest.raises(ModelError, match="there is no file"):
        load_judge(tmp_path / "none.pth", "object")
    save_classifier(
        network(20), tmp_path / "sorted", architecture=SMALL, labels=sorted(OBJECTS, reverse=True),
        size=160, model_args={},
    )  # fmt: skip
    with pytest.raises(ModelError, match="does not have the object judge's 20 labels"):
        load_judge(tmp_path / "sorted", "object")


def test_both_judges_and_their_stamp(tmp_path: Path) -> None:
    for kind, labels in LABELS.items():
        write(tmp_path / f"{kind}.pth", len(labels))
    places = [str(tmp_path / f"{kind}.pth") for kind in LABELS]
    judges = Judges.load(*places, architecture=SMALL)
    assert set(judges.stamp) == {"architecture", "style", "object"}
    assert judges.stamp["style"].startswith("style.pth sha256:")
    objects, themes = zip(*judges.see(torch.zeros(3, 3, 16, 16, dtype=torch.uint8)), strict=True)
    assert (len(objects), max(objects) < 20, max(themes) < 51) == (3, True, True)
    with pytest.raises(SettingError, match="judge_object must name"):
        Judges.load(places[0], "", architecture=SMALL)
