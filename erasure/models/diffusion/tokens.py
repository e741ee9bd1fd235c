"""Text as a tokenizer's entries: how many, whether a window holds them, slots among them."""

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.diffusion.slots import Slotted, lay_out


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """The text's own tokens, without start and end, however many they are."""
    if not text:
        return []
    # verbose is a warning about models that would fail; here windows are looked after
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def refuse_beyond(tokenizer: Any, longest: int, prompts: Sequence[str], name: str) -> None:
    """SettingError for the first prompt of more tokens than the named model reads.

    Nor may one hold the tokenizer's marks of start and end: the encoder reads on as if it ended.
    """
    marks = [tokenizer.bos_token, tokenizer.eos_token]
    for prompt in dict.fromkeys(prompts):
        mark = next((mark for mark in marks if mark and mark in prompt), None)
        if mark is not None:
            raise SettingError(
                f"prompts must be plain text for {name}; {shorten(prompt, 60)!r} holds {mark!r}, "
                "which its tokenizer takes for a mark."
            )
        count = len(tokens_of(tokenizer, prompt))
        if count > longest:
            raise SettingError(
                f"prompts must have at most {longest} tokens for {name}, which reads no "
                f"further; got {count} in {shorten(prompt, 60)!r}."
            )


def beyond(tokenizer: Any, longest: int, prompts: Sequence[str]) -> list[str]:
    """The prompts of more tokens than that."""
    return [text for text in dict.fromkeys(prompts) if len(tokens_of(tokenizer, text)) > longest]


def with_slots(
    parts: Sequence[tuple[str, str]], count: int, *, tokenizer: Any, window: int
) -> Slotted:
    """Prompts as (text before, text after) with `count` slots between.

    SettingError if one does not fit into the window with them.
    """
    try:
        return lay_out(
            [
                (tokens_of(tokenizer, before), tokens_of(tokenizer, after))
                for before, after in parts
            ],
            count,
            ends=(tokenizer.bos_token_id, tokenizer.eos_token_id),
            padding=tokenizer.pad_token_id,
            length=window,
        )
    except ValueError as error:
        raise SettingError(f"tokens must be fewer: {error}.") from error


def words_of(tokenizer: Any, count: int) -> Int[Tensor, " v"]:
    """Those of the first `count` entries that, written down and read again, are themselves."""
    special = set(tokenizer.all_special_ids)
    entries = [entry for entry in range(count) if entry not in special]
    written = tokenizer.batch_decode([[entry] for entry in entries])
    read = tokenizer(written, add_special_tokens=False).input_ids
    return torch.tensor([i for i, ids in zip(entries, read, strict=True) if ids == [i]])
