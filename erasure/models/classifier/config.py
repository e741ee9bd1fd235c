"""A foreign classifier's config.json: what is taken from it, and what never is.

Nothing in it may name code, a file or an address: a folder's own safetensors are all that is read.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import timm
import torchvision
from msgspec import Meta

from erasure.errors import ModelError
from erasure.files.records import read_record
from erasure.models.classifier.stem import Stem
from erasure.models.classifier.transform import Transform

# what a timm or torchvision network may be told: its sizes and parts, and nothing to load
HARMLESS = """
act_layer always_partition attention_dropout attn_drop_rate attn_layer attn_type avg_down
base_width cardinality channels class_token conv_bias conv_mlp depth depths dims drop_path_rate
drop_rate dropout dynamic_img_pad dynamic_img_size embed_dim embed_dims embed_layer
embed_norm_layer eta fc_norm final_norm fix_init global_pool groups head_dim head_init_scale
head_norm_first hidden_dim image_size img_size in_chans init_values kernel_sizes layers
ls_init_value mlp_dim mlp_layer mlp_ratio no_embed_class norm_layer num_classes num_heads
num_layers num_reg_tokens output_stride patch_drop_rate patch_size pool_include_prefix
pos_drop_rate pos_embed pre_norm proj_bias proj_drop_rate qk_norm qkv_bias qkv_fused
ref_feat_shape reg_tokens rel_pos_type representation_size rope_grid_indexing rope_grid_offset
rope_rotate_half rope_temperature rope_type scale_attn_inner scale_attn_norm scale_mlp
scale_mlp_norm shared_rel_pos stem_type stem_width stochastic_depth_prob strict_img_size
swiglu_align_to swiglu_mlp use_abs_pos_emb use_fc_norm use_grn use_pos_embed use_post_norm
use_post_transformer_norm use_pre_transformer_norm use_rel_pos_bias use_rot_pos_emb
use_shared_rel_pos_bias weight_init width_per_group window_size zero_init_last
zero_init_residual
"""
ARGUMENTS = frozenset(HARMLESS.split())
WORD = re.compile(r"[\w.+-]*")
CLASSES = ("VisionTransformer",)  # of torchvision, for sizes that its named networks do not take
Side = Annotated[int, Meta(ge=1, le=4096)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class PretrainedShape(TypedDict):
    """How pictures are prepared, in timm's words."""

    input_size: NotRequired[Annotated[list[Side], Meta(min_length=3, max_length=3)] | None]
    mean: NotRequired[list[float] | None]
    std: NotRequired[list[float] | None]
    crop_pct: NotRequired[float | None]
    crop_mode: NotRequired[str | None]
    interpolation: NotRequired[str | None]
    fixed_input_size: NotRequired[bool | None]
    num_classes: NotRequired[Count | None]
    label_names: NotRequired[list[str] | dict[str, str] | None]


class ClassifierShape(PretrainedShape):
    """config.json of timm (older layouts: all in one level) and of torchvision's folders."""

    architecture: str
    labels: NotRequired[list[str] | dict[str, str] | None]
    model_args: NotRequired[dict[str, Any] | None]
    stem: NotRequired[Stem]
    pretrained_cfg: NotRequired[PretrainedShape | None]


@dataclass(frozen=True)
class ClassifierConfig:
    """What a config.json says, once it is known to be harmless and whole."""

    architecture: str
    arguments: dict[str, Any]
    labels: tuple[str, ...]
    transform: Transform
    stem: Stem = "own"

    @property
    def is_of_torchvision(self) -> bool:
        return self.architecture.startswith("torchvision:")


def read_config(folder: Path) -> ClassifierConfig:
    """A timm or torchvision folder's config.json; ModelError names what is wrong or not allowed."""
    file = folder / "config.json"
    return parse_config(read_record(file, ClassifierShape, error=ModelError), file)


