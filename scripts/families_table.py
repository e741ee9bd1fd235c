"""docs/reference/families.md: each method on each family of models, and how that is known.

    python scripts/families_table.py                       # writes the page
    python scripts/families_table.py --gpu runs/gpu/gpu.json   # with what gpu_check.py ran

Contract-tested is what tests/contract.py does not refuse, and a refusal is what the method itself
says of a miniature. A measured erasure stands on a page of results, which must say so or this ends.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erasure.errors import ErasureError, SettingError
from erasure.files.storage import atomic
from erasure.models.diffusion.components import quiet

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import miniatures  # noqa: E402
from contract import FAMILIES, LEFT_OUT, REFUSED, Case, every_method  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "families.md"
NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL", "sd3": "SD 3, 3.5", "flux": "FLUX.1"}
BENCHED = {"sd14": "sd1", "sd21": "sd2", "sdxl": "sdxl", "flux": "flux"}  # by gpu_check.py


@dataclass(frozen=True)
class Measured:
    """Where figures of a method's erasure stand, and the words that say so there."""

    page: str
    words: str
    model: str = "pocket"  # the family's own that draws


RESULTS = {
    **{
        (method, "sd1"): Measured("docs/results/tables/erasing.md", f"| {method} | object |")
        for method in ("salun", "esd", "uce")
    },
    ("sfd", "sd1"): Measured("docs/results/erasing.md", "erase sfd --model pocket"),
    ("gs-lora", "sd1"): Measured("docs/results/erasing.md", "erase gs-lora --model pocket"),
    ("advunlearn", "sd1"): Measured(
        "docs/results/under-attack.md", "erase advunlearn --model pocket"
    ),
    ("doco", "sd1"): Measured("docs/results/generalisation.md", "| doco |"),
    ("bounded", "sd1"): Measured("docs/results/generalisation.md", "| bounded, flat, 40 steps |"),
    ("adapt-unlearn", "sd1"): Measured("docs/results/adapt-unlearn.md", "| fish | 93.8 |"),
    ("task-vector", "sd1"): Measured("docs/results/neighbours.md", "| task-vector | fish |"),
    ("stereo", "sd1"): Measured("docs/results/neighbours.md", "| stereo | fish |"),
    ("uproot", "sd1"): Measured("docs/results/uproot.md", "erase uproot --model pocket"),
    ("gold", "sd1"): Measured("docs/results/tables/beside-gold.md", "| **gold** |"),
    **{
        (method, "sd3"): Measured(
            "README.md", "UCE, SalUn, ESD measured on `pocket-flow`", "pocket-flow"
        )
        for method in ("salun", "esd", "uce")
    },
}
HEAD = """\
# Methods and families of models

What each method does on each family, and how that is known:

- **contract-tested**: the contract tests (`tests/test_contract.py`) pass on a miniature of random
  weights in the family's shape: the same bits from the same seed, only the selected weights change,
  the original stays at hand, a saved edit is applied and undone, an export opens in plain diffusers
  (and on SD 1.x, a stopped run goes on to the same bits). They say nothing of whether a concept
  goes away.
- **not tested**: it asks the family's network as SalUn does, which is.
- **run at real size**: a step was taken on a card with random weights in the published shape
  (`python scripts/gpu_check.py`).
- **erasure measured**: what is drawn afterwards was judged, on the built-in model of that family
  ([Results](../results/index.md)). No published model was measured.

"""
TAIL = """\
The built-in models are small: `pocket` has the shape of SD 1.x, `pocket-flow` that of SD 3. What a
method changes in the families with a transformer stands on [its own page](../methods/index.md).
AdvUnlearn trains the two CLIP towers of SD 3, beside which T5 stays as it is.

This page is written by `python scripts/families_table.py`.
"""


def page(ran: Sequence[tuple[str, str]]) -> str:
    """All of the page; `ran` are the (method, family) that took a step at real size."""
    heads = ("method", *(NAMES[family] for family in FAMILIES))
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method in every_method():
        cells = [cell(method, family, ran) for family in FAMILIES]
        lines.append(f"| [{method}](../methods/diffusion/{method}.md) | {' | '.join(cells)} |")
    said = [f"- `{line}`" for line in refusals()]
    told = "Refused, before anything is drawn or written, in these words:"
    return HEAD + "\n".join([*lines, "", told, "", *said, "", TAIL])


def cell(method: str, family: str, ran: Sequence[tuple[str, str]]) -> str:
    if (method, family) in REFUSED:
        return "refused"
    found = ["not tested"] if (method, family) in LEFT_OUT else ["contract-tested"]
    if (method, family) in ran:
        found.append("run at real size")
    if (method, family) in RESULTS:
        stated = RESULTS[method, family]
        if stated.words not in (ROOT / stated.page).read_text():
            raise SettingError(f"{stated.page} must say {stated.words!r}; it does no longer.")
        found.append(f"erasure measured (`{stated.model}`)")
    return ", ".join(found)


def refusals() -> list[str]:
    """What the methods say of miniatures of the families that they refuse."""
    build = {
        "sd1": lambda folder: miniatures.build_miniature(folder, "1"),
        "sd2": lambda folder: miniatures.build_miniature(folder, "2"),
        "sdxl": lambda folder: miniatures.build_miniature(folder, "xl"),
        "sd3": miniatures.build_sd3,
        "flux": lambda folder: miniatures.build_flux(folder, is_dev=True),
    }
    lines = []
    with quiet(), tempfile.TemporaryDirectory() as place:
        for method, family in sorted(REFUSED):
            folder = Path(place) / family
            if not folder.exists():
                build[family](folder)
            try:
                Case(method, folder).run(Path(place) / "run")
            except ErasureError as error:
                lines.append(str(error).replace(str(folder), NAMES[family]))
            else:
                raise SettingError(f"{method} must refuse {family}, as tests/contract.py says.")
    return lines


def ran_at_real_size(file: Path) -> list[tuple[str, str]]:
    """The (method, family) of the rows that gpu_check.py measured on a card."""
    record = json.loads(file.read_text())
    if not record["memory"]:
        raise SettingError(f"{file} must be of a card; it was written on {record['device']}.")
    rows = [row for row in record["rows"] if "toolkit" in row and row["family"] in BENCHED]
    return [(row["method"], BENCHED[row["family"]]) for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", type=Path, help="gpu.json of gpu_check.py, run on a card")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page [docs/reference]")
    asked = parser.parse_args(arguments)
    text = page(ran_at_real_size(asked.gpu) if asked.gpu else [])
    with atomic(asked.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ErasureError as error:
        print(f"families_table: {error}", file=sys.stderr)
        sys.exit(2)
