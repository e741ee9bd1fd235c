"""The page of methods and families says what the code and the results say now."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import families_table


def test_the_page_is_what_its_script_writes() -> None:
    """Else: python scripts/families_table.py. What ran on a card is no part of a checkout."""
    written = families_table.PAGE.read_text().replace(", run at real size", "")
    assert written == families_table.page([])
