"""What a task asks of a model: sequences of tokens, and the log-probabilities to read from them.

An *entry* is one number log p(token | sequence) at one position. A task turns its examples into sequences and
entries once; evaluators return the entries' values; the task turns these into a loss. So evaluators know no tasks.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Asked:
    """One example in words: what the model is shown, the answers that would do, and where it stands in the data."""

    prompt: str
    references: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Tokenised examples of one split.

    `sequences` holds the token ids without padding, each (t,) int64. Entry e reads log p(`token[e]`) from the logits
    at `position[e]` of sequence `sequence[e]`; it belongs to answer `answer[e]` of example `example[e]`. All five are
    (E,) int64, ordered by sequence. `label` (N,) is the right answer of each example.

    `contrast` says that the loss depends only on differences between entries at the same place of a sequence, as where
    single words compete: then their logits are as good as their log-probabilities, and evaluators may return those.

    For an encoder-decoder model `sequences` are what the decoder reads, from its start token on; `sources` holds what
    the encoder reads, each (s,) int64, and sequence k is predicted from source `source[k]`, (S,) int64. Both are empty
    for other models.

    `group` (N,) int64 numbers what examples share, such as a passage: those of one group are no independent draws. It
    is empty where each stands for itself. `answer_length` (E,) int64 is the length of the answer that an entry belongs
    to, in the unit that a task normalises by; empty where it does not. `asked` (N,) are the examples in words, where a
    task looks at texts that the model writes.
    """

    sequences: tuple[np.ndarray, ...]
    sequence: np.ndarray
    position: np.ndarray
    token: np.ndarray
    example: np.ndarray
    answer: np.ndarray
    label: np.ndarray
    contrast: bool = False
    sources: tuple[np.ndarray, ...] = ()
    source: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    group: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    answer_length: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    asked: tuple[Asked, ...] = ()

    @classmethod
    def whole_vocabulary(
        cls,
        vocabulary: int,
        sequences: Sequence[np.ndarray],
        sequence: np.ndarray,
        position: np.ndarray,
        sources: Sequence[np.ndarray] = (),
        source: np.ndarray | None = None,
    ) -> TokenBatch:
        """Every token, 0 … V − 1, at p places; each place is an example, and its values are (p, V) one after another.

        Args:
            vocabulary: V.
            sequences: token ids, each (t,).
            sequence: (p,) number of each place's sequence, ascending.
            position: (p,) where in it.
            sources: what an encoder reads, each (s,).
            source: (S,) number of each sequence's source; None where there are none.
        """
        places = np.arange(len(position))
        return cls(
            sequences=tuple(sequences),
            sequence=np.repeat(sequence, vocabulary),
            position=np.repeat(position, vocabulary),
            token=np.tile(np.arange(vocabulary), len(places)),
            example=np.repeat(places, vocabulary),
            answer=np.zeros(len(places) * vocabulary, dtype=np.int64),
            label=np.zeros(len(places), dtype=np.int64),
            sources=tuple(sources),
            source=np.empty(0, dtype=np.int64) if source is None else source,
        )

    @property
    def entries(self) -> int:
        return self.token.size

    @property
    def examples(self) -> int:
        return self.label.size

    @property
    def tokens(self) -> int:
        """Real tokens that a forward pass reads, those of a source once."""
        return sum(s.size for s in (*self.sequences, *self.sources))

    def fingerprint(self) -> str:
        """sha256 over all tokens and what is read from them (64 hex digits)."""
        digest = hashlib.sha256()
        arrays = [*self.sequences, self.sequence, self.position, self.token, self.example, self.answer, self.label]
        if self.sources:
            arrays += [*self.sources, self.source]
        if self.answer_length.size:
            arrays.append(self.answer_length)
        for array in arrays:
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
        rank = np.zeros(len(self.sequences), dtype=np.int64)
        rank[used] = np.arange(len(used))
        kept = kept[np.argsort(rank[self.sequence[kept]], kind="stable")]  # one that many examples read comes up early
        read = self.source[used].tolist() if self.sources else []
        new_source = {old: new for new, old in enumerate(dict.fromkeys(read))}
        return TokenBatch(
            sequences=tuple(self.sequences[old] for old in used),
            sequence=rank[self.sequence[kept]],
            position=self.position[kept],
            token=self.token[kept],
            example=new_example[self.example[kept]],
            answer=self.answer[kept],
            label=self.label[chosen],
            contrast=self.contrast,
            sources=tuple(self.sources[old] for old in new_source),
            source=np.array([new_source[old] for old in read], dtype=np.int64),
            group=self.group[chosen] if self.group.size else self.group,
            answer_length=self.answer_length[kept] if self.answer_length.size else self.answer_length,
            asked=tuple(self.asked[old] for old in chosen.tolist()) if self.asked else (),
        )

    def prompted(self, prompt: Sequence[int]) -> TokenBatch:
        """The batch with the tokens of a prompt in front of every sequence; of every source, where there are any."""
        front = np.asarray(prompt, dtype=np.int64)
        sequences, sources = (
            tuple(np.concatenate([front, ids]) for ids in texts) for texts in (self.sequences, self.sources)
        )
        if self.sources:
            return dataclasses.replace(self, sources=sources)
        return dataclasses.replace(self, sequences=sequences, position=self.position + front.size)

    def prompts(self) -> list[np.ndarray]:
        """What the model reads before an answer begins, example by example, each (t,): to its first entry, or its
        source."""
        _, first = np.unique(self.example, return_index=True)
        if self.sources:
            return [self.sources[self.source[self.sequence[entry]]] for entry in first]
        return [self.sequences[self.sequence[entry]][: self.position[entry] + 1] for entry in first]

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
        self._sources: list[np.ndarray] = []
        self._source: list[int] = []
        self._entries: list[tuple[int, int, int, int, int]] = []
        self._labels: list[int] = []
        self._groups: list[int] = []
        self._known_groups: dict[str, int] = {}
        self._lengths: list[Sequence[int]] = []

    def start_example(self, label: int, group: str | None = None, lengths: Sequence[int] = ()) -> None:
        """Start one; what is given of it beside its label is given for all examples or for none.

        Args:
            label: its right answer.
            group: what it shares with others.
            lengths: of its answers, in the unit that the task normalises by.
        """
        self._labels.append(label)
        if group is not None:
            self._groups.append(self._known_groups.setdefault(group, len(self._known_groups)))
        if lengths:
            self._lengths.append(lengths)

    def add_source(self, ids: Sequence[int] | np.ndarray) -> int:
        """Append what an encoder reads and return its number."""
        self._sources.append(np.asarray(ids, dtype=np.int64))
        return len(self._sources) - 1

    def add_sequence(self, ids: Sequence[int] | np.ndarray, source: int | None = None) -> int:
        """Append a sequence and return its number; `source` is the one that an encoder-decoder predicts it from."""
        self._sequences.append(np.asarray(ids, dtype=np.int64))
        if source is not None:
            self._source.append(source)
        return len(self._sequences) - 1

    def read(self, sequence: int, position: int, token: int, answer: int) -> None:
        """Read log p(token) at a position of a sequence, for an answer of the example started last."""
        self._entries.append((sequence, position, token, len(self._labels) - 1, answer))

    def read_for_all(self, write: Callable[[], object], answer: int) -> None:
        """Have every example read what `write` adds for one, from shared sequences, as answers from `answer` on."""
        first = len(self._entries)
        write()
        shared, self._entries[first:] = self._entries[first:], []
        for example in range(len(self._labels)):
            self._entries += [(s, place, token, example, answer + number) for s, place, token, _, number in shared]

    def build(self, *, labels_compete: bool = False, answers: int | None = None) -> TokenBatch:
        """The batch.

        Args:
            labels_compete: the loss only compares the answers of an example with each other.
            answers: so many in a row are compared with each other, and others with others; None for all.
        """
        table = np.asarray(self._entries, dtype=np.int64).reshape(-1, 5)
        sequence, position, token, example, answer = table[np.argsort(table[:, 0], kind="stable")].T.copy()
        label = np.asarray(self._labels, dtype=np.int64)
        # One entry an answer, and those that are compared all at one place.
        pairs, entries = np.unique(table[:, 3:5], axis=0), len(table)
        compared = np.stack([table[:, 3], table[:, 4] // (answers or max(1, entries))])
        places = np.unique(np.vstack([compared, table[:, :2].T]), axis=1)
        one_place = places.shape[1] == np.unique(compared, axis=1).shape[1]
        contrast = labels_compete and len(pairs) == entries and one_place
        sources, source = tuple(self._sources), np.asarray(self._source, dtype=np.int64)
        if source.size != (len(self._sequences) if sources else 0):
            raise ValueError(f"{len(self._sequences)} sequences, but {source.size} of them have a source")
        entry = sequence, position, token, example, answer
        group = np.asarray(self._groups, dtype=np.int64)
        pairs_of = zip(example.tolist(), answer.tolist(), strict=True)
        lengths = [self._lengths[e][a] for e, a in pairs_of] if self._lengths else []
        length = np.asarray(lengths, dtype=np.int64)
        return TokenBatch(tuple(self._sequences), *entry, label, contrast, sources, source, group, length)
