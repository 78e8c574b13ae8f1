"""Workers on a Ray cluster: `minimize(problem, …, workers=RayPool(problem, 8, address="head:6379"))`.

An actor on each place builds the problem from its description and keeps it; points travel inline, a few kB a chunk.
Calls are made at most once and Ray restarts no actor: whose call an error ends is known here, and given again here.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_problem.workers.calls import Call, Chunk
from llm_problem.workers.errors import NotBuilt, TimedOut
from llm_problem.workers.patience import Patience
from llm_problem.workers.pool import CHUNKS, START_SECONDS
from llm_problem.workers.queueing import Queue
from llm_problem.workers.recipe import recipe_of
from llm_problem.workers.serving import build, rows_of, sendable
from llm_problem.workers.starting import LIBRARIES
from llm_problem_adapters.options import integer, positive
from llm_problem_adapters.ray_cluster import connect, first_line

try:
    import ray
    from ray.exceptions import RayActorError, RayError
except ImportError as error:
    raise ImportError("RayPool needs the package ray: pip install 'ray>=2.52'") from error


class Holder:
    """The actor: one problem, built from a description."""

    def __init__(self, recipe: bytes, threads: int) -> None:
        self._recipe, self._threads, self._problem = recipe, threads, None

    def build(self) -> tuple[str, Any]:
        """("ready", facts of its memory) or ("error", exception)."""
        try:
            self._problem, facts = build(self._recipe, self._threads)
            return "ready", {**facts, "node": socket.gethostname()}
        except Exception as error:
            return "error", (sendable(error), socket.gethostname())

    def rows(self, method: str, X: np.ndarray, options: dict[str, Any]) -> tuple[str, Any]:
        """("rows", what the method says of each row of X (n, d)) or ("error", exception)."""
        try:
            return "rows", rows_of(getattr(self._problem, method), method, X, options)
        except Exception as error:
            return "error", sendable(error)


class _Actor:
    """One actor as the driver sees it."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.ready = handle, False
        self.chunk: Chunk | None = None
        self.began = time.monotonic()
        self.end: float | None = None
        self.reference: Any = handle.build.remote()  # of what it is at
        self.facts: dict[str, Any] = {}

    def give(self, chunk: Chunk, seconds: float | None) -> None:
        self.chunk = chunk
        self.end = None if seconds is None else time.monotonic() + seconds * len(chunk.places)
        self.reference = self.handle.rows.remote(chunk.call.method, chunk.call.X[chunk.places], chunk.call.options)


