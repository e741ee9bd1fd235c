"""Settings of the protocol `prompts`; the command line makes its options from them."""

from dataclasses import dataclass
from typing import Literal

from erasure.config import check, setting


@dataclass(frozen=True)
class PromptsSettings:
    """What is asked and by what it is judged. Every field is in the score's stamp."""

    prompts: str = setting(
        "",
        help="prompts: a file of prompts that ask for the concept (.csv, .txt, .json); empty: its "
        "templates and the general wordings of its kind",
    )
    keep_prompts: str = setting(
        "captions",
        help="prompts: what must stay: a file of prompts, or a built-in list (captions, objects, "
        "animals, places, people, styles)",
    )
    keep: int = setting(
        32, help="prompts: how many of these are drawn, spread over the list", at_least=1
    )
    neighbours: str = setting(
        "",
        help="prompts: names near the concept that must stay, with commas, all that an image could "
        "show beside the anchor; empty: the five nearest of a built-in list, beside its everyday "
        "names; none: no neighbours",
    )
    criterion: str = setting(
        "", help="prompts: what counts as drawn, as for `erasure attack`; empty: --clip's choice"
    )
    clip: str = setting(
        "",
        help="prompts: the CLIP that judges, as open_clip's NAME:PRETRAINED, a folder, or pocket; "
        "empty: the one that ships with the model, if any",
    )
    features: Literal["clip", "inception"] = setting(
        "clip", help="prompts: FID and KID by the CLIP's features or Inception's"
    )
    perceptual: Literal["clip", "lpips"] = setting(
        "clip", help="prompts: distance to the un-erased images by the CLIP's layers, or LPIPS"
    )
    steps: int = setting(
        0, help="prompts: steps of the sampler; 0: as attacks draw, 50 of DDIM", at_least=0
    )
    guidance: float = setting(
        0, help="prompts: classifier-free guidance; 0: as attacks draw, 7.5", at_least=0
    )
    scheduler: Literal[
        "usual",
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ] = setting("usual", help="prompts: diffusers' sampler; usual: as attacks draw, DDIM")
    resolution: int = setting(
        0, help="prompts: pixels along a side; 0: the model's own", at_least=0
    )

    def __post_init__(self) -> None:
        check(self)
