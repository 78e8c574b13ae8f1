"""The token batches of a problem: its splits, its numbered minibatches, the parts that candidates race over, and what
drift and forgetting are read on: a neutral text and another task."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from llm_problem.models.loading import LoadedModel
from llm_problem.tasks.base import Task
from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.data import Data
from llm_problem.tasks.neutral import neutral_batch
from llm_problem.tasks.splits import require_split

KEPT_MINIBATCHES = 8  # evaluators remember what x cannot change of each
_STREAM = 0xBA7C  # keeps the minibatches apart from other draws with the same seed


class Batches:
    """Made when they are first asked for, and the same object each time, because evaluators remember by it.

    Args:
        task: what is asked.
        model: who is asked.
        seed: draws the search examples and the minibatches.
        minibatch: examples of a minibatch, None where there are none.
        prompt: token ids that stand before every text.
        neutral_text: what drift is read on, None for the embedded prose.
        other_task: what forgetting is read on; needed by `other`.
    """

    def __init__(
        self,
        task: Task,
        model: LoadedModel,
        seed: int,
        minibatch: int | None,
        prompt: tuple[int, ...] = (),
        neutral_text: Data | None = None,
        other_task: Task | None = None,
    ) -> None:
        self._task, self._model, self._seed, self._size, self._prompt = task, model, seed, minibatch, prompt
        self._neutral_text, self._other_task = neutral_text, other_task
        self._neutral: TokenBatch | None = None
        self._other: TokenBatch | None = None
        self._splits: dict[str, TokenBatch] = {}
        self._minibatches: OrderedDict[int, TokenBatch] = OrderedDict()  # those asked for last
        self._parts: dict[int, list[TokenBatch]] = {}
        self._lock = threading.RLock()
        if minibatch is not None and minibatch > (found := self.split("search").examples):
            raise ValueError(f"minibatch {minibatch} is more than the {found} search examples")

    def split(self, name: str) -> TokenBatch:
        """The tokenised examples of a split, with the prompt in front.

        Raises:
            ValueError: there is no such split, or the prompt does not fit into the model's context with it.
        """
        with self._lock:
            if require_split(name) not in self._splits:
                batch = self._task.batch(self._model, name, self._seed)
                self._splits[name] = self._prompted(batch) if self._prompt else batch
            return self._splits[name]

    def _prompted(self, batch: TokenBatch) -> TokenBatch:
        longest = max(ids.size for ids in batch.sources or batch.sequences)
        room, front = self._model.max_length, len(self._prompt)
        if front + longest > room:
            raise ValueError(
                f"the prompt's {front} tokens and the longest text's {longest} are more than the model's context of "
                f"{room} tokens: choose a shorter prompt, or let the task read at most {room - front} (its window or "
                "max_length)"
            )
        return batch.prompted(self._prompt)

    def check_tokens(self, expected: str | None) -> str:
        """The fingerprint of the search examples' tokens.

        Raises:
            ValueError: another one is expected.
        """
        found = self.split("search").fingerprint()
        if expected is not None and expected != found:
            raise ValueError(
                f"the search examples become other tokens (sha256 {found[:16]}…) than the description says "
                f"({expected[:16]}…): the tokenizer or its chat template is another one now; in a "
                "copy that changes the model, the task, the seed or a prompt, set tokens=None"
            )
        return found

    def minibatch(self, number: Any) -> TokenBatch:
        """The `number`-th minibatch of the search examples.

        Raises:
            ValueError: there are none, or no such number.
        """
        if self._size is None:
            raise ValueError("this problem has no minibatches: make it with Problem(…, minibatch=size)")
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
            raise ValueError(f"sample must be a non-negative integer, got {number!r}")
        with self._lock:
            if number not in self._minibatches:
                search = self.split("search")
                rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, int(number), _STREAM])))
                chosen = np.sort(rng.choice(search.examples, size=self._size, replace=False))
                self._minibatches[int(number)] = search.take(chosen)
                if len(self._minibatches) > KEPT_MINIBATCHES:
                    self._minibatches.popitem(last=False)
            self._minibatches.move_to_end(int(number))
            return self._minibatches[int(number)]

    def parts(self, count: Any) -> list[TokenBatch]:
        """The search examples dealt out to `count` parts of like size.

        Raises:
            ValueError: not a number from 1 to that of the examples.
        """
        search = self.split("search")
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count <= search.examples:
            raise ValueError(f"rounds must be from 1 to the {search.examples} search examples, got {count!r}")
        with self._lock:
            if count not in self._parts:
                self._parts[int(count)] = [search.take(np.arange(k, search.examples, count)) for k in range(count)]
            return self._parts[int(count)]

    def neutral(self) -> TokenBatch:
        """Whole next-token distributions at a few places of the neutral text; errors as for `neutral_batch`."""
        with self._lock:
            if self._neutral is None:
                batch = neutral_batch(self._model, self._neutral_text or Data.of("embedded:prose"))
                self._neutral = self._prompted(batch) if self._prompt else batch
            return self._neutral

    def other(self) -> TokenBatch:
        """The search split of the other task, with the prompt in front.

        Raises:
            ValueError: it does not work with this model, or the prompt does not fit into the context with it.
        """
        with self._lock:
            if self._other is None:
                try:
                    assert self._other_task is not None
                    batch = self._other_task.batch(self._model, "search", self._seed)
                    self._other = self._prompted(batch) if self._prompt else batch
                except ValueError as error:
                    raise ValueError(f"the other task, which forgetting is read on: {error}") from error
            return self._other
