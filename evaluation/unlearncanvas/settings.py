"""Settings of the protocol `unlearncanvas`; the command line makes its options from them."""

from dataclasses import dataclass
from typing import Literal

from erasure.config import check, setting

RESOLUTION = 512


@dataclass(frozen=True)
class UnlearnCanvasSettings:
    """How UnlearnCanvas' answer set is drawn and judged. Every field is in the score's stamp."""

    judge_style: str = setting(
        "", help="unlearncanvas: the style judge, style50.pth, its .safetensors or a timm folder"
    )
    judge_object: str = setting(
        "", help="unlearncanvas: the object judge, style50_cls.pth or as above"
    )
    judge_architecture: str = setting(
        "vit_large_patch16_224", help="unlearncanvas: timm's name for both judges' network"
    )
    clip: str = setting(
        "", help="unlearncanvas: CLIP score by open_clip's NAME:PRETRAINED or folder; empty: none"
    )
    features: Literal["judge", "clip", "inception"] = setting(
        "judge",
        help="unlearncanvas: FID and KID by the object judge's features, --clip's or Inception's",
    )
    perceptual: Literal["judge", "clip", "lpips"] = setting(
        "judge",
        help="unlearncanvas: distance to the un-erased images by the object judge's layers, "
        "--clip's, or LPIPS",
    )
    data: str = setting(
        "",
        help="unlearncanvas: the data set (a folder or hf:NAME) that FID and KID compare with; "
        "empty: the un-erased model's images",
    )
    steps: int = setting(100, help="unlearncanvas: DDIM steps", above=0)
    guidance: float = setting(9.0, help="unlearncanvas: classifier-free guidance", at_least=0)
    resolution: int = setting(
        0,
        help="unlearncanvas: pixels along a side; 0 is 512, or the model's own if less",
        at_least=0,
    )
    seed_images: bool = setting(
        False, help="unlearncanvas: the photographs' theme, Seed_Images, is judged too"
    )
    seed_prompt: Literal["photo", "literal"] = setting(
        "photo",
        help='unlearncanvas: that theme is asked for as "Photo style", as the model learned it, or '
        'as "Seed Images style", as the published samplers do',
        when="seed_images",
    )
    target_in_cra: bool = setting(
        False, help="unlearncanvas: CRA over all images, as the published script has it"
    )
    noise: Literal["own", "run-on"] = setting(
        "own",
        help="unlearncanvas: each image's noise from a seed of its own, or one generator per seed "
        "that runs on from prompt to prompt, as in the published samplers",
    )

    def __post_init__(self) -> None:
        check(self)
