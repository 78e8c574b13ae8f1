"""Runs of other libraries that can be killed and taken up again from the file that they left, as their pages say.

`python resumed_runs.py nevergrad|minimize|pymoo FOLDER EVALUATION`: kills itself in that evaluation (0: never).
"""

import os
import pickle
import signal
import sys
from pathlib import Path

import cloudpickle
import nevergrad as ng
import torch
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.termination.max_gen import MaximumGenerationTermination

import llm_problem as lp

PROBLEM = "tiny-gpt2-prose-lora-xs-d32-v1"
NEVERGRAD = ("CMA", "DE", "PSO", "OnePlusOne")
BUDGET = 60
PYMOO = {"GA": (GA, cloudpickle), "DE": (DE, pickle), "PSO": (PSO, pickle)}  # GA holds functions made in functions
POPULATION, GENERATIONS = 8, 7


class Deadly:
    """A problem's function that kills the process in its n-th call here."""

    def __init__(self, f, deadly):
        self.f, self.deadly, self.calls = f, deadly, 0

    def __call__(self, x):
        self.calls += 1
        if self.calls == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.f(x)


def log(folder, name, number, value):
    with (folder / f"{name}.log").open("a") as file:
        file.write(f"{number} {float(value).hex()}\n")


def by_ask_and_tell(folder, deadly):
    """Four of Nevergrad's optimizers in turn, an evaluation each, dumped after each tell."""
    f = Deadly(lp.make(PROBLEM).to_nevergrad(), deadly)
    optimizers = {}
    for name in NEVERGRAD:
        path = folder / f"{name}.pkl"
        if path.exists():
            optimizers[name] = ng.optimizers.registry[name].load(path)
        else:
            parametrization = f.f.copy().parametrization
            parametrization.random_state.seed(3)
            optimizers[name] = ng.optimizers.registry[name](parametrization, budget=BUDGET)
    while min(optimizer.num_tell for optimizer in optimizers.values()) < BUDGET:
        for name, optimizer in optimizers.items():
            if optimizer.num_tell == BUDGET:
                continue
            candidate = optimizer.ask()
            loss = f(candidate.value)
            optimizer.tell(candidate, loss)
            part = folder / f"{name}.part"
            optimizer.dump(part)
            os.replace(part, folder / f"{name}.pkl")  # a dump that is cut short is no dump
            log(folder, name, optimizer.num_tell, loss)


class Logged:
    """A callback that writes what is told; it is pickled with the optimizer."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name

    def __call__(self, optimizer, candidate, loss):
        log(self.folder, self.name, optimizer.num_tell, loss)


def by_minimize(folder, deadly):
    """One after another, by `minimize` with the callback that dumps at every tell."""
    f = Deadly(lp.make(PROBLEM).to_nevergrad(), deadly)
    for name in NEVERGRAD:
        path = folder / f"{name}.pkl"
        if path.exists():
            optimizer = ng.optimizers.registry[name].load(path)
        else:
            parametrization = f.f.copy().parametrization
            parametrization.random_state.seed(3)
            optimizer = ng.optimizers.registry[name](parametrization, budget=BUDGET)
            optimizer.register_callback("tell", Logged(folder, name))
            optimizer.register_callback("tell", ng.callbacks.OptimizerDump(path))
        optimizer.minimize(f)


def by_pymoo(folder, deadly):
    """Three of pymoo's algorithms in turn, a generation each, as its page on checkpoints has it."""
    face = lp.make(PROBLEM).to_pymoo()
    right = face.problem.evaluate_all
    face.problem.evaluate_all = Deadly(right, deadly)
    algorithms = {}
    for name, (kind, pickler) in PYMOO.items():
        path = folder / f"{name}.pkl"
        if path.exists():
            with path.open("rb") as file:
                algorithms[name] = pickler.load(file)
        else:
            algorithms[name] = kind(pop_size=POPULATION)
            algorithms[name].setup(face, termination=MaximumGenerationTermination(GENERATIONS), seed=3)
    while any(algorithm.has_next() for algorithm in algorithms.values()):
        for name, (_, pickler) in PYMOO.items():
            algorithm = algorithms[name]
            if not algorithm.has_next():
                continue
            algorithm.next()
            part = folder / f"{name}.part"
            with part.open("wb") as file:
                pickler.dump(algorithm, file)
            os.replace(part, folder / f"{name}.pkl")
            for k, loss in enumerate(algorithm.pop.get("F")[:, 0]):
                log(folder, name, 1000 * algorithm.n_iter + k, loss)


RUNS = {"nevergrad": by_ask_and_tell, "minimize": by_minimize, "pymoo": by_pymoo}

if __name__ == "__main__":
    torch.set_num_threads(1)
    RUNS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
