"""Writing one classification example as token sequences, for causal, masked and encoder-decoder models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from llm_problem.tasks.batch import BatchBuilder
from llm_problem.tasks.tokens import affixes, cut_text, encode_bare, encode_open, encode_target

T = TypeVar("T")


class Prompt(Protocol):
    """A template that was checked: `llm_problem.tasks.template.Template`, or the prompt of a row."""

    @property
    def template(self) -> str: ...
    @property
    def ends_with_label(self) -> bool: ...
    @property
    def opened(self) -> bool:
        """Whether it brings the tokens that a text begins with, as a chat template does."""
        ...

    def render(self, text: str) -> tuple[str, str]: ...


def causal_example(
    builder: BatchBuilder, tokenizer: Any, template: Prompt, text: str, words: list[str], limit: int
) -> bool:
    """Prompt and label tokens for a model that predicts the next token.

    Classes whose words are a single token share one sequence, read at the prompt's last token; a class of several
    tokens gets a sequence of its own with all but its last token. Returns whether the text was cut.
    """
    if not template.ends_with_label:
        raise ValueError(
            "a causal model predicts what comes next: the label must stand at the end of the prompt, "
            f"got {template.template!r}"
        )
    shared: int | None = None
    (prompt, answers), cut = _fit_causal(tokenizer, template, text, words, limit)
    for answer, label in enumerate(answers):
        if len(label) == 1:
            if shared is None:
                shared = builder.add_sequence(prompt)
            sequence = shared
        else:
            sequence = builder.add_sequence(prompt + label[:-1])
        for k, token in enumerate(label):
            builder.read(sequence, len(prompt) - 1 + k, token, answer)
    return cut


def _fit_causal(
    tokenizer: Any, template: Prompt, text: str, words: list[str], limit: int
) -> tuple[tuple[list[int], list[list[int]]], bool]:
    """(prompt tokens, tokens of each label), the text cut so that the longest fits into `limit` tokens; was it cut?"""

    def write(shown: str) -> tuple[list[int], list[list[int]]]:
        encode = encode_bare if template.opened else encode_open
        return _encode_causal(tokenizer, template.render(shown)[0], words, encode)

    def length(written: tuple[list[int], list[list[int]]]) -> int:
        prompt, answers = written
        return len(prompt) + max(map(len, answers))

    return _fit(tokenizer, template, text, limit, write, length)


def _fit(
    tokenizer: Any, template: Prompt, text: str, limit: int, write: Callable[[str], T], length: Callable[[T], int]
) -> tuple[T, bool]:
    """What `write` makes of the longest beginning of the text whose `length` is at most `limit` tokens; was it cut?"""
    written = write(text)
    excess = length(written) - limit
    cut = excess > 0
    keep = len(encode_bare(tokenizer, text)) if excess > 0 else 0
    while excess > 0:
        if keep == 0:
            raise ValueError(
                f"the prompt is too long: {'without a text ' if text else ''}it has {length(written)} tokens, "
                f"the limit is {limit}; the template is {_shortened(template.template)!r}"
            )
        keep = max(keep - excess, 0)
        written = write(cut_text(tokenizer, text, keep))
        excess = length(written) - limit
    return written, cut


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _encode_causal(
    tokenizer: Any, prompt: str, words: list[str], encode: Callable[[Any, str], list[int]]
) -> tuple[list[int], list[list[int]]]:
    ids = encode(tokenizer, prompt)
    if not ids:
        raise ValueError("the prompt has no tokens: a causal model needs at least one to predict from")
    answers = [continuation(tokenizer, prompt, ids, label, encode) for label in words]
    _refuse_equal(words, answers)
    return ids, answers


def continuation(
    tokenizer: Any, prompt: str, ids: list[int], label: str, encode: Callable[[Any, str], list[int]] = encode_open
) -> list[int]:
    """The tokens of `label` as they come after `prompt`, whose tokens are `ids`, by `encode`."""
    whole = encode(tokenizer, prompt + label)
    if whole[: len(ids)] == ids and len(whole) > len(ids):
        return whole[len(ids) :]
    # The tokenizer merges across the border: take the label on its own.
    return encode_bare(tokenizer, label)


def masked_example(
    builder: BatchBuilder, tokenizer: Any, template: Prompt, text: str, words: list[str], limit: int
) -> bool:
    """Sequences with mask tokens in the label's place; classes with equally many tokens share one. Was the text cut?"""
    mask = tokenizer.mask_token
    if tokenizer.mask_token_id is None:
        raise ValueError("this tokenizer has no mask token, which a masked model's labels need")
    if mask in template.template:
        raise ValueError(f"the prompt must mark the label's place with {{label}}, not {mask}: {template.template!r}")

    def write(shown: str) -> list[_Masked]:
        # A mask token that the data itself spells is no place for a label.
        return _encode_masked(tokenizer, *template.render(shown.replace(mask, " ")), words)

    written, cut = _fit(tokenizer, template, text, limit, write, _longest)
    shared: dict[int, int] = {}
    for answer, (left, label, right) in enumerate(written):
        if len(label) not in shared:
            shared[len(label)] = builder.add_sequence(left + [tokenizer.mask_token_id] * len(label) + right)
        for k, token in enumerate(label):
            builder.read(shared[len(label)], len(left) + k, token, answer)
    return cut