def parse_config(record: ClassifierShape, file: Path | str) -> ClassifierConfig:
    """As `read_config`, of a record that has the shape and comes from `file`."""
    given = dict(record.get("pretrained_cfg") or record)
    arguments = dict(record.get("model_args") or {})
    _refuse_word(record["architecture"], file)
    _refuse_arguments(arguments, file)
    count = arguments.pop("num_classes", None)
    if count is not None and record.get("num_classes") not in (None, count):
        raise ModelError(
            f"{file} has num_classes {record.get('num_classes')} and, in model_args, {count}."
        )
    count = count or record.get("num_classes") or given.get("num_classes")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ModelError(f"{file} must say num_classes, at least 1; got {count!r}.")
    names = record.get("label_names") or record.get("labels") or given.get("label_names")
    return ClassifierConfig(
        record["architecture"], arguments, _labels(names, count, file),
        _transform(given, arguments, file), record.get("stem", "own"),
    )  # fmt: skip


def transform_of(given: dict[str, Any]) -> Transform:
    """The preparation that timm's pretrained_cfg describes, with timm's own defaults."""
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg={"input_size": (3, 224, 224), **given})
    channels, height, width = data["input_size"]
    if channels != 3:
        raise ModelError(f"it takes pictures of {channels} channels; here they have 3.")
    if height != width:
        raise ModelError(f"it takes pictures of {height} x {width}; only square ones are known.")
    return Transform(
        height, tuple(data["mean"]), tuple(data["std"]), data["crop_pct"], data["crop_mode"],
        data["interpolation"],
    )  # fmt: skip


def _transform(given: dict[str, Any], arguments: dict[str, Any], file: Path | str) -> Transform:
    given = {key: value for key, value in given.items() if value is not None}
    channels, side = arguments.get("in_chans", 3), arguments.get("img_size")
    if side is not None and (given.get("fixed_input_size") or "input_size" not in given):
        given["input_size"] = (3, side, side) if isinstance(side, int) else (3, *side)
    if channels != 3:
        raise ModelError(f"{file}: it takes pictures of {channels} channels; here they have 3.")
    try:
        return transform_of(given)
    except (ModelError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: {error}") from error


def _labels(names: Any, count: int, file: Path | str) -> tuple[str, ...]:
    """One name per class: as listed, by number where a dict has gaps, else the numbers."""
    if not names:
        return tuple(str(number) for number in range(count))
    if isinstance(names, dict):
        wrong = next((k for k in names if not (k.isascii() and k.isdigit())), None)
        if wrong is not None or any(int(key) >= count for key in names):
            raise ModelError(
                f"{file}'s label_names must be numbered from 0 to {count - 1}; "
                f"got {wrong if wrong is not None else max(map(int, names))}."
            )
        known = {int(key): name for key, name in names.items()}
        return tuple(known.get(number, str(number)) for number in range(count))
    if len(names) != count:
        raise ModelError(
            f"{file}'s label_names must be one per class; got {len(names)} for {count} classes."
        )
    return tuple(names)


def _refuse_word(word: str, file: Path | str) -> None:
    """ModelError unless the architecture is one of timm's or torchvision's own names."""
    own = word.removeprefix("torchvision:")
    if own != word:
        if own not in (*torchvision.models.list_models(torchvision.models), *CLASSES):
            raise ModelError(f"{file}: torchvision has no classifier {own!r}.")
    elif ":" in word or "/" in word or "\\" in word:
        raise ModelError(
            f"{file}'s architecture must be a name of timm's, or torchvision:NAME; got {word!r}. "
            "Addresses and other folders are not followed."
        )
    elif not timm.is_model(word):
        raise ModelError(f"{file}: timm has no model {word!r}.")


def _refuse_arguments(arguments: dict[str, Any], file: Path | str) -> None:
    """ModelError for a name that is not known to be harmless, or a value that is not plain."""
    for name, value in arguments.items():
        if name not in ARGUMENTS:
            raise ModelError(
                f"{file}: model_args may not hold {name!r}: only a network's sizes and parts are "
                "taken from there, nothing that loads files or code."
            )
        values = value if isinstance(value, list) else [value]
        if not all(_is_plain(part) for part in values):
            raise ModelError(f"{file}: {name} in model_args must be plain values; got {value!r}.")


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return bool(WORD.fullmatch(value))
    return value is None or isinstance(value, (bool, int, float))
