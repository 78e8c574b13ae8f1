"""What tasks with a written answer share: a prompt from each row, the answers that would do, and how text is written.

A causal model reads the prompt and goes on; an encoder-decoder model reads it as its source. The loss is that of the
first reference, teacher-forced: each of its tokens is predicted from the prompt and the reference's tokens before it,
and so is what ends it (`score_end`), without which a model would not learn to stop.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from llm_problem.generation.choosing import end_tokens
from llm_problem.generation.decoding import Decoding
from llm_problem.models.loading import LoadedModel
from llm_problem.statistics import Corpus, Scored
from llm_problem.tasks.base import Task, check_flags, check_sizes
from llm_problem.tasks.batch import Asked, BatchBuilder, TokenBatch
from llm_problem.tasks.chat import Chat, chat_prompt, chat_summary, check_chat, require_chat
from llm_problem.tasks.columns import ColumnPrompt
from llm_problem.tasks.data import Data
from llm_problem.tasks.from_files import FromFiles
from llm_problem.tasks.rows import Row, check_sources, rows_of
from llm_problem.tasks.scorer import Function, Scorer
from llm_problem.tasks.splits import SHARES, stratified
from llm_problem.tasks.tokens import encode_bare, encode_open, encode_target
from llm_problem.tasks.verbalizer import continuation


@dataclass(frozen=True, kw_only=True)
class GenerativeTask(FromFiles, Task):
    """Base of the tasks whose answer is a text.

    Args:
        chat: whether the prompt is put into the tokenizer's chat template, as a user's message that an answer follows;
            or options, as for `Classification`.
        max_new_tokens, stop, temperature, top_p, sampling_seed: how text is written, see `Decoding`.
        score_end: whether the loss includes what ends a reference: the first of `stop`, or the model's end token for an
            encoder-decoder model, in a chat, and where there is no `stop`.
        split, dev, test, group, shares: which rows are search, dev and test, as for `Classification`.
        search_size, dev_size, test_size: how many examples, None is all; drawn by the problem's seed for search.
        max_length: longest prompt with reference in tokens (for an encoder-decoder model: longest prompt, and longest
            reference), at most the model's context, which is the default. A longer one is refused.
        scorer: for the objective "score", the mean of what this function says of each text: (prompts, outputs,
            references) → (N,) numbers, less being better. Three lists of strings, but that `QuestionAnswering` gives a
            list of right answers for each prompt, and `Generation` None where it has no references. Or its name
            "module:function". Prompts are as the model reads them, in a chat with its template about them; outputs as
            it writes them, with the space that a causal model often begins with; a column of lists comes as JSON. A
            description names the function (see `llm_problem.tasks.scorer`), so that one that other processes are to
            find must stand in a module.
    """

    unit: ClassVar[str] = "nats per token"

    data: Data = field(kw_only=False)
    chat: Chat = False
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    sampling_seed: int = 0
    score_end: bool = True
    split: str | None = None
    dev: Data | None = None
    test: Data | None = None
    search_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    max_length: int | None = None
    group: str | None = None
    shares: tuple[float, float, float] = SHARES
    scorer: Scorer | Function | str | None = None

    @property
    def _template(self) -> ColumnPrompt:
        return ColumnPrompt(self.prompt)  # type: ignore[attr-defined]  # where it stands differs from task to task

    def _check(self) -> None:
        """For `__post_init__`.

        Raises:
            ValueError, TypeError: a field that does not fit.
        """
        check_sizes(self, "max_length")
        check_sources(self)
        check_chat(self)
        check_flags(self, "score_end")
        decoding = self.decoding
        values = {"max_new_tokens": decoding.max_new_tokens, "stop": decoding.stop, "sampling_seed": decoding.seed}
        for name, value in {**values, "temperature": decoding.temperature, "top_p": decoding.top_p}.items():
            object.__setattr__(self, name, value)
        if self.scorer is not None:
            object.__setattr__(self, "scorer", Scorer.of(self.scorer))
            for name in ("objectives", "headline", "text_metrics"):  # what there is depends on what was given
                object.__setattr__(self, name, (*getattr(type(self), name), "score"))

    @property
    def decoding(self) -> Decoding:
        """How texts are written."""
        return Decoding(self.max_new_tokens, self.stop, self.temperature, self.top_p, self.sampling_seed)

    @property
    def _scorer(self) -> Scorer | None:
        return self.scorer  # type: ignore[return-value]  # once it was checked

    @property
    def signatures(self) -> dict[str, str]:
        if self._scorer is None:
            return {}
        source = f" sha256:{self._scorer.sha256[:16]}" if self._scorer.sha256 else ""
        return {"score": self._scorer.function + source}

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return () if self._scorer is None else (self._scorer.load(),)

    @property
    def nameless(self) -> str:
        return "" if self._scorer is None or self._scorer.portable else f"the scorer {self._scorer.function}"

    # What each task says of its rows.

    @abstractmethod
    def _columns(self) -> Sequence[str]:
        """The columns that every row must have."""

    @abstractmethod
    def _shown(self, row: Row) -> Mapping[str, str]:
        """What the prompt's names stand for."""

    @abstractmethod
    def _references(self, row: Row) -> tuple[str, ...]:
        """The answers that would do, the one of the loss first; none where the task has no loss.

        Raises:
            ValueError: the row has none that does.
        """

    def _content(self, row: Mapping[str, str]) -> str:
        """What a split by hash goes by."""
        return self._template.content(row)

    # What is read.

    def examples(self, split: str, seed: int = 0) -> list[Asked]:
        """Prompts (without a chat template) and references of a split, in file order.

        Raises:
            ValueError: an empty split or one with fewer examples than its size asks for, a row without a reference.
        """
        return [asked for asked, _ in self._examples(split, seed)]

    def _rows(self, split: str) -> list[Row]:
        return rows_of(self, split, self._columns(), self._content)

    def _shown_prompt(self, row: Row) -> str:
        return self._template.render(self._shown(row))

    def _examples(self, split: str, seed: int) -> list[tuple[Asked, str | None]]:
        """Each example, and the group that it is of."""
        rows = self._rows(split)
        size = {"search": self.search_size, "dev": self.dev_size, "test": self.test_size}[split]
        if size is not None and size > len(rows):
            raise ValueError(f"{split}_size is {size}, and {rows[0].data.label} has {len(rows)} examples for it")
        found = [(Asked(self._shown_prompt(row), self._references(row), row.where), row.group) for row in rows]
        return stratified(found, lambda example: 0, size, seed if split == "search" else 0)

    def batch(self, model: LoadedModel, split: str, seed: int) -> TokenBatch:
        if self._scorer is not None:
            self._scorer.load()  # one that may not be called is refused now
        if model.kind == "masked":
            raise ValueError(
                f"{model.name} is an encoder-only model, which writes no text: {self.kind} needs a causal or an "
                "encoder-decoder model"
            )
        require_chat(model, self.chat)
        builder, shown = BatchBuilder(), []
        for asked, group in self._examples(split, seed):
            prompt = chat_prompt(model, asked.prompt, self.chat)
            shown.append(dataclasses.replace(asked, prompt=prompt))
            builder.start_example(0, group)
            try:
                (self._write_target if model.kind == "seq2seq" else self._write_continuation)(builder, model, shown[-1])
            except ValueError as error:
                raise ValueError(f"{asked.where}: {error}") from None
        return dataclasses.replace(builder.build(), asked=tuple(shown))

    def _write_continuation(self, builder: BatchBuilder, model: LoadedModel, asked: Asked) -> None:
        """Prompt and first reference as one sequence of a causal model."""
        tokenizer, prompt = model.tokenizer, asked.prompt
        encode = encode_bare if self.chat else encode_open  # a template has its own tokens to begin with
        ids = encode(tokenizer, prompt)
        if not ids:
            raise ValueError("the prompt has no tokens: a causal model needs at least one to go on from")
        target = []
        if asked.references:
            before = "" if self.chat or prompt[-1:].isspace() else " "
            by_string = self.score_end and not self.chat and self.stop
            reference = before + asked.references[0] + (self.stop[0] if by_string else "")
            target = continuation(tokenizer, prompt, ids, reference, encode)
            target += self._end(model) if self.score_end and not by_string else []
        self._require_fits(model, "prompt and reference have" if target else "the prompt has", len(ids) + len(target))
        sequence = builder.add_sequence([*ids, *target[:-1]])
        self._read(builder, model, sequence, len(ids) - 1, target)

    def _write_target(self, builder: BatchBuilder, model: LoadedModel, asked: Asked) -> None:
        """Prompt and first reference as source and target of an encoder-decoder model."""
        source = list(model.tokenizer(asked.prompt.rstrip(), verbose=False)["input_ids"])
        if not source:
            raise ValueError("the prompt has no tokens: an encoder needs at least one to read")
        target = []
        if asked.references:
            target = encode_target(model.tokenizer, asked.references[0].strip()) + self._end(model)
        self._require_fits(model, "the prompt has", len(source))
        self._require_fits(model, "the reference has", len(target))
        sequence = builder.add_sequence([model.decoder_start, *target[:-1]], builder.add_source(source))
        self._read(builder, model, sequence, 0, target)

    def _end(self, model: LoadedModel) -> list[int]:
        """The model's end token, where it has one and the loss includes it."""
        ends = end_tokens(model) if self.score_end else frozenset()
        own = getattr(model.tokenizer, "eos_token_id", None)
        return [own if own in ends else min(ends)] if ends else []

    def _require_fits(self, model: LoadedModel, what: str, tokens: int) -> None:
        limit = min(self.max_length or model.max_length, model.max_length)
        if tokens > limit:
            raise ValueError(f"{what} {tokens} tokens, and the limit is {limit}")

    def _read(self, builder: BatchBuilder, model: LoadedModel, sequence: int, start: int, target: list[int]) -> None:
        for place, token in enumerate(target, start=start):
            builder.read(sequence, place, token, 0)
        if not target:  # nothing has a loss, but calibration looks at what comes first
            builder.read(sequence, start, min(end_tokens(model), default=0), 0)

    # What is made of it.

    def loss(self, log_probs: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        return -log_probs.mean()

    def example_losses(self, log_probs: np.ndarray, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        weights = np.bincount(batch.example, minlength=batch.examples).astype(np.float64)  # tokens
        return -np.bincount(batch.example, log_probs, minlength=batch.examples) / weights, weights

    def scores(self, log_probs: np.ndarray, batch: TokenBatch) -> dict[str, float]:
        return {"loss": float(-np.mean(log_probs)), "examples": float(batch.examples), "tokens": float(batch.entries)}

    def scored(self, log_probs: np.ndarray, batch: TokenBatch) -> Scored:
        losses, weights = self.example_losses(log_probs, batch)
        return Scored({"loss": losses}, weights, groups=batch.group, higher=frozenset(self.higher_is_better))

    def _overlaps(self, texts: Sequence[str], batch: TokenBatch) -> Corpus:
        """The task's own metrics of texts, as `score_texts`."""
        return lambda numbers: {}

    def _for_scorer(self, batch: TokenBatch) -> list[Any] | None:
        """The references that a scorer is shown."""
        return [asked.references[0] for asked in batch.asked]

    def score_texts(self, texts: Sequence[str], batch: TokenBatch) -> Corpus:
        own = self._overlaps(texts, batch)
        if self._scorer is None:
            return own
        scores = self._scorer([asked.prompt for asked in batch.asked], list(texts), self._for_scorer(batch))
        return lambda numbers: {**own(numbers), "score": float(scores[numbers].mean())}

    def summary(self) -> dict[str, Any]:
        ends = " or ".join(map(repr, self.stop)) or "its end"
        how = "greedy" if not self.temperature else f"drawn at temperature {self.temperature:g}, top_p {self.top_p:g}"
        return {
            "task": self.kind.replace("-", " "),
            "data": self.data.label,
            "prompt": self._template.prompt,
            **chat_summary(self.chat),
            "loss": "nats per token of the reference" + (" and what ends it" if self.score_end else ""),
            "text": f"{how}, at most {self.max_new_tokens} tokens, until {ends}",
            **({"signatures": self.signatures} if self.signatures else {}),
        }
