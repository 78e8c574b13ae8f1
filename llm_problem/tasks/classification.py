"""Classification by label words: the model reads a prompt and the words of each class compete for what comes next.

A class scores the summed log-probability of its words' tokens after the prompt (for a masked model: at as many mask
tokens, all masked at once; for an encoder-decoder model: at the start of what it writes about the prompt). Loss =
cross-entropy over the classes' scores, in nats per example.
"""

from __future__ import annotations

import difflib
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
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
from llm_problem.tasks.data import Data, Record
from llm_problem.tasks.from_files import checked
from llm_problem.tasks.rows import Row, UnusableSplit, check_sources, rows_of
from llm_problem.tasks.splits import SHARES, stratified
from llm_problem.tasks.template import Template
from llm_problem.tasks.verbalizer import causal_example, masked_example, seq2seq_example

_WRITERS: dict[str, Callable[..., bool]] = {
    "causal": causal_example,
    "masked": masked_example,
    "seq2seq": seq2seq_example,
}


class _Example(NamedTuple):
    text: str
    number: int  # of its class
    row: Row


@dataclass(frozen=True)
class Classification(Task):
    """Classify a text with label words.

    Args:
        data: the examples; also the source of dev and test where those are not given.
        text, label: names of the columns.
        prompt: template with `{text}`, and `{label}` where the label stands (default: at the end); another name in
            braces is another column of the data.
        labels: class, as it stands in the label column → the words that stand for it, such as " great" (for a
            causal model mind the leading space).
        split: a column that says search, dev or test; None splits by a hash of the text, so that an example never
            moves between splits when others come or go.
        dev, test: examples of their own for these splits.
        search_size, dev_size, test_size: how many examples, balanced over the classes; None is all. Which search
            examples are drawn follows from the problem's seed; dev and test do not.
        max_length: longest prompt with label in tokens (for an encoder-decoder model: longest prompt), at most the
            model's context (the default). Only the text is cut to fit; where that is the model's context and not a
            length of yours, a warning names the examples.
        group: a column whose value examples share that belong together, such as the document they come from: a split
            by hash keeps them together, and intervals take them for one draw.
        shares: of search, dev and test in a split by hash.
        shots: this many search examples of each class, instead of `search_size`; for one seed those of fewer shots are
            among those of more.
        prior: a text without content, such as "N/A", or several. What the model makes of it is its bias towards each
            class, and is taken away: a class scores log p(words | text) − log p̄, p̄ being its share of the classes
            for such a text, the mean of the shares for several (contextual calibration: Zhao et al. 2021,
            arXiv:2102.09690). The bias is that of the moved model, not of the pretrained one, so that loss and
            accuracy are those of the model at x as anyone would use it, and x cannot earn anything by moving the bias.
            It costs one more prompt an evaluation for each text. Whoever uses an exported point must do the same.
        chat: whether the prompt is put into the tokenizer's chat template, as a user's message. The label then begins
            the answer, where most models want it without a leading space. Or options: "system", the text of a system
            message, and variables that the template reads, such as {"enable_thinking": False}. A template that asks
            for today's date is told 26 July 2024, so that a loss does not change overnight.
    """

    kind: ClassVar[str] = "classification"
    objectives: ClassVar[tuple[str, ...]] = ("loss", "error")
    unit: ClassVar[str] = "nats per example"
    headline: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    higher_is_better: ClassVar[tuple[str, ...]] = ("accuracy",)
    amount: ClassVar[float] = 0.7
    added: ClassVar[tuple[str, ...]] = ("group", "shares", "shots", "prior", "chat")

    data: Data
    text: str
    label: str
    prompt: str
    labels: Mapping[str, str] | tuple[tuple[str, str], ...]
    split: str | None = None
    dev: Data | None = None
    test: Data | None = None
    search_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    max_length: int | None = None
    group: str | None = None
    shares: tuple[float, float, float] = SHARES
    shots: int | None = None
    prior: str | tuple[str, ...] | None = None
    chat: Chat = False

    def __post_init__(self) -> None:
        Template(self.prompt)
        check_chat(self)
        check_sizes(self, "max_length", "shots")
        check_sources(self)
        if self.shots is not None and self.search_size is not None:
            raise ValueError("give shots, examples of each class, or search_size, those of all, not both")
        pairs = tuple(self.labels.items() if isinstance(self.labels, Mapping) else self.labels)
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"labels must map each class to the words that stand for it, got {self.labels!r}")
        labels = tuple((str(name), str(words)) for name, words in pairs)
        if len(dict(labels)) != len(labels):
            raise ValueError(f"labels names a class twice: {', '.join(name for name, _ in labels)}")
        if len(labels) < 2:
            raise ValueError(f"at least two classes are needed, labels has {len(labels)}")
        if any(not words.strip() for _, words in labels):
            raise ValueError(f"every class needs words that stand for it, got {dict(labels)!r}")
        object.__setattr__(self, "labels", labels)
        if self.prior is not None:
            prior = (self.prior,) if isinstance(self.prior, str) else tuple(self.prior)
            if not prior or not all(isinstance(text, str) for text in prior):
                raise ValueError(f"prior must be a text without content such as 'N/A', or several, got {self.prior!r}")
            object.__setattr__(self, "prior", prior)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        text: str,
        label: str,
        prompt: str,
        labels: Mapping[str, str],
        dev: str | os.PathLike[str] | None = None,
        test: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Classification:
        """From a CSV (or .tsv, .jsonl) file with a header; `dev` and `test` are files of the same columns.

        Raises:
            ValueError: a file that cannot be read, a missing column, a class that `labels` does not name.
        """
        return cls._from_files(None, path, dev, test, text=text, label=label, prompt=prompt, labels=labels, **options)

    @classmethod
    def from_jsonl(
        cls,
        path: str | os.PathLike[str],
        *,
        text: str,
        label: str,
        prompt: str,
        labels: Mapping[str, str],
        dev: str | os.PathLike[str] | None = None,
        test: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Classification:
        """From files with a JSON object a line, whatever their names end in; otherwise as `from_csv`."""
        return cls._from_files(
            "jsonl", path, dev, test, text=text, label=label, prompt=prompt, labels=labels, **options
        )

    @classmethod
    def _from_files(cls, format: str | None, path: Any, dev: Any, test: Any, **options: Any) -> Classification:
        for name, where in (("dev", dev), ("test", test)):
            options[name] = None if where is None else Data.of(where, format)
        return checked(cls(Data.of(path, format), **options))

    @classmethod
    def from_records(cls, records: Iterable[Record], **options: Any) -> Classification:
        """From dictionaries in memory, such as [{"text": …, "label": …}, …], or a DataFrame; options as for `from_csv`.

        `dev` and `test` are records of their own, or files.
        """
        return checked(cls(Data.of(records), **options))

    def check_rows(self, split: str) -> None:
        """Read the labels of a split, which may be too small for `examples`."""
        for row in self._rows(split):
            self._class_number(row)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._labels)

    @property
    def _labels(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.labels)  # type: ignore[arg-type]

    def examples(self, split: str, seed: int = 0) -> list[tuple[str, int]]:
        """(text, class number) of a split, in file order.

        Raises:
            UnusableSplit: it is empty, or has a single class.
            ValueError: fewer examples than its size or the shots ask for, a size below the number of classes, a label
                that is not among `labels`.
        """
        return [(example.text, example.number) for example in self._examples(split, seed)]

    def _examples(self, split: str, seed: int) -> list[_Example]:
        found = [_Example(row[self.text], self._class_number(row), row) for row in self._rows(split)]
        source = ({"dev": self.dev, "test": self.test}.get(split) or self.data).label
        counts = Counter(example.number for example in found)
        if len(counts) < 2:
            raise UnusableSplit(
                f"the {split} split of {source} has a single class, {self.classes[found[0].number]!r}: "
                "examples of at least two are needed"
            )
        if split == "search" and self.shots is not None:
            rare = min(range(len(self._labels)), key=lambda number: counts[number])
            if counts[rare] < self.shots:
                raise ValueError(
                    f"shots is {self.shots}, and the search split of {source} has {counts[rare]} examples of "
                    f"{self.classes[rare]!r}"
                )
        size = self._size(split)
        if size is not None and not len(counts) <= size <= len(found):
            raise ValueError(
                f"{split}_size must be from {len(counts)}, one of each class, to {len(found)}, the examples that "
                f"{source} has for the {split} split; got {size}"
            )
        return stratified(found, lambda example: example.number, size, seed if split == "search" else 0)

    def _size(self, split: str) -> int | None:
        if split == "search" and self.shots is not None:
            return self.shots * len(self._labels)
        return {"search": self.search_size, "dev": self.dev_size, "test": self.test_size}[split]

    def _rows(self, split: str) -> list[Row]:
        return rows_of(self, split, [self.text, self.label, *Template(self.prompt).columns], self._content)

    def _content(self, row: Mapping[str, str]) -> str:
        return row[self.text]

    def _shown_prompt(self, row: Row) -> str:
        return "".join(Template(self.prompt).of(row.values).render(row[self.text]))

    def _class_number(self, row: Row) -> int:
        value = row[self.label]
        try:
            return self.classes.index(value)
        except ValueError:
            near = difflib.get_close_matches(value, self.classes, n=1)
            raise ValueError(
                f"{row.where} has the label {value!r}, which labels does not name: it has {', '.join(self.classes)}"
                + (f" (did you mean {near[0]!r}?)" if near else "")
            ) from None

    def batch(self, model: LoadedModel, split: str, seed: int) -> TokenBatch:
        require_chat(model, self.chat)
        template, builder = Template(self.prompt), BatchBuilder()
        limit = min(self.max_length or model.max_length, model.max_length)
        words = [words for _, words in self._labels]
        write = _WRITERS[model.kind]
        if model.kind == "seq2seq":
            write = partial(write, start=model.decoder_start)
        cut = []
        for text, label, row in self._examples(split, seed):
            builder.start_example(label, row.group)
            try:
                prompt = in_chat(model, template.of(row.values), self.chat)
                shortened = write(builder, model.tokenizer, prompt, text, words, limit)
            except ValueError as error:
                raise ValueError(f"{row.where}: {error}") from None
            cut += [row.where] * shortened
        if cut and self.max_length is None:
            warnings.warn(
                f"{cut[0]}{f' and {len(cut) - 1} others are' if cut[1:] else ' is'} cut to the {limit} tokens that "
                f"{model.name} reads at once; give max_length where that is meant",
                stacklevel=2,
            )
        classes = len(words)
        for number, text in enumerate(self.prior or (), start=1):
            # No content in any column.
            for_none = in_chat(model, template.of(dict.fromkeys(template.columns, text)), self.chat)
            builder.read_for_all(
                partial(write, builder, model.tokenizer, for_none, text, words, limit), number * classes
            )
        return builder.build(labels_compete=True, answers=classes)

    def loss(self, log_probs: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        classes, texts = len(self._labels), 1 + len(self.prior or ())
        cells = torch.as_tensor(batch.example * texts * classes + batch.answer)
        flat = torch.zeros(batch.examples * texts * classes, dtype=log_probs.dtype)
        table = flat.index_add(0, cells, log_probs.cpu()).reshape(batch.examples, texts, classes)
        scores = table[:, 0]  # (N, classes)
        if self.prior:
            scores = scores - (table[:, 1:].log_softmax(-1).logsumexp(1) - math.log(texts - 1))
        return torch.nn.functional.cross_entropy(scores, torch.as_tensor(batch.label))

    def example_losses(self, log_probs: np.ndarray, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        scores = self._class_scores(log_probs, batch)
        losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(batch.examples), batch.label]
        return losses, np.ones(batch.examples)

    def scores(self, log_probs: np.ndarray, batch: TokenBatch) -> dict[str, float]:
        loss = float(self.loss(torch.from_numpy(log_probs), batch))
        accuracy = float(np.mean(self._right(log_probs, batch)))
        return {"loss": loss, "accuracy": accuracy, "error": 1.0 - accuracy, "examples": float(batch.examples)}

    def scored(self, log_probs: np.ndarray, batch: TokenBatch) -> Scored:
        right = self._right(log_probs, batch)
        means = {"loss": self.example_losses(log_probs, batch)[0], "accuracy": right, "error": 1.0 - right}
        return Scored(means, groups=batch.group, higher=frozenset(self.higher_is_better))

    def _class_scores(self, log_probs: np.ndarray, batch: TokenBatch) -> np.ndarray:
        """Summed log-probabilities (N, classes) of the words of each class, less the prior's."""
        classes, texts = len(self._labels), 1 + len(self.prior or ())
        flat = np.zeros((batch.examples, texts * classes))
        np.add.at(flat, (batch.example, batch.answer), log_probs)
        table = flat.reshape(batch.examples, texts, classes)
        if not self.prior:
            return table[:, 0]
        shares = table[:, 1:] - np.logaddexp.reduce(table[:, 1:], axis=2, keepdims=True)
        return table[:, 0] - (np.logaddexp.reduce(shares, axis=1) - math.log(texts - 1))

    def _right(self, log_probs: np.ndarray, batch: TokenBatch) -> np.ndarray:
        """1 where the class that scores highest is the right one, else 0, (N,); NaN where one score is not finite."""
        scores = self._class_scores(log_probs, batch)
        right = (scores.argmax(axis=1) == batch.label).astype(np.float64)
        return np.where(np.isfinite(scores).all(), right, np.nan)  # a prediction from NaN is no prediction

    def summary(self) -> dict[str, Any]:
        return {
            "task": "classification by label words",
            "data": self.data.label,
            "prompt": self.prompt,
            **chat_summary(self.chat),
            "labels": dict(self._labels),
            **({"prior": list(self.prior)} if self.prior else {}),
            "loss": "cross-entropy over the classes, in nats per example",
        }
