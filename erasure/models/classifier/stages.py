"""What a classifier computes on the way: its blocks' features, whatever its architecture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from erasure.models.classifier.blocks import block_names
from erasure.models.classifier.classifier import Classifier
from erasure_datasets.labelled import Images

TRUNK = 0.8  # the share of the weights below which a module's own children are the stages
HEAD = "head"  # what the head reads, which comes after the last stage


def stage_names(model: Classifier) -> list[str]:
    """The modules that an image passes one after another, as far as the head.

    The transformer blocks, where there are some. Of another network, go down from the whole into
    whatever child has at least `TRUNK` of the weights in front of the head; where there is none,
    its children with weights are the stages: a ResNet's stem and layers, a ConvNeXt's four.
    """
    blocks = block_names(model)
    if blocks:
        return blocks
    name = _around_head(model)
    found = dict(_children(model, name, model.module(name)))
    whole = sum(map(_size, found.values()))
    while found:
        name = max(found, key=lambda own: _size(found[own]))
        inner = dict(_children(model, name, found[name]))
        if not inner or _size(found[name]) < TRUNK * whole:
            break
        found = inner
    return list(found)


@torch.no_grad()
def stage_features(
    model: Classifier, images: Images, *, batch_size: int = 128
) -> dict[str, Float[Tensor, "n d"]]:
    """The mean over places of what each stage gives for images in [0, 255], in their order.

    `HEAD` is what the head reads. A stage that is not called once, or gives neither a map nor
    tokens, is left out. On the CPU.
    """
    found: dict[str, list[Tensor]] = {}
    for part in images.split(batch_size):
        with _listening(model) as heard:
            features, _ = model.forward(model.prepare(part))
        heard[HEAD] = [features.flatten(1)]
        for name, said in heard.items():
            found.setdefault(name, []).extend(said)
    batches = len(found[HEAD])
    return {
        name: torch.cat([part.float().cpu() for part in parts])
        for name, parts in found.items()
        if len(parts) == batches
    }


@contextmanager
def _listening(model: Classifier) -> Iterator[dict[str, list[Tensor]]]:
    """Within it each call of a stage leaves its output's mean, by the stage's name."""
    heard: dict[str, list[Tensor]] = {}

    def listen(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _given: object, said: object) -> None:
            pooled = _pooled(said)
            if pooled is not None:
                heard.setdefault(name, []).append(pooled)

        return keep

    hooks = [model.module(name).register_forward_hook(listen(name)) for name in stage_names(model)]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _pooled(said: object) -> Tensor | None:
    """(b, d) of maps (b, d, h, w) or (b, h, w, d), or of tokens (b, places, d)."""
    output = said[0] if isinstance(said, tuple) else getattr(said, "last_hidden_state", said)
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return None
    if output.ndim == 3:
        return output.mean(1)
    is_last = output.shape[1] == output.shape[2] != output.shape[3]  # pictures are square
    return output.mean((1, 2) if is_last else (2, 3))


def _around_head(model: Classifier) -> str:
    """The outermost module that has anything with weights beside what holds the head."""
    path = model.head_name.split(".")
    names = [".".join(path[:depth]) for depth in range(len(path))]
    wide = (name for name in names if any(True for _ in _children(model, name, model.module(name))))
    return next(wide, "")


def _children(model: Classifier, prefix: str, node: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A module's children with weights, by full name, but for those that hold the head.

    A list of modules is never called: its members stand for it.
    """
    head = model.head_name
    for own, child in node.named_children():
        name = f"{prefix}.{own}" if prefix else own
        if head == name or head.startswith(f"{name}.") or not _size(child):
            continue
        if isinstance(child, nn.ModuleList):
            yield from _children(model, name, child)
        else:
            yield name, child


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
