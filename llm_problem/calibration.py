"""Calibration: one length of x for every problem, told by how far it moves the model's predictions.

A unit of x is such that at x ~ N(0, I) the median over draws of

    KL(p_0 ‖ p_x) = Σ_k p_0(k) (log p_0(k) − log p_x(k)),   averaged over the places that are read,

is the task's amount (`Task.amount`) in nats, p_0 and p_x being the pretrained and the moved model's predictions over
the vocabulary at some of the positions that the task scores. This direction weighs what the pretrained model holds
likely, and does not burst where the moved model rules out what was unlikely anyway. The vocabulary is the ruler of
label tasks too: over a few answers the divergence saturates where the pretrained model is sure of one, and the same
amount is then a long step on one problem and a short one on another. A label task has a larger amount, though: it reads
few places, and searches of it go farther.

A problem whose description names no `units` is measured when it is built, from PAIRS pairs ±x of fixed draws on a
fixed part of the search examples. Each block of x is first given a unit of its own, by which it would reach its share
of the amount alone; then all of them are multiplied by one number. One trial of a number takes 2 · PAIRS evaluations;
three to five trials find it as a rule, MOST_TRIALS bound each search, and with b > 1 blocks there are b + 1 of them.
A block whose unit means something by itself (`Subspace.keeps_unit`) keeps it, and the others reach their share alone.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from llm_problem import drift
from llm_problem.evaluation import SerialEvaluator, choose_evaluator
from llm_problem.models.loading import LoadedModel
from llm_problem.spec import ProblemSpec
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.scaled import ScaledSubspace
from llm_problem.tasks.batch import TokenBatch

PAIRS = 8  # of draws x and −x
EXAMPLES, TOKENS = 32, 1024  # at most, of the search examples that are read
PLACES = 16  # at most, where a whole vocabulary is read
MOST_TRIALS = 24
CLOSE = 0.01  # relative error of the KL at which a search ends
FARTHEST = math.log(1e8)  # from the subspace's own unit, either way
FLAT = 0.1  # relative growth of the KL that counts as none, where a step is at least twice as long
SATURATED = 0.7  # of the largest KL that a subspace reaches: the longest unit of one that falls short of its amount
NOTHING = 1e-6  # nats: what rounding moves
_NUMBERS = 2**24  # in memory at once, of x and of what is read
_STREAM = 0xCA11B  # keeps the draws apart from others


def calibrated(
    spec: ProblemSpec, loaded: LoadedModel, bound: BoundSubspace, search: TokenBatch, memory: int | None = None
) -> tuple[ProblemSpec, BoundSubspace]:
    """The description with its units, and the subspace in these units.

    Units that the description names are taken as they are. What is measured does not depend on the evaluator or the
    precision that the description asks for.

    Args:
        spec: the description.
        loaded: the model.
        bound: the description's subspace on it.
        search: the search examples.
        memory: limit in bytes of the evaluator that measures, see `Problem`.

    Raises:
        ValueError: the description's units are more or fewer than the blocks of x.
    """
    kept = kept_units(spec, bound)
    units = spec.units
    if not units:
        free = not all(kept)
        units = measure(loaded, bound, search, spec.task.amount, kept, memory) if free else (1.0,) * len(kept)
    return dataclasses.replace(spec, units=units), ScaledSubspace(bound, units)


def measure(
    loaded: LoadedModel,
    bound: BoundSubspace,
    search: TokenBatch,
    amount: float,
    kept: Sequence[bool] = (False,),
    memory: int | None = None,
) -> tuple[float, ...]:
    """The unit of each block of x, to two significant digits; warns where a subspace cannot move predictions so far.

    Args:
        loaded: the model.
        bound: the subspace on it.
        search: the search examples.
        amount: of all blocks together, in nats.
        kept: for each block, whether its unit stays 1.
        memory: limit in bytes of the evaluator that measures.
    """
    examples, sizes = _some_examples(search), bound.block_sizes
    evaluator, _ = choose_evaluator(loaded, bound, examples, "auto", memory=memory)
    ruler = Ruler(evaluator, examples)
    if not np.isfinite(ruler.start).all():
        warnings.warn("the pretrained model's predictions are not finite: x is not calibrated", stacklevel=5)
        return (1.0,) * len(sizes)

    def solve(steps: np.ndarray, share: float, what: str) -> float:
        return _solve(lambda step: ruler.kl(step * steps, sizes), share * amount, what)

    free = np.flatnonzero(~np.array(kept))
    steps = np.zeros(len(sizes))  # of the free blocks; the others stand still
    steps[free] = 1.0
    if len(free) > 1:
        for block in free:
            steps[block] = solve(np.eye(len(sizes))[block], 1 / len(sizes), f"part {block} of x")
    steps *= solve(steps, len(free) / len(sizes), "x")
    return tuple(1.0 if keeps else float(f"{step:.1e}") for keeps, step in zip(kept, steps, strict=True))


def kept_units(spec: ProblemSpec, bound: BoundSubspace) -> tuple[bool, ...]:
    """For each block of x, whether its unit is the subspace's own."""
    return bound.kept or (spec.subspace.keeps_unit,) * len(bound.block_sizes)


