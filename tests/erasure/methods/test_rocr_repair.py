"""ROCR's closed form in float64, and what repair mends."""

from pathlib import Path

import pytest
import torch
from networks import image_folder, timm_folder, transformers_folder
from torch import nn

from erasure.errors import SettingError
from erasure.forgetting import Data, forget
from erasure.methods.classifier.repair import Repair, most_moved
from erasure.methods.classifier.rocr import ROCR, instead, layer_inputs, redirection, token_shares
from erasure.models.classifier.load import load_classifier
from erasure.requested import Request, load_parts
from erasure.training.run import Run


def test_redirection_is_exact_and_least() -> None:
    """K goes to V, and no other edit that does so says less of what is kept."""
    generator = torch.Generator().manual_seed(0)
    weight, keys, values, kept = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((5, 7), (7, 2), (5, 2), (7, 40))
    )
    second = kept @ kept.T / 40 + 1e-3 * torch.eye(7, dtype=torch.float64)
    edit = redirection(weight, keys, values, second)
    assert torch.allclose((weight + edit) @ keys, values, atol=1e-10)
    null = torch.linalg.svd(keys).U[:, 2:]  # directions that no key has
    for _ in range(5):
        other = torch.randn(5, 5, generator=generator, dtype=torch.float64) @ null.T
        assert torch.trace(edit @ second @ other.T).abs() < 1e-9  # so that any other is larger


@pytest.mark.parametrize("make", [timm_folder, transformers_folder])
def test_rocr_sends_keys_to_the_other_value(make, tmp_path: Path) -> None:
    """Of networks whose head reads the class token: no other token counts."""
    make(tmp_path / "model")
    image_folder(tmp_path / "images")
    model = load_classifier(str(tmp_path / "model"))
    train, _ = load_parts(model, Data(source=str(tmp_path / "images"), images=8))
    request = Request(0, [0], [], [1, 2, 3], train.of([0]), train.of([1, 2, 3]))
    other = train.of([instead(model, request)[0]])
    (layer,) = [n[:-7] for n in _changed(model, request, ROCR(push=1.0), tmp_path / "run")]
    shares = token_shares(model, layer, request.forget.images, 8)
    assert shares[0] == pytest.approx(1.0)
    key, theirs = (
        layer_inputs(model, layer, p.images)[:, 0].mean(0) for p in (train.of([0]), other)
    )
    now, before = model.parameters()[f"{layer}.weight"], model.originals[f"{layer}.weight"]
    assert torch.allclose(now @ key, before @ theirs, atol=1e-4)


def test_the_size_of_a_batch_is_of_no_effect(tmp_path: Path) -> None:
    """Of a network that scales each token by its own size, so that the shares vary by image."""
    image_folder(tmp_path / "images")
    timm_folder(tmp_path / "model", global_pool="avg", fc_norm=False)
    data, edits = Data(source=str(tmp_path / "images"), images=8), list[torch.Tensor]()
    for batch_size in (1, 128):
        (edited,) = forget(
            str(tmp_path / "model"), "rocr", [["red", "blue"]], out=tmp_path / f"{batch_size}",
            data=data, watch_every=0, batch_size=batch_size,
        ).edit.tensors.values()  # fmt: skip
        edits.append(edited)
    assert torch.allclose(*edits, atol=1e-6)


def _changed(model, request: Request, method: ROCR, folder: Path) -> list[str]:
    method.forget(model, request, Run(folder))
    return list(model.moved())


def test_most_moved_are_within_the_share() -> None:
    before = {name: torch.zeros(size) for name, size in (("a", 4), ("b", 10), ("c", 2), ("d", 4))}
    now = {
        name: nn.Parameter(before[name] + move)
        for name, move in (("a", 0.3), ("b", 0.2), ("c", -0.5), ("d", 0.0))
    }
    assert most_moved(before, now, 0.3) == ["c", "a"]
    assert most_moved(before, now, 0.01) == ["c"]
    assert most_moved(before, now, 1.0) == ["c", "a", "b"]


def test_repair_changes_the_chosen_alone(tmp_path: Path) -> None:
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    data = Data(source=str(tmp_path / "images"), images=8, test_images=2)
    done = {}
    for method, settings in (
        ("ssd", {"selection": 1.0, "batch_size": 4}),
        ("repair", {"after_settings": "selection=1,batch_size=4", "share": 0.05, "batch_size": 8}),
    ):
        done[method] = forget(
            str(tmp_path / "model"), method, [["red"]], out=tmp_path / method, data=data,
            watch_every=0, **settings,  # type: ignore[arg-type]
        ).model.parameters()  # fmt: skip
    base = load_classifier(str(tmp_path / "model")).parameters()
    chosen = most_moved(dict(base), done["ssd"], 0.05)
    mended = [n for n, w in done["ssd"].items() if not torch.equal(w, done["repair"][n])]
    assert sorted(mended) == sorted(chosen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"after": "repair"}, "Repair.after must be another method; of repair"),
        ({"after": "prune"}, "prune --then repair"),
        ({"after": "sdd"}, "there is no classifier method 'sdd'.*Did you mean ssd"),
        ({"after_settings": "alpha=2"}, "after_settings must be settings of SSD"),
        ({"after_settings": "selection=x"}, "selection must be float; got 'x'"),
        ({"after_settings": "selection=-1"}, "SSD.selection must be above 0"),
    ],
)
def test_what_repair_cannot_follow(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Repair(**settings)
