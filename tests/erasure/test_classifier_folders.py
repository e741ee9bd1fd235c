"""Foreign classifier folders: nothing in them runs or fetches, and every weight is the file's."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from networks import LABELS, timm_folder, torchvision_folder, transformers_folder
from safetensors.torch import load_file, save_file

from erasure.commandline.main import main
from erasure.errors import ModelError
from erasure.exports.writing.saving import save_classifier
from erasure.models.classifier.blocks import groups
from erasure.models.classifier.load import load_classifier

BEYOND = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 4,
          "intermediate_size": 64, "image_size": 32, "patch_size": 8,
          "id2label": dict(enumerate(LABELS))}  # fmt: skip


def change(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    record = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))
    return folder


class Code:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """A local server's address, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_config_neither_runs_nor_fetches(tmp_path: Path, address) -> None:
    def opened(folder: Path) -> None:
        load_classifier(str(folder))

    url, asked = address
    torch.save({"a": Code(tmp_path / "ran")}, tmp_path / "evil.pth")
    folder, evil = timm_folder(tmp_path / "model"), str(tmp_path / "evil.pth")
    own = json.loads((folder / "config.json").read_text())["model_args"]
    for added in (
        {"checkpoint_path": evil},
        {"pretrained": True, "pretrained_cfg": {"file": evil}},
        {"pretrained": True, "pretrained_cfg": {"url": f"{url}/x"}},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"url": f"{url}/x"}},
        {"cache_dir": str(tmp_path)},
        {"features_only": True},
        {"scriptable": True},
        {"embed_layer": f"{url}/x"},
        {"act_layer": {"url": url}},
        {"weights": "DEFAULT"},
    ):
        with pytest.raises(ModelError, match="model_args"):
            opened(change(folder, model_args={**own, **added}))
    change(folder, model_args=own)
    for word in (
        f"local-dir:{tmp_path}", "hf-hub:owner/name", "owner/name", f"{url}/x", "..\\x",
        "torchvision:get_model", "torchvision:vision_transformer", "torchvision:os",
        "torchvision:quantization", "torchvision:fcos_resnet50_fpn", "torchvision:", "",
    ):  # fmt: skip
        with pytest.raises(ModelError, match=r"architecture must be|has no (model|classifier)"):
            opened(change(folder, architecture=word))
    with pytest.raises(ModelError, match="'weights'"):
        opened(change(torchvision_folder(tmp_path / "tv"), model_args={"weights": "DEFAULT"}))
    assert asked == []
    assert not (tmp_path / "ran").exists()


def test_transformers_folders_bring_no_code(tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path / "model")
    kept = (folder / "config.json").read_text()
    for added in (
        {"auto_map": {"AutoModelForImageClassification": "evil.Model"}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"attn_implementation": "owner/kernel"},
    ):
        with pytest.raises(ModelError, match="may not hold"):
            load_classifier(str(change(folder, **added)))
        (folder / "config.json").write_text(kept)
    with pytest.raises(ModelError, match="model_type must be vit, deit"):
        load_classifier(str(change(folder, model_type="timm_wrapper", architecture="hf-hub:a/b")))
    (folder / "config.json").write_text(kept)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')
    with pytest.raises(ModelError, match="holds an adapter"):
        load_classifier(str(folder))


@pytest.mark.parametrize(
    "kind",
    ["ViT", "DeiT", "DeiTWithTeacher", "Beit", "Data2VecVision", "Dinov2", "ViTMSN", "IJepa"],
)
def test_every_transformer_opens_as_itself(kind: str, tmp_path: Path) -> None:
    stem, _, teacher = kind.partition("With")
    config = getattr(transformers, f"{stem}Config")(**BEYOND)
    name = f"{stem}ForImageClassification{f'With{teacher}' if teacher else ''}"
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path / "model")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "model"
    )
    ours = load_classifier(str(tmp_path / "model"))
    assert ours.labels == LABELS
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours.forward(x)[1], theirs(x).logits)
    assert [len(group) for group in groups(ours)] == [2, 2]
    save_classifier(ours, tmp_path / "out")
    assert torch.equal(load_classifier(str(tmp_path / "out")).forward(x)[1], ours.forward(x)[1])


def test_weights_that_the_file_lacks_are_not_made_up(tmp_path: Path) -> None:
    headless = transformers.ViTModel(transformers.ViTConfig(**BEYOND))
    headless.save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"must hold a ViTForImage.*; it holds a ViTModel"):
        load_classifier(str(tmp_path / "headless"))
    change(tmp_path / "headless", architectures=...)  # without the word that gives it away
    with pytest.raises(ModelError, match=r"weights lack classifier\.bias"):
        load_classifier(str(tmp_path / "headless"))
    deit = transformers.DeiTForImageClassification(transformers.DeiTConfig(**BEYOND))
    deit.save_pretrained(tmp_path / "deit")
    with pytest.raises(ModelError, match=r"weights (lack|hold)"):
        load_classifier(str(change(tmp_path / "deit", model_type="vit", architectures=...)))
    folder = transformers_folder(tmp_path / "vit")
    whole = load_file(folder / "model.safetensors")
    name = next(n for n in whole if "mlp" in n or "intermediate" in n)
    for made, message in (
        ({n: t for n, t in whole.items() if n != name}, "weights lack vit"),
        ({**whole, "vit.more.weight": torch.zeros(3)}, "weights hold .* vit.more.weight"),
        ({**whole, name: torch.zeros(3)}, "could not load .*/vit: .*mismatched_sizes"),
        ({**whole, name: torch.full_like(whole[name], torch.nan)}, "values that are not finite"),
    ):
        save_file(made, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=message):
            load_classifier(str(folder))


