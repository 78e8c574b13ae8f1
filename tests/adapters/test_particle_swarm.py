"""Particle swarm: one step by hand, the neighbourhoods, the bounds, and pymoo's and Nevergrad's as the
reference."""

import numpy as np
import pytest

from llm_problem_adapters.particle_swarm import ParticleSwarm, neighbourhood_best
from llm_problem_adapters.random_search import RandomSearch
from tests.adapters.driving import ScriptedGenerator, least_of_nevergrad, least_of_pymoo, run, sphere


def test_one_step_by_hand():
    swarm = ParticleSwarm(particles=2, inertia=0.5, cognitive=2.0, social=1.0, max_velocity=2.0)
    swarm.setup(dimension=2, horizon=100, start_at_x0=False)
    swarm._X, swarm._V = np.array([[0.0, 1.0], [3.0, 2.0]]), np.array([[1.0, 0.0], [0.0, -2.0]])
    swarm._P, swarm._P_losses = np.array([[1.0, 1.0], [9.0, 9.0]]), np.array([1.0, 5.0])
    swarm.rng = ScriptedGenerator(random=[[[0.5, 0.5], [0.1, 0.9]], [[0.2, 0.4], [0.5, 0.5]]])  # r1, r2
    X = swarm.ask(2)
    swarm.tell(X, np.array([2.0, 3.0]))  # particle 0 keeps its best (1, 1) and leads; particle 1's is now where it is
    # v0 = 0.5·(1, 0) + 2·0.5·((1, 1) − (0, 1)) + 0.2, 0.4·((1, 1) − (0, 1)) = (1.7, 0)
    # v1 = 0.5·(0, −2) + 0 + 0.5·((1, 1) − (3, 2)) = (−1, −1.5)
    np.testing.assert_allclose(swarm.ask(2), [[1.7, 1.0], [2.0, 0.5]])
    np.testing.assert_allclose(swarm._V, [[1.7, 0.0], [-1.0, -1.5]])


def test_velocities_are_limited_in_units_of_sigma():
    swarm = ParticleSwarm(max_velocity=0.5).setup(dimension=3, sigma=[1, 2, 0.1], horizon=1000)
    previous = None
    for _ in range(30):
        X = swarm.ask(100)
        if previous is not None and len(previous) == len(X):
            assert (np.abs(X - previous) <= np.array([0.5, 1, 0.05]) + 1e-12).all()
        previous = X
        swarm.tell(X, ((X - 100) ** 2).sum(axis=1))


def test_constants_are_clerc_and_kennedy_s():
    """χ = 2/|2 − φ − √(φ² − 4φ)| with φ = 4.1 (Clerc & Kennedy 2002, eq. 4), ω = χ, c = χ·φ/2."""
    phi = 4.1
    chi = 2 / abs(2 - phi - np.sqrt(phi**2 - 4 * phi))
    swarm = ParticleSwarm()
    assert swarm.inertia == pytest.approx(chi, abs=5e-5)
    assert swarm.cognitive == swarm.social == pytest.approx(chi * phi / 2, abs=1e-4)


def test_neighbourhoods():
    losses = np.array([5.0, 1.0, 7.0, 6.0, 0.0, 9.0])
    assert neighbourhood_best(losses, "global").tolist() == [4] * 6
    assert neighbourhood_best(losses, "ring").tolist() == [1, 1, 1, 4, 4, 4]
    assert neighbourhood_best(np.array([0.0, 8, 7, 6, 5, 4]), "ring").tolist() == [
        0,
        0,
        3,
        4,
        5,
        0,
    ]  # the ring closes
    assert neighbourhood_best(losses, "ring", neighbours=2).tolist() == [4, 1, 4, 4, 4, 4]
    assert neighbourhood_best(losses, "ring", neighbours=50).tolist() == [4] * 6
    assert neighbourhood_best(np.full(4, np.inf), "ring").tolist() == [0, 1, 2, 3]  # nobody is followed


def test_the_first_generation_is_normal_about_x0_which_is_one_of_it():
    swarm = ParticleSwarm(particles=2000).setup(dimension=2, x0=[1, -2], sigma=[0.5, 3], horizon=9000)
    first, _ = run(swarm, sphere, 2000, max_n=10_000)
    np.testing.assert_array_equal(first[0], [1, -2])
    z = (first[1:] - [1, -2]) / [0.5, 3]
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.06)
    assert len(swarm.ask(10_000)) == 2000
    without = ParticleSwarm(particles=7).setup(dimension=2, horizon=90, start_at_x0=False)
    assert len(without.ask(100)) == 7


def test_x0_leads_where_it_is_the_best():
    swarm = ParticleSwarm(particles=5).setup(dimension=3, horizon=90)
    first, _ = run(swarm, lambda X: (X**2).sum(axis=1), 5)
    second = swarm.ask(10)
    np.testing.assert_array_equal(second[0], 0)  # at rest, at its own best and the swarm's
    assert (second[1:] * first[1:] <= first[1:] ** 2).all()  # the others were drawn toward it


