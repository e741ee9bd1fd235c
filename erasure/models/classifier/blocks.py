"""The transformer blocks of a classifier that has some, by the names of their linears."""

import re
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier

BLOCK = r"(?P<block>(?:^|.*\.)(?:blocks|layers?)\.(?:encoder_layer_)?\d+)\."
FEED_FORWARD = re.compile(BLOCK + r"(?:mlp\.(?:fc1|fc2|0|3)|intermediate\.dense|output\.dense)")
ATTENTION = re.compile(
    BLOCK + r"(?:attn\.(?:qkv|proj)"
    r"|attention\.(?:attention\.)?(?:[qkvo]_proj|query|key|value|output\.dense))"
)
Place = Literal["ffn", "attention", "both"]
RULES = {"ffn": [FEED_FORWARD], "attention": [ATTENTION], "both": [FEED_FORWARD, ATTENTION]}


def groups(model: Classifier, place: Place = "ffn") -> list[list[str]]:
    """Names of the linear modules in each transformer block, in the blocks' order.

    SettingError for a network without such blocks, and for a place without linears: torchvision's
    attention has none that can be adapted.
    """
    found = _by_block(model, place)
    if not found and place != "ffn" and groups(model):
        raise SettingError(f"place must be ffn for {model.name}: its {place} has no linears.")
    if not found:
        raise SettingError(
            f"{model.name} has no transformer blocks, and adapters go nowhere else. "
            "Choose another method."
        )
    return list(found.values())


def block_names(model: Classifier) -> list[str]:
    """The names of the transformer blocks' modules, in their order; none where there are none."""
    return list(_by_block(model, "both"))


def at_places(
    output: Float[Tensor, "b ..."] | tuple[Tensor, ...], width: int
) -> Float[Tensor, "b places d"]:
    """What a block says, as features of `width` at each place, wherever it has its channels."""
    said = output if isinstance(output, Tensor) else output[0]
    if said.ndim == 3:
        return said
    return said.flatten(1, 2) if said.shape[-1] == width else said.flatten(2).transpose(1, 2)


def width_of(model: Classifier, block: str) -> int:
    """How many features a transformer block takes and gives at each place."""
    linear = model.module(_by_block(model, "both")[block][0])
    assert isinstance(linear, nn.Linear)
    return linear.in_features


def _by_block(model: Classifier, place: Place) -> dict[str, list[str]]:
    """The names of linear modules, by their block's."""
    found: dict[str, list[str]] = {}
    for name, module in model.network.named_modules():
        linear = next(filter(None, (rule.fullmatch(name) for rule in RULES[place])), None)
        if linear and isinstance(module, nn.Linear):
            found.setdefault(linear["block"], []).append(name)
    return found
