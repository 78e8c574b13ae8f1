"""The answer chosen on dev, early stopping, averages, search examples drawn anew: what comes back, is read, counts."""

import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import Generalisation, list_optimizers, minimize

NAMES = [name for name in list_optimizers(gradients=False) if ":" not in name]


class TwoSplits:
    """Search loss |x − a|²; dev loss |x − b|² with b on the way to a, so that going all the way is going too far."""

    dimension, sigma, bounds = 3, 1.0, None
    x0 = np.zeros(3)
    a, b = np.full(3, 2.0), np.full(3, 0.7)

    def __init__(self, infeasible: bool = False) -> None:
        self.read: list[tuple[str, int | None, int]] = []
        self.infeasible = infeasible

    def evaluate(self, X, sample=None):
        self.read.append(("search", sample, len(X)))
        shift = 0.0 if sample is None else 0.3 * np.sin(3 * sample)  # each minibatch has an optimum of its own
        return ((X - self.a - shift) ** 2).sum(axis=1)

    def evaluate_all(self, X, sample=None, split="search"):
        self.read.append((split, sample, len(X)))
        F = ((X - (self.a if split == "search" else self.b)) ** 2).sum(axis=1, keepdims=True)
        G = np.where(X[:, :1] > 0.2, 1.0, -1.0) if self.infeasible else np.empty((len(X), 0))
        return F, G, np.full(len(X), "ok")

    def dev_loss(self, x):
        return float(((x - self.b) ** 2).sum())


class Scripted:
    """Asks for the given generations, and recommends the last point it was told of."""

    stop_reason = None

    def __init__(self, generations):
        self.generations, self.last = list(generations), np.zeros(3)

    def ask(self, max_n):
        return self.generations.pop(0)

    def tell(self, X, F, G=None):
        self.last = X[-1]
        self.stop_reason = None if self.generations else "end of the script"

    def recommend(self):
        return self.last


def spent(problem, split):
    return sum(count for where, _, count in problem.read if where == split)


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_the_point_with_the_lowest_dev_loss(name):
    problem = TwoSplits()
    result = minimize(problem, name, 300, seed=1, generalisation={"choose": "dev", "every": 10})
    offered = result.generalisation.history
    assert problem.dev_loss(result.x) == pytest.approx(offered["dev_loss"].min())
    assert offered.loc[offered["chosen"], "dev_loss"].tolist() == [offered["dev_loss"].min()]
    assert offered["evaluation"].iloc[0] == 0 and offered["point"].iloc[0] == "pretrained"
    assert set(offered["point"]) <= {"pretrained", "recommended", "best"}
    assert problem.dev_loss(result.x) < problem.dev_loss(minimize(TwoSplits(), name, 300, seed=1).x)
    assert result.loss == pytest.approx(float(((result.x - problem.a) ** 2).sum()))  # its own, on the search split


@pytest.mark.parametrize("name", ["genetic-algorithm", "cma", "nevergrad:TwoPointsDE", "pymoo:DE", "spsa"])
@pytest.mark.parametrize("options", [{"choose": "dev"}, {"average": "best"}, {"average": "recommended", "every": 7}])
def test_looking_changes_no_search_and_the_budget_is_exact(name, options):
    problem = TwoSplits()
    result = minimize(problem, name, 120, seed=3, generalisation=options)
    plain = minimize(TwoSplits(), name, 120, seed=3)
    assert result.evaluations == plain.evaluations == spent(problem, "search") == 120
    assert np.array_equal(result.losses[:119], plain.losses[:119])
    assert result.generalisation.evaluations == spent(problem, "dev")
    assert (spent(problem, "dev") > 0) == ("choose" in options)
    assert plain.generalisation is None


def test_patience_ends_a_search_that_no_longer_gains_on_dev():
    problem = TwoSplits()
    result = minimize(problem, "evolution-strategy", 3000, seed=0, generalisation=Generalisation("dev", 20, patience=5))
    assert result.stop_reason == "patience"
    assert result.evaluations < 1000
    offered = result.generalisation.history
    last_gain = offered.loc[offered["dev_loss"].idxmin(), "evaluation"]
    assert 5 * 20 <= offered["evaluation"].max() - last_gain <= 8 * 20
    patient = minimize(TwoSplits(), "evolution-strategy", 3000, seed=0, generalisation={"choose": "dev", "every": 20})
    assert patient.stop_reason == "budget" and patient.evaluations == 3000


def test_an_average_of_the_best_points_is_that():
    problem = TwoSplits()
    result = minimize(problem, "random-search", 200, seed=2, keep_x=True, generalisation={"average": "best", "of": 4})
    best = result.X[np.argsort(result.losses[:199], kind="stable")[:4]]
    assert result.x == pytest.approx(best.mean(axis=0))
    assert result.loss == pytest.approx(float(((best.mean(axis=0) - problem.a) ** 2).sum())) == result.losses[-1]
    assert result.best_loss == min(result.losses)


