"""The experiment on step sizes: what it runs, what it skips, and what its tables say."""

import json

import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import minimize
from llm_problem_adapters.experiments.step_size_tables import gains, good_on_other_seeds, report, share_at, shares
from llm_problem_adapters.experiments.step_sizes import OPTIMIZERS, PROBLEMS, STEPS, Stepped, main
from llm_problem_adapters.registry import configure

ID = "tiny-gpt2-prose-lora-xs-d32-v1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(file, printed text) of a small experiment."""
    return tmp_path_factory.mktemp("experiment") / "deep" / "runs.jsonl"


def read(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def run(out, *more):
    return main(["--problems", ID, "--optimizers", "cma", "--seeds", "1", "--budget", "40", "--out", str(out), *more])


def test_every_run_is_a_line_and_is_not_run_again(finished, capsys):
    assert run(finished) == 0
    lines = read(finished)
    assert [line["step"] for line in lines] == list(STEPS)
    assert all(line["evaluations"] == 40 for line in lines)
    assert np.all(np.diff([line["kl"] for line in lines]) > 0)
    assert f"{ID:40} cma" in capsys.readouterr().out
    text = finished.read_text()
    assert run(finished) == 0
    assert finished.read_text() == text


def test_a_line_is_what_minimize_finds(finished):
    line = next(line for line in read(finished) if line["step"] == 2.0)
    problem = lp.make(ID)
    result = minimize(Stepped(problem, 2.0), "cma", 40, seed=0)
    assert (line["loss"], line["start"]) == (result.loss, problem(problem.x0))
    assert problem(2.0 * result.x) == result.loss


def test_an_interrupted_experiment_goes_on(finished):
    whole = finished.read_text()
    finished.write_text(whole[:-30])  # in the middle of a line
    assert run(finished) == 0
    same = [{**line, "seconds": 0} for line in read(finished)]
    finished.write_text(whole)
    assert same == [{**line, "seconds": 0} for line in read(finished)]


def test_the_table_alone_runs_nothing(tmp_path, capsys):
    assert run(tmp_path / "none.jsonl", "--table") == 0
    assert capsys.readouterr().out == "no runs that gained anything yet\n"
    assert not list(tmp_path.iterdir())


def test_another_step_has_the_same_bounds_and_sigma_in_its_own_unit():
    problem = lp.make(ID)
    stepped = Stepped(problem, 0.2)
    X = np.random.default_rng(0).standard_normal((3, problem.dimension))
    np.testing.assert_array_equal(stepped.evaluate(X), problem.evaluate(0.2 * X))
    np.testing.assert_array_equal(stepped.bounds, problem.bounds)
    assert stepped.sigma == problem.sigma


def line(problem, step, loss, seed=0, optimizer="o", kl=None):
    return {
        "problem": problem,
        "optimizer": optimizer,
        "step": step,
        "seed": seed,
        "start": 2.0,
        "loss": loss,
        "kl": step if kl is None else kl,
    }


LINES = [
    *(line("p", 0.1, loss, seed) for seed, loss in enumerate((1.9, 1.0, 1.8))),  # median gain 0.2
    *(line("p", 1.0, loss, seed) for seed, loss in enumerate((1.5, 1.6, 0.0))),  # 0.5
    *(line("p", 10.0, loss, seed) for seed, loss in enumerate((3.0, np.inf, 1.0))),  # 0
    line("q", 0.1, 1.0),  # 1
    line("q", 1.0, 1.05),  # 0.95
    line("never", 1.0, 2.5),
]


def test_shares_are_of_medians_over_the_seeds():
    found = shares(LINES)
    assert found["p", "o"] == pytest.approx({0.1: 0.4, 1.0: 1.0, 10.0: 0.0})
    assert found["q", "o"] == pytest.approx({0.1: 1.0, 1.0: 0.95})
    assert ("never", "o") not in found


def test_the_report_counts_pairs():
    text = report(LINES)
    assert "the default step: 100% of 2 pairs; the aim of 90% is reached" in text
    assert report([line("p", 1.0, 1.5), line("p", 2.0, 1.0)]).count("missed") == 1
    amounts = text.rpartition("\n\n")[2].splitlines()
    assert amounts[0].split()[-1] == "nats"
    assert amounts[1].startswith("median share")


def test_a_step_that_is_best_by_luck_is_not_held_against_the_default():
    lucky = [line("p", 1.0, 1.0, seed) for seed in range(3)] + [
        line("p", 2.0, x, k) for k, x in enumerate((0.5, 0.6, 1.9))
    ]
    assert shares(lucky)["p", "o"][1.0] == pytest.approx(1 / 1.4)
    # ×2 is best on the first two seeds only, and gains 0.1 on the third.
    assert good_on_other_seeds(gains(lucky)["p", "o"])
    better = [line("p", 1.0, 1.0, seed) for seed in range(3)] + [line("p", 2.0, 0.5, seed) for seed in range(3)]
    assert not good_on_other_seeds(gains(better)["p", "o"])
    text = report([*lucky, *({**run, "problem": "q"} for run in better)])
    assert "chosen on other seeds than it is judged on: 50% of 2 pairs" in text
    assert "other seeds" not in report([line("p", 1.0, 1.5), line("p", 2.0, 1.0)])  # of one seed


def test_a_share_between_steps_is_linear_in_the_logarithm_of_the_divergence():
    of_step, kl = {1.0: 0.4, 2.0: 1.0, 3.0: 0.0}, {1.0: 0.01, 2.0: 1.0, 3.0: 4.0}
    assert share_at(0.1, of_step, kl) == pytest.approx(0.7)
    assert share_at(2.0, of_step, kl) == pytest.approx(0.5)
    assert share_at(1.0, of_step, kl) == pytest.approx(1.0)
    assert np.isnan([share_at(amount, of_step, kl) for amount in (0.009, 4.1)]).all()


def test_what_the_experiment_names_exists():
    assert set(PROBLEMS) <= set(lp.list_problems())
    assert all(configure(name) for name in OPTIMIZERS)
