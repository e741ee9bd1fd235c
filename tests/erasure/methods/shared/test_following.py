"""A method that works before or after another one: its settings, by what is known of the model."""

from pathlib import Path

import pytest
from networks import image_folder, timm_folder

from erasure.errors import SettingError
from erasure.forgetting import Data, forget
from erasure.methods.classifier.repair import Repair
from erasure.methods.shared.following import check_following, following

TEXT = "prototype_bound=5"


def test_a_switch_may_be_the_models_own(tmp_path: Path) -> None:
    (tmp_path / "presets.json").write_text('{"gs-lora": {"prototypes": true}}')
    assert following("gs-lora", TEXT, tmp_path, "X.then_settings").prototype_bound == 5
    check_following("gs-lora", TEXT, "X.then_settings")
    with pytest.raises(SettingError, match=r"^GSLoRA\.prototype_bound has no effect without proto"):
        following("gs-lora", TEXT, None, "X.then_settings")


def test_without_it_nothing_is_begun(tmp_path: Path) -> None:
    Repair(after="gs-lora", after_settings=TEXT)
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    with pytest.raises(SettingError, match=r"^GSLoRA\.prototype_bound has no effect without proto"):
        forget(
            str(tmp_path / "model"), "repair", [["red"]], out=tmp_path / "run", watch_every=0,
            data=Data(source=str(tmp_path / "images"), images=8, test_images=2),
            after="gs-lora", after_settings=TEXT,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
