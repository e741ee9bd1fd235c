"""Settings of the protocol `corrective`; the command line makes its options from them."""

from dataclasses import dataclass

from erasure.config import check, setting


@dataclass(frozen=True)
class CorrectiveSettings:
    """Where the manipulation shows."""

    affected: str = setting(
        "",
        help="corrective: a file of the test images that the manipulation touches (patched, or of "
        "the confused classes), as for `forget --samples`; a column label has their true labels, "
        "where the test images' own are not",
    )

    def __post_init__(self) -> None:
        check(self)
