"""Several sequences in one row without padding, with what they begin alike computed once.

Token-wise modules do not mind who their neighbours are; only attention looks at whole sequences, and is told by a
`Row` which tokens each sequence consists of. Causal models give a token the same hidden state in every sequence that
begins alike, so the row holds the prefix tree of the sequences: each distinct beginning once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from llm_problem.evaluation.attention import AttentionGroups, Span
from llm_problem.tasks.batch import TokenBatch


@dataclass(eq=False)
class Row:
    """Some sequences of a batch, packed into T tokens, and the p places among them where something is read.

    `entry` picks the row's entries among the batch's; entry e reads `token[e]` at place `keep[place_of_entry[e]]`.
    """

    ids: torch.Tensor  # (1, T)
    positions: torch.Tensor  # (1, T), as the model counts them
    everywhere: AttentionGroups  # who attends to whom where every token asks
    at_keep: AttentionGroups  # the same where only the kept places ask, in the order of `keep`
    entry: np.ndarray  # (e,)
    keep: torch.Tensor  # (p,), ascending
    place_of_entry: torch.Tensor  # (e,) into keep
    token: torch.Tensor  # (e,)
    words: torch.Tensor  # (k,) the distinct tokens
    word_of_entry: torch.Tensor  # (e,) into words
    prompt: torch.Tensor  # (m,) the places of the prompt's tokens
    prompt_token: torch.Tensor  # (m,) which of them each is, from 0 to p − 1

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]


def pack(batch: TokenBatch, chosen: range, *, causal: bool, offset: int, device: torch.device, prompt: int = 0) -> Row:
    """Pack the sequences `chosen` of a batch.

    Args:
        batch: the batch.
        chosen: numbers of its sequences.
        causal: whether a token sees only those before it; then common beginnings are shared.
        offset: position of a sequence's first token.
        device: where the tensors are put.
        prompt: p, how many tokens of a prompt every sequence starts with.
    """
    # Sequences of like length stand together, so that attention takes them in few buckets.
    order = sorted(chosen, key=lambda s: batch.sequences[s].size)
    tokens: list[int] = []
    depth: list[int] = []
    children: dict[tuple[int, int], int] = {}  # (place of the token before, token) → place
    paths: dict[int, np.ndarray] = {}
    spans: list[Span] = []
    for number in order:
        path: list[int] = []
        fresh = 0
        for k, token in enumerate(batch.sequences[number].tolist()):
            key = (path[-1] if path else -1, token)
            place = children.get(key) if causal else None
            if place is None:
                place, fresh = len(tokens), fresh + 1
                children[key] = place
                tokens.append(token)
                depth.append(k)
            path.append(place)
        paths[number] = np.array(path)
        if fresh:  # the last `fresh` tokens are this sequence's own
            spans.append(Span(paths[number][-fresh:], np.arange(len(path) - fresh, len(path)), paths[number]))
    entry = np.flatnonzero((batch.sequence >= chosen.start) & (batch.sequence < chosen.stop))
    places = np.array([paths[s][p] for s, p in zip(batch.sequence[entry], batch.position[entry], strict=True)], int)
    keep, place_of_entry = np.unique(places, return_inverse=True)
    fronts = np.array([paths[s][:prompt] for s in order])  # (sequences, p)
    prompt_places, first = np.unique(fronts, return_index=True)
    words, word_of_entry = np.unique(batch.token[entry], return_inverse=True)
    return Row(
        ids=torch.tensor([tokens], device=device),
        positions=torch.tensor([depth], device=device) + offset,
        everywhere=AttentionGroups(spans, np.arange(len(tokens)), causal=causal, device=device),
        at_keep=AttentionGroups(_at(keep, spans), keep, causal=causal, device=device),
        entry=entry,
        keep=torch.as_tensor(keep, device=device),
        place_of_entry=torch.as_tensor(place_of_entry, device=device),
        token=torch.as_tensor(batch.token[entry], device=device),
        words=torch.as_tensor(words, device=device),
        word_of_entry=torch.as_tensor(word_of_entry, device=device),
        prompt=torch.as_tensor(prompt_places, device=device),
        prompt_token=torch.as_tensor(first % max(prompt, 1), device=device),
    )


def cut(batch: TokenBatch, tokens: int) -> Iterator[range]:
    """Ranges of whole sequences of at most `tokens` tokens (or one sequence, where that is longer)."""
    start = total = 0
    for number, sequence in enumerate(batch.sequences):
        if number > start and total + sequence.size > tokens:
            yield range(start, number)
            start, total = number, 0
        total += sequence.size
    yield range(start, len(batch.sequences))


def _at(keep: np.ndarray, spans: list[Span]) -> list[Span]:
    """The spans with only those of their own tokens that are kept; spans without any are left out."""
    found = []
    for span in spans:
        asked = np.isin(span.queries, keep)
        if asked.any():
            found.append(Span(span.queries[asked], span.positions[asked], span.keys))
    return found
