"""Multiple choice: each row brings its own answers, and the model says how likely each is after the prompt.

A choice scores log p(choice | prompt), summed over its tokens. As in lm-eval (Gao et al., the Language Model Evaluation
Harness) there are two ways to pick one: the largest sum ("accuracy", its `acc`), and the largest sum for its length in
characters ("accuracy-norm", its `acc_norm`), since a longer text is less likely whatever it says. Loss = cross-entropy
over the choices' scores, in nats per example.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.statistics import Scored
from llm_problem.tasks.base import Task, check_sizes
from llm_problem.tasks.batch import BatchBuilder, TokenBatch
from llm_problem.tasks.chat import Chat, chat_summary, check_chat, in_chat, require_chat
from llm_problem.tasks.columns import ColumnPrompt, FilledPrompt
from llm_problem.tasks.data import Data
from llm_problem.tasks.from_files import FromFiles
from llm_problem.tasks.rows import Row, check_sources, rows_of
from llm_problem.tasks.splits import SHARES, stratified
from llm_problem.tasks.verbalizer import causal_example, seq2seq_example

ANSWER_FORMS = ("index", "number", "letter", "text")
LENGTHS: dict[str, Callable[[str], int]] = {"characters": len, "bytes": lambda text: len(text.encode())}
_FEW = 64  # different answers, up to which their rows of the model's head are multiplied at every place


class _Question(NamedTuple):
    row: Row
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class MultipleChoice(FromFiles, Task):
    """Choose among the answers that each row brings.

    Args:
        data: the examples; also the source of dev and test where those are not given.
        prompt: template with a row's columns, such as "Question: {question}\\nAnswer:".
        choices: a column that holds a list (in a CSV file as JSON; a mapping with the list as its "text" will do), or
            the names of columns that hold one choice each.
        answer: the column that says which one is right.
        answer_form: how it says so: "index" (from 0), "number" (from 1), "letter" (A, B, …) or "text" (the choice).
        before: what stands between prompt and choice, lm-eval's `target_delimiter`.
        length: what "accuracy-norm" divides by: "characters" (lm-eval's `acc_norm`) or "bytes" (its `acc_bytes`), of
            the choice without what stands before it.
        normalised: whether the loss, too, compares scores divided by length.
        cut: a column that is shortened where a prompt with its longest choice passes the model's context; None has
            such a row refused.
        chat: whether the prompt is put into the tokenizer's chat template, as a user's message that a choice answers
            (`before` is then often best left empty); or options, as for `Classification`.
        split, dev, test, search_size, dev_size, test_size, max_length, group, shares: as for `Classification`, but
            that a split by hash goes by the columns that the prompt shows, and a draw is not balanced.
    """

    kind: ClassVar[str] = "multiple-choice"
    objectives: ClassVar[tuple[str, ...]] = ("loss", "error", "error-norm")
    unit: ClassVar[str] = "nats per example"
    headline: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "accuracy-norm")
    higher_is_better: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy-norm")
    amount: ClassVar[float] = 0.7
    added: ClassVar[tuple[str, ...]] = ("chat",)

    data: Data
    prompt: str
    choices: str | tuple[str, ...]
    answer: str
    answer_form: str = "index"
    before: str = " "
    length: str = "characters"
    normalised: bool = False
    cut: str | None = None
    split: str | None = None
    dev: Data | None = None
    test: Data | None = None
    search_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    max_length: int | None = None
    group: str | None = None
    shares: tuple[float, float, float] = SHARES
    chat: Chat = False

    def __post_init__(self) -> None:
        prompt = ColumnPrompt(self.prompt)
        check_chat(self)
        check_sizes(self, "max_length")
        check_sources(self)
        if not isinstance(self.choices, str):
            object.__setattr__(self, "choices", tuple(self.choices))
            if len(self.choices) < 2:
                raise ValueError(f"choices must name a column with lists, or two columns or more, got {self.choices!r}")
        if self.answer_form not in ANSWER_FORMS:
            raise ValueError(f"answer_form must be one of {', '.join(ANSWER_FORMS)}, got {self.answer_form!r}")
        if self.length not in LENGTHS:
            raise ValueError(f"length must be one of {', '.join(LENGTHS)}, got {self.length!r}")
        if self.cut is not None and self.cut not in prompt.columns:
            raise ValueError(f"cut must be a column of the prompt ({', '.join(prompt.columns)}), got {self.cut!r}")

    def examples(self, split: str, seed: int = 0) -> list[tuple[str, tuple[str, ...], int]]:
        """(prompt, choices, number of the right one) of a split, in file order.

        Raises:
            ValueError: an empty split or one with fewer examples than its size asks for, a row whose choices are no
                list of two texts or more, or whose answer is none of them.
        """
        prompt = ColumnPrompt(self.prompt)
        return [(prompt.render(row.values), choices, right) for row, choices, right in self._questions(split, seed)]

    def _rows(self, split: str) -> list[Row]:
        prompt = ColumnPrompt(self.prompt)
        columns = [self.choices] if isinstance(self.choices, str) else list(self.choices)
        return rows_of(self, split, [*prompt.columns, *columns, self.answer], prompt.content)

    def _shown_prompt(self, row: Row) -> str:
        return ColumnPrompt(self.prompt).render(row.values)

    def _questions(self, split: str, seed: int) -> list[_Question]:
        rows = self._rows(split)
        found = [_Question(row, (choices := self._choices(row)), self._right(row, choices)) for row in rows]
        size = {"search": self.search_size, "dev": self.dev_size, "test": self.test_size}[split]
        if size is not None and size > len(found):
            raise ValueError(f"{split}_size is {size}, and {rows[0].data.label} has {len(found)} examples for it")
        return stratified(found, lambda question: 0, size, seed if split == "search" else 0)

    def _choices(self, row: Row) -> tuple[str, ...]:
        if isinstance(self.choices, str):
            try:
                found = json.loads(row[self.choices])
            except json.JSONDecodeError:
                found = None
            found = found.get("text") if isinstance(found, dict) else found
        else:
            found = [row[column] for column in self.choices]
        if not isinstance(found, list) or len(found) < 2 or not all(isinstance(text, str) and text for text in found):
            raise ValueError(
                f"{row.where}: choices must be a list of two texts or more, got {row.values.get(str(self.choices))!r}"
            )
        if len(set(found)) < len(found):
            raise ValueError(f"{row.where} has the same choice twice: {found!r}")
        return tuple(found)

    def _right(self, row: Row, choices: tuple[str, ...]) -> int:
        said = row[self.answer].strip()
        if self.answer_form == "text":
            right = choices.index(row[self.answer]) if row[self.answer] in choices else -1
        elif self.answer_form == "letter":
            right = ord(said.upper()) - ord("A") if len(said) == 1 else -1
        else:
            right = int(said) - (self.answer_form == "number") if said.isdecimal() else -1
        if not 0 <= right < len(choices):
            raise ValueError(
                f"{row.where}: column {self.answer!r} says {row[self.answer]!r}, which is no {self.answer_form} of its "
                f"{len(choices)} choices (answer_form is one of {', '.join(ANSWER_FORMS)})"
            )
        return right

    def batch(self, model: LoadedModel, split: str, seed: int) -> TokenBatch:
        require_chat(model, self.chat)
        write: Callable[..., bool]
        if model.kind == "seq2seq":
            write = partial(seq2seq_example, start=model.decoder_start)
        elif model.kind == "causal":
            write = causal_example
        else:
            raise ValueError(
                f"{model.name} is a masked model, which does not say how likely a text is after another: multiple "
                "choice needs a causal or an encoder-decoder model (Classification works with masked ones)"
            )
        prompt, builder = ColumnPrompt(self.prompt), BatchBuilder()
        limit = min(self.max_length or model.max_length, model.max_length)
        seen: set[str] = set()
        alike = True  # whether all choices of a row have one length, so that dividing by it compares nothing else
        for row, choices, right in self._questions(split, seed):
            filled = FilledPrompt(prompt, row.values, self.cut)
            lengths = [LENGTHS[self.length](choice) for choice in choices]
            builder.start_example(right, row.group, lengths)
            try:
                words = [self.before + choice for choice in choices]
                write(builder, model.tokenizer, in_chat(model, filled, self.chat), filled.text, words, limit)
            except ValueError as error:
                hint = "" if self.cut else "; cut=column shortens one"
                raise ValueError(f"{row.where}: {error}{hint if 'too long' in str(error) else ''}") from None
            alike = alike and len(set(lengths)) == 1
            seen.update(choices)
        return builder.build(labels_compete=alike and len(seen) <= _FEW)

    def loss(self, log_probs: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        count, there, lengths = _table(batch)
        cells = torch.as_tensor(batch.example * count + batch.answer)
        flat = torch.zeros(batch.examples * count, dtype=log_probs.dtype).index_add(0, cells, log_probs.cpu())
        scores = flat.reshape(batch.examples, count)  # (N, choices)
        if self.normalised:
            scores = scores / torch.as_tensor(lengths)
        scores = scores.masked_fill(torch.as_tensor(~there), -torch.inf)
        return torch.nn.functional.cross_entropy(scores, torch.as_tensor(batch.label))

    def example_losses(self, log_probs: np.ndarray, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        plain, normalised = _scores(log_probs, batch)
        scores = normalised if self.normalised else plain
        losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(batch.examples), batch.label]
        return losses, np.ones(batch.examples)

    def scores(self, log_probs: np.ndarray, batch: TokenBatch) -> dict[str, float]:
        means = {name: float(np.mean(values)) for name, values in self.scored(log_probs, batch).means.items()}
        loss = float(self.loss(torch.from_numpy(log_probs), batch))
        return {**means, "loss": loss, "examples": float(batch.examples)}

    def scored(self, log_probs: np.ndarray, batch: TokenBatch) -> Scored:
        means = {"loss": self.example_losses(log_probs, batch)[0]}
        for ending, scores in zip(("", "-norm"), _scores(log_probs, batch), strict=True):
            right = (scores.argmax(axis=1) == batch.label).astype(np.float64)
            right = np.where(np.isfinite(log_probs).all(), right, np.nan)  # a choice from NaN is no choice
            means.update({f"accuracy{ending}": right, f"error{ending}": 1.0 - right})
        return Scored(means, groups=batch.group, higher=frozenset(self.higher_is_better))

    @property
    def signatures(self) -> dict[str, str]:
        per = f"log-probability of a choice / its {self.length}"
        return dict.fromkeys(("accuracy-norm", "error-norm"), per)

    def summary(self) -> dict[str, Any]:
        return {
            "task": "multiple choice",
            "data": self.data.label,
            "prompt": self.prompt,
            **chat_summary(self.chat),
            "choices": self.choices if isinstance(self.choices, str) else list(self.choices),
            "loss": "cross-entropy over the choices' log-probabilities"
            + (f" per {self.length.removesuffix('s')}" if self.normalised else "")
            + ", in nats per example",
        }


def _table(batch: TokenBatch) -> tuple[int, np.ndarray, np.ndarray]:
    """C, the most choices of a row; which of (N, C) there are; and their lengths (N, C), 1 where there is none."""
    count = int(batch.answer.max()) + 1
    there = np.zeros((batch.examples, count), dtype=bool)
    there[batch.example, batch.answer] = True
    lengths = np.ones((batch.examples, count))
    lengths[batch.example, batch.answer] = batch.answer_length
    return count, there, lengths


def _scores(log_probs: np.ndarray, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probabilities (N, C) of the choices, and those for their length; −inf where a row has fewer."""
    count, there, lengths = _table(batch)
    scores = np.zeros((batch.examples, count))
    np.add.at(scores, (batch.example, batch.answer), log_probs)
    return np.where(there, scores, -np.inf), np.where(there, scores / lengths, -np.inf)
