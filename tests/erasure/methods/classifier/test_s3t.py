"""S3T: what is deleted might as well never have been there."""

import shutil
from pathlib import Path
from statistics import mean

import pytest
import torch
from networks import image_folder, timm_folder

from erasure.errors import RunError, SettingError
from erasure.files.records import read_record
from erasure.forgetting import Data, Forgotten, forget
from erasure.methods.classifier.s3t import S3T
from erasure.methods.shared import learned_slices
from erasure.methods.shared.learned_slices import Learned, SlicesShape, serve
from erasure.methods.shared.slices import Slicing, stages
from erasure.models.classifier.load import load_classifier
from evaluation.evaluating import evaluate

SETTINGS = {"shards": 2, "slices": 2, "orders": 2, "epochs": 1, "batch_size": 8, "rank": 2,
            "learning_rate": 0.01, "augment": True}  # fmt: skip
CUT = Slicing(2, 2, 2, seed=0)
IDS = sorted(f"train/{colour}/{n}.png" for colour in ("red", "green", "blue", "grey")
             for n in range(6))  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    timm_folder(tmp_path / "model")
    for part, count in (("train", 6), ("test", 1)):
        image_folder(tmp_path / "images" / part, per_class=count)
    return tmp_path


def run_one(place: Path, out: str, samples: list[str], **changes: object) -> Forgotten:
    source = str(place / changes.pop("images", "images"))  # type: ignore[arg-type]
    settings = {**SETTINGS, **changes}
    return forget(
        str(place / "model"), "s3t", samples=samples, out=place / out, watch_every=0,
        data=Data(source=source, images=20, test_images=1), **settings,  # type: ignore[arg-type]
    )  # fmt: skip


def inside(shard: int, own: int) -> list[str]:
    """The images of a slice."""
    return [sample for sample in IDS if CUT.place(sample) == (shard, own)]


def test_the_deleted_might_never_have_been_there(place: Path) -> None:
    """Bit for bit: learned and deleted, against never given; other images of the slices go too."""
    gone, beside, first = *inside(0, 1)[:2], inside(1, 0)[0]
    before = run_one(place, "learned", [first])
    after = run_one(place, "deleted", [first, gone, beside], trained=str(place / "learned"))
    shutil.copytree(place / "images", place / "less")
    (place / "less" / gone).unlink()
    never = run_one(place, "never", [first, beside], images="less").model.tensors()
    for name, tensor in after.model.tensors().items():
        assert torch.equal(tensor, never[name]), name
    moved = [n for n, t in before.model.tensors().items() if not torch.equal(t, never[n])]
    assert {"head.weight", "blocks.0.attn.qkv.weight"} <= set(moved)


def test_nothing_that_saw_them_is_kept(place: Path) -> None:
    run_one(place, "one", [inside(0, 1)[0]])
    assert names(place / "one") == ["0 slices 0", "1 slices 0", "1 slices 0-1", "1 slices 1",
                                    "1 slices 1-0"]  # fmt: skip
    two = [inside(0, 1)[0], inside(1, 0)[0]]
    run_one(place, "two", two, trained=str(place / "one"))
    assert names(place / "two") == ["0 slices 0", "1 slices 1"]
    record = read_record(place / "two" / "slices" / "slices.json", SlicesShape)
    assert record["deleted"] == sorted(two)
    three = [*two, inside(0, 0)[0], inside(1, 1)[0]]
    with pytest.raises(SettingError, match=r"nothing that was trained would be left.*4 deleted"):
        run_one(place, "three", three, trained=str(place / "two"))
    assert not (place / "three").exists()


def test_what_was_deleted_before_is_not_kept(place: Path) -> None:
    """A later run is judged, also beside a retrained model, by all that it is without."""
    one, two, three = inside(0, 1)[:3]
    run_one(place, "one", [one])
    with pytest.raises(SettingError, match=rf"those that .*one.slices is without; add {one!r}"):
        run_one(place, "two", [two], trained=str(place / "one"))
    assert not (place / "two").exists()
    run_one(place, "two", [one, two], trained=str(place / "one"))
    data = Data(source=str(place / "images"), images=20, test_images=1)
    forget(
        str(place / "model"), "retrain", samples=[one, two], out=place / "retrained", data=data,
        watch_every=0, steps=1, batch_size=8,
    )  # fmt: skip
    scores = evaluate(place / "two", reference=place / "retrained")["scores"]
    assert (scores["Acc_f"]["n"], scores["Acc_r"]["n"]) == (2, 22)
    with pytest.raises(SettingError, match=r"is without; add .* and 1 more"):
        run_one(place, "three", [three], trained=str(place / "two"))


def test_what_was_deleted_before_may_have_left_the_data(place: Path) -> None:
    one, two = inside(0, 1)[:2]
    run_one(place, "one", [one])
    (place / "images" / one).unlink()
    run_one(place, "two", [two], trained=str(place / "one"))
    record = read_record(place / "two" / "slices" / "slices.json", SlicesShape)
    assert record["deleted"] == sorted([one, two])


