"""The names of the optimizers, and what is said about names and options there are not."""

import importlib.util
import subprocess
import sys

import pytest

from llm_problem_adapters import list_optimizers, make_optimizer, takes_gradients
from llm_problem_adapters.registry import OWN

SETTINGS = {"dimension": 3, "x0": 0.0, "bounds": (-5, 5), "sigma": 1.0, "horizon": 40}


def test_names():
    names = list_optimizers()
    assert len(names) == len(set(names)) > 500
    assert names[: len(OWN)] == list(OWN)
    assert {"cma", "cma-diagonal", "pymoo:CMAES", "nevergrad:NGOpt", "genetic-algorithm-document"} <= set(names)
    assert "optuna:TPESampler" in names


def test_what_takes_gradients_is_marked_and_can_be_left_out():
    without = list_optimizers(gradients=False)
    assert [name for name in list_optimizers() if name not in without] == ["adam", "hybrid"]
    for name in OWN:
        optimizer = make_optimizer(name, **SETTINGS)
        assert takes_gradients(name) == hasattr(optimizer, "gradient_cost") == (name not in without)


def test_pattern():
    assert list_optimizers("pymoo:*ES") == ["pymoo:BIPOPCMAES", "pymoo:CMAES", "pymoo:ES", "pymoo:ISRES", "pymoo:SRES"]
    assert "nevergrad:TwoPointsDE" in list_optimizers("nevergrad:*PointsDE")
    assert list_optimizers("nothing*") == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("genetic-algoritm", "genetic-algorithm"),
        ("TwoPointsDE", "nevergrad:TwoPointsDE"),
        ("nevergrad:TwoPointDE", "TwoPointsDE"),
        ("pymoo:NelderMaed", "NelderMead"),
        ("simulated-anealing", "simulated-annealing"),
        ("cmaes", "pymoo:CMAES"),
        ("TPESampler", "optuna:TPESampler"),
        ("optuna:TPESampeler", "TPESampler"),
    ],
)
def test_unknown_names_get_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"near names: .*{near}"):
        make_optimizer(name, **SETTINGS)


@pytest.mark.parametrize(
    ("name", "option", "near"),
    [
        ("genetic-algorithm", "populations", "population"),
        ("random-search", "population", "none"),
        ("cma", "popsiez", "popsize"),
        ("cma", "seed_", "none"),
        ("cma-diagonal", "verbose", "none"),
        ("pymoo:GA", "popsize", "pop_size"),
        ("pymoo:CMAES", "tolfum", "tolfun"),
        ("optuna:TPESampler", "n_startup_trial", "n_startup_trials"),
        ("optuna:CmaEsSampler", "sigma0", "popsize"),
        ("optuna:RandomSampler", "seed_", "reach"),
        ("nevergrad:DE", "pop", "popsize"),
        ("nevergrad:OnePlusOne", "mutatoin", "mutation"),
    ],
)
def test_unknown_options_are_refused(name, option, near):
    with pytest.raises(TypeError, match=f"no option '{option}'.*{near}"):
        make_optimizer(name, **SETTINGS, **{option: 3})


def test_options_arrive():
    assert make_optimizer("genetic-algorithm", **SETTINGS, population=6, selected=2).population == 6
    assert len(make_optimizer("cma", **SETTINGS, start_at_x0=False, popsize=9).ask(100)) == 9
    assert len(make_optimizer("pymoo:DE", **SETTINGS, pop_size=11).ask(100)) == 11
    assert make_optimizer("nevergrad:DE", **SETTINGS, popsize=13)._optimizer.llambda == 13
    sampler = make_optimizer("optuna:NSGAIISampler", **SETTINGS, population_size=13)._study.sampler
    assert sampler.population_size == 13


def test_import_is_light():
    """Importing the package brings in none of the libraries that it can run."""
    code = (
        "import sys, llm_problem_adapters; "
        "print([m for m in ('nevergrad', 'pymoo', 'cma', 'optuna', 'pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("library", "name", "line"),
    [
        ("nevergrad", "nevergrad:DE", "pip install nevergrad"),
        ("pymoo", "pymoo:DE", "pip install pymoo"),
        ("cma", "cma", "pip install cma"),
        ("optuna", "optuna:TPESampler", "pip install optuna"),
    ],
)
def test_missing_library_says_how_to_install_it(library, name, line, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    if library == "nevergrad":
        # As on a machine without it: nothing of it has been imported yet.
        monkeypatch.delitem(sys.modules, library)
        monkeypatch.setattr(sys, "meta_path", [_Missing(library), *sys.meta_path])
    with pytest.raises(ImportError, match=line):
        make_optimizer(name, **SETTINGS)


def test_a_sampler_without_its_package_is_not_listed_and_says_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "cmaes", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cmaes" else object())
    assert "optuna:TPESampler" in list_optimizers("optuna:*")
    assert "optuna:CmaEsSampler" not in list_optimizers("optuna:*")
    with pytest.raises(ImportError, match=r"optuna:CmaEsSampler needs cmaes, .* pip install cmaes"):
        make_optimizer("optuna:CmaEsSampler", **SETTINGS)


class _Missing:
    """A finder for which one library is not installed."""

    def __init__(self, library: str) -> None:
        self.library = library

    def find_spec(self, name, path=None, target=None):
        if name == self.library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
