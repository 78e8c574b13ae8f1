"""The loop as gradient-free optimization of language models is usually written down, to be measured against.

Every evaluation loads a whole state dict with the candidate's weights, runs the padded batch at once, computes the
logits of the full vocabulary at every position, and takes the loss from them.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from llm_problem.problem import Problem


class DocumentLoop:
    """x (d,) → the same loss as `problem`, the usual way. Keeps a copy of the model."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model = copy.deepcopy(problem.model)
        self.pretrained = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.batch = problem.batch("search")
        lengths = [s.size for s in self.batch.sequences]
        # Padded on the right: causal attention keeps real tokens from seeing padding, whatever token that is.
        self.ids = torch.zeros((len(lengths), max(lengths)), dtype=torch.int64)
        self.mask = torch.zeros_like(self.ids)
        for row, sequence in enumerate(self.batch.sequences):
            self.ids[row, : sequence.size] = torch.from_numpy(sequence)
            self.mask[row, : sequence.size] = 1

    def __call__(self, x: np.ndarray) -> float:
        state = dict(self.pretrained)
        for delta in self.problem.subspace.deltas(torch.from_numpy(x[None, :])):
            state[delta.parameter] = delta.apply(state[delta.parameter], 0)
        with torch.no_grad():
            self.model.load_state_dict(state)
            logits = self.model(input_ids=self.ids, attention_mask=self.mask, use_cache=False).logits  # (n, t, V)
            log_p = torch.log_softmax(logits[self.batch.sequence, self.batch.position].double(), dim=-1)  # (E, V)
            entries = log_p[torch.arange(self.batch.entries), self.batch.token]
        return float(self.problem.spec.task.loss(entries, self.batch))
