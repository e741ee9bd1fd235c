"""How a classifier wants its pictures: scaled and cut as its own library does it, then levelled."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from erasure.errors import ModelError

CropMode = Literal["center", "squash", "border"]
# of a processor of transformers, beside scale and spread
DECIDING = (
    "do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size", "crop_pct",
)  # fmt: skip
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]


@dataclass(frozen=True)
class Transform:
    """The preparation that travels with the weights; means and spreads for values in [0, 1].

    `crop` is the share of the scaled picture that is cut out, `mode` and `interpolation` are timm's
    words. Whole levels are kept until the end, as Pillow keeps them. ModelError for values that no
    picture can be prepared with.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    mode: CropMode = "center"
    interpolation: Interpolation = "bilinear"
    levels: float = 255.0  # what the values are divided by before mean and spread

    def __post_init__(self) -> None:
        for name, is_right, wanted in (
            ("size", 1 <= self.size <= 4096, "from 1 to 4096 pixels"),
            ("mean", len(self.mean) == 3, "three numbers"),
            ("std", len(self.std) == 3 and min(self.std) > 0, "three numbers above 0"),
            ("crop_pct", 0.05 <= self.crop <= 2, "from 0.05 to 2"),
            ("crop_mode", self.mode in get_args(CropMode), " or ".join(get_args(CropMode))),
            (
                "interpolation", self.interpolation in get_args(Interpolation),
                " or ".join(get_args(Interpolation)),
            ),
        ):  # fmt: skip
            if not is_right:
                held = {"crop_pct": "crop", "crop_mode": "mode"}.get(name, name)
                raise ModelError(f"{name} must be {wanted}; got {getattr(self, held)!r}.")

    @cached_property
    def _timm(self) -> Any:
        return create_transform(
            (3, self.size, self.size), crop_pct=self.crop, crop_mode=self.mode, mean=self.mean,
            std=self.std, interpolation=self.interpolation, normalize=False,
        )  # fmt: skip

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 s s"]:
        """One whole picture, scaled and cut to the network's side, on the CPU."""
        is_plain = self.crop == 1 and image.shape[-2:] == (self.size, self.size)
        return image if is_plain else self._timm(F.to_pil_image(image.cpu()))

    def normalised(self, images: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """Pictures that are cut, as the network takes them."""
        return F.normalize(images.float() / self.levels, list(self.mean), list(self.std))

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Whole pictures in [0, 255], cut and levelled, on their device."""
        cut = torch.stack([self.cut(image) for image in images]).to(images.device)
        return self.normalised(cut)

    def told(self) -> str:
        """What decides how a picture is prepared, in words that last from release to release."""
        return repr({item.name: getattr(self, item.name) for item in fields(Transform)})

    def of_cut(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """As a call, but pictures of the network's own side count as cut already."""
        is_cut = images.shape[-2:] == (self.size, self.size)
        return self.normalised(images) if is_cut else self(images)


@dataclass(frozen=True)
class ProcessorTransform(Transform):
    """An image processor of transformers, which scales and cuts by its own rules."""

    processor: Any = None

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 s s"]:
        return _processed(self.processor, image, do_rescale=False, do_normalize=False)

    def told(self) -> str:
        found = {name: getattr(self.processor, name, None) for name in DECIDING}
        for name in ("size", "crop_size"):
            sides = dict(found[name] or {})
            found[name] = {key: sides[key] for key in sorted(sides) if sides[key] is not None}
        return f"{super().told()} {found}"


def from_processor(processor: Any) -> ProcessorTransform:
    """A processor's two halves, which together give what it gives; ModelError if they do not."""
    name, generator = type(processor).__name__, torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=generator)
    try:
        whole, cut = (
            _processed(processor, picture, **steps)
            for steps in ({}, {"do_rescale": False, "do_normalize": False})
        )
        is_scaled, is_normal = processor.do_rescale, processor.do_normalize
        transform = ProcessorTransform(
            cut.shape[-1],
            tuple(processor.image_mean) if is_normal else (0.0,) * 3,
            tuple(processor.image_std) if is_normal else (1.0,) * 3,
            levels=1 / processor.rescale_factor if is_scaled else 1.0,
            processor=processor,
        )
    except ModelError:
        raise
    except Exception as error:  # a foreign record can make it fail in any way
        raise ModelError(f"{name} cannot prepare a picture: {_line(error)}.") from error
    h, w = cut.shape[-2:]
    if h != w or cut.dtype != torch.uint8:
        raise ModelError(f"{name} must give square pictures of one size; it gives {h} x {w}.")
    if not torch.allclose(transform.normalised(cut[None])[0], whole.float(), atol=1e-4):
        raise ModelError(f"{name} does more to pictures than scaling, cutting and levelling them.")
    return transform


def _processed(processor: Any, image: Tensor, **steps: bool) -> Tensor:
    return processor(image.cpu(), return_tensors="pt", **steps)["pixel_values"][0]


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
