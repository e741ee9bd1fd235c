"""SynFlow: how much each weight carries from input to output, found without any picture.

Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving
synaptic flow" (NeurIPS 2020), https://arxiv.org/abs/2006.05467:

    R = 1^T f_|theta|(1),  score |dR/dtheta * theta|

*Choices* for networks that are no chain of convolutions: norms pass their input on, since the norm
of a constant is zero; attention averages over its tokens, and queries and keys, which would carry
nothing then, are counted as values. The flow is computed in float64, where it does not overflow.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from erasure.methods.shared.pruning import largest_stay
from erasure.models.classifier.classifier import NORMS, Classifier
from erasure.training.run import Run

PASSED = (*NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PROJECTIONS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))


def synflow(
    model: Classifier, names: Sequence[str], sparsity: float, rounds: int, run: Run
) -> dict[str, Tensor]:
    """The masks of these weights after so many rounds, each of which takes the same share away."""
    network = model.network
    flowing = {n: parameter.detach().abs().double() for n, parameter in model.parameters().items()}
    buffers = {n: b.double() if b.is_floating_point() else b for n, b in network.named_buffers()}
    size = model.transform.size
    picture = torch.ones(1, 3, size, size, dtype=torch.float64, device=model.device)
    masks: dict[str, Tensor] = {}
    with as_flow(network), run.progress("synflow", rounds) as bar:
        for number in range(1, rounds + 1):
            scores = flow_scores(network, flowing, buffers, picture, names)
            masks = largest_stay(scores, 1 - (1 - sparsity) ** (number / rounds))
            flowing |= {name: flowing[name] * mask for name, mask in masks.items()}
            bar.advance()
    return masks


def flow_scores(
    network: nn.Module, flowing: dict[str, Tensor], buffers: dict[str, Tensor],
    picture: Float[Tensor, "1 3 s s"], names: Sequence[str],
) -> dict[str, Tensor]:  # fmt: skip
    """dR/dtheta * theta of each named weight, relative to the largest of all."""
    asked = {name: flowing[name].requires_grad_(True) for name in names}
    out = functional_call(network, {**flowing, **buffers}, (picture,))
    total = getattr(out, "logits", out).sum()
    slopes = torch.autograd.grad(total, list(asked.values()))
    scores = {n: (asked[n].detach() * slope) for n, slope in zip(asked, slopes, strict=True)}
    for weight in asked.values():
        weight.requires_grad_(False)
    largest = torch.stack([score.max() for score in scores.values()]).max()
    return {name: score / largest for name, score in scores.items()}


@contextmanager
def as_flow(network: nn.Module) -> Iterator[None]:
    """Within it norms pass on what they get, and attention averages what all projections say."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, PASSED):
                stack.callback(module.register_forward_hook(_pass_on).remove)
            children = dict(module.named_children())
            joint = children.get("qkv")
            if isinstance(joint, nn.Linear):
                stack.callback(joint.register_forward_hook(_all_as_values).remove)
            for words in PROJECTIONS:
                parts = [children.get(word) for word in words]
                if all(isinstance(part, nn.Linear) for part in parts):
                    for hook, part in zip(_apart(*parts[:2]), parts, strict=True):  # type: ignore[arg-type]
                        stack.callback(part.register_forward_hook(hook).remove)  # type: ignore[union-attr]
        yield


def _pass_on(_module: nn.Module, given: tuple[Tensor, ...], _said: Tensor) -> Tensor:
    return given[0]


def _all_as_values(_module: nn.Module, _given: tuple[Tensor], said: Tensor) -> Tensor:
    values = sum(said.chunk(3, -1))
    return torch.cat([torch.zeros_like(said.chunk(3, -1)[0])] * 2 + [values], -1)  # type: ignore[list-item]


def _apart(query: nn.Linear, key: nn.Linear):
    """Hooks of a query, a key and a value that are modules of their own."""

    def silent(_module: nn.Module, _given: tuple[Tensor], said: Tensor) -> Tensor:
        return torch.zeros_like(said)

    def value(_module: nn.Module, given: tuple[Tensor], said: Tensor) -> Tensor:
        others = [F.linear(given[0], part.weight, part.bias) for part in (query, key)]
        return said + others[0] + others[1]

    return silent, silent, value
