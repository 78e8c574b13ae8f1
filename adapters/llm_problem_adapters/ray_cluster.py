"""Connecting to a Ray cluster, or starting one on this machine.

A process has one connection to one cluster. Where a pool opened it, it ends with the last pool that uses it; where the
process was connected before, it is left alone.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

try:
    import ray
except ImportError as error:
    raise ImportError("RayPool needs the package ray: pip install 'ray>=2.52'") from error


@dataclass(eq=False)
class Connection:
    """One that a pool opened."""

    address: str | None  # that was asked for
    identity: tuple[str, str]  # of the cluster's node and the job, which tell it from a later connection
    pools: int = 0


_opened: Connection | None = None
# Reentrant: while a pool connects, the garbage collector may come upon another one, and close it.
_lock = threading.RLock()


def connect(address: str | None, seconds: float, cpus: int) -> Connection | None:
    """Connect this process to a cluster, or see that it is connected to the one that is meant.

    Args:
        address: see `RayPool`.
        seconds: in which it must answer.
        cpus: that a cluster of our own offers at least.

    Returns:
        What `leave` takes; None for a connection that somebody else opened.

    Raises:
        ValueError: the process is connected to another cluster.
        ConnectionError: it does not answer.
    """
    global _opened
    with _lock:
        if not ray.is_initialized():
            _opened = None  # ended by somebody else
            _open(address, seconds, cpus)
            _opened = Connection(address, _identity())
        elif _opened is not None and _opened.identity != _identity():
            _opened = None  # ended by somebody who then opened another
        if address is not None:
            _require_same(address)
        if _opened is not None:
            _opened.pools += 1
        return _opened


def leave(connection: Connection | None) -> None:
    """One pool less uses it; nobody's it is where it was ended meanwhile."""
    global _opened
    if connection is None:
        return
    with _lock:
        if connection is not _opened:
            return
        connection.pools -= 1
        if not connection.pools:
            _opened = None
            if ray.is_initialized() and connection.identity == _identity():
                ray.shutdown()


def _identity() -> tuple[str, str]:
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def _require_same(address: str) -> None:
    if address == "auto" or (_opened is not None and _opened.address == address):
        return
    host, port = _parts(address)
    there = ray.get_runtime_context().gcs_address
    its_host, _, its_port = there.rpartition(":")
    client = address.startswith("ray://")  # whose port is not the head's own
    if not _same_host(host, its_host) or (port != int(its_port) and not client):
        raise ValueError(
            f"this process is connected to the Ray cluster at {there} already, not to {address!r}, and can have one "
            "connection: leave the address out, or call ray.shutdown() first"
        )


def _same_host(one: str, other: str) -> bool:
    try:
        found = [{each[4][0] for each in socket.getaddrinfo(host, None)} for host in (one, other)]
    except OSError:
        return one == other
    here = ray.util.get_node_ip_address()
    local = [any(ip == here or ip == "::1" or str(ip).startswith("127.") for ip in ips) for ips in found]
    return bool(found[0] & found[1]) or all(local)


def _open(address: str | None, seconds: float, cpus: int) -> None:
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
    if address is None:
        import psutil

        ray.init(address="local", num_cpus=max(cpus, psutil.cpu_count() or 1), **quiet)
        return
    if address != "auto":
        require_answer(address, seconds)
    quiet.pop("include_dashboard")  # is the head's affair
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ConnectionError(f"no Ray cluster at {address!r}: {first_line(error)}") from None


def require_answer(address: str, seconds: float) -> None:
    """See that a cluster answers at "host:port", before Ray tries for minutes.

    Raises:
        ConnectionError: it does not, within so many seconds.
    """
    host, port = _parts(address)
    advice = "is its head running (ray start --head), and is the port open from here?"
    end = time.monotonic() + seconds
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        message = f"no Ray cluster answers at {address} within {seconds:g} seconds: {error}; {advice}"
        raise ConnectionError(message) from None
    if address.startswith("ray://"):
        return
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", f"{host}:{port}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise ConnectionError(
            f"something listens at {address}, but no Ray cluster answered within {seconds:g} seconds"
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ConnectionError(
            f"something listens at {address}, but Ray's health check failed: {said} (where a head asks for a token, "
            "set RAY_AUTH_MODE=token)"
        )


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f'a Ray address is "host:port", "ray://host:port" or "auto", got {address!r}')
    return host, int(port)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
