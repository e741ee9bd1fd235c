"""Settings of the protocol `pocket`; the command line makes its options from them."""

from dataclasses import dataclass

from erasure.config import check, setting


@dataclass(frozen=True)
class PocketSettings:
    """What is asked beyond the suite's 256 prompts."""

    contexts: str = setting(
        "",
        help="pocket: names, with commas, beside which the targets were trained on (styles of an "
        "object, objects of a style): UA_in is of these prompts, UA_out of the others; empty: as "
        "the run's own prompts say",
    )

    def __post_init__(self) -> None:
        check(self)
