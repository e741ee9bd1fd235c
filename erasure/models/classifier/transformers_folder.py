"""Open a transformers folder of an image classifier: all its weights, none of its code."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import nn

from erasure.errors import ModelError
from erasure.files.records import read_record
from erasure.models.classifier.filling import line_of, refuse_not_finite, try_once
from erasure.models.classifier.transform import Transform, from_processor

# model types with the classes that open them
CLASSES = {
    "vit": ("ViTForImageClassification",),
    "deit": ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
    "beit": ("BeitForImageClassification",),
    "data2vec-vision": ("Data2VecVisionForImageClassification",),
    "dinov2": ("Dinov2ForImageClassification",),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification",),
    "vit_msn": ("ViTMSNForImageClassification",),
    "ijepa": ("IJepaForImageClassification",),
    "resnet": ("ResNetForImageClassification",),
    "convnext": ("ConvNextForImageClassification",),
    "convnextv2": ("ConvNextV2ForImageClassification",),
    "swin": ("SwinForImageClassification",),
    "swinv2": ("Swinv2ForImageClassification",),
}
# keys by which a record names code, another place, or another way of holding weights
REFUSED = (
    "auto_map", "quantization_config", "attn_implementation", "_attn_implementation",
    "kernel_config", "use_kernels", "adapters",
)  # fmt: skip


class TransformersShape(TypedDict):
    """What is read of a transformers config.json here; its class checks the rest."""

    model_type: str
    architectures: NotRequired[list[str] | None]
    id2label: NotRequired[dict[str, str] | None]
    image_size: NotRequired[int | list[int] | None]


def open_transformers(folder: Path) -> tuple[nn.Module, list[str], Transform]:
    """(network, labels, preparation of pictures); ModelError for what does not fit."""
    record = read_record(folder / "config.json", TransformersShape, error=ModelError)
    _refuse(record, folder / "config.json")
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder} holds an adapter; merge it into its model and save that.")
    kind = _class_of(record, folder)
    network = _read(kind, folder)
    refuse_not_finite(network, f"{folder}'s weights")
    given: dict[int, str] = network.config.id2label
    labels = [given.get(number, str(number)) for number in range(network.config.num_labels)]
    transform = _transform(network, folder)
    try_once(network, transform, len(labels), str(folder))
    return network, labels, transform


def _refuse(record: Any, file: Path) -> None:
    key = next((key for key in REFUSED if record.get(key)), None)
    if key is not None:
        raise ModelError(f"{file} may not hold {key}: code, adapters and kernels are not followed.")


def _class_of(record: TransformersShape, folder: Path) -> Any:
    """The class that wrote the folder, which alone has its weights."""
    import transformers

    word, names = record["model_type"], record.get("architectures") or []
    known = CLASSES.get(word)
    if known is None:
        raise ModelError(
            f"{folder}'s model_type must be {', '.join(CLASSES)}, or the folder timm's or "
            f"torchvision's; got {word!r}."
        )
    if names and not set(names) & set(known):
        raise ModelError(f"{folder} must hold a {' or '.join(known)}; it holds a {names[0]}.")
    return getattr(transformers, next((name for name in known if name in names), known[0]))


def _read(kind: Any, folder: Path) -> Any:
    """The network in float32 with every weight from the folder's safetensors."""
    try:
        network, info = kind.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True,
            local_files_only=True, ignore_mismatched_sizes=False, trust_remote_code=False,
        )  # fmt: skip
    except Exception as error:  # whatever a foreign record makes the library raise
        raise ModelError(f"could not load {folder}: {line_of(error)}.") from error
    for word, names in (
        ("lack", info["missing_keys"]),
        # a pooler that the class does not use is left over from pretraining
        ("hold beside the model's own", [n for n in info["unexpected_keys"] if "pooler" not in n]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"{folder}'s weights {word} {sorted(names)[0]}{more}; they are not those of a "
                f"whole {kind.__name__}."
            )
    return network.eval()


def _transform(network: Any, folder: Path) -> Transform:
    file, config = folder / "preprocessor_config.json", network.config
    if not file.is_file():
        if config.model_type != "vit" or not isinstance(config.image_size, int):
            raise ModelError(f"{folder} has no {file.name}, which says how pictures are prepared.")
        # as ViTImageProcessor does it by itself
        return Transform(config.image_size, (0.5,) * 3, (0.5,) * 3, mode="squash")
    from transformers import AutoImageProcessor

    _refuse(read_record(file, dict[str, Any], error=ModelError), file)
    try:
        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return from_processor(processor)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    except Exception as error:  # whatever a foreign record makes the library raise
        raise ModelError(
            f"{file} does not describe an image processor: {line_of(error)}."
        ) from error