def test_an_average_of_recommended_points_is_that_and_one_more_to_choose_from():
    options = {"average": "recommended", "of": 3, "every": 40}
    result = minimize(TwoSplits(), "cma", 200, seed=2, generalisation=options)
    offered = result.generalisation.history
    assert offered["point"].iloc[-1] == "average of 3 recommended" and offered["chosen"].iloc[-1]
    assert offered["dev_loss"].isna().all() and result.generalisation.evaluations == 0
    script = [np.eye(3)[:1] * k for k in (1.0, 2.0, 3.0, 4.0)]
    scripted = minimize(TwoSplits(), Scripted(script), 20, generalisation={**options, "every": 1})
    assert scripted.x.tolist() == [3.0, 0.0, 0.0]  # of 2, 3 and 4
    chosen = minimize(TwoSplits(), "cma", 200, seed=2, generalisation={**options, "choose": "dev"})
    assert {"average of 2 recommended", "average of 3 recommended"} <= set(chosen.generalisation.history["point"])


def test_minibatches_change_every_so_often_and_the_answer_is_of_the_whole():
    problem = TwoSplits()
    result = minimize(problem, "cma", 300, seed=0, batch_size=8, generalisation={"resample": 24})
    samples = [sample for _, sample, _ in problem.read]
    assert samples[-1] is None and samples[:-1] == sorted(samples[:-1])
    assert set(samples[:-1]) == set(range(12 + 1))
    counts = {k: sum(n for _, sample, n in problem.read if sample == k) for k in range(12)}
    assert all(abs(count - 24) <= 8 for count in counts.values())  # a batch is not divided
    assert result.loss == result.best_loss == pytest.approx(float(((result.x - problem.a) ** 2).sum()))
    assert np.array_equal(result.best_x, result.x)
    both = minimize(TwoSplits(), "cma", 300, seed=0, generalisation={"resample": 24, "choose": "dev"})
    assert set(both.generalisation.history["point"]) == {"pretrained", "recommended"}


def test_an_infeasible_point_is_never_chosen():
    result = minimize(TwoSplits(infeasible=True), "cma", 200, seed=0, generalisation={"choose": "dev"})
    assert result.x[0] <= 0.2


def test_a_problem_of_a_language_model():
    rows = [{"text": f"line {i} of {'good' if i % 2 else 'bad'} news", "label": i % 2} for i in range(120)]
    task = lp.tasks.Classification.from_records(
        rows, text="text", label="label", prompt="{text}:", labels={0: " a", 1: " the"}, search_size=8
    )
    problem = lp.Problem("tiny-gpt2", task, lp.subspaces.LoRAXS(rank=2, layers=1), minibatch=4)
    options = Generalisation(choose="dev", every=15, average="recommended", of=2, resample=10)
    result = minimize(problem, "cma", 60, seed=0, generalisation=options)
    history = result.generalisation.history
    assert result.generalisation.options is options
    assert result.loss == pytest.approx(problem(result.x), abs=1e-12)
    assert problem.metrics(result.x, "dev")["loss"] == pytest.approx(history["dev_loss"].min(), abs=1e-9)
    assert history["dev_loss"].min() <= problem.metrics(problem.x0, "dev")["loss"] + 1e-9
    assert f"dev_evaluations={len(history)}" in repr(result)
    with pytest.raises(ValueError, match=r"no minibatches: make it with Problem\(…, minibatch=size\)"):
        minimize(lp.make("tiny-gpt2-prose-lora-xs-d32-v1"), "cma", 20, generalisation={"resample": 5})
    with pytest.raises(ValueError, match="follows the gradient on the whole search split"):
        minimize(problem, "adam", 20, generalisation={"resample": 5})
    with pytest.raises(ValueError, match="choose one of the two"):
        minimize(problem, "cma", 20, race=True, generalisation={"resample": 5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choose": "test"}, "the test split is read once, .* choose by 'dev'"),
        ({"choose": "search"}, "choose must be one of dev; got 'search'"),
        ({"choose": "dev", "every": 0}, "every must be an integer of at least 1"),
        ({"choose": "dev", "patience": 0}, "patience must be an integer of at least 1"),
        ({"patience": 3}, "needs choose='dev'"),
        ({"average": "all"}, "average must be one of recommended, best; got 'all'"),
        ({"average": "best", "of": 1}, "of must be an integer of at least 2"),
        ({"average": "best", "resample": 10}, "not comparable"),
        ({"resample": 1.5}, "resample must be an integer"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        minimize(TwoSplits(), "cma", 20, generalisation=options)


def test_a_problem_without_other_splits_cannot_choose():
    class Plain:
        dimension, x0, sigma, bounds = 2, np.zeros(2), 1.0, None

        def evaluate(self, X):
            return (X**2).sum(axis=1)

    with pytest.raises(TypeError, match="needs a problem with evaluate_all"):
        minimize(Plain(), "cma", 20, generalisation={"choose": "dev"})
    assert minimize(Plain(), "cma", 20, generalisation={"average": "best"}).evaluations == 20
