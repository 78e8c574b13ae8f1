"""The tables of `step_sizes`: shares of the best step, and which amount of KL divergence would have been best."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

AIM = 0.90  # of the best gain, and of the pairs
AMOUNTS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # nats

Pair = tuple[str, str]  # problem, optimizer
Gains = dict[float, dict[int, float]]  # step → seed → f(0) less the loss


def shares(lines: Sequence[dict[str, Any]]) -> dict[Pair, dict[float, float]]:
    """Problem and optimizer → step → its median gain over the best step's; pairs on which no step gained are left out.

    A run without a finite loss gains nothing.
    """
    found = {}
    for pair, by_step in sorted(gains(lines).items()):
        medians = {step: float(np.median(list(of_seed.values()))) for step, of_seed in sorted(by_step.items())}
        if (best := max(medians.values())) > 0:
            found[pair] = {step: median / best for step, median in medians.items()}
    return found


def gains(lines: Sequence[dict[str, Any]]) -> dict[Pair, Gains]:
    """What each run gained, 0 where its loss is not finite."""
    found: dict[Pair, Gains] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        gain = line["start"] - line["loss"]
        found[line["problem"], line["optimizer"]][line["step"]][line["seed"]] = gain if np.isfinite(gain) else 0.0
    return found


def good_on_other_seeds(by_step: Gains) -> bool:
    """Whether the default step reaches the aim in most seeds, each judged by the step that is best on the others.

    Of steps that are equally good, the one whose median is the highest is so by luck; on a seed that had no say in the
    choice it has no such advantage.
    """
    seeds = set.intersection(*(set(of_seed) for of_seed in by_step.values()))
    reached = []
    for seed in seeds:
        medians = {step: np.median([of_seed[s] for s in seeds - {seed}]) for step, of_seed in by_step.items()}
        best = max(medians, key=lambda step: float(medians[step]))
        reached.append(by_step[1.0][seed] >= AIM * by_step[best][seed])
    return 2 * sum(reached) > len(reached)


def share_at(amount: float, of_step: dict[float, float], kl: dict[float, float]) -> float:
    """The share of a step that moves predictions by `amount` nats, between those tried: linear in log KL.

    NaN outside the amounts that were tried.
    """
    steps = sorted(of_step)
    known = np.maximum.accumulate([kl[step] for step in steps])
    if not known[0] <= amount <= known[-1]:
        return float("nan")
    return float(np.interp(np.log(amount), np.log(known), [of_step[step] for step in steps]))


def report(lines: Sequence[dict[str, Any]]) -> str:
    """Both tables as text."""
    found = shares(lines)
    if not found:
        return "no runs that gained anything yet"
    return "\n\n".join([_by_step(found) + _apart(found, lines), _by_amount(found, lines)])


def _by_step(found: dict[Pair, dict[float, float]]) -> str:
    steps = sorted({step for of_step in found.values() for step in of_step})
    rows = [f"{'problem':40} {'optimizer':22}" + "".join(f"{f'×{step:g}':>7}" for step in steps)]
    for (problem, optimizer), of_step in found.items():
        cells = "".join(f"{of_step[step]:7.2f}" if step in of_step else "      -" for step in steps)
        rows.append(f"{problem:40} {optimizer:22}{cells}")
    good = [np.mean([of_step[step] >= AIM for of_step in found.values() if step in of_step]) for step in steps]
    rows.append(f"{f'share of pairs at {AIM:.2f} or better':63}" + "".join(f"{value:7.2f}" for value in good))
    if 1.0 in steps:
        reached = good[steps.index(1.0)]
        verdict = "reached" if reached >= AIM else "missed"
        rows.append(f"the default step: {reached:.0%} of {len(found)} pairs; the aim of {AIM:.0%} is {verdict}")
    return "\n".join(rows)


def _apart(found: dict[Pair, dict[float, float]], lines: Sequence[dict[str, Any]]) -> str:
    """A line on the pairs that have the default step and two seeds of every step, or nothing."""
    known = [by_step for pair, by_step in gains(lines).items() if pair in found]
    known = [by_step for by_step in known if 1.0 in by_step and min(map(len, by_step.values())) > 1]
    if not known:
        return ""
    reached = np.mean([good_on_other_seeds(by_step) for by_step in known])
    return f"\nwhere the best step is chosen on other seeds than it is judged on: {reached:.0%} of {len(known)} pairs"


def _by_amount(found: dict[Pair, dict[float, float]], lines: Sequence[dict[str, Any]]) -> str:
    kl: dict[str, dict[float, float]] = defaultdict(dict)
    for line in lines:
        kl[line["problem"]][line["step"]] = line["kl"]
    at = [[share_at(amount, of_step, kl[pair[0]]) for pair, of_step in found.items()] for amount in AMOUNTS]
    known = [np.array(values)[np.isfinite(values)] for values in at]
    return "\n".join(
        [
            f"{'a unit that moves predictions by':34}" + "".join(f"{f'{amount:g}':>7}" for amount in AMOUNTS) + " nats",
            f"{'median share':34}" + "".join(map(_median, known)),
            f"{f'share of pairs at {AIM:.2f} or better':34}" + "".join(map(_good, known)),
            f"{'pairs':34}" + "".join(f"{len(values):7}" for values in known),
        ]
    )


def _median(values: np.ndarray) -> str:
    return f"{np.median(values):7.2f}" if len(values) else "      -"


def _good(values: np.ndarray) -> str:
    return f"{np.mean(values >= AIM):7.2f}" if len(values) else "      -"
