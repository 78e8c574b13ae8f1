"""Which evaluator a problem gets."""

from __future__ import annotations

import numpy as np

from llm_problem.evaluation.encoder_decoder import EncoderDecoderEvaluator
from llm_problem.evaluation.replay import NotReplayableError, ReplayEvaluator
from llm_problem.evaluation.serial import SerialEvaluator
from llm_problem.models.loading import LoadedModel
from llm_problem.models.quiet import quiet_transformers
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.tasks.batch import TokenBatch

EVALUATORS = ("auto", "serial", "replay")
# Nats, between the two on what is tried; a wrong mask is off by far more. A pair keeps its own dtype.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 0.1, "bfloat16": 0.1}


def choose_evaluator(
    model: LoadedModel,
    subspace: BoundSubspace,
    batch: TokenBatch,
    wanted: str,
    *,
    memory: int | None = None,
    precision: str | None = None,
) -> tuple[SerialEvaluator, str]:
    """The evaluator and why it was chosen; `memory` and `precision` are those of the replay evaluator.

    "auto" takes the replay evaluator where it can do the model and, tried on the two shortest examples at x = 0 and at
    one random x, agrees with the serial one; else the serial one.

    Raises:
        ValueError: an unknown name, or "replay" or another precision for a model that replay cannot do.
    """
    if wanted not in EVALUATORS:
        raise ValueError(f"evaluator must be one of {', '.join(EVALUATORS)}, got {wanted!r}")
    if memory is not None and (isinstance(memory, bool) or not memory >= 0):
        raise ValueError(f"memory_limit must be a number of bytes or None, got {memory!r}")
    serial = SerialEvaluator(model, subspace)
    if wanted == "serial":
        if precision is not None:
            raise ValueError(f"the serial evaluator is the reference in the model's own precision, got {precision}")
        return serial, "asked for"
    try:
        replay = _fast(model, subspace, batch, memory, precision)
        with quiet_transformers():  # sequences that begin with the padding token are no news
            _require_agreement(replay, serial, batch, precision)
    except NotReplayableError as error:
        if wanted == "replay" or precision is not None:
            raise ValueError(f"the replay evaluator cannot do this model: {error}") from error
        return serial, f"not replayable: {error}"
    return replay, "asked for" if wanted == "replay" else "agrees with the serial one"


def _fast(
    model: LoadedModel, subspace: BoundSubspace, batch: TokenBatch, memory: int | None, precision: str | None
) -> EncoderDecoderEvaluator | ReplayEvaluator:
    if model.kind != "seq2seq":
        return ReplayEvaluator(model, subspace, batch, memory, precision)
    if precision is not None:
        raise NotReplayableError(f"an encoder-decoder model runs in its own precision, not in {precision}")
    return EncoderDecoderEvaluator(model, subspace, memory)


def _require_agreement(
    replay: EncoderDecoderEvaluator | ReplayEvaluator,
    serial: SerialEvaluator,
    batch: TokenBatch,
    precision: str | None,
) -> None:
    length = np.zeros(batch.examples)
    np.add.at(length, batch.example, [batch.sequences[s].size for s in batch.sequence])
    tried = batch.take(np.sort(np.argsort(length, kind="stable")[:2]))
    X = np.random.Generator(np.random.PCG64(0)).standard_normal((2, serial.subspace.dimension))
    X[0] = 0
    expected = tried.comparable(serial.log_probs(X, tried))
    found = tried.comparable(replay.one_by_one(X, tried))
    both = np.isfinite(expected) & np.isfinite(found)
    error = float(np.max(np.abs(expected - found)[both], initial=0.0))
    tolerance = TOLERANCE[precision or str(replay.model.model.dtype).removeprefix("torch.")]
    if error > tolerance or not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        raise NotReplayableError(f"tried on two examples, it differs from the serial one by {error:.2g} nats")
