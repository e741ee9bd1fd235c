"""SCRUB, bad teacher and UNSIR: schedules and losses in float64, and what each looks at."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import image_folder, timm_folder
from torch import Tensor

from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.forgetting import Data
from erasure.methods.classifier.bad_teacher import BadTeacher, divergence, ignorant
from erasure.methods.classifier.scrub import SCRUB, passes, softened_divergence
from erasure.methods.classifier.unsir import UNSIR, noise_loss
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.requested import Request, load_parts
from erasure.training.run import Run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    return tmp_path


def request_of(place: Path, model: Classifier) -> Request:
    train, _ = load_parts(model, Data(source=str(place / "images"), images=4))
    return Request(0, [0], [], [1, 2, 3], train.of([0]), train.of([1, 2, 3]))


def run_in(folder: Path) -> Run:
    folder.mkdir()  # for its log
    return Run(folder)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_scrub_begins_and_ends_by_keeping() -> None:
    turns = passes(2, 3, 1, 2)
    assert [number for is_forgetting, number in turns if is_forgetting] == [0, 1]
    assert [is_forgetting for is_forgetting, _ in turns] == [False] * 3 + [True] * 2 + [False] * 6
    assert [number for is_forgetting, number in turns if not is_forgetting] == list(range(9))
    with pytest.raises(SettingError, match="forget_epochs must be at most epochs"):
        SCRUB(epochs=1, forget_epochs=2)


def test_one_round_of_scrub_parts_the_student_from_its_teacher(place: Path) -> None:
    """As the model is, the divergence has no slope: one must have learned before it forgets."""
    model = load_classifier(str(place / "model"))
    request, run = request_of(place, model), run_in(place / "run")
    SCRUB(epochs=1, forget_epochs=1, learning_rate=0.02, batch_size=4, forget_batch_size=4).forget(
        model, request, run
    )
    log = [line for line in read_lines(run.folder / "log.jsonl") if "forget" in line]
    assert [line["forget"] < -1e-6 for line in log] == [True]


def test_divergences_against_float64() -> None:
    one, other = draw(3, 5), draw(3, 5).flip(1) * 2
    p, q = ((x.double() / 4).softmax(1) for x in (one, other))
    want = 16 * float((p * (p / q).log()).sum(1).mean())
    assert float(softened_divergence(one, other, 4.0)) == pytest.approx(want, rel=1e-4)
    p, q = one.double().softmax(1), other.double().softmax(1)
    want = float((p * (p / q).log()).sum(1).mean())
    assert float(divergence(one.softmax(1), other)) == pytest.approx(want, rel=1e-4)


def test_noise_loss_against_float64() -> None:
    logits, noise, classes = draw(3, 5), draw(3, 2, 4, 4), torch.tensor([0, 4, 1])
    picked = logits.double().log_softmax(1)[range(3), classes]
    want = float(picked.mean() + 0.1 * noise.double().square().sum() / 3)
    assert float(noise_loss(logits, classes, noise, 0.1)) == pytest.approx(want, rel=1e-5)


def test_the_bad_teacher_knows_nothing(place: Path) -> None:
    model = load_classifier(str(place / "model"))
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    one, same = (ignorant(model, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.predict(images), same.predict(images))
    assert not torch.equal(one.predict(images), model.predict(images))
    assert not model.originals  # the model itself is as it was


def test_the_student_is_taught_by_both(place: Path) -> None:
    """With many steps it says of red what the bad teacher says, of the rest what it said."""
    model = load_classifier(str(place / "model"))
    with torch.no_grad():
        model.parameters()["head.weight"].mul_(20)  # sure of something, as no bad teacher is
    request, run = request_of(place, model), run_in(place / "run")
    bad = ignorant(model, run.generator_for("request 0 bad teacher"))
    parts = request.forget.images, request.retain.images
    wanted = bad.predict(parts[0]), model.predict(parts[1])
    far = apart(wanted[0], model.predict(parts[0]))
    BadTeacher(epochs=80, learning_rate=3e-3, batch_size=16, retain_share=1.0).forget(
        model, request, run
    )
    assert apart(wanted[0], model.predict(parts[0])) < 0.3 * far
    assert apart(wanted[1], model.predict(parts[1])) < 0.3 * far


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().sum(1).mean())


def test_unsir_looks_at_no_image_to_forget(place: Path) -> None:
    found = []
    for shift in (0, 90):
        model = load_classifier(str(place / "model"))
        request = request_of(place, model)
        forget = replace(request.forget, images=request.forget.images + shift)
        UNSIR(noise_images=4, noise_steps=2, batch_size=8, impair_rate=1e-3).forget(
            model, replace(request, forget=forget), run_in(place / str(shift))
        )
        found.append(model.parameters()["head.weight"].detach().clone())
    assert torch.equal(*found)


def test_noise_is_what_the_model_takes_least_for_the_class(place: Path) -> None:
    model = load_classifier(str(place / "model"))
    with torch.no_grad():
        model.parameters()["head.weight"].mul_(20)
    request, run = request_of(place, model), Run(place / "run")
    made, start = (
        UNSIR(noise_images=8, noise_steps=steps, noise_penalty=0.0)._noise(model, request, run)
        for steps in (20, 1)
    )
    assert made[1].tolist() == [0] * 8
    share = [model.forward(noise)[1].softmax(1)[:, 0].mean() for noise, _ in (made, start)]
    assert share[0] < 0.7 * share[1]
