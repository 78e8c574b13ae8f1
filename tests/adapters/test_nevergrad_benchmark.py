"""Nevergrad's benchmark on our plans, with and without the packages that its other functions need."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import llm_problem as lp
from llm_problem_adapters import nevergrad_plans
from llm_problem_adapters.nevergrad_benchmark import main
from llm_problem_adapters.nevergrad_experiments import experiments

xpbase = experiments()
PROBLEM = "tiny-gpt2-prose-lora-xs-d32-v1"
# What Nevergrad's page on benchmarks and its plots read.
COLUMNS = {
    "seed", "function_class", "parametrization", "dimension", "budget", "num_workers", "batch_mode", "optimizer_name",
    "loss", "elapsed_budget", "elapsed_time", "pseudotime", "error", "num_objectives",
}  # fmt: skip
PLAN = """
from llm_problem_adapters.nevergrad_experiments import experiments
from llm_problem_adapters.nevergrad_plans import plan

@experiments().registry.register
def short_plan(seed=None):
    yield from plan(["{problem}"], budgets=(30,), workers=(1, 4), seed=seed, optimizers={optimizers})
"""


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A file with a plan of its own: every optimizer of ours on one problem."""
    file = tmp_path_factory.mktemp("plans") / "short.py"
    file.write_text(PLAN.format(problem=PROBLEM, optimizers=nevergrad_plans.OPTIMIZERS))
    return file


def table(*arguments, output):
    code = main([*map(str, arguments), "--output", str(output)])
    return code, pd.read_csv(output)


def test_twice_with_one_seed_gives_equal_losses_and_no_errors(short, tmp_path, monkeypatch):
    tables = []
    for name in "ab":
        monkeypatch.delitem(xpbase.registry, "short_plan", raising=False)
        code, found = table("short_plan", "--seed", 3, "--imports", short, output=tmp_path / name)
        assert code == 0
        tables.append(found)
    first, second = tables
    assert len(first) == 2 * len(nevergrad_plans.OPTIMIZERS)
    assert set(first["optimizer_name"]) == set(nevergrad_plans.OPTIMIZERS)
    assert first["error"].isna().all()  # an empty cell
    assert set(first.columns) >= COLUMNS
    same = [name for name in first.columns if name not in ("elapsed_time", "pseudotime")]  # measured
    pd.testing.assert_frame_equal(first[same], second[same], check_exact=True)
    assert first["loss"].nunique() > len(first) / 2
    assert (first["elapsed_budget"] == 30).all()


def test_the_loss_is_the_held_out_one_and_the_cost_that_of_the_workers():
    problem = lp.make(PROBLEM)
    f = problem.to_nevergrad()
    found = {}
    for workers in (1, 4):
        experiment = xpbase.Experiment(f, "PSO", 40, num_workers=workers, batch_mode=False, seed=1)
        found[workers] = experiment.run()
        assert found[workers]["error"] == ""
        recommended = experiment._optimizer.recommend().value
        assert found[workers]["loss"] == problem.metrics(recommended, "dev")["loss"]
    one = f.compute_pseudotime(((problem.x0,), {}), 0.0)
    assert found[1]["pseudotime"] == pytest.approx(40 * one)
    assert found[4]["pseudotime"] == pytest.approx(10 * one)


def test_several_objectives_and_constraints_are_scored(tiny_gpt2):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    problem = lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), constraints={"norm": 2})
    front = problem.to_nevergrad(objectives=("loss", "norm"))
    front.multiobjective_upper_bounds = np.array([100.0, 4.0])
    row = xpbase.Experiment(front, "DE", 40, seed=1).run()
    assert row["error"] == ""
    assert row["num_objectives"] == 2
    assert -400 < row["loss"] < 0
    f = problem.to_nevergrad()
    row = xpbase.Experiment(f, "OnePlusOne", 30, seed=1, constraint_violation=f.constraint_violations).run()
    assert row["error"] == ""
    assert row["loss"] < 100  # 1e9 more where a constraint is broken


