"""A short name for a model's weights, to know later that an edit meets the model it was made on."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from erasure.models.editable import Editable
from erasure.training.progress import shown

THREADS = 8  # sha256 of one tensor runs beside that of others


def digest_of(model: Editable) -> str:
    """sha256 over names, shapes and float32 values of all tensors, and what else decides answers.

    Tensors are weights and buffers; the rest is an autoencoder, the noise schedule, vocabularies,
    labels and how a picture is prepared (`Editable.constants`).

    The original model's: an edit that is in the weights does not change it, nor do the device and
    the files' layout. A model that was opened in lower precision has another.
    """
    constants = model.constants()
    originals: dict[str, Tensor] = {**model.tensors(), **model.originals}
    originals |= {f"= {n}": value for n, value in constants.items() if isinstance(value, Tensor)}
    names = sorted(originals)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(_hashed, [originals[name] for name in names])
        hashed = list(shown(found, "digest of the model", len(names)))
    whole = hashlib.sha256()
    for name, of_values in zip(names, hashed, strict=True):
        shape = "x".join(map(str, originals[name].shape))
        whole.update(f"{name} {shape} {of_values}\n".encode())
    for name, text in constants.items():
        if isinstance(text, str):
            whole.update(f"{name} {text}\n".encode())
    return whole.hexdigest()


def _hashed(tensor: Tensor) -> str:
    values = tensor.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(values.numpy().data).hexdigest()
