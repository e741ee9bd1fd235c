"""`--quick` gives valid settings of every method and attack, alone and over a model's presets."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from erasure.config import Value, resolve
from erasure.models.built_in import POCKET
from erasure.registry import ATTACKS, METHODS, Registry

OF_DRAWINGS, OF_CLASSES = (METHODS.kinds["diffusion"], ATTACKS), (METHODS.kinds["classifier"],)
ASKED = [
    pytest.param(registry, name, {}, id=f"{registry.noun} {name}")
    for registry in (*OF_DRAWINGS, *OF_CLASSES) for name in registry.names()
] + [
    pytest.param(registry, name, values, id=f"{registry.noun} {name}, {folder.name}")
    for folder, registries in (
        (POCKET, OF_DRAWINGS), (POCKET / "flow", OF_DRAWINGS), (POCKET / "vit", OF_CLASSES),
    )
    for name, values in json.loads((folder / "presets.json").read_text()).items()
    for registry in registries if name in registry.names()
]  # fmt: skip


@pytest.mark.parametrize(("registry", "name", "presets"), ASKED)
def test_quick_values_fit_the_others(
    registry: Registry[Any], name: str, presets: Mapping[str, Value]
) -> None:
    resolve(registry.get(name), given={}, quick=True, presets=presets)
