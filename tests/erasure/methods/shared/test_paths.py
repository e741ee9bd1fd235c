"""What is said of a target that would have no effect."""

import pytest

from erasure.errors import SettingError
from erasure.methods.shared.paths import check_push


@pytest.mark.parametrize("push_from", ["prompt", "concept"])
def test_a_target_without_a_push_is_what_is_drawn_already(push_from: str) -> None:
    with pytest.raises(SettingError, match=rf"^X\.push must be above 0 with push_from {push_from}"):
        check_push("X", 0.0, push_from)  # type: ignore[arg-type]
    check_push("X", 1e-6, push_from)  # type: ignore[arg-type]


def test_an_anchor_needs_no_push() -> None:
    check_push("X", 0.0, "anchor")