def test_plans_are_seeded_coherent_and_on_registered_problems():
    for name in ("llm_problem_tiny", "llm_problem_smollm2"):
        assert name in xpbase.registry
    first, again, other = (list(nevergrad_plans.llm_problem_tiny(seed=seed)) for seed in (1, 1, 2))
    assert len(first) == 4 * 2 * 2 * len(nevergrad_plans.OPTIMIZERS)
    assert first == again
    assert first != other
    assert {type(experiment.seed) for experiment in first} == {int}
    assert {experiment.seed for experiment in nevergrad_plans.llm_problem_tiny()} == {None}
    assert set(nevergrad_plans.OPTIMIZERS) <= set(xpbase.optimizer_registry)


def test_rows_are_added_and_repetitions_have_their_seeds(short, tmp_path, monkeypatch):
    monkeypatch.delitem(xpbase.registry, "short_plan", raising=False)
    arguments = ["short_plan", "--cap_index", 1, "--imports", short, "--seed"]
    assert len(table(*arguments, 3, "--repetitions", 2, output=tmp_path / "t")[1]) == 2
    monkeypatch.delitem(xpbase.registry, "short_plan")
    _, found = table(*arguments, 4, output=tmp_path / "t")
    assert len(found) == 3
    assert found["seed"][1] == found["seed"][2] != found["seed"][0]
    assert found["loss"][1] == found["loss"][2]


def test_bad_input_is_named(tmp_path, capsys):
    for arguments, message in (
        (["no_plan"], "there are llm_problem_smollm2, llm_problem_tiny"),
        (["llm_problem_tiny", "--imports", "nowhere.py"], "there is no file nowhere.py"),
        (["llm_problem_tiny", "--cap_index", "0"], "must be at least 1, got 0"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_a_failed_experiment_is_a_row_and_an_exit_code(tmp_path, monkeypatch):
    def failing_plan(seed=None):
        (experiment,) = nevergrad_plans.plan([PROBLEM], budgets=(5,), workers=(1,), seed=seed, optimizers=["DE"])
        experiment.constraint_violation = [lambda x: 1 / 0]
        yield experiment

    monkeypatch.setitem(xpbase.registry, "failing_plan", failing_plan)
    code, found = table("failing_plan", output=tmp_path / "t")
    assert code == 1
    assert list(found["error"]) == ["ZeroDivisionError"]


LIGHT = """
import sys
sys.modules["cv2"] = sys.modules["gym"] = None
from llm_problem_adapters.nevergrad_experiments import experiments
found = experiments()
assert found is experiments() and found.__name__ == "nevergrad.benchmark.xpbase"
assert "nevergrad.benchmark" not in sys.modules and found.torch.manual_seed
"""
WHOLE = """
import nevergrad.benchmark as theirs
from llm_problem_adapters import nevergrad_plans
assert nevergrad_plans.xpbase is theirs.xpbase and "llm_problem_tiny" in theirs.registry
"""


def python(*arguments, cwd):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_of_it_needs_cv2_or_gym(tmp_path):
    python("-c", LIGHT, cwd=tmp_path)


@pytest.fixture
def whole_benchmark():
    """Skips, and says why, where what the extra `benchmark` brings is not there."""
    for package in ("cv2", "gym", "pyproj", "requests", "torchvision"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'llm-problem[benchmark]'")


def test_nevergrads_own_command_twice_with_one_seed_writes_the_same_and_what_ours_does(
    short, tmp_path, whole_benchmark
):
    python("-c", WHOLE, cwd=tmp_path)
    plan = ["short_plan", "--seed", 3, "--imports", short, "--output"]
    theirs, light = "nevergrad.benchmark", "llm_problem_adapters.nevergrad_benchmark"
    for name, command in (("a", theirs), ("b", theirs), ("c", light)):
        python("-m", command, *plan, name, cwd=tmp_path)
    first, second, ours = (pd.read_csv(tmp_path / name) for name in "abc")
    assert len(first) == 2 * len(nevergrad_plans.OPTIMIZERS)
    assert first["error"].isna().all()
    assert list(first.columns) == list(second.columns) == list(ours.columns)
    for other in (second, ours):
        same = [name for name in first.columns if name not in ("elapsed_time", "pseudotime")]  # measured
        pd.testing.assert_frame_equal(first[same], other[same], check_exact=True)
