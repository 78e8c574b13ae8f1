"""The genetic operators, as properties: where every gene comes from, where it is cut, how often it
changes."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llm_problem_adapters import genetic_operators as operators

seeds = st.integers(0, 2**32 - 1)


def labelled_parents(k: int, d: int) -> np.ndarray:
    """Parents (k, d) whose genes name their origin: parent i's gene j is i + j/1000."""
    return np.arange(k)[:, None] + np.arange(d) / 1000


def origins(child: np.ndarray) -> np.ndarray:
    """Which parent each gene of a child of `labelled_parents` comes from, (d,); fails where a gene moved."""
    origin = np.floor(child + 1e-9)
    np.testing.assert_allclose(child - origin, np.arange(len(child)) / 1000, atol=1e-9)
    return origin.astype(int)


losses_with_ties = st.lists(
    st.one_of(st.integers(0, 3).map(float), st.just(np.inf), st.floats(-5, 5)), min_size=1, max_size=30
)


@given(losses_with_ties, st.data())
def test_top_k_is_the_start_of_a_stable_sort(losses, data):
    k = data.draw(st.integers(1, len(losses)))
    by_python = sorted(range(len(losses)), key=lambda i: losses[i])[:k]  # Python's sort is stable
    assert operators.top_k(np.array(losses), k).tolist() == by_python


def test_top_k_puts_nan_last():
    assert operators.top_k(np.array([np.nan, 2.0, np.inf, 1.0]), 3).tolist() == [3, 1, 2]


@pytest.mark.parametrize("k", [0, 4])
def test_top_k_refuses_what_is_not_there(k):
    with pytest.raises(ValueError, match="between 1 and the number of losses, 3"):
        operators.top_k(np.zeros(3), k)


@given(seeds, st.integers(2, 6), st.integers(0, 20))
def test_pairs_are_of_two_different_parents(seed, k, m):
    pairs = operators.random_pairs(k, m, np.random.default_rng(seed))
    assert pairs.shape == (m, 2)
    assert ((pairs >= 0) & (pairs < k)).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_pairs_are_uniform_and_a_single_parent_is_its_own():
    pairs = operators.random_pairs(4, 24_000, np.random.default_rng(0))
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(pairs.T), 1)
    assert stats.chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > 1e-3
    assert operators.random_pairs(1, 3, np.random.default_rng(0)).tolist() == [[0, 0]] * 3


@given(seeds, st.integers(1, 30), st.integers(1, 8), st.integers(2, 5), st.integers(0, 6))
def test_cut_crossovers_exchange_segments(seed, d, cuts, k, m):
    rng = np.random.default_rng(seed)
    parents, pairs = labelled_parents(k, d), operators.random_pairs(k, m, rng)
    before = parents.copy()
    children = operators.multi_point_crossover(parents, pairs, rng, cuts=cuts)
    assert children.shape == (2 * m, d)
    np.testing.assert_array_equal(parents, before)
    for i, (first, second) in enumerate(pairs):
        one, two = origins(children[2 * i]), origins(children[2 * i + 1])
        assert one[0] == first
        assert two[0] == second
        np.testing.assert_array_equal(one + two, first + second)  # complementary: together they hold every gene
        assert np.count_nonzero(np.diff(one)) == min(cuts, d - 1)  # every cut parts two non-empty segments


def test_single_point_is_one_cut_and_every_place_is_as_likely():
    rng = np.random.default_rng(3)
    d, m = 6, 10_000
    pairs = np.tile([0, 1], (m, 1))
    children = operators.single_point_crossover(labelled_parents(2, d), pairs, rng)
    where = np.argmax(children[::2] >= 1, axis=1)  # first gene of the second parent
    assert stats.chisquare(np.bincount(where, minlength=d)[1:]).pvalue > 1e-3
    again = operators.multi_point_crossover(labelled_parents(2, d), pairs, np.random.default_rng(3), cuts=1)
    np.testing.assert_array_equal(children, again)


def test_two_cuts_by_hand():
    parents, pairs = labelled_parents(2, 10), np.array([[0, 1]])
    places = np.sort(1 + np.random.default_rng(8).choice(9, size=2, replace=False))  # the same draw
    first, _ = operators.multi_point_crossover(parents, pairs, np.random.default_rng(8), cuts=2)
    expected = np.concatenate([parents[0, : places[0]], parents[1, places[0] : places[1]], parents[0, places[1] :]])
    np.testing.assert_array_equal(first, expected)


@given(seeds, st.integers(1, 20), st.floats(0, 1))
def test_uniform_crossover_is_complementary(seed, d, rate):
    rng = np.random.default_rng(seed)
    children = operators.uniform_crossover(labelled_parents(3, d), np.array([[2, 0], [1, 2]]), rng, rate=rate)
    for one, two, total in ((children[0], children[1], 2), (children[2], children[3], 3)):
        np.testing.assert_array_equal(origins(one) + origins(two), total)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_uniform_crossover_mixes_at_its_rate(rate):
    children = operators.uniform_crossover(
        np.array([np.zeros(40_000), np.ones(40_000)]), np.array([[0, 1]]), np.random.default_rng(1), rate=rate
    )
    assert children[0].mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / 40_000))
    np.testing.assert_array_equal(children[1], 1 - children[0])