def names(run: Path) -> list[str]:
    files = (run / "slices").glob("*.safetensors")
    return sorted(file.stem.removeprefix("shard ") for file in files)


def test_interrupted_and_resumed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_one(place, "whole", [inside(0, 1)[0]]).edit.tensors
    add, count = Learned.add, 0

    def stop(*given, **named) -> None:
        nonlocal count
        count += 1
        add(*given, **named)
        if count == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(learned_slices.Learned, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        run_one(place, "cut", [inside(0, 1)[0]])
    assert len(names(place / "cut")) == 3
    again = run_one(place, "cut", [inside(0, 1)[0]]).edit.tensors
    assert again.keys() == whole.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"orders": 3}, SettingError, r"S3T\.orders must be at most slices \(2\).* got 3"),
        ({"slices": 3, "orders": 1}, SettingError, r"S3T\.slices must be at most 2, the blocks"),
        ({"trained": "model"}, SettingError, r"S3T\.trained must be a finished run of s3t"),
        ({"rank": 3, "trained": "one"}, RunError, r"learned with rank 2; got 3\. Give the same"),
    ],
)
def test_what_cannot_be(changes: dict, error: type, message: str, place: Path) -> None:
    if changes.get("trained") == "one":
        run_one(place, "one", [IDS[0]])
    changes |= {"trained": str(place / changes["trained"])} if "trained" in changes else {}
    with pytest.raises(error, match=message):
        run_one(place, "run", [IDS[0]], **changes)
    assert not (place / "run").exists()


def test_a_class_is_refused(place: Path) -> None:
    data = Data(source=str(place / "images"), images=20, test_images=1)
    with pytest.raises(SettingError, match="deletes single images, no classes"):
        forget(
            str(place / "model"), "s3t", [["red", "green"]], out=place / "run", data=data,
            **SETTINGS,  # type: ignore[arg-type]
        )  # fmt: skip
    assert not (place / "run").exists()


def test_an_unknown_image(place: Path) -> None:
    run_one(place, "one", [IDS[0]])
    file = place / "images" / "train" / "red" / "0.png"
    file.rename(file.with_name("new.png"))
    with pytest.raises(SettingError, match=r"images that .* learned; got 'train/red/new.png'"):
        run_one(place, "run", ["train/red/new.png"], trained=str(place / "one"))


def test_shards_are_averaged(place: Path) -> None:
    model = load_classifier(str(place / "model"))
    name, head = "blocks.0.attn.qkv", "head.bias"
    base = {n: model.parameters()[n].detach().clone() for n in (f"{name}.weight", head)}
    model.remember(list(base))
    torch.manual_seed(0)

    def stage() -> dict[str, torch.Tensor]:
        return {f"{name}.lora_A.weight": torch.randn(2, 32),
                f"{name}.lora_B.weight": torch.randn(96, 2), head: torch.randn(4)}  # fmt: skip

    one, two, three = stage(), stage(), stage()
    serve(model, 0.5, [[one, two], [], [three]])
    products = [
        s[f"{name}.lora_B.weight"].double() @ s[f"{name}.lora_A.weight"].double()
        for s in (one, two, three)
    ]
    want = base[f"{name}.weight"] + 0.5 * sum(products) / 2
    assert torch.allclose(model.parameters()[f"{name}.weight"].double(), want, atol=1e-5)
    assert torch.allclose(model.parameters()[head], (two[head] + three[head]) / 2, atol=1e-6)
    serve(model, 0.5, [[], [], []])
    assert all(torch.equal(model.parameters()[n], tensor) for n, tensor in base.items())


# of an independent simulation, uniform deletions with replacement; mL H(mB) in closed form
@pytest.mark.parametrize(
    ("shards", "slices", "orders", "survived"),
    [(5, 6, 1, 67.7), (5, 6, 2, 88.1), (2, 3, 1, 9.1), (2, 3, 3, 14.8)],
)
def test_deletions_survived(shards: int, slices: int, orders: int, survived: float) -> None:
    cut = Slicing(shards, slices, orders, seed=0)
    dice = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(200):
        dead: set[tuple[int, int]] = set()
        deletions = 0
        while any(cut.served(dead)):
            place = int(torch.randint(shards * slices, (), generator=dice))
            dead.add(divmod(place, slices))
            deletions += 1
        counts.append(deletions)
    assert mean(counts) == pytest.approx(survived, rel=0.1)


def test_orders_and_their_stages() -> None:
    cut = Slicing(1, 4, 2, seed=0)
    assert cut.sequences() == [(0, 1, 2, 3), (2, 3, 0, 1)]
    assert cut.left({(0, 1)}) == [[(0,), (2, 3, 0)]]
    assert cut.served({(0, 1)}) == [(2, 3, 0)]
    assert stages([(0,), (2, 3, 0)]) == [(0,), (2,), (2, 3), (2, 3, 0)]
    places = [cut.place(f"image {n}") for n in range(400)]
    assert all(70 < places.count((0, own)) < 130 for own in range(4))
    assert S3T().orders == 4