def calibration_card(spec: ProblemSpec, evaluator: SerialEvaluator, search: TokenBatch) -> dict[str, Any]:
    """For a card: the units, the amount they were made for (None where some are kept), and what is measured."""
    return {
        "units": list(spec.units or ()),
        "kl_target": None if any(kept_units(spec, evaluator.subspace)) else spec.task.amount,
        "kl_measured": _at_one(evaluator, search),
    }


_found: WeakKeyDictionary[SerialEvaluator, float] = WeakKeyDictionary()


def _at_one(evaluator: SerialEvaluator, search: TokenBatch) -> float:
    """`typical_kl`, measured for the first card of a problem."""
    if evaluator not in _found:
        _found[evaluator] = typical_kl(evaluator, search)
    return _found[evaluator]


def typical_kl(evaluator: SerialEvaluator, search: TokenBatch, step: float = 1.0) -> float:
    """The median KL at x ~ N(0, step² I) in nats per position: 2 · PAIRS + 1 evaluations."""
    ruler = Ruler(evaluator, _some_examples(search))
    return ruler.kl(np.array([step]), (evaluator.subspace.dimension,))


class Ruler:
    """How far x moves the model's predictions of words.

    Args:
        evaluator: gives log-probabilities.
        examples: what the model reads; some of the places that are scored there are looked at.
    """

    def __init__(self, evaluator: SerialEvaluator, examples: TokenBatch) -> None:
        self.evaluator = evaluator
        head = evaluator.model.model.get_output_embeddings()
        self.batch = _whole_vocabulary(examples, int(head.weight.shape[0]))
        zero = np.zeros((1, evaluator.subspace.dimension))
        self.start = self._predictions(evaluator.one_by_one(zero, self.batch)[0])

    def _predictions(self, log_probs: np.ndarray) -> np.ndarray:
        """log p (places, vocabulary) from the entries' values (E,)."""
        return log_probs.reshape(self.batch.examples, -1)

    def kl(self, steps: np.ndarray, sizes: Sequence[int]) -> float:
        """The median over the draws, in nats; infinite where half of them break the model.

        Args:
            steps: (b,) what each block of a draw is multiplied by.
            sizes: of the blocks, b numbers that sum to d.
        """
        factors = np.repeat(steps, sizes) if len(sizes) > 1 else steps  # (d,) or (1,)
        dimension = self.evaluator.subspace.dimension
        pairs = max(1, _NUMBERS // (2 * max(dimension, self.batch.entries)))  # at once
        found: list[float] = []
        for first in range(0, PAIRS, pairs):
            X = np.stack([_draw(k, dimension) for k in range(first, min(first + pairs, PAIRS))]) * factors
            for values in self.evaluator.one_by_one(np.concatenate([X, -X]), self.batch):
                found.append(divergence(self.start, self._predictions(values)))
        return float(np.median(found))


def divergence(before: np.ndarray, after: np.ndarray) -> float:
    """KL(p ‖ q) in nats of log p and log q (places, outcomes), averaged over places; infinite where it is undefined."""
    log_p = torch.from_numpy(before)
    kl = float(drift.divergence(log_p, log_p.exp(), torch.from_numpy(after)))
    return kl if math.isfinite(kl) else math.inf


def _draw(number: int, dimension: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([number, _STREAM])))
    return rng.standard_normal(dimension)  # (d,) ~ N(0, I)


