"""The tables of `step_sizes`: shares of the best step, and which amount of KL divergence would have been best."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

AIM = 0.90  # of the best gain, and of the pairs
AMOUNTS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # nats

Pair = tuple[str, str]  # problem, optimizer


def shares(lines: Sequence[dict[str, Any]]) -> dict[Pair, dict[float, float]]:
    """Problem and optimizer → step → its median gain over the best step's; pairs on which no step gained are left out.

    A run without a finite loss gains nothing.
    """
    gains: dict[Pair, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        gain = line["start"] - line["loss"]
        gains[line["problem"], line["optimizer"]][line["step"]].append(gain if np.isfinite(gain) else 0.0)
    found = {}
    for pair, by_step in sorted(gains.items()):
        medians = {step: float(np.median(values)) for step, values in sorted(by_step.items())}
        if (best := max(medians.values())) > 0:
            found[pair] = {step: median / best for step, median in medians.items()}
    return found


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
    return "\n\n".join([_by_step(found), _by_amount(found, lines)])


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
