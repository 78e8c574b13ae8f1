"""The loop of somebody who knows how to evaluate a language model, to be measured against.

Sequences are sorted by length into small batches, each padded to its own longest; the body alone is run; the hidden
states at the scored positions are multiplied with the rows of the label words. The adapter is PEFT's own, set in
place: an evaluation overwrites the B of each LoRA and nothing else.
"""

from __future__ import annotations

import copy
import importlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llm_problem.benchmarks.document_loop import log_probs, padded
from llm_problem.export.lora import lora_factors
from llm_problem.models.quiet import quiet_transformers
from llm_problem.problem import Problem
from llm_problem.subspaces.deltas import FactorDelta, LowRankDelta
from llm_problem.tasks.batch import TokenBatch

BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class NotForExpertsError(ValueError):
    """This loop cannot be run here; the message says why."""


class ExpertLoop:
    """x (d,) → the same loss as `problem`.

    Args:
        problem: on a causal model, with low-rank changes.
        batch_size: sequences in a batch; see `tuned_batch_size`.

    Raises:
        NotForExpertsError: no PEFT, another kind of model or of changes.
    """

    def __init__(self, problem: Problem, batch_size: int) -> None:
        self.problem = problem
        self.batch = problem.batch("search")
        if "ForMaskedLM" in type(problem.model).__name__ or problem.model.config.is_encoder_decoder:
            raise NotForExpertsError("the expert's loop is written for causal models")
        self._adapt()
        head = self.model.get_output_embeddings()
        self.body = getattr(self.model, self.model.base_model_prefix)
        # Where each sequence is read at one place, as label words of one token are, the normaliser over the vocabulary
        # is the same for every class of an example, so that their own rows are enough.
        self.words_only = _one_place_a_sequence(self.batch)
        words, self.word = np.unique(self.batch.token, return_inverse=True)
        rows = torch.from_numpy(words) if self.words_only else slice(None)
        self.rows = head.weight.detach()[rows]  # (words, hidden), or (V, hidden)
        self.bias = None if getattr(head, "bias", None) is None else head.bias.detach()[rows]
        self.set_batch_size(batch_size)

    def set_batch_size(self, size: int) -> None:
        """Sort the sequences by length into batches of `size`."""
        order = np.argsort([s.size for s in self.batch.sequences], kind="stable")
        column = self.word if self.words_only else self.batch.token
        self.parts = []
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            entries = np.flatnonzero(np.isin(self.batch.sequence, chosen))
            row_of = {int(sequence): row for row, sequence in enumerate(chosen)}
            rows = [row_of[sequence] for sequence in self.batch.sequence[entries].tolist()]
            place, read = np.unique(np.stack([rows, self.batch.position[entries]]), axis=1, return_inverse=True)
            ids, _ = padded(tuple(self.batch.sequences[sequence] for sequence in chosen))
            self.parts.append((ids, *map(torch.from_numpy, (place, read, column[entries], entries))))

    def __call__(self, x: np.ndarray) -> float:
        values = torch.empty(self.batch.entries, dtype=torch.float64)
        with torch.inference_mode():
            self.set(x)
            for ids, (row, position), read, column, entries in self.parts:
                # Padding is on the right, so that causal attention needs no mask, and takes its fast path.
                hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state[row, position]  # (p, hidden)
                logits = torch.nn.functional.linear(hidden, self.rows, self.bias)[read]  # (e, words or V)
                if self.words_only:
                    values[entries] = logits.gather(1, column[:, None])[:, 0].double()
                else:
                    values[entries] = log_probs(logits, column)
        return float(self.problem.spec.task.loss(values, self.batch))

    def set(self, x: np.ndarray) -> None:
        """Overwrite the B of each LoRA with x's."""
        for delta, (weight, rows, columns) in zip(self._deltas(x), self.places, strict=True):
            weight[rows, columns] = delta.factors(0)[0]

    def _deltas(self, x: np.ndarray) -> list[LowRankDelta | FactorDelta]:
        deltas = self.problem.subspace.deltas(torch.from_numpy(x[None, :]))
        if not all(isinstance(delta, LowRankDelta | FactorDelta) for delta in deltas):
            raise NotForExpertsError("the expert's loop sets low-rank adapters, such as LoRAXS")
        return deltas  # type: ignore[return-value]

    def _adapt(self) -> None:
        """Put PEFT's LoRA on a model that shares the pretrained weights; A is set once, B is x's."""
        peft = require_peft()
        base = self.problem.model
        deltas = self._deltas(self.problem.x0)
        factors = lora_factors(deltas)
        ranks = {a.shape[0] for _, a, _ in factors.values()}
        if len(ranks) > 1:
            raise NotForExpertsError(f"the expert's loop sets adapters of one rank, got {sorted(ranks)}")
        (rank,) = ranks
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=rank,  # PEFT's factor alpha / r is one
            target_modules=list(factors),
            fan_in_fan_out=any(transposed for _, _, transposed in factors.values()),
        )
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, for what PEFT calls
            shared = {id(p): p for p in base.parameters()}  # to deepcopy, these are copied already
            self.model = copy.deepcopy(base, shared)
            peft.get_peft_model(self.model, config)
        self.model.config.pad_token_id = None  # a copy's: else some models warn that a mask is missing
        self.model.eval().requires_grad_(False)
        self.places: list[tuple[torch.Tensor, Any, slice]] = []
        filled: dict[str, int] = {}
        for name, (_, a, _) in factors.items():
            self.model.get_submodule(name).lora_A["default"].weight.copy_(a)
        for delta in deltas:  # several projections fused in one tensor stand beside one another in its LoRA
            name = delta.parameter.removesuffix(".weight")
            start = filled.get(name, 0)
            filled[name] = start + delta.right.shape[0]
            weight = self.model.get_submodule(name).lora_B["default"].weight.data
            weight.zero_()
            rows = slice(None) if delta.target.rows is None else torch.from_numpy(delta.target.rows)
            self.places.append((weight, rows, slice(start, filled[name])))


def require_peft() -> Any:
    """The module.

    Raises:
        NotForExpertsError: it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise NotForExpertsError(f"the expert's loop needs PEFT: pip install peft ({error})") from error


def tuned_batch_size(loop: ExpertLoop, sizes: Sequence[int] = BATCH_SIZES, tries: int = 2) -> int:
    """The batch size of the shortest evaluation among `tries` of each size, in turns."""
    count = len(loop.batch.sequences)
    sizes = sorted({min(size, count) for size in sizes})
    best: dict[int, float] = dict.fromkeys(sizes, np.inf)
    for _ in range(tries):
        for size in sizes:
            loop.set_batch_size(size)
            started = time.perf_counter()
            loop(loop.problem.x0)
            best[size] = min(best[size], time.perf_counter() - started)
    return min(sizes, key=lambda size: best[size])


def _one_place_a_sequence(batch: TokenBatch) -> bool:
    """Whether every example has one sequence, read at one place, at one token for each answer."""
    places = {(e, s, p) for e, s, p in zip(batch.example, batch.sequence, batch.position, strict=True)}
    answers = set(zip(batch.example.tolist(), batch.answer.tolist(), strict=True))
    labelled = len(set(batch.answer.tolist())) > 1  # else the one token's own probability is what counts
    return labelled and len(places) == batch.examples and len(answers) == batch.entries
