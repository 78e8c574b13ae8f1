"""What every task needs of a tokenizer: bare tokens, the special tokens around them, and cutting a text."""

from __future__ import annotations

from typing import Any


def encode_bare(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text` without special tokens, however long it is."""
    # verbose=False: a text longer than the context is no news here, it is cut later.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after what it encodes."""
    bare, full = encode_bare(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise ValueError("cannot tell which special tokens this tokenizer adds")


def encode_open(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text` with the special tokens before it, and none after it: something may follow."""
    _, suffix = affixes(tokenizer)
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    return ids[: -len(suffix)] if suffix else ids


def cut_text(tokenizer: Any, text: str, tokens: int) -> str:
    """The longest beginning of `text` that is at most `tokens` tokens, cut at a token's end."""
    if tokens <= 0:
        return ""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if len(encoded["input_ids"]) <= tokens:
        return text
    return text[: encoded["offset_mapping"][tokens - 1][1]]