def test_blend_children_are_uniform_on_the_extended_interval():
    parents, alpha = np.array([[1.0], [3.0]]).repeat(20_000, axis=1), 0.3
    children = operators.blend_crossover(parents, np.array([[1, 0]]), np.random.default_rng(2), alpha=alpha)
    assert children.shape == (2, 20_000)
    for child in children:  # from 1 − 0.3·2 to 3 + 0.3·2
        assert stats.kstest(child, stats.uniform(0.4, 3.2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(children)[0, 1]) < 0.03
    same = operators.blend_crossover(parents[:1], np.array([[0, 0]]), np.random.default_rng(2))
    np.testing.assert_array_equal(same, 1.0)


def test_blending_at_0366_keeps_the_variance():
    rng = np.random.default_rng(2)
    parents = rng.standard_normal((200, 400))
    pairs = operators.random_pairs(200, 200, rng)
    ratios = [
        operators.blend_crossover(parents, pairs, rng, alpha=alpha).var() / parents.var()
        for alpha in (0.0, (np.sqrt(3) - 1) / 2, 0.5)
    ]
    # Of a difference I ~ N(0, 2): the middle has the variance 1/2, a uniform width (1 + 2α)·I adds (1 + 2α)²/6.
    np.testing.assert_allclose(ratios, [0.5 + 1 / 6, 1.0, 0.5 + 4 / 6], rtol=0.02)


@given(seeds, st.floats(0, 30))
def test_simulated_binary_children_have_their_parents_mean(seed, eta):
    rng = np.random.default_rng(seed)
    parents = rng.standard_normal((3, 9))
    pairs = operators.random_pairs(3, 4, rng)
    children = operators.simulated_binary_crossover(parents, pairs, rng, eta=eta)
    np.testing.assert_allclose(children[0::2] + children[1::2], parents[pairs].sum(axis=1), atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 2.0, 15.0])
def test_the_spread_of_simulated_binary_children_is_deb_and_agrawals(eta):
    """P(β ≤ b) = b^(η+1)/2 up to 1, and 1 − b^−(η+1)/2 beyond."""
    parents = np.array([[1.0], [-1.0]]).repeat(20_000, axis=1)
    first, _ = operators.simulated_binary_crossover(parents, np.array([[0, 1]]), np.random.default_rng(4), eta=eta)

    def distribution(b):
        return np.where(b <= 1, 0.5 * np.minimum(b, 1) ** (eta + 1), 1 - 0.5 * np.maximum(b, 1) ** -(eta + 1))

    assert stats.kstest(first, distribution).pvalue > 1e-3


def test_mutation_is_gaussian_with_a_strength_a_gene():
    std = np.repeat([0.5, 2.0], 20_000)
    moved = operators.gaussian_mutation(np.full((1, 40_000), 3.0), std, np.random.default_rng(5))
    z = (moved[0] - 3.0) / std
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert z[:20_000].std() == pytest.approx(1, abs=0.03)
    assert z[20_000:].std() == pytest.approx(1, abs=0.03)


def test_mutation_happens_at_its_probability():
    X = np.zeros((4, 20_000))
    moved = operators.gaussian_mutation(X, 1.0, np.random.default_rng(6), probability=0.2)
    assert (moved != 0).mean() == pytest.approx(0.2, abs=0.01)
    assert moved[moved != 0].std() == pytest.approx(1, abs=0.03)  # a gene that is mutated is so at full strength
    assert (X == 0).all()
    unmoved = operators.gaussian_mutation(X + 1, 1.0, np.random.default_rng(6), probability=0.0)
    np.testing.assert_array_equal(unmoved, X + 1)


def test_mutation_in_place_is_the_same_mutation():
    X = np.random.default_rng(0).normal(size=(3, 7))
    apart = operators.gaussian_mutation(X, 0.1, np.random.default_rng(1), probability=0.7)
    within = operators.gaussian_mutation(X, 0.1, np.random.default_rng(1), probability=0.7, out=X)
    assert within is X
    np.testing.assert_array_equal(within, apart)


def test_bad_arguments_are_named():
    rng, parents, pairs = np.random.default_rng(0), np.zeros((2, 3)), np.array([[0, 1]])
    with pytest.raises(ValueError, match="cuts must be at least 1, got 0"):
        operators.multi_point_crossover(parents, pairs, rng, cuts=0)
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5"):
        operators.uniform_crossover(parents, pairs, rng, rate=1.5)
    with pytest.raises(ValueError, match=r"pairs must have shape \(m, 2\), got \(2,\)"):
        operators.uniform_crossover(parents, pairs[0], rng)
    with pytest.raises(ValueError, match=r"alpha must not be negative, got -0.1"):
        operators.blend_crossover(parents, pairs, rng, alpha=-0.1)
    with pytest.raises(ValueError, match=r"eta must not be negative, got nan"):
        operators.simulated_binary_crossover(parents, pairs, rng, eta=np.nan)
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got -1"):
        operators.gaussian_mutation(parents, 1.0, rng, probability=-1)
    with pytest.raises(ValueError, match="std must not be negative"):
        operators.gaussian_mutation(parents, np.array([1.0, np.nan, 1.0]), rng)


def test_a_million_genes_need_little_beside_the_result():
    d, m = 1_000_000, 4
    parents, rng = np.zeros((3, d)), np.random.default_rng(0)
    pairs = operators.random_pairs(3, m, rng)
    for operator in (
        operators.single_point_crossover,
        operators.uniform_crossover,
        operators.blend_crossover,
        operators.simulated_binary_crossover,
    ):
        tracemalloc.start()
        children = operator(parents, pairs, rng)
        operators.gaussian_mutation(children, 0.1, rng, probability=0.5, out=children)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < children.nbytes + 4 * d * 8  # a few vectors of d, not another (n, d)
