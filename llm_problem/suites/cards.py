"""Cards: what was measured of the named problems, once, as data (cards.json).

`python -m llm_problem_adapters.cards` measures them and writes the file and docs/problems.md. A card has

    model, data, task, subspace, dimension    what the problem is, as `Problem.card()` has it
    weights_sha256, basis_sha256, tokens_sha256, fingerprint
    f0                  the loss of the pretrained model
    targets             losses to reach: {evaluations: the best so far after so many, median of the reference's runs}
    reference           its runs: optimizer, budget, seeds, the median of their best losses, the command of one
    best                the best loss that a gradient-free run has found, by which optimizer, budget, seed and command
    gradient            the same of Adam in this subspace, which is given gradients: a reference, and no lower bound
    milliseconds        of processor time for an evaluation, on the machine of "machine"
    licence             of model and data

Targets are frozen: whoever changes a problem's numbers gives it a new version, and so new targets.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from llm_problem.registry import get_spec

FILE = "cards.json"


def card(name: str) -> dict[str, Any] | None:
    """The card of a registered problem by its name ("…@k" for an instance); None where none is published.

    Raises:
        ValueError: there is no such problem; with the nearest names.
    """
    spec = get_spec(name)
    return card_of(f"{spec.id}@{spec.instance}" if spec.instance else str(spec.id))


def card_of(name: str) -> dict[str, Any] | None:
    """The same of any problem, registered or not."""
    found = all_cards()["problems"].get(name)
    return None if found is None else json.loads(json.dumps(found))  # the caller's own


@cache
def all_cards() -> dict[str, Any]:
    """The file: "machine" and "versions" that measured, and "problems" by name."""
    file = resources.files("llm_problem.suites") / FILE
    if not file.is_file():
        return {"machine": {}, "versions": {}, "problems": {}}
    return json.loads(file.read_text(encoding="utf-8"))
