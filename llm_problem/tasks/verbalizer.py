"""Writing one classification example as token sequences, for causal and for masked models."""

from __future__ import annotations

from typing import Any

from llm_problem.tasks.batch import BatchBuilder
from llm_problem.tasks.template import Template
from llm_problem.tasks.tokens import cut_text, encode_bare, encode_open


def causal_example(
    builder: BatchBuilder, tokenizer: Any, template: Template, text: str, words: list[str], limit: int
) -> None:
    """Prompt and label tokens for a model that predicts the next token.

    Classes whose words are a single token share one sequence, read at the prompt's last token; a class of several
    tokens gets a sequence of its own with all but its last token.
    """
    if not template.ends_with_label:
        raise ValueError(
            "a causal model predicts what comes next: the label must stand at the end of the prompt, "
            f"got {template.template!r}"
        )
    shared: int | None = None
    prompt, answers = _fit_causal(tokenizer, template, text, words, limit)
    for answer, label in enumerate(answers):
        if len(label) == 1:
            if shared is None:
                shared = builder.add_sequence(prompt)
            sequence = shared
        else:
            sequence = builder.add_sequence(prompt + label[:-1])
        for k, token in enumerate(label):
            builder.read(sequence, len(prompt) - 1 + k, token, answer)


def _fit_causal(
    tokenizer: Any, template: Template, text: str, words: list[str], limit: int
) -> tuple[list[int], list[list[int]]]:
    """(prompt tokens, tokens of each label), the text cut so that the longest fits into `limit` tokens."""
    before, _ = template.render(text)
    prompt, answers = _encode_causal(tokenizer, before, words)
    excess = len(prompt) + max(map(len, answers)) - limit
    keep = len(encode_bare(tokenizer, text)) if excess > 0 else 0
    while excess > 0:
        if keep == 0:
            raise ValueError(
                f"the prompt is too long: {template.template!r} with its label alone is "
                f"{len(prompt) + max(map(len, answers))} tokens, the limit is {limit}"
            )
        keep = max(keep - excess, 0)
        prompt, answers = _encode_causal(tokenizer, template.render(cut_text(tokenizer, text, keep))[0], words)
        excess = len(prompt) + max(map(len, answers)) - limit
    return prompt, answers


def _encode_causal(tokenizer: Any, prompt: str, words: list[str]) -> tuple[list[int], list[list[int]]]:
    ids = encode_open(tokenizer, prompt)
    if not ids:
        raise ValueError("the prompt has no tokens: a causal model needs at least one to predict from")
    answers = [_continuation(tokenizer, prompt, ids, label) for label in words]
    _refuse_equal(words, answers)
    return ids, answers


def _continuation(tokenizer: Any, prompt: str, ids: list[int], label: str) -> list[int]:
    """The label's tokens as they come after the prompt."""
    whole = encode_open(tokenizer, prompt + label)
    if whole[: len(ids)] == ids and len(whole) > len(ids):
        return whole[len(ids) :]
    # The tokenizer merges across the border: take the label on its own.
    return encode_bare(tokenizer, label)


def masked_example(
    builder: BatchBuilder, tokenizer: Any, template: Template, text: str, words: list[str], limit: int
) -> None:
    """Sequences with mask tokens in the label's place; classes with equally many tokens share one."""
    if tokenizer.mask_token_id is None:
        raise ValueError("this tokenizer has no mask token, which a masked model's labels need")
    answers = [encode_bare(tokenizer, label.strip()) for label in words]
    _refuse_equal(words, answers)
    shared: dict[int, tuple[int, int]] = {}
    for answer, label in enumerate(answers):
        if len(label) not in shared:
            ids = _fit_masked(tokenizer, template, text, len(label), limit)
            shared[len(label)] = builder.add_sequence(ids), _mask_start(tokenizer, ids, len(label))
        sequence, first = shared[len(label)]
        for k, token in enumerate(label):
            builder.read(sequence, first + k, token, answer)


def _fit_masked(tokenizer: Any, template: Template, text: str, masks: int, limit: int) -> list[int]:
    def encode(shown: str) -> list[int]:
        # A mask token that the data itself spells must not count as the label's place.
        before, after = template.render(shown.replace(tokenizer.mask_token, " "))
        gap = "" if not before or before[-1].isspace() else " "
        shown_whole = before + gap + " ".join([tokenizer.mask_token] * masks) + after
        return list(tokenizer(shown_whole, verbose=False)["input_ids"])

    ids = encode(text)
    keep = len(encode_bare(tokenizer, text)) if len(ids) > limit else 0
    while len(ids) > limit:
        if keep == 0:
            raise ValueError(
                f"the prompt is too long: {template.template!r} with {masks} mask tokens alone is {len(ids)} tokens, "
                f"the limit is {limit}"
            )
        keep = max(keep - (len(ids) - limit), 0)
        ids = encode(cut_text(tokenizer, text, keep))
    return ids


def _mask_start(tokenizer: Any, ids: list[int], masks: int) -> int:
    positions = [k for k, token in enumerate(ids) if token == tokenizer.mask_token_id]
    if len(positions) != masks or positions != list(range(positions[0], positions[0] + masks)):
        raise ValueError(f"the prompt must hold no other {tokenizer.mask_token} than the label's {masks}")
    return positions[0]


def _refuse_equal(words: list[str], answers: list[list[int]]) -> None:
    for i, tokens in enumerate(answers):
        if not tokens:
            raise ValueError(f"the label {words[i]!r} has no tokens")
        for j in range(i):
            if answers[j] == tokens:
                raise ValueError(f"the labels {words[j]!r} and {words[i]!r} have the same tokens {tokens}: not told apart")
