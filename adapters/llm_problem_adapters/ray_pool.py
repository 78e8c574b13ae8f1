"""Workers on a Ray cluster: `minimize(problem, …, workers=RayPool(problem, 8, address="head:6379"))`.

An actor on each place builds the problem from its description and keeps it; points travel inline, a few kB a chunk.
Calls are made at most once and Ray restarts no actor: whose call an error ends is known here, and given again here.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_problem.workers.base import START_SECONDS, Pool
from llm_problem.workers.calls import Chunk
from llm_problem.workers.errors import NotBuilt
from llm_problem.workers.member import Member
from llm_problem.workers.serving import build, rows_of, sendable
from llm_problem.workers.starting import LIBRARIES
from llm_problem_adapters.options import number, positive
from llm_problem_adapters.ray_cluster import connect, first_line, leave

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ImportError("RayPool needs the package ray: pip install 'ray>=2.52'") from error


LONG = 60.0  # seconds without a worker, after which it is said that places may be taken


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


class _Actor(Member):
    """One actor as the driver sees it."""

    def __init__(self, handle: Any) -> None:
        super().__init__()
        self.handle = handle
        self.reference: Any = handle.build.remote()  # of what it is at

    def spoke(self) -> bool:
        return self.reference is not None and bool(ray.wait([self.reference], timeout=0)[0])

    def kill(self) -> None:
        with contextlib.suppress(RayError, ValueError):  # it may be gone
            if ray.is_initialized():  # asking would connect anew
                ray.kill(self.handle)

    def _send(self, chunk: Chunk) -> None:
        self.reference = self.handle.rows.remote(chunk.call.method, chunk.call.X[chunk.places], chunk.call.options)


class RayPool(Pool):
    """Actors that each hold the problem: `workers` of `minimize`, `problem.executor` and `to_pymoo`.

    Every node needs llm-problem, and the model where the description says: a name, a hub id, or a path that is there.
    Losses are those of one process with as many threads on the same kind of machine; other processors round otherwise.

    Args:
        problem: any that can be pickled; a `Problem` travels as its description.
        workers: actors, at least 1.
        address: of a running cluster, "host:port", "ray://host:port" or "auto"; None starts one on this machine, which
            ends with the last pool that uses it. Where this process is connected to a cluster already, that is taken,
            and left alone; an address must be its own then.
        threads: of each actor's libraries.
        cpus, gpus: that an actor takes of its node.
        resources: others, as Ray names them.
        chunk: points that an actor is given at once; None follows from the number of points and of actors.
        evaluation_seconds: after which an evaluation is given up, its actor killed and replaced; points go out singly.
        connect_seconds: in which the cluster must answer.

    Raises:
        ValueError: no counts or amounts, a problem that cannot be pickled, or another cluster than this process is
            connected to.
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
        super().__init__(problem, workers, threads, chunk, evaluation_seconds)
        self._takes = _taken(cpus, gpus, resources or {})
        if not isinstance(address, str | None):
            raise ValueError(f'a Ray address is "host:port", "ray://host:port", "auto" or None, got {address!r}')
        self._connection = connect(address, positive("connect_seconds", connect_seconds), math.ceil(self._count * cpus))
        try:
            self._require_room(self._count)
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
            self._wait_for_one()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the actors, and with the last pool the connection or the cluster that one of them opened."""
        super().close()
        connection, self._connection = self._connection, None
        if os.getpid() == self._owner:
            leave(connection)

    # Inside.

    def _wait_for_one(self) -> None:
        said_at = time.monotonic() + LONG
        while not any(actor.ready for actor in self._workers):
            self.pump(1.0)
            if time.monotonic() > said_at:
                said_at = math.inf
                free, names = ray.available_resources(), [name for name, amount in self._takes.items() if amount]
                warnings.warn(
                    f"no worker has built the problem in {LONG:g} seconds. They take "
                    + ", ".join(f"{self._count} × {self._takes[name]:g} {name}" for name in names)
                    + "; free, beside what those have that found a place, are "
                    + ", ".join(f"{free.get(name, 0):g} {name}" for name in names)
                    + f". A cluster that others use is waited for, {START_SECONDS:g} seconds in all",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def _new(self) -> _Actor:
        return _Actor(self._kind.remote(self._recipe, self._threads))

    def _require_room(self, workers: int) -> None:
        takes = {name: amount for name, amount in self._takes.items() if amount > 0}
        there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fit = sum(min((int(node.get(name, 0) / takes[name]) for name in takes), default=workers) for node in there)
        if fit < workers:  # an actor is on one node, which must have all of it
            each = ", ".join(f"{amount:g} {name}" for name, amount in takes.items())
            has = " or ".join(
                dict.fromkeys(", ".join(f"{node.get(name, 0):g} {name}" for name in takes) for node in there)
            )
            raise NotBuilt(
                f"{workers} workers of {each} each do not fit into this cluster, whose nodes have {has}: {fit} do"
            )

    def _heard(self, seconds: float | None) -> list[_Actor]:
        busy = {actor.reference: actor for actor in self._workers if actor.reference is not None}
        return [busy[each] for each in ray.wait(list(busy), num_returns=1, timeout=seconds)[0]] if busy else []

    def _hear(self, actor: _Actor) -> None:
        reference, actor.reference = actor.reference, None
        try:
            kind, value = ray.get(reference)
        except RayTaskError as error:  # what an actor could not catch, such as an answer that cannot be sent
            kind, value = "error", error.cause if isinstance(error.cause, Exception) else error
        except RayError as error:  # of its process, its node, its memory, or the way there
            self._died(actor, f"the actor that evaluated is gone: {type(error).__name__}: {first_line(error)}")
            return
        if actor.ready:
            self._answered(actor, kind, value)
            return
        if kind == "error":
            why, node = value if isinstance(value, tuple) else (value, "its node")
            self._not_built(actor, f"on {node}", why)
            return
        self._patience.built()
        self._require_same_basis(value)
        actor.ready, actor.facts = True, value

    def _require_same_basis(self, facts: dict[str, Any]) -> None:
        if facts["basis"] is not None and facts["basis"] != self.problem.subspace.basis_hash():
            raise NotBuilt(
                f"{facts['node']} computes another basis of the subspace than this machine: store it by "
                "problem.save_basis(path) where every node can read it, and make the problem with basis=path"
            )


def _taken(cpus: float, gpus: float, resources: Mapping[str, float]) -> dict[str, float]:
    if twice := {"CPU", "GPU"} & set(resources):
        raise ValueError(f"{' and '.join(sorted(twice))} are cpus= and gpus=, not among the resources")
    named = {"cpus": cpus, "gpus": gpus, **{f"resources[{name!r}]": amount for name, amount in resources.items()}}
    amounts = [number(name, amount, 0) for name, amount in named.items()]
    return dict(zip(("CPU", "GPU", *resources), amounts, strict=True))
