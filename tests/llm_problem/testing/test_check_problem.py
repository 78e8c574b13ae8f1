"""The shipped check of problems."""

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.objectives import Objectives
from llm_problem.testing import BrokenPromiseError, check_problem

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)
NAMED = [id for id in lp.list_problems() if id.startswith("tiny-")]


@pytest.mark.parametrize("id", NAMED)
def test_named_problems_keep_their_promises(id):
    check_problem(lp.make(id))


@pytest.mark.parametrize("options", [{"evaluator": "serial"}, {"objectives": ("loss", "error")}, {"seed": 3}])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_other_problems_do_too(family, options, small_pair, label_task):
    check_problem(lp.Problem(small_pair(family), label_task, SUBSPACE, **options))


def values(change):
    right = Objectives._objectives

    def wrong(self, found):
        F = right(self, found)
        return change(F, F)

    return Objectives, "_objectives", wrong


BROKEN = {
    "x0": ("x0", property(lambda self: np.ones(self.dimension)), "x0 is the pretrained model"),
    "bounds": ("bounds", property(lambda self: (self.x0, self.x0 + 1)), "x0 lies inside the bounds"),
    "sigma": ("sigma", 0.0, "sigma is positive"),
    "penalty": ("penalty", np.inf, "penalty is finite"),
    "population": (*values(lambda X, F: F + 1e-12 * len(X)), "does not depend on its population"),
    "place": (*values(lambda X, F: F + 1e-12 * (np.arange(len(X)) > 2)[:, None]), "on its population|on its place"),
    "NaN": (*values(lambda X, F: np.nan_to_num(F, nan=9.0)), "a row that is not finite has the value NaN"),
    "float": ("__call__", lambda self, x: self.evaluate(np.atleast_2d(x))[0], "is the loss as a float"),
    "shape": (
        "evaluate",
        lambda self, X, sample=None: self.evaluate_all(X, sample)[0],
        r"evaluate\(X\) gives the losses",
    ),
    "copy": ("__deepcopy__", lambda self, memo: lp.make(NAMED[0], instance=1), "a deep copy"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(name, monkeypatch):
    problem = lp.make(NAMED[0])
    *owner, attribute, wrong, message = BROKEN[name]
    monkeypatch.setattr(*(owner or [lp.Problem]), attribute, wrong)
    with pytest.raises(BrokenPromiseError, match=message):
        check_problem(problem)


def test_random_values_are_found_out(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(*values(lambda X, F: F + 1e-9 * rng.standard_normal(F.shape)))
    with pytest.raises(BrokenPromiseError, match="the same X gives the same values"):
        check_problem(lp.make(NAMED[0]))
