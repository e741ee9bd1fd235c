"""Prompts with free places, which hold vectors of an attack instead of a word's embedding."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from erasure.errors import SettingError

Placement = Literal["prefix", "suffix", "middle", "replace"]


class NoSlotsError(SettingError):
    """A model whose text cannot be asked with other vectors than its words' own."""


@dataclass(frozen=True)
class Slotted:
    """Token ids of prompts, padded as the model's own, and the places of their free slots."""

    ids: Int[Tensor, "b n"]
    places: Int[Tensor, "b k"]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: Int[Tensor, " m"]) -> "Slotted":
        """Some of the prompts, in the order asked."""
        return Slotted(self.ids[chosen], self.places[chosen])

    def filled(self, tokens: Int[Tensor, "b k"]) -> Int[Tensor, "b n"]:
        """The ids with real tokens in the slots."""
        return self.ids.scatter(1, self.places, tokens.to(self.ids.device))


def place(prompt: str, placement: Placement, names: Sequence[str] = ()) -> tuple[str, str]:
    """A prompt as (text before the slots, text after them).

    "middle" parts it between two words; "replace" gives the slots the place of the longest of
    `names` that it holds (see `around`), SettingError if it holds none.
    """
    if placement == "replace":
        longest_first = sorted(names, key=len, reverse=True)
        name = next((name for name in longest_first if named(prompt, name)), None)
        if name is None:
            raise SettingError(
                f"placement replace needs prompts that name {' or '.join(names)}; got {prompt!r}."
            )
        return around(prompt, name)
    if placement == "prefix":
        return "", prompt
    if placement == "suffix":
        return prompt, ""
    words = prompt.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def around(prompt: str, name: str) -> tuple[str, str]:
    """A prompt as (text before a name, text after it); SettingError if it does not name it.

    A name stands there as whole words, in any case; where it stands twice the last counts.
    """
    found = named(prompt, name)
    if found is None:
        raise SettingError(f"the prompt {prompt!r} does not hold {name!r} as a word of its own.")
    return prompt[: found.start()].strip(), prompt[found.end() :].strip()


def named(prompt: str, name: str) -> re.Match[str] | None:
    """Where a prompt last holds a name as whole words, in any case.

    In "a photo of a photo" the first is the template's noun, the last is the name.
    """
    found = list(re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", prompt, re.IGNORECASE))
    return found[-1] if found else None


def fill(
    embedded: Tensor, places: Int[Tensor, "b k"], vectors: Tensor
) -> Tensor:  # (b, n, w), (b, k, w)
    """Token embeddings with the vectors in the slots."""
    index = places[..., None].expand(-1, -1, embedded.shape[-1])
    return embedded.scatter(1, index, vectors.to(embedded))


def repadded(slotted: Slotted, end: int, padding: int) -> Int[Tensor, "b n"]:
    """The ids with another tokenizer's padding after each prompt's end token.

    The slots hold token 0: encoders read the pooled embedding at the first end token, which many
    tokenizers also pad with.
    """
    is_slot = torch.zeros_like(slotted.ids, dtype=torch.bool).scatter(1, slotted.places, True)
    is_end = (slotted.ids == end) & ~is_slot
    is_over = is_end.cumsum(1) - is_end.int() > 0
    return slotted.ids.masked_fill(is_over, padding).masked_fill(is_slot, 0)


def lay_out(
    parts: Sequence[tuple[Sequence[int], Sequence[int]]], count: int, *, ends: tuple[int, int],
    padding: int, length: int,
) -> Slotted:  # fmt: skip
    """Ids of (tokens before, tokens after) with `count` slots between, start and end tokens around.

    ValueError if a prompt does not fit into `length` with its slots.
    """
    rows, places = [], []
    for before, after in parts:
        row = [ends[0], *before, *[padding] * count, *after, ends[1]]
        if len(row) > length:
            raise ValueError(
                f"{count} tokens more than the prompt's {len(before) + len(after)} do not fit "
                f"into the text encoder's {length} (start and end included)"
            )
        first = 1 + len(before)
        places.append(list(range(first, first + count)))
        rows.append(row + [padding] * (length - len(row)))
    return Slotted(torch.tensor(rows), torch.tensor(places, dtype=torch.long))
