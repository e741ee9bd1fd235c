from pathlib import Path

import pytest
import torch

from classifiers.predict import load_classifier
from classifiers.train import new_vit, save_classifier, train_classifier
from erasure.errors import ModelError, SettingError
from erasure.models.diffusion.load import POCKET
from erasure_datasets.canvas import OBJECTS, STYLES, PocketCanvas


@pytest.mark.parametrize(
    ("folder", "labels", "place"), [("vit", OBJECTS, 1), ("style-judge", STYLES, 2)]
)
def test_judges_are_right_on_held_out_renders(
    folder: str, labels: tuple[str, ...], place: int
) -> None:
    judge, canvas = load_classifier(POCKET / folder), PocketCanvas("test", per_pair=6)
    assert judge.labels == labels
    items = [canvas[i] for i in range(4 * 256, 6 * 256)]  # indices that training never looked at
    images, truth = (
        torch.stack([item[0] for item in items]),
        torch.tensor([item[place] for item in items]),
    )
    assert (judge.predict(images) == truth).float().mean() >= 0.99


def test_images_of_another_size_are_scaled() -> None:
    judge = load_classifier(POCKET / "vit")
    assert judge.logits(torch.zeros(2, 3, 128, 128, dtype=torch.uint8)).shape == (2, 16)


def test_train_save_and_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    labels = torch.arange(64) % 2
    images[labels == 1] = 200
    model = new_vit(2, size=16, width=16, depth=1)
    losses = train_classifier(model, images, labels, steps=150, batch_size=16, learning_rate=3e-3)
    assert losses[-1] < 0.1 < losses[0]
    arguments = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 4}
    save_classifier(
        model,
        tmp_path / "judge",
        architecture="vit_tiny_patch16_224",
        labels=["dark", "light"],
        size=16,
        model_args=arguments,
    )
    judge = load_classifier(tmp_path / "judge")
    assert judge.predict(images[:4]).tolist() == [0, 1, 0, 1]
    with pytest.raises(SettingError, match="one per image"):
        train_classifier(model, images, labels[:3], steps=1)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_classifier(tmp_path)