@pytest.mark.parametrize(("boundary", "place"), [("absorb", 1.0), ("reflect", 0.7)])
def test_a_bound_stops_a_particle(boundary, place):
    swarm = ParticleSwarm(particles=2, boundary=boundary, inertia=1.0, cognitive=0, social=0, max_velocity=5)
    swarm.setup(dimension=2, bounds=(-1, 1), horizon=100, start_at_x0=False)
    swarm._X, swarm._V = np.array([[0.8, 0.0], [0.0, -0.9]]), np.array([[0.5, 0.1], [0.0, -3.0]])
    swarm.tell(swarm.ask(2), np.zeros(2))
    corner = -1.0 if boundary == "absorb" else 1.0  # −3.9 mirrored at −1 is 1.9, and that is outside too
    np.testing.assert_allclose(swarm.ask(2), [[place, 0.1], [0.0, corner]])
    np.testing.assert_array_equal(swarm._V, [[0.0, 0.1], [0.0, 0.0]])


def test_without_bounds_it_does_not_run_away():
    swarm = ParticleSwarm().setup(dimension=30, horizon=3000)
    points, _ = run(swarm, lambda X: (X**2).sum(axis=1), 3000)
    assert np.abs(points).max() < 10
    rough = np.random.default_rng(0)
    points, _ = run(ParticleSwarm().setup(dimension=30, horizon=3000), lambda X: rough.random(len(X)), 3000)
    assert np.abs(points).max() < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 1}, "particles must be an integer of at least 2, got 1"),
        ({"neighbours": 0}, "neighbours must be an integer of at least 1, got 0"),
        ({"topology": "star"}, "topology must be one of global, ring; got 'star'"),
        ({"boundary": "wrap"}, "boundary must be one of absorb, reflect; got 'wrap'"),
        ({"inertia": 1.1}, "inertia must be a finite number from 0 to 1, got 1.1"),
        ({"social": np.nan}, "social must be a finite number of at least 0, got nan"),
        ({"max_velocity": "1"}, "max_velocity must be a finite number above 0, got '1'"),
        ({"inertia": "0.5"}, "inertia must be a finite number"),
        ({"particles": True}, "particles must be an integer"),
        ({"max_velocity": 0}, "max_velocity must be a finite number above 0, got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ParticleSwarm(**options)


# Against the twins.


def shifted_sphere(X):
    return ((X - 1.3) ** 2).sum(axis=1)


def rosenbrock(X):
    return (100 * (X[:, 1:] - X[:, :-1] ** 2) ** 2 + (1 - X[:, :-1]) ** 2).sum(axis=1)


def rastrigin(X):
    return ((X - 1.3) ** 2 + 10 * (1 - np.cos(2 * np.pi * (X - 1.3)))).sum(axis=1)


def our_bests(f):
    """Best losses (7,) of 7 seeds on 10 dimensions, 600 evaluations."""
    swarms = [
        ParticleSwarm(particles=20).setup(dimension=10, bounds=(-5, 5), horizon=600, seed=seed, start_at_x0=False)
        for seed in range(7)
    ]
    return np.array([run(swarm, f, 600)[1].min() for swarm in swarms])


@pytest.mark.parametrize("f", [shifted_sphere, rosenbrock, rastrigin])
def test_is_the_particle_swarm_of_pymoo(f):
    """With the same swarm size, constants, start, box and velocity limit (a tenth of the box is our sigma), and
    without their extras, pymoo's makes the same run of the same seed: both draw positions, then r1, then r2."""
    from pymoo.algorithms.soo.nonconvex.pso import PSO

    def twin(sampling):
        return PSO(
            pop_size=20,
            sampling=sampling,
            w=0.7298,
            c1=1.49618,
            c2=1.49618,
            max_velocity_rate=0.1,
            initial_velocity="zero",
            adaptive=False,
            pertube_best=False,
        )

    np.testing.assert_allclose(our_bests(f), least_of_pymoo(f, 10, twin, 600), rtol=1e-6)


@pytest.mark.parametrize("f", [rastrigin])
def test_as_good_as_the_particle_swarm_of_nevergrad(f):
    """Theirs has 40 particles and its own constants: our median at most 1.2 times theirs."""
    import nevergrad as ng

    def boxed():
        return ng.p.Array(shape=(10,)).set_bounds(-5, 5, full_range_sampling=False).set_mutation(sigma=1.0)

    assert np.median(our_bests(f)) <= 1.2 * np.median(least_of_nevergrad(f, ng.optimizers.PSO, boxed, 600))


@pytest.mark.parametrize("topology", ["global", "ring"])
def test_beats_random_search(topology):
    def median(make):
        return np.median([
            run(make().setup(dimension=20, horizon=500, seed=seed), sphere, 500)[1].min() for seed in range(7)
        ])  # fmt: skip

    assert median(lambda: ParticleSwarm(topology=topology)) < 0.4 * median(RandomSearch)
