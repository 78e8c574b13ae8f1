"""Whether the optimizers replay that should.

    python -m llm_problem_adapters.replay_check ['pymoo:*']

tries all that match, each in two processes, the second in reverse order, and prints those whose points differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from llm_problem_adapters.registry import list_optimizers, make_optimizer
from llm_problem_adapters.replaying import replays

MODULE = "llm_problem_adapters.replay_check"

TRIED = {"dimension": 4, "budget": 60, "seed": 5}
PATIENCE = 60  # seconds for one optimizer


def trace(name: str, horizon: int | None = None) -> str:
    """A digest of the points that an optimizer asks for on ‖x − 1‖², and of its answer."""
    d, budget = TRIED["dimension"], TRIED["budget"]
    settings: dict[str, Any] = {"dimension": d, "x0": np.linspace(0.5, -1.0, d), "bounds": (-5.0, 5.0), "sigma": 1.0}
    optimizer = make_optimizer(name, **settings, horizon=horizon or budget, seed=TRIED["seed"])
    seen, spent = hashlib.sha256(), 0
    while spent < budget and optimizer.stop_reason is None:
        X = optimizer.ask(budget - spent)
        seen.update(X.tobytes())
        more = {"gradients": 2 * (X - 1.0)} if getattr(optimizer, "wants_gradients", False) else {}
        optimizer.tell(X, np.square(X - 1.0).sum(axis=1), **more)
        spent += len(X)
    seen.update(optimizer.recommend().tobytes())
    return seen.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print name and verdict of those that depart or could not be tried; 1 if one departs that should replay."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--trace"]:
        return _print_traces(sys.stdin.read().split())
    names = [name for pattern in words or ["*"] for name in list_optimizers(pattern)]
    with ThreadPoolExecutor() as both:
        first, second = both.map(_traces, (names, names[::-1]), ("0", "1"))
    wrong = tried = 0
    for name in names:
        one, other = first.get(name, "not reached"), second.get(name, "not reached")
        if len(one) != 64 or len(other) != 64:
            print(f"{name}: not tried ({one if len(one) != 64 else other})")
            continue
        tried += 1
        if one != other:
            print(f"{name}: departs" + (" (known)" if not replays(name) else ""))
            wrong += replays(name)
    print(f"{tried} of {len(names)} tried, {wrong} depart that should not")
    return int(wrong > 0)


def _traces(names: Sequence[str], hash_seed: str) -> dict[str, str]:
    """Name → digest, or what went wrong, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "--trace"],
        input="\n".join(names),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        text=True,
    )
    return dict(json.loads(line) for line in done.stdout.splitlines())


def _print_traces(names: Sequence[str]) -> int:
    """One JSON line for each name, written at once: a later one may take the process with it."""
    signal.signal(signal.SIGALRM, _too_long)
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an optimizer prints goes elsewhere
    for name in names:
        signal.alarm(PATIENCE)
        try:
            found = trace(name)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"[:200]
        finally:
            signal.alarm(0)
        lines.write(json.dumps([name, found]) + "\n")
        lines.flush()
    return 0


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {PATIENCE} seconds")


if __name__ == "__main__":
    sys.exit(main())
