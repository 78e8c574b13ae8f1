"""What every task needs of a tokenizer: bare tokens, the special tokens around them, and cutting a text."""

from __future__ import annotations

from typing import Any


def encode_bare(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text` without special tokens, however long it is."""
    # verbose=False: a text longer than the context is no news here, it is cut later.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def encode_target(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text` as a decoder's target, without special tokens; Marian writes those with other pieces."""
    return list(tokenizer(text_target=text, add_special_tokens=False, verbose=False)["input_ids"])


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
    if not getattr(tokenizer, "is_fast", False):
        return _cut_by_trying(tokenizer, text, tokens)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if len(encoded["input_ids"]) <= tokens:
        return text
    return text[: encoded["offset_mapping"][tokens - 1][1]]


def _cut_by_trying(tokenizer: Any, text: str, tokens: int) -> str:
    """The same for a tokenizer that does not say where its tokens stand in the text, as those in plain Python."""
    if len(encode_bare(tokenizer, text)) <= tokens:
        return text
    fits, too_long = 0, len(text) + 1  # in characters; more of them are hardly ever fewer tokens
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if len(encode_bare(tokenizer, text[:middle])) <= tokens else (fits, middle)
    return text[:fits]
