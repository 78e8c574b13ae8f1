"""The shipped check of subspaces: what is registered passes, and what breaks a promise is told which."""

import inspect
from contextlib import nullcontext

import pytest

import llm_problem as lp
from llm_problem.evaluation import ReplayEvaluator
from llm_problem.subspaces import SUBSPACES, Together
from llm_problem.testing import BrokenPromiseError, check_subspace
from tests.llm_problem.subspace_examples import example
from tests.llm_problem.testing.broken_subspaces import BROKEN, Bound, Forgetful, Own


@pytest.mark.parametrize("kind", SUBSPACES)
def test_every_registered_subspace_keeps_its_promises(kind, tiny_gpt2):
    check_subspace(example(kind, tiny_gpt2), "tiny-gpt2", processes=False)


PROMPTED = [kind for kind, cls in SUBSPACES.items() if "text" in inspect.signature(cls).parameters]


@pytest.mark.parametrize("prompted", PROMPTED)
def test_together_they_keep_them_in_another_process_too(prompted, tiny_gpt2):
    """All kinds in one process, which takes seconds to start; but one kind of prompt at a time."""
    kinds = [kind for kind in SUBSPACES if kind != "together" and (kind == prompted or kind not in PROMPTED)]
    check_subspace(Together(tuple(example(kind, tiny_gpt2) for kind in kinds)), "tiny-gpt2")


REFUSED = {("prefix", family): "a prefix is a causal model's cache" for family in ("bert", "marian")}


@pytest.mark.parametrize("family", ["llama", "bert", "marian"])
@pytest.mark.parametrize("kind", SUBSPACES)
def test_on_other_families(kind, family, small_model):
    loaded = small_model(family)
    refusal = REFUSED.get((kind, family))
    with pytest.raises(ValueError, match=refusal) if refusal else nullcontext():
        check_subspace(example(kind, loaded), loaded, processes=False)


@pytest.fixture
def registered(monkeypatch):
    """A function: a class → one of it, registered for this test."""

    def make(cls):
        monkeypatch.setitem(SUBSPACES, cls.kind, cls)
        return cls()

    return make


def test_a_subspace_of_ones_own_passes(registered, small_pair):
    check_subspace(registered(Own), "tiny-gpt2", processes=False)
    check_subspace(registered(Own), small_pair("llama"))


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.kind)
def test_a_broken_promise_is_named(cls, registered, small_model):
    with pytest.raises(BrokenPromiseError, match=cls.promise) as caught:
        check_subspace(registered(cls), small_model("llama"), processes=False)
    assert isinstance(caught.value, AssertionError)


def test_what_the_description_does_not_hold_is_found_out(registered, monkeypatch):
    monkeypatch.setattr(Forgetful, "secret", 2.0)
    with pytest.raises(BrokenPromiseError, match=Forgetful.promise):
        check_subspace(registered(Forgetful), "tiny-gpt2")


def test_a_subspace_that_is_not_registered_is_told_how():
    with pytest.raises(BrokenPromiseError, match=r"SUBSPACES\[Own.kind\] = Own is missing"):
        check_subspace(Own())


def test_what_is_no_subspace_is_told_so():
    with pytest.raises(BrokenPromiseError, match="derives from Subspace: Bound"):
        check_subspace(Bound.__new__(Bound))


def test_a_class_that_other_processes_cannot_import_is_told_so(registered, monkeypatch):
    monkeypatch.setattr(Own, "__module__", "__main__")
    with pytest.raises(BrokenPromiseError, match="must stand in a module that can be imported there"):
        check_subspace(registered(Own))


def test_an_evaluator_that_is_wrong_is_found_out(small_model, monkeypatch):
    right = ReplayEvaluator.log_probs
    monkeypatch.setattr(ReplayEvaluator, "log_probs", lambda self, X, batch: right(self, 1.01 * X, batch))
    with pytest.raises(BrokenPromiseError, match="the replay evaluator gives the serial one's values: off by"):
        check_subspace(lp.subspaces.LoRAXS(2, layers=1), small_model("llama"), processes=False)


def test_a_value_that_depends_on_its_population_is_found_out(small_model, monkeypatch):
    right = ReplayEvaluator.log_probs
    monkeypatch.setattr(ReplayEvaluator, "log_probs", lambda self, X, batch: right(self, X, batch) + 1e-9 * len(X))
    with pytest.raises(BrokenPromiseError, match="a value of the replay evaluator does not depend on its population"):
        check_subspace(lp.subspaces.LoRAXS(2, layers=1), small_model("llama"), processes=False)


@pytest.mark.parametrize(
    ("what", "save", "message"),
    [
        ("save_model", lambda self, x, directory: type(self).right(self, 0 * x, directory), "the same loss in transf"),
        ("save_adapter", lambda self, x, directory: type(self).right(self, 0 * x, directory), "same loss in PEFT"),
        ("save_adapter", lambda self, x, directory: 1 / 0, "save_adapter writes files, or .* raised ZeroDivisionError"),
    ],
)
def test_a_way_home_that_leads_elsewhere_is_found_out(what, save, message, small_model, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(lp.Problem, "right", getattr(lp.Problem, what), raising=False)
    monkeypatch.setattr(lp.Problem, what, save)
    with pytest.raises(BrokenPromiseError, match=message):
        check_subspace(lp.subspaces.LoRAXS(2, layers=1), small_model("llama"), processes=False)
