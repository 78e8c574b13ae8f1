"""Whose fault it is that a worker died, and when those that die while they build are too many."""

import numpy as np
import pytest

from llm_problem.workers import Abandoned, Killed
from llm_problem.workers.calls import Call
from llm_problem.workers.patience import BUILDS, Patience
from llm_problem.workers.queueing import MOST, TRIES, Queue


@pytest.fixture
def call():
    return Call("evaluate", np.zeros((4, 2)), {})


@pytest.fixture
def queue(call):
    queue = Queue()
    queue.add(call, 2)
    return queue


def test_a_chunk_that_kills_is_given_out_again_point_by_point_before_the_others(call, queue):
    queue.killed(queue.take(), "gone")
    assert [queue.take().places for _ in range(3)] == [[0], [1], [2, 3]] and not queue


def test_a_point_that_kills_again_waits_for_the_others_and_has_failed_then(call, queue):
    queue.killed(queue.take(), "gone")
    for _ in range(TRIES):
        queue.killed(queue.take(), "gone")
    assert call.outcomes[0] is None
    queue.answered(queue.take(), "rows", [1.0])
    assert call.outcomes[0] is None
    queue.answered(queue.take(), "rows", [2.0, 3.0])
    assert (
        call.done and isinstance(call.outcomes[0], Killed) and str(call.outcomes[0]) == "gone, 2 times with this point"
    )
    assert call.outcomes[1:] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("witness", ["an idle worker", "a point that went well"])
def test_where_workers_are_killed_from_outside_a_point_is_tried_more_often(call, queue, witness):
    queue.killed(queue.take(), "gone")
    for _ in range(TRIES):
        queue.killed(queue.take(), "gone")
    if witness == "an idle worker":
        queue.killed(None, "gone")
    other = queue.take()
    if witness != "an idle worker":
        queue.killed(other, "gone")
        other = queue.take()
    queue.answered(other, "rows", [1.0])
    queue.answered(queue.take(), "rows", [2.0, 3.0])
    for _ in range(MOST - TRIES):
        assert not call.done
        queue.killed(queue.take(), "gone")
    assert call.done and f"{MOST} times" in str(call.outcomes[0]) and not queue


@pytest.mark.parametrize("before", ["an earlier call", "an idle worker that ended by itself"])
def test_what_is_no_sign_that_somebody_kills_meanwhile(before):
    queue, first, second = Queue(), Call("evaluate", np.zeros((1, 2)), {}), Call("evaluate", np.zeros((1, 2)), {})
    queue.add(first, 1)
    if before == "an earlier call":
        queue.killed(None, "gone")
    queue.answered(queue.take(), "rows", [1.0])
    queue.add(second, 1)
    if before != "an earlier call":
        queue.killed(None, "gone", killed=False)
    for _ in range(TRIES):
        assert not second.done
        queue.killed(queue.take(), "gone")
    assert second.done and f"{TRIES} times" in str(second.outcomes[0])


def test_a_call_that_is_abandoned_is_done_with_what_it_has_and_keeps_it(call, queue):
    first, second = queue.take(), queue.take()
    queue.answered(first, "rows", [1.0, 2.0])
    queue.put_back(second)
    error = Abandoned("enough")
    queue.abandon(error)
    assert call.done and call.outcomes == [1.0, 2.0, error, error] and not queue
    queue.answered(second, "rows", [3.0, 4.0])  # too late
    assert call.outcomes[2:] == [error, error]


def test_a_problem_that_was_never_built_is_given_up_soon():
    assert Patience().over(killed=False, others=False)  # it would end in the same way again
    patience = Patience()
    assert [patience.over(killed=True, others=False) for _ in range(BUILDS)] == [False] * (BUILDS - 1) + [True]


def test_a_problem_that_was_built_is_built_again_for_a_while_whoever_kills():
    patience = Patience(seconds=1e9)
    patience.alive()
    assert not any(patience.over(killed=True, others=False) for _ in range(10 * BUILDS))
    patience = Patience(seconds=-1.0)
    patience.alive()
    assert not any(patience.over(killed=True, others=True) for _ in range(10 * BUILDS))
    assert patience.over(killed=True, others=False)


def test_from_the_fifth_failure_on_there_is_a_rest_until_one_is_built():
    patience = Patience()
    patience.built()
    rests = []
    for _ in range(BUILDS + 8):
        patience.over(killed=False, others=True)
        patience.alive()  # others answer, which says nothing of those that are not built
        rests.append(patience.rest())
    assert rests[: BUILDS - 1] == [0.0] * (BUILDS - 1)
    assert rests[BUILDS - 1 :] == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30, 30], abs=0.5)
    patience.built()
    assert patience.rest() == 0