_Masked = tuple[list[int], list[int], list[int]]  # tokens before a label, of the label, after it


def _longest(written: list[_Masked]) -> int:
    return max(len(left) + len(label) + len(right) for left, label, right in written)


def _encode_masked(tokenizer: Any, before: str, after: str, words: list[str]) -> list[_Masked]:
    """Each label as it is tokenised in running text, so that the masks stand exactly where its tokens would.

    White space before a word belongs to its first token in most vocabularies; encoding "was [MASK]" as a string
    would leave it behind as a token of its own.
    """
    _, suffix = affixes(tokenizer)
    before = before.rstrip()
    left = encode_open(tokenizer, before)
    written: list[_Masked] = []
    for word in words:
        word = (" " if before else "") + word.strip()
        label = continuation(tokenizer, before, left, word)
        right = continuation(tokenizer, word, encode_open(tokenizer, word), after) if after else []
        written.append((left, label, right + suffix))
    _refuse_equal(words, [label for _, label, _ in written])
    return written


def seq2seq_example(
    builder: BatchBuilder, tokenizer: Any, template: Prompt, text: str, words: list[str], limit: int, start: int
) -> bool:
    """The prompt as an encoder's source, the label's tokens as the decoder's target after its `start` token.

    Classes whose words are a single token share one target, the start token alone; a class of several tokens gets a
    target of its own with all but its last token. A label begins a text here: white space around it does not count.
    """
    if not template.ends_with_label:
        raise ValueError(
            "an encoder-decoder model reads the prompt and writes the label: the label must stand at the end of the "
            f"prompt, got {template.template!r}"
        )

    def write(shown: str) -> list[int]:
        return list(tokenizer(template.render(shown)[0].rstrip(), verbose=False)["input_ids"])

    answers = [encode_target(tokenizer, word.strip()) for word in words]
    _refuse_equal(words, answers)
    if (longest := max(map(len, answers))) > limit:
        raise ValueError(f"the longest label has {longest} tokens, the limit is {limit}")
    prompt, cut = _fit(tokenizer, template, text, limit, write, len)
    if not prompt:
        raise ValueError("the prompt has no tokens: an encoder needs at least one to read")
    source = builder.add_source(prompt)
    shared: int | None = None
    for answer, label in enumerate(answers):
        if len(label) > 1:
            sequence = builder.add_sequence([start, *label[:-1]], source)
        else:
            sequence = shared = builder.add_sequence([start], source) if shared is None else shared
        for position, token in enumerate(label):
            builder.read(sequence, position, token, answer)
    return cut


def _refuse_equal(words: list[str], answers: list[list[int]]) -> None:
    for i, tokens in enumerate(answers):
        if not tokens:
            raise ValueError(f"the label {words[i]!r} has no tokens")
        for j in range(i):
            if answers[j] == tokens:
                raise ValueError(
                    f"the labels {words[j]!r} and {words[i]!r} have the same tokens {tokens}: not told apart"
                )