class RayPool:
    """Actors that each hold the problem: `workers` of `minimize`, `problem.executor` and `to_pymoo`.

    Every node needs llm-problem, and the model where the description says: a name, a hub id, or a path that is there.
    Losses are those of one process with as many threads on the same kind of machine; other processors round otherwise.

    Args:
        problem: any that can be pickled; a `Problem` travels as its description.
        workers: actors, at least 1.
        address: of a running cluster, "host:port", "ray://host:port" or "auto"; None starts one on this machine, which
            ends with the pool. Where this process is connected to a cluster already, that is taken.
        threads: of each actor's libraries.
        cpus, gpus: that an actor takes of its node.
        resources: others, as Ray names them.
        chunk: points that an actor is given at once; None follows from the number of points and of actors.
        evaluation_seconds: after which an evaluation is given up, its actor killed and replaced; points go out singly.
        connect_seconds: in which the cluster must answer.

    Raises:
        ValueError: no counts, a problem that cannot be pickled, or another cluster than this process is connected to.
        ConnectionError: the address does not answer.
        NotBuilt: an actor cannot build the problem, or the cluster has no place for one.
    """

    def __init__(
        self,
        problem: Any,
        workers: int,
        *,
        address: str | None = None,
        threads: int = 1,
        cpus: float = 1,
        gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        chunk: int | None = None,
        evaluation_seconds: float | None = None,
        connect_seconds: float = 30.0,
    ) -> None:
        self._count, self._threads = integer("workers", workers, 1), integer("threads", threads, 1)
        self._chunk = None if chunk is None else integer("chunk", chunk, 1)
        self._seconds = None if evaluation_seconds is None else positive("evaluation_seconds", evaluation_seconds)
        self.problem, self.replaced, self._patience, self._closed = problem, 0, Patience(), False
        self._recipe = recipe_of(problem)
        self._actors: list[_Actor] = []
        self._waiting = Queue()
        self._own = connect(address, positive("connect_seconds", connect_seconds), math.ceil(self._count * cpus))
        try:
            self._takes = {"CPU": cpus, "GPU": gpus, **(resources or {})}
            self._require_place(self._count)
            variables = {name: str(self._threads) for name in LIBRARIES}
            self._kind = ray.remote(Holder).options(
                num_cpus=cpus,
                num_gpus=gpus,
                resources=dict(resources or {}),
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": variables},
            )
            self._fill()
            while not any(actor.ready for actor in self._actors):
                self.pump(1.0)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """How many there are to be."""
        return self._count

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What each built actor said of its memory in bytes, its process and its node."""
        return [actor.facts for actor in self._actors if actor.ready]

    def resize(self, workers: int) -> None:
        """Have another number of actors; what one that goes has in hand is given to another.

        Raises:
            NotBuilt: the cluster has no place for them.
            RuntimeError: the pool is closed.
        """
        workers = integer("workers", workers, 1)
        self._require_open()
        self._require_place(workers)
        self._count = workers
        for actor in self._actors[self._count :]:
            if actor.chunk is not None:
                self._waiting.put_back(actor.chunk)
            self._remove(actor)
        self._fill()

    def wait_built(self) -> None:
        """Return when every actor has built its problem."""
        self._require_open()
        while not all(actor.ready for actor in self._actors):
            self.pump(1.0)

    def outcomes(self, method: str, X: np.ndarray, **options: Any) -> list[Any]:
        """As `WorkerPool.outcomes`."""
        call = self.submit(method, X, **options)
        while not call.done:
            self.pump()
        return call.outcomes

    def submit(self, method: str, X: np.ndarray, **options: Any) -> Call:
        """Queue a call; `pump` makes it go on."""
        self._require_open()
        call = Call(method, X, options)
        size = 1 if self._seconds is not None else self._chunk or max(1, math.ceil(len(X) / (CHUNKS * self._count)))
        self._waiting.add(call, size)
        self._hand_out()
        return call

    def pump(self, seconds: float | None = None) -> None:
        """Hand out what waits and take what came; return after something came, or after so many seconds."""
        self._require_open()
        try:
            self._fill()
            self._hand_out()
            busy = {actor.reference: actor for actor in self._actors if actor.reference is not None}
            if busy:
                for reference in ray.wait(list(busy), num_returns=1, timeout=self._wait_for(seconds))[0]:
                    self._hear(busy[reference])
            self._give_up_late()
            self._hand_out()
        except BaseException:  # an interruption
            self._waiting.clear()
            for actor in [actor for actor in self._actors if actor.chunk is not None]:
                self._remove(actor)
            raise

    def close(self) -> None:
        """End the actors, and the cluster that was started for them."""
        if self._closed:
            return
        self._closed = True
        for actor in list(self._actors):
            self._remove(actor)
        self._waiting.clear()
        if self._own:
            ray.shutdown()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RayPool of {self._count} for {self.problem!r}>"

    # Inside.

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("this pool of workers is closed")

    def _require_place(self, workers: int) -> None:
        there = ray.cluster_resources()
        for name, amount in self._takes.items():
            fit = int(there.get(name, 0) / amount) if amount > 0 else workers
            if fit < workers:
                raise NotBuilt(
                    f"{workers} workers of {amount:g} {name} each do not fit into this cluster, which has "
                    f"{there.get(name, 0):g} {name} in all: {fit} do"
                )

    def _fill(self) -> None:
        while len(self._actors) < self._count:
            self._actors.append(_Actor(self._kind.remote(self._recipe, self._threads)))

    def _hand_out(self) -> None:
        for actor in self._actors:
            if self._waiting and actor.ready and actor.chunk is None:
                actor.give(self._waiting.take(), self._seconds)

    def _wait_for(self, seconds: float | None) -> float | None:
        now, ends = time.monotonic(), [] if seconds is None else [seconds]
        ends += [max(0.0, actor.end - now) for actor in self._actors if actor.end is not None]
        ends += [max(0.0, actor.began + START_SECONDS - now) for actor in self._actors if not actor.ready]
        return min(ends, default=None)

    def _hear(self, actor: _Actor) -> None:
        reference, actor.reference = actor.reference, None
        try:
            kind, value = ray.get(reference)
        except RayActorError as error:
            self._died(actor, f"the actor that evaluated is gone: {first_line(error)}")
            return
        self._patience.alive()
        if not actor.ready:
            if kind == "error":
                why, node = value
                raise NotBuilt(f"the problem was not built on {node}: {type(why).__name__}: {why}") from why
            self._require_same_basis(value)
            actor.ready, actor.facts = True, value
            return
        chunk, actor.chunk, actor.end = actor.chunk, None, None
        if chunk is None:
            return
        self._waiting.answered(chunk, kind, value)

    def _require_same_basis(self, facts: dict[str, Any]) -> None:
        if facts["basis"] is not None and facts["basis"] != self.problem.subspace.basis_hash():
            raise NotBuilt(
                f"{facts['node']} computes another basis of the subspace than this machine: store it by "
                "problem.save_basis(path) where every node can read it, and make the problem with basis=path"
            )

    def _died(self, actor: _Actor, why: str) -> None:
        chunk = actor.chunk
        self.replaced += 1
        self._remove(actor)
        if not actor.ready and self._patience.over(True, any(other.ready for other in self._actors)):
            raise NotBuilt(f"the problem was not built in an actor: {why}")
        self._waiting.killed(chunk, why)

    def _give_up_late(self) -> None:
        now = time.monotonic()
        for actor in list(self._actors):
            if not actor.ready and now > actor.began + START_SECONDS:
                raise NotBuilt(f"the problem was not built, or found no place, in {START_SECONDS:g} seconds")
            if actor.chunk is not None and actor.end is not None and now >= actor.end:
                chunk = actor.chunk
                self.replaced += 1
                self._remove(actor)
                self._waiting.failed(chunk, TimedOut(f"longer than {self._seconds:g} seconds"))

    def _remove(self, actor: _Actor) -> None:
        with contextlib.suppress(RayError, ValueError):  # it may be gone
            ray.kill(actor.handle)
        self._actors.remove(actor)
