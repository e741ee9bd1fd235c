import pytest
import torch

from erasure.models.classifier.load import load_classifier
from erasure_datasets.canvas import OBJECTS, STYLES, PocketCanvas


@pytest.mark.parametrize(
    ("name", "labels", "place"), [("pocket-vit", OBJECTS, 1), ("pocket-style-vit", STYLES, 2)]
)
def test_judges_are_right_on_held_out_renders(
    name: str, labels: tuple[str, ...], place: int
) -> None:
    judge, canvas = load_classifier(name), PocketCanvas("test", per_pair=6)
    assert judge.labels == labels
    items = [canvas[i] for i in range(4 * 256, 6 * 256)]  # indices that training never looked at
    images, truth = (
        torch.stack([item[0] for item in items]),
        torch.tensor([item[place] for item in items]),
    )
    assert (judge.predict(judge.cut(images)).argmax(1) == truth).float().mean() >= 0.99


def test_images_of_another_size_are_scaled() -> None:
    judge = load_classifier("pocket-vit")
    images = judge.cut(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))
    assert judge.predict(images).shape == (2, 16)
