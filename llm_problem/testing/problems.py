"""Checks of a problem: of what it says of its space, of its values, and of its copies and faces."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from typing import Any

import numpy as np

from llm_problem.problem import Problem
from llm_problem.spec import ProblemSpec
from llm_problem.testing.promises import promised, refused, require


def check_problem(problem: Problem, *, seed: int = 0) -> None:
    """Check a problem, or anything that is to be used as one.

    Args:
        problem: what is checked; some twenty evaluations are made.
        seed: of the points it is evaluated at.

    The Nevergrad and pymoo faces are looked at where these libraries are installed.

    Raises:
        BrokenPromiseError: a promise that it does not keep.
    """
    _check_space(problem)
    X = np.random.default_rng(seed).standard_normal((5, problem.dimension))
    X[0] = problem.x0
    F = _check_values(problem, X)
    if len(problem.objectives) == 1:
        _check_single(problem, X, F[:, 0])
    _check_copies(problem, X, F)
    if importlib.util.find_spec("nevergrad"):
        _check_nevergrad(problem, X, F)
    if importlib.util.find_spec("pymoo"):
        _check_pymoo(problem, X, F)


def _check_space(problem: Problem) -> None:
    d = problem.dimension
    require(type(d) is int and d >= 1, "dimension is an int of at least 1", repr(d))
    x0 = problem.x0
    require(_is_array(x0, (d,)) and not x0.any(), "x0 is the pretrained model, zeros (d,)", repr(x0)[:80])
    x0[:] = 7
    require(not problem.x0.any(), "x0 is a fresh array each time")
    lower, upper = problem.bounds
    require(_is_array(lower, (d,)) and _is_array(upper, (d,)), "bounds are two arrays (d,)")
    require((lower < 0).all() and (upper > 0).all(), "x0 lies inside the bounds")
    sigma = np.asarray(problem.sigma, dtype=np.float64)
    require(
        sigma.shape in ((), (d,)) and (sigma > 0).all() and np.isfinite(sigma).all(), "sigma is positive", f"{sigma}"
    )
    require(np.isfinite(problem.penalty), "penalty is finite", repr(problem.penalty))
    require(len(problem.fingerprint) == 64, "the fingerprint is 64 hex digits", problem.fingerprint)
    with promised("the description survives JSON"):
        require(ProblemSpec.from_json(problem.spec.to_json()) == problem.spec, "the description survives JSON")


def _check_values(problem: Problem, X: np.ndarray) -> np.ndarray:
    """The objectives F (n, m) at X (n, d)."""
    d, m, before = problem.dimension, len(problem.objectives), X.copy()
    with promised("evaluate_all(X) gives F, G and status"):
        F, G, status = problem.evaluate_all(X)
    require(np.array_equal(X, before), "evaluating leaves X as it was")
    require(_is_array(F, (len(X), m)), f"F is an array (n, {m}) of float64", f"shape {np.shape(F)}")
    require(np.ndim(G) == 2 and len(G) == len(X), "G is an array (n, c)", f"shape {np.shape(G)}")
    require(np.shape(status) == (len(X),), "status is an array (n,)", f"shape {np.shape(status)}")
    require(_same(problem.evaluate_all(X)[0], F), "the same X gives the same values")
    for i in range(len(X)):
        alone = problem.evaluate_all(X[i : i + 1])[0][0]
        require(_same(alone, F[i]), "a value does not depend on its population", f"{alone} for {F[i]}")
    require(_same(problem.evaluate_all(X[::-1])[0], F[::-1]), "a value does not depend on its place")
    none = problem.evaluate_all(np.empty((0, d)))[0]
    require(_is_array(none, (0, m)), "no candidates have no values", f"shape {np.shape(none)}")
    for bad in (np.nan, np.inf):
        spoilt = X.copy()
        spoilt[1, -1] = bad
        values = problem.evaluate_all(spoilt)[0]
        require(np.isnan(values[1]).all(), "a row that is not finite has the value NaN", f"{values[1]}")
        require(_same(np.delete(values, 1, 0), np.delete(F, 1, 0)), "a row that is not finite leaves others alone")
    for wrong in (np.zeros(d), np.zeros((2, d + 1)), np.zeros((1, 1, d))):
        with refused(f"X of shape {wrong.shape} is a ValueError", ValueError):
            problem.evaluate_all(wrong)
    return F


def _check_single(problem: Problem, X: np.ndarray, losses: np.ndarray) -> None:
    found = problem.evaluate(X)
    require(_is_array(found, (len(X),)) and _same(found, losses), "evaluate(X) gives the losses (n,) of evaluate_all")
    value = problem(X[1])
    require(type(value) is float and _same(value, losses[1]), "problem(x) is the loss as a float", repr(value))
    require(_same(problem(X[1].tolist()), losses[1]), "problem(x) takes a list of numbers")
    with refused("x of another shape is a ValueError", ValueError):
        problem(np.zeros(problem.dimension + 1))


def _check_copies(problem: Problem, X: np.ndarray, F: np.ndarray) -> None:
    twin = copy.deepcopy(problem)
    require(twin.model is problem.model, "a deep copy shares the model")
    require(_same(twin.evaluate_all(X)[0], F), "a deep copy gives the same values")
    if problem.spec.model.startswith("object:"):
        with refused("a problem on a model object says that it cannot be pickled", pickle.PicklingError):
            pickle.dumps(problem)
        return
    with promised("a problem can be pickled"):
        twin = pickle.loads(pickle.dumps(problem))
    require(twin.fingerprint == problem.fingerprint, "a pickle has the same fingerprint")
    require(twin.model is problem.model, "a pickle shares the model within a process")
    require(_same(twin.evaluate_all(X)[0], F), "a pickle gives the same values")


def _check_nevergrad(problem: Problem, X: np.ndarray, F: np.ndarray) -> None:
    with promised("to_nevergrad() gives an ExperimentFunction"):
        f = problem.to_nevergrad()
        require(f.dimension == problem.dimension, "Nevergrad's function has the problem's dimension")
        require(not f.parametrization.value.any(), "Nevergrad starts at x0")
        value = f(X[1])
        kind = float if F.shape[1] == 1 else np.ndarray
        require(type(value) is kind and _same(value, _finite(problem, F[1])), "Nevergrad sees the loss", repr(value))
        value = f(np.full(problem.dimension, np.nan))
        require((np.asarray(value) == problem.penalty).all(), "Nevergrad sees the penalty for NaN", repr(value))
        require(f.copy().problem is problem, "Nevergrad's copies share the problem")


def _check_pymoo(problem: Problem, X: np.ndarray, F: np.ndarray) -> None:
    with promised("to_pymoo() gives a Problem"):
        face = problem.to_pymoo()
        require((face.n_var, face.n_obj) == (problem.dimension, F.shape[1]), "pymoo's problem has its sizes")
        spoilt = X.copy()
        spoilt[1] = np.nan
        expected = _finite(problem, F)
        expected[1] = problem.penalty
        found = face.evaluate(spoilt, return_values_of=["F"])
        require(_same(found, expected), "pymoo sees the losses, and the penalty for NaN")
        require(copy.deepcopy(face).problem.model is problem.model, "pymoo's copies share the model")


def _finite(problem: Problem, F: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(F), F, problem.penalty)
    return finite[0] if finite.shape == (1,) else finite


def _is_array(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.shape == shape and value.dtype == np.float64


def _same(a: Any, b: Any) -> bool:
    """Equal to the bit, NaN to NaN."""
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
