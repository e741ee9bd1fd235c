"""bench.py: every row on a miniature, the table, the published shapes, and what it refuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import bench
import bench_models
import bench_rows
from bench_rows import ROWS, Measured, Row

from erasure.errors import SettingError
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import Sampling


@pytest.fixture
def small(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature stands for every family, in this process, with few images and short paths."""
    whole = bench_rows.settings_of

    def shortened(asked: Row, model: object) -> object:
        full, short = whole(asked, model), {"sampling_steps": 20, "attack_steps": 3, "depth": 1}
        return replace(full, **{key: n for key, n in short.items() if hasattr(full, key)})

    monkeypatch.setattr(bench_rows, "settings_of", shortened)
    monkeypatch.setattr(bench_rows, "sampling_of", lambda *_: Sampling(2, 2.0, "DDIMScheduler"))
    monkeypatch.setattr(bench_models, "build", lambda *_: load_model(str(sd1)))
    monkeypatch.setattr(bench_rows, "IMAGES", 2)
    monkeypatch.setattr(bench_rows, "MANY", 3)


def row(method: str) -> Row:
    return Row("sd14", method, "cpu", None, 1, "cpu")


QUICK = ("esd", "uce", "advunlearn", "generate")  # the others are measured alike


@pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in ROWS]
)
@pytest.mark.usefixtures("small")
def test_each_side_of_a_row_is_measured(method: str) -> None:
    sides = bench.sides(row(method))
    found = {side: bench_rows.measure(row(method), side) for side in sides}
    assert all(measured.seconds > 0 for measured in found.values())
    assert (found["toolkit"].flops or 0) > 0 or method not in bench_rows.TRAINED
    if method in ("esd", "advunlearn"):
        # these sample paths in every step of the naive way
        assert found["naive"].seconds > 2 * found["toolkit"].seconds
        assert found["toolkit"].setup > 0


@pytest.mark.usefixtures("small")
def test_a_step_is_counted_whole() -> None:
    """ESD's: the trained model forwards and backwards; what the frozen one says is known."""
    model = bench_models.build("sd14", "cpu")
    z_t, t = torch.randn(1, *model.latent_shape), torch.tensor([5])
    with FlopCounterMode(display=False) as once:
        model.predict(z_t, t, model.encode(["a cat"]))
    flops = bench_rows.measure(row("esd"), "toolkit").flops
    assert flops is not None
    assert 1.5 < flops / once.get_total_flops() <= 3.1  # a backward pass is at most two forward


PUBLISHED = {  # millions of weights, as counted in the published files
    "sd14": {"unet": 859.52, "vae": 83.65, "text_encoder": 123.06},
    "sd21": {"unet": 865.91, "vae": 83.65, "text_encoder": 340.39},
    "sdxl": {"unet": 2567.46, "vae": 83.65, "text_encoder": 123.06, "text_encoder_2": 694.66},
    "flux": {
        "transformer": 11901.41,
        "vae": 83.82,
        "text_encoder": 123.06,
        "text_encoder_2": 4762.31,
    },
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_shapes_are_the_published_ones(family: str) -> None:
    parts = bench_models.build(family, "meta").pipeline.components
    for name, millions in PUBLISHED[family].items():
        count = sum(weight.numel() for weight in parts[name].parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.01), name


def test_the_record_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Medians and ratios of known measurements; a side that fails is said in its row."""

    def known(function: object, *given: object, until: None = None) -> object:  # noqa: ARG001
        if function is bench_rows.matrix_rate:
            return 2e12
        asked, side = given
        assert isinstance(asked, Row)
        if asked.method == "sfd" and side == "naive":
            raise bench.ErasureError("out of memory.")
        if side == "toolkit":
            return Measured(0.5, 10**9, setup=5.0, schedule=10, flops=10**11)
        return Measured(2.0, 4 * 10**9, schedule=10)

    monkeypatch.setattr(bench, "in_child", known)
    bench.main(["--device", "cpu", "--method", "esd,sfd,generate", "--out", str(tmp_path / "b")])
    record = json.loads((tmp_path / "b" / "bench.json").read_text())
    esd, sfd, generate = record["rows"]
    assert (esd["faster_than_naive"], esd["memory_of_naive"]) == (4.0, 0.25)
    assert (esd["toolkit"]["whole"], esd["naive"]["whole"]) == (10.0, 20.0)
    assert sfd["error"] == "naive: out of memory."
    assert generate["faster_than_batched"] == 4.0
    text = (tmp_path / "b" / "bench.md").read_text()
    assert text in capsys.readouterr().out
    cells = "| pocket | esd | 0.500 | 2.000 | 4.00 | 1.00 | 4.00 | 0.25 | 10 s | 20 s | 10% |"
    assert cells in text
    assert "2.00 images/s, 4.00 times a plain loop's" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "sd3"], "family must be among pocket, sd14, sd21, sdxl, flux; got 'sd3'."),
        (["--family", "flux", "--method", "uce"], "method must be among esd, gs-lora for flux"),
        (["--method", "esd,lora"], "method must be among .*; got 'lora'."),
        (["--device", "tpu"], "device must be cpu or cuda; got 'tpu'."),
        (["--device", "cuda"], "device is cuda, but torch sees no GPU; use --device cpu."),
        (["--repeats", "0"], "repeats must be at least 1; got 0."),
        (["--steps", "x"], "argument --steps: invalid int value: 'x'."),
        (["--resolution", "128"], "resolution must be 64 for pocket; got 128."),
        (["--family", "sd14", "--resolution", "500"], "must be a multiple of 64; got 500."),
        (["--clock", "sun"], "clock must be among wall, cpu; got 'sun'."),
        (["--out", __file__], "out must be a folder; .* is a file."),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        bench.parsed(arguments)
