"""The loop as gradient-free optimization of language models is usually written down, to be measured against.

Every evaluation loads a whole state dict with the candidate's weights, runs the padded batch at once, computes the
logits of the full vocabulary at every position, and takes the loss from them.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from llm_problem.problem import Problem
from llm_problem.subspaces.deltas import WeightChange


class DocumentLoop:
    """x (d,) → the same loss as `problem`, the usual way. Keeps a model of its own, beside the pretrained weights."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.pretrained = dict(problem.model.state_dict())  # shares the problem's tensors, which nobody writes to
        self.model = copy.deepcopy(problem.model)
        self.batch = problem.batch("search")
        self.ids, self.mask = padded(self.batch.sequences)

    def __call__(self, x: np.ndarray) -> float:
        state = dict(self.pretrained)
        for delta in self.problem.subspace.deltas(torch.from_numpy(x[None, :])):
            assert isinstance(delta, WeightChange)
            state[delta.parameter] = delta.apply(state[delta.parameter], 0)
        with torch.no_grad():
            self.model.load_state_dict(state)
            logits = self.model(input_ids=self.ids, attention_mask=self.mask, use_cache=False).logits  # (n, t, V)
            read = logits[self.batch.sequence, self.batch.position]  # (E, V)
            entries = log_probs(read, torch.from_numpy(self.batch.token))
        return float(self.problem.spec.task.loss(entries, self.batch))


def log_probs(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """log p(token) (E,) float64 from logits (E, V).

    About as fast as `log_softmax`, whose sum in float32 makes the loss of a language-modelling task wrong by 1e-5.
    """
    largest = logits.amax(dim=-1, keepdim=True)  # (E, 1)
    total = (logits - largest).exp_().sum(dim=-1).double()  # `sum` adds in pairs, and so is exact enough in float32
    return logits.gather(1, token[:, None])[:, 0].double() - largest[:, 0].double() - total.log()


def padded(sequences: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), each (n, longest) int64.

    Padded on the right: causal attention keeps real tokens from seeing padding, whatever token that is.
    """
    ids = torch.zeros((len(sequences), max(s.size for s in sequences)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : sequence.size] = torch.from_numpy(sequence)
        mask[row, : sequence.size] = 1
    return ids, mask
