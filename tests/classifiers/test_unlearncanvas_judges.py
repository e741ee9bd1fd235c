import os
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from classifiers.unlearncanvas import LABELS, Judges, load_judge
from erasure.errors import ModelError, SettingError
from erasure.exports.writing.saving import save_classifier
from erasure.files.storage import file_digest
from erasure.models.classifier.blocks import groups
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.transform import Transform
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


def write_folder(place: Path, made: torch.nn.Module, labels: tuple[str, ...]) -> None:
    """A folder as timm writes it, whose preparation is not the benchmark's."""
    transform = Transform(160, (0.5,) * 3, (0.5,) * 3, crop=0.95)
    save_classifier(
        Classifier(made, name="judge", labels=labels, transform=transform, library="timm"), place
    )


def test_every_form_of_a_judge_says_the_same(tmp_path: Path) -> None:
    """Also as the benchmark's script: PIL's bilinear scaling, then (x - 0.5) / 0.5."""
    file = tmp_path / "style50.pth"
    made = write(file, 51)
    save_file(made.state_dict(), tmp_path / "style50.safetensors")
    write_folder(tmp_path / "folder", made, THEMES)
    pixels = torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8)
    places = (file, tmp_path / "style50.safetensors", tmp_path / "folder")
    judges = [load_judge(place, "style", architecture=SMALL) for place in places]
    seen = torch.cat([judge.predict(judge.cut(pixels[None])) for judge in judges])
    script = transforms.Compose([
        transforms.Resize((160, 160)), transforms.ToTensor(), transforms.Normalize([0.5], [0.5]),
    ])  # fmt: skip
    with torch.no_grad():
        theirs = made(script(Image.fromarray(pixels.permute(1, 2, 0).numpy()))[None]).softmax(1)
    # the same numbers, but a mapped file's lie at other addresses, which changes the last bits
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    assert torch.allclose(seen[0], seen[2], atol=1e-5)
    assert torch.allclose(seen[0], theirs[0], atol=1e-5)
    assert judges[0].labels == THEMES


def test_an_official_checkpoint_is_a_vit_l(tmp_path: Path) -> None:
    """Its shapes in full; the values are one number each, so that the file is small."""
    with torch.device("meta"):
        shapes = timm.create_model("vit_large_patch16_224", num_classes=20).state_dict()
    tensors = {name: torch.zeros(1).expand(value.shape) for name, value in shapes.items()}
    torch.save({"model_state_dict": tensors}, tmp_path / "style50_cls.pth")
    judge = load_judge(tmp_path / "style50_cls.pth", "object")
    assert judge.transform == Transform(224, (0.5,) * 3, (0.5,) * 3, mode="squash")
    assert len(groups(judge)) == 24
    assert judge.parameters()["head.weight"].shape == (20, 1024)
    assert sum(p.numel() for p in judge.parameters().values()) == 303_322_132


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
    write_folder(tmp_path / "sorted", network(20), tuple(sorted(OBJECTS, reverse=True)))
    with pytest.raises(ModelError, match="does not have the object judge's 20 labels"):
        load_judge(tmp_path / "sorted", "object")


def test_both_judges_and_their_stamp(tmp_path: Path) -> None:
    for kind, labels in LABELS.items():
        write(tmp_path / f"{kind}.pth", len(labels))
    places = [str(tmp_path / f"{kind}.pth") for kind in LABELS]
    judges = Judges.load(*places, architecture=SMALL)
    assert set(judges.stamp) == {"architecture", "style", "object"}
    for kind in LABELS:  # what a judge is, and not what its file is called
        digest = file_digest(tmp_path / f"{kind}.pth")
        assert judges.stamp[kind] == f"{kind}.pth sha256:{digest[:16]}"
    objects, themes = zip(*judges.see(torch.zeros(3, 3, 16, 16, dtype=torch.uint8)), strict=True)
    assert (len(objects), max(objects) < 20, max(themes) < 51) == (3, True, True)
    with pytest.raises(SettingError, match="judge_object must name"):
        Judges.load(places[0], "", architecture=SMALL)