def _spread(count: int, total: int) -> np.ndarray:
    """`count` of `total` numbers, ascending, one drawn from each of as many stretches of like length.

    At equal distances they could all be the same place of a window.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([count, total, _STREAM])))
    edges = np.arange(count + 1) * total // count
    return rng.integers(edges[:-1], edges[1:])


def _some_examples(search: TokenBatch) -> TokenBatch:
    """Examples spread over the search examples, as many as EXAMPLES and TOKENS allow, and at least one."""
    count = min(EXAMPLES, search.examples)
    while (found := search.take(_spread(count, search.examples))).tokens > TOKENS and count > 1:
        count = max(1, min(count - 1, count * TOKENS // found.tokens))
    return found


def _whole_vocabulary(batch: TokenBatch, vocabulary: int) -> TokenBatch:
    """Every token at some of the places that a batch reads, spread over them; each place is an example."""
    places = np.unique(np.stack([batch.sequence, batch.position], axis=1), axis=0)  # (p, 2)
    count = min(PLACES, len(places))
    places = places[_spread(count, len(places))]
    used, number = np.unique(places[:, 0], return_inverse=True)
    read = batch.source[used] if batch.sources else np.empty(0, dtype=np.int64)
    kept, source = np.unique(read, return_inverse=True)
    return TokenBatch.whole_vocabulary(
        vocabulary,
        [batch.sequences[k] for k in used],
        number.reshape(-1),
        places[:, 1],
        [batch.sources[k] for k in kept],
        source.reshape(-1),
    )


def _solve(kl: Callable[[float], float], target: float, what: str) -> float:
    """The step at which the KL is at its target.

    Where it saturates before, a warning, and the step at SATURATED of the most that it reaches; 1 where nothing moves.
    """
    step, most = crossing(kl, target)
    if step is not None:
        return step
    if most > NOTHING:
        step, _ = crossing(kl, SATURATED * most)
    warnings.warn(
        f"no step of {what} moves the model's predictions by {target:.2g} nats, as a unit should; "
        + ("they hardly move at all, and it is not calibrated" if step is None else "it gets the longest sensible one"),
        stacklevel=7,
    )
    return 1.0 if step is None else step


def crossing(kl: Callable[[float], float], target: float) -> tuple[float | None, float]:
    """A step at which `kl` is `target`, or None where it is not reached, and the largest finite KL seen.

    Where the KL jumps over the target, as where a model breaks, the step is the one before.

    Secants in log step and log KL (where a KL that grows with the square is a line), kept inside the bracket.
    """
    low, high = -math.inf, math.inf  # log steps with too small and too large a KL
    moved = False  # at `low`
    seen: list[tuple[float, float]] = []  # (log step, log KL / target)
    most, t = 0.0, 0.0
    for _ in range(MOST_TRIALS):
        found = kl(math.exp(t))
        most = max(most, found if math.isfinite(found) else 0.0)
        g = math.log(found / target) if found > 0 else -math.inf
        if abs(g) <= CLOSE:
            return math.exp(t), most
        low, high, moved = (t, high, found > NOTHING) if g < 0 else (low, t, moved)
        if math.isfinite(g):
            seen.append((t, g))
        if abs(t) >= FARTHEST or (high == math.inf and _flat(seen)):
            return None, most
        if high - low < CLOSE / 4:  # a jump
            break
        t = _next(t, g, seen, low, high)
    return (math.exp(low) if moved and high < math.inf else None), most


def _next(t: float, g: float, seen: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """The log step to try after t, where log KL / target was g."""
    slope = 2.0
    if len(seen) > 1:
        (t0, g0), (t1, g1) = seen[-2:]
        slope = min(max((g1 - g0) / (t1 - t0), 0.25), 4.0)
    wanted = t - g / slope if math.isfinite(g) else t - math.copysign(math.inf, g)
    if math.isfinite(low) and math.isfinite(high):
        edge = (high - low) / 10
        return min(max(wanted, low + edge), high - edge) if math.isfinite(wanted) else (low + high) / 2
    far = math.log(30)
    return min(max(wanted, t - far, -FARTHEST), t + far, FARTHEST)


def _flat(seen: Sequence[tuple[float, float]]) -> bool:
    """Whether the last step, twice as long as the one before or longer, moved predictions hardly farther."""
    if len(seen) < 2:
        return False
    (t0, g0), (t1, g1) = seen[-2:]
    return t1 - t0 > math.log(2) and g1 - g0 < math.log1p(FLAT)
