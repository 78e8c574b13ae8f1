"""What a task asks of a model: sequences of tokens, and the log-probabilities to read from them.

An *entry* is one number log p(token | sequence) at one position. A task turns its examples into sequences and
entries once; evaluators return the entries' values; the task turns these into a loss. So evaluators know no tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Tokenised examples of one split.

    `sequences` holds the token ids without padding, each (t,) int64. Entry e reads log p(`token[e]`) from the logits
    at `position[e]` of sequence `sequence[e]`; it belongs to answer `answer[e]` of example `example[e]`. All five are
    (E,) int64, ordered by sequence. `label` (N,) is the right answer of each example.

    `contrast` says that the loss depends only on differences between entries at the same place of a sequence, as where
    single words compete: then their logits are as good as their log-probabilities, and evaluators may return those.
    """

    sequences: tuple[np.ndarray, ...]
    sequence: np.ndarray
    position: np.ndarray
    token: np.ndarray
    example: np.ndarray
    answer: np.ndarray
    label: np.ndarray
    contrast: bool = False

    @property
    def entries(self) -> int:
        return self.token.size

    @property
    def examples(self) -> int:
        return self.label.size

    @property
    def tokens(self) -> int:
        """Real tokens that a forward pass reads."""
        return sum(s.size for s in self.sequences)

    def fingerprint(self) -> str:
        """sha256 over all tokens and what is read from them (64 hex digits)."""
        digest = hashlib.sha256()
        for array in (*self.sequences, self.sequence, self.position, self.token, self.example, self.answer, self.label):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<i8").data)
        return digest.hexdigest()

    def take(self, examples: Sequence[int] | np.ndarray) -> TokenBatch:
        """The batch of some of the examples, in the order given, each at most once."""
        chosen = np.asarray(examples, dtype=np.int64)
        new_example = np.full(self.examples, -1)
        new_example[chosen] = np.arange(chosen.size)
        kept = np.flatnonzero(new_example[self.example] >= 0)
        kept = kept[np.argsort(new_example[self.example[kept]], kind="stable")]
        used = list(dict.fromkeys(self.sequence[kept].tolist()))
        new_sequence = {old: new for new, old in enumerate(used)}
        return TokenBatch(
            sequences=tuple(self.sequences[old] for old in used),
            sequence=np.array([new_sequence[s] for s in self.sequence[kept].tolist()], dtype=np.int64),
            position=self.position[kept],
            token=self.token[kept],
            example=new_example[self.example[kept]],
            answer=self.answer[kept],
            label=self.label[chosen],
            contrast=self.contrast,
        )

    def comparable(self, log_probs: np.ndarray) -> np.ndarray:
        """Values (…, E) of two evaluators in a form that can be compared: with `contrast`, less each place's first."""
        if not self.contrast:
            return log_probs
        place = self.sequence * (int(self.position.max()) + 1) + self.position
        _, first, which = np.unique(place, return_index=True, return_inverse=True)
        return log_probs - log_probs[..., first[which]]


class BatchBuilder:
    """Collects sequences and entries, example by example."""

    def __init__(self) -> None:
        self._sequences: list[np.ndarray] = []
        self._entries: list[tuple[int, int, int, int, int]] = []
        self._labels: list[int] = []

    def start_example(self, label: int) -> None:
        self._labels.append(label)

    def add_sequence(self, ids: Sequence[int] | np.ndarray) -> int:
        """Append a sequence and return its number."""
        self._sequences.append(np.asarray(ids, dtype=np.int64))
        return len(self._sequences) - 1

    def read(self, sequence: int, position: int, token: int, answer: int) -> None:
        """Read log p(token) at a position of a sequence, for an answer of the example started last."""
        self._entries.append((sequence, position, token, len(self._labels) - 1, answer))

    def build(self, *, labels_compete: bool = False) -> TokenBatch:
        """The batch; `labels_compete`: the loss only compares the answers of an example with each other."""
        table = np.asarray(self._entries, dtype=np.int64).reshape(-1, 5)
        sequence, position, token, example, answer = table[np.argsort(table[:, 0], kind="stable")].T.copy()
        label = np.asarray(self._labels, dtype=np.int64)
        # One entry an answer, all at one place of their example.
        pairs, entries = np.unique(table[:, 3:5], axis=0), len(table)
        places = np.unique(table[:, [3, 0, 1]], axis=0)
        contrast = labels_compete and len(pairs) == entries and len(places) == len(np.unique(table[:, 3]))
        return TokenBatch(tuple(self._sequences), sequence, position, token, example, answer, label, contrast)
