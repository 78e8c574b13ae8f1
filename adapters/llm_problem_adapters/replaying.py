"""Which optimizers replay: made anew from name, options, horizon and seed, and told the same, they ask for the same.

Only those can be resumed. `python -m llm_problem_adapters.replay_check` tries them all.
"""

from __future__ import annotations

# Their trajectory is the same whatever the horizon; see the tests.
PLANS_NOTHING = frozenset({"cma", "cma-diagonal", "random-search", "genetic-algorithm-document"})


def replays(name: str) -> bool:
    """Whether a run of that optimizer can be resumed by replay."""
    return why_not(name) is None


def why_not(name: str) -> str | None:
    """Why an optimizer does not replay; None where it does."""
    library, _, algorithm = name.partition(":")
    if library == "nevergrad":
        from llm_problem_adapters.nevergrad_optimizer import NOT_REPEATABLE

        if algorithm in NOT_REPEATABLE:
            return "a part of it is seeded from the clock, or draws from a global generator in a thread of its own"
    return None


def require_replay(name: str) -> None:
    """Refuse what does not replay.

    Raises:
        ValueError: says why.
    """
    reason = why_not(name)
    if reason is not None:
        raise ValueError(f"a run of {name} cannot be resumed, because the same seed gives another run: {reason}")


def plans_ahead(name: str) -> bool:
    """Whether what an optimizer does depends on the horizon, so that it cannot go on beyond it."""
    library = name.partition(":")[0]
    if library in ("pymoo", "optuna"):
        return name == "pymoo:NRBO"
    return name not in PLANS_NOTHING
