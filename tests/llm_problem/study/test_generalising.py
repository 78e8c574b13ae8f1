"""What is said of the test losses, by hand."""

import pytest

from llm_problem.study import generalising, read, write_report
from llm_problem.study.runs import Ended, runs_of
from tests.llm_problem.study.made_studies import PROBLEMS, made_study

# Best search losses and test losses by optimizer, a pair for each of three seeds; the pretrained test loss is 2.1.
FIRST = {
    "random-search": [(1.5, 1.6), (1.4, 1.7), (1.3, 1.8)],  # median 1.7
    "cma": [(0.4, 2.4), (0.5, 2.2), (0.6, 2.0)],  # median 2.2
}
SECOND = {  # the lower the search loss, the lower the test loss
    "random-search": [(1.5, 2.6), (1.4, 2.5), (1.3, 2.4)],
    "cma": [(0.4, 1.0), (0.5, 1.1), (0.6, 2.1)],
}


@pytest.fixture
def results(tmp_path):
    folder = made_study(tmp_path / "s", optimizers=["random-search", "cma"], problems=2)
    for run in runs_of(folder.study()):
        values = (FIRST if run.problem.name == PROBLEMS[0] else SECOND)[run.optimizer.label]
        search, test = values[run.seed - 1]
        held_out = {"dev": {"loss": 9.0}, "test": {"loss": test, "accuracy": 0.5}}
        folder.write_ended(
            run,
            Ended(
                run.problem.name, run.optimizer.label, run.seed, "finished", evaluations=60, best_loss=search,
                improvements=[(1, 2.0), (7, search)], held_out=held_out,
            ),
        )  # fmt: skip
    return read(folder.path)


def test_a_problem_says_how_its_test_losses_follow_its_search_losses(results):
    first, second = generalising.by_problem(results).rows
    # Below 2.1 are random-search's three and one of CMA-ES's; by rising search loss the test losses fall.
    assert first == (PROBLEMS[0], 2.1, 1.7, "random-search", 4, 6, pytest.approx(-1.0))
    assert second == (PROBLEMS[1], 2.1, 1.1, "cma", 2, 6, pytest.approx(1.0))


def test_an_optimizer_says_on_how_many_problems_it_made_a_better_model(results):
    random_search, cma = generalising.by_optimizer(results).rows
    assert random_search == ("random-search", 1, 2, pytest.approx((1.7 + 2.5) / 2 / 2.1 - 1))
    assert cma == ("cma", 1, 2, pytest.approx((2.2 + 1.1) / 2 / 2.1 - 1))


def test_runs_and_problems_without_a_test_loss_are_left_out(results, tmp_path):
    results.facts[PROBLEMS[0]]["pretrained"] = {}
    assert [row[0] for row in generalising.by_problem(results).rows] == [PROBLEMS[1]]
    assert [row[2] for row in generalising.by_optimizer(results).rows] == [1, 1]
    results.of(PROBLEMS[1], "cma")[0].held_out.clear()
    (row,) = generalising.by_problem(results).rows
    assert row[4:6] == (1, 5)


def test_the_report_has_both(results):
    done = write_report(results.folder.path)
    text = done.page.read_text(encoding="utf-8")
    assert "−1.00" in text and "median test loss is below" in text
    assert (done.page.parent / "data" / "held-out-problems.csv").is_file()
