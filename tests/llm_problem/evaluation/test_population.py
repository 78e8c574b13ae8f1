"""A value never depends on the population that it was evaluated in, nor on the place in a chunk: bit by bit."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import ReplayEvaluator, replay
from llm_problem.models.families import FAMILIES
from tests.llm_problem.covering import covering
from tests.llm_problem.subspace_examples import EXAMPLES, example

SUBSPACES = {
    "last layer": lp.subspaces.LoRAXS(2, layers=1),
    "last layer, also the MLP": lp.subspaces.LoRAXS(2, layers=1, modules=("v_proj", "o_proj", "up_proj", "down_proj")),
    "all layers": lp.subspaces.LoRAXS(2),
    "random": lp.subspaces.RandomSubspace(5, layers=2),
    "factors": lp.subspaces.LoRA(3, layers=2, modules=("q_proj", "v_proj", "o_proj", "down_proj")),
    "diagonal cores": lp.subspaces.SingularValues(layers=1),
    "one vector for all": lp.subspaces.TinyLoRA(6, rank=2, layers=2),
    "groups of entries": lp.subspaces.SparseProjection(40, layers=2),
    "structured": lp.subspaces.Fastfood(40, layers=1),
    "scales": lp.subspaces.Scales(layers=2),
    "scales of the last layer": lp.subspaces.Scales(layers=1, modules=("q_proj", "v_proj", "o_proj", "down_proj")),
    "norms and biases": lp.subspaces.NormsAndBiases(layers=2),
}
COUNTS = (1, 2, 7, 16, 33)
CAUSAL = [family for family in FAMILIES if family not in ("bert", "roberta")]  # that take a prefix


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["one thread", "two threads"])
def threads(request):
    if request.param == "two threads":
        request.getfixturevalue("two_threads")


def require_the_same_bits(evaluator, batch, X):
    alone = np.concatenate([evaluator.log_probs(x[None], batch) for x in X])
    for n in COUNTS:
        for start in (0, len(X) - n):
            np.testing.assert_array_equal(evaluator.log_probs(X[start : start + n], batch), alone[start : start + n])
    order = np.random.default_rng(5).permutation(len(X))
    np.testing.assert_array_equal(evaluator.log_probs(X[order], batch), alone[order])


def require_the_same_bits_on(tasks, loaded, subspace, points):
    bound = subspace.bind(loaded, 0)
    X = points(33, bound.dimension)
    for task in tasks:
        batch = task.batch(loaded, "search", 0)
        evaluator = ReplayEvaluator(loaded, bound, batch)
        assert evaluator.planned
        require_the_same_bits(evaluator, batch, X)


@pytest.mark.parametrize(("family", "moved"), covering(FAMILIES, SUBSPACES, each=3))
def test_every_family(family, moved, small_model, label_task, text_task, points):
    require_the_same_bits_on((label_task, text_task), small_model(family), SUBSPACES[moved], points)


@pytest.mark.parametrize(("family", "moved"), covering(FAMILIES, SUBSPACES, each=1))
def test_every_family_with_two_threads(family, moved, two_threads, small_model, text_task, points):
    require_the_same_bits_on((text_task,), small_model(family), SUBSPACES[moved], points)


@pytest.mark.parametrize(("family", "kind"), covering(CAUSAL, EXAMPLES, each=1))
def test_every_registered_subspace(family, kind, small_model, label_task, points):
    loaded = small_model(family)
    problem = lp.Problem(loaded, label_task, example(kind, loaded))
    require_the_same_bits(problem.evaluator, problem.batch("search"), points(33, problem.dimension))


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_bert"])
def test_the_bundled_models(name, threads, request, text_task, points):
    problem = lp.Problem(request.getfixturevalue(name), text_task, SUBSPACES["last layer"])
    X = points(33, problem.dimension)
    require_the_same_bits(problem.evaluator, problem.batch("search"), X)


@pytest.mark.parametrize(
    "subspace",
    [lp.subspaces.LoRAXS(4, layers=1), lp.subspaces.LoRA(2, layers=1), lp.subspaces.SingularValues(layers=1)],
    ids=lambda subspace: subspace.kind,
)
def test_smollm2(subspace, smollm2, threads, points):
    records = [{"text": f"a film number {k} " + "indeed " * k, "label": str(k % 2)} for k in range(8)]
    task = lp.tasks.Classification.from_records(
        records,
        text="text",
        label="label",
        prompt="{text} It was",
        labels={"0": " terrible", "1": " great"},
        dev=lp.tasks.Data.of(records),
        test=lp.tasks.Data.of(records),
    )
    problem = lp.Problem(smollm2, task, subspace)
    require_the_same_bits(problem.evaluator, problem.batch("search"), points(33, problem.dimension))


def test_where_smaller_chunks_differ_they_are_filled_up(small_model, text_task, points, monkeypatch):
    loaded = small_model("llama")
    bound = SUBSPACES["all layers"].bind(loaded, 0)
    batch, sizes = text_task.batch(loaded, "search", 0), []

    def chunk(self, X, packed, batch):  # a library whose last bits depend on the number of rows
        sizes.append(len(X))
        return np.tile(X[:, :1], batch.entries) + 1e-12 * (len(X) < 4)

    monkeypatch.setattr(ReplayEvaluator, "_chunk", chunk)
    evaluator = ReplayEvaluator(loaded, bound, batch)
    X = points(9, bound.dimension)
    values = evaluator.log_probs(X, batch)
    packed = evaluator._packed(batch)
    assert min(packed.sizes) == 4 and packed.width == max(packed.sizes)
    sizes.clear()
    np.testing.assert_array_equal(evaluator.log_probs(X[:1], batch), values[:1])
    assert sizes == [4]


def test_where_places_in_a_chunk_differ_candidates_run_alone(small_model, text_task, points, monkeypatch):
    loaded = small_model("llama")
    bound, right = SUBSPACES["all layers"].bind(loaded, 0), ReplayEvaluator._chunk
    batch = text_task.batch(loaded, "search", 0)

    def chunk(self, X, *args):
        return right(self, X, *args) + 1e-12 * np.arange(len(X))[:, None]

    monkeypatch.setattr(ReplayEvaluator, "_chunk", chunk)
    evaluator = ReplayEvaluator(loaded, bound, batch)
    require_the_same_bits(evaluator, batch, points(33, bound.dimension))
    assert evaluator._packed(batch).width == 1


@pytest.mark.parametrize(("work", "cache", "width"), [(1e30, 1 << 40, 64), (1.0, 1 << 40, 1), (1e30, 1, 1)])
def test_the_width_follows_from_the_sizes_alone(work, cache, width, small_model, text_task, monkeypatch):
    monkeypatch.setattr(replay, "CHUNK_WORK", work)
    monkeypatch.setattr(replay, "CHUNK_BYTES", cache)
    loaded = small_model("gpt2")
    batch = text_task.batch(loaded, "search", 0)
    evaluator = ReplayEvaluator(loaded, SUBSPACES["last layer"].bind(loaded, 0), batch)
    assert evaluator._width(evaluator._packed(batch), batch) == width