@pytest.mark.parametrize("make", [timm_folder, torchvision_folder])
def test_weights_of_timm_and_torchvision_are_whole(make, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    whole = load_file(folder / "model.safetensors")
    name = next(n for n in whole if n.endswith("weight"))
    for made, message in (
        ({n: t for n, t in whole.items() if n != name}, f"Missing key.*{name}"),
        ({**whole, "more.weight": torch.zeros(3)}, "Unexpected key.*more"),
        ({**whole, name: torch.zeros(3)}, "size mismatch"),
        ({**whole, name: torch.full_like(whole[name], torch.inf)}, "not finite"),
        ({**whole, name: torch.zeros_like(whole[name], dtype=torch.int64)}, "float numbers"),
    ):
        save_file(made, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=message):
            load_classifier(str(folder))


def test_folders_as_timm_itself_saves_them(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=4, **sizes).eval()
    timm.models.save_for_hf(
        theirs, str(tmp_path / "new"), model_config={"label_names": list(LABELS)},
        model_args=sizes, safe_serialization=True,  # timm 1.0.26 does not note them by itself
    )  # fmt: skip
    ours = load_classifier(str(tmp_path / "new"))
    assert ours.labels == LABELS
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.forward(x)[1], theirs(x))
    record = json.loads((tmp_path / "new" / "config.json").read_text())
    older = {**record["pretrained_cfg"], "architecture": record["architecture"],
             "num_classes": 4, "model_args": record["model_args"]}  # fmt: skip
    cfg = {**record["pretrained_cfg"], "num_classes": 4}  # older timm leaves the architecture's
    inside = {**record, "num_classes": ..., "label_names": ..., "pretrained_cfg": cfg}
    inside["model_args"] = {k: v for k, v in record["model_args"].items() if k != "num_classes"}
    for layout in (older, inside):
        file = tmp_path / "new" / "config.json"
        file.write_text(json.dumps({k: v for k, v in layout.items() if v is not ...}))
        again = load_classifier(str(tmp_path / "new"))
        assert again.labels == ("0", "1", "2", "3")
        assert again.transform == ours.transform
    timm.models.save_for_hf(theirs, str(tmp_path / "bin"))
    with pytest.raises(ModelError, match=r"weights as pytorch_model\.bin alone"):
        load_classifier(str(tmp_path / "bin"))


CFG = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": ...}, "must say num_classes"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 7}, "label_names must be one per class; got 4 for 7"),
        ({"num_classes": "four"}, "not readable"),
        ({"num_classes": 5, "model_args": {"num_classes": 4}}, "num_classes 5 and, in model_args"),
        ({"label_names": ["a", "b"]}, "must be one per class; got 2 for 4"),
        ({"label_names": {"0": "a", "9": "b"}}, "numbered from 0 to 3; got 9"),
        ({"label_names": {"cat": "a"}}, "numbered from 0 to 3; got cat"),
        ({"label_names": {"cat": 0}}, "not readable"),
        ({"label_names": [1, 2, 3, 4]}, "not readable"),
        ({"pretrained_cfg": False}, "not readable"),
        ({"pretrained_cfg": {**CFG, "std": [0.5, -1, 0.5]}}, "std must be three numbers above 0"),
        ({"pretrained_cfg": {**CFG, "std": [0.5]}}, "std must be three numbers"),
        ({"pretrained_cfg": {**CFG, "mean": "x"}}, "not readable"),
        ({"pretrained_cfg": {**CFG, "crop_pct": -1}}, "crop_pct must be"),
        ({"pretrained_cfg": {**CFG, "crop_mode": "zoom"}}, "crop_mode must be center or squash"),
        ({"pretrained_cfg": {**CFG, "interpolation": "warp"}}, "interpolation must be"),
        ({"pretrained_cfg": {**CFG, "input_size": [3, 32, 16]}}, "only square"),
        ({"pretrained_cfg": {**CFG, "input_size": [1, 32, 32]}}, "1 channels"),
        ({"pretrained_cfg": {**CFG, "input_size": [3, 64, 64]}}, "does not take pictures of 64"),
        ({"pretrained_cfg": {**CFG, "input_size": [32]}}, "not readable"),
        ({"model_args": {"in_chans": 1}}, "1 channels"),
        ({"model_args": {"depth": "deep"}}, "cannot be built"),
        ({"model_args": {"img_size": None}}, "do not fit"),
        ({"model_args": [1]}, "not readable"),
        ({"architecture": None}, "not readable"),
        ({"architecture": "vit_huge"}, "timm has no model 'vit_huge'"),
    ],
)
def test_configs_that_are_merely_wrong(changes: dict, message: str, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "model")
    with pytest.raises(ModelError, match=message) as refused:
        load_classifier(str(change(folder, **changes)))
    assert "\n" not in str(refused.value)


def test_labels_in_a_dict_and_gaps(tmp_path: Path) -> None:
    folder = change(timm_folder(tmp_path / "model"), label_names={"0": "red", "3": "grey"})
    assert load_classifier(str(folder)).labels == ("red", "1", "2", "grey")


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"[" * 9999, b'{"a": "\xe9"}', b'"x"'])
def test_the_command_says_it_in_one_line(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = timm_folder(tmp_path / "model"), tmp_path / "run"
    (folder / "config.json").write_bytes(text)
    words = ["forget", "ssd", "--model", str(folder), "--class", "red", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["erasure", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert "model/config.json is not readable" in told
    assert not out.exists()
