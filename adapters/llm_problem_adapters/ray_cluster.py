"""Connecting to a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

try:
    import ray
except ImportError as error:
    raise ImportError("RayPool needs the package ray: pip install 'ray>=2.52'") from error


def connect(address: str | None, seconds: float, cpus: int) -> bool:
    """Connect this process to a cluster.

    Args:
        address: see `RayPool`.
        seconds: in which it must answer.
        cpus: that a cluster of our own offers at least.

    Returns:
        Whether it was started here, and is to be ended here.

    Raises:
        ConnectionError: it does not answer.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
    if address is None:
        import psutil

        ray.init(address="local", num_cpus=max(cpus, psutil.cpu_count() or 1), **quiet)
        return True
    if address != "auto":
        require_answer(address, seconds)
    quiet.pop("include_dashboard")  # is the head's affair
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ConnectionError(f"no Ray cluster at {address!r}: {first_line(error)}") from None
    return True


def require_answer(address: str, seconds: float) -> None:
    """See that a cluster answers at "host:port", before Ray tries for minutes.

    Raises:
        ConnectionError: it does not, within so many seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f'a Ray address is "host:port", "ray://host:port" or "auto", got {address!r}')
    advice = "is its head running (ray start --head), and is the port open from here?"
    end = time.monotonic() + seconds
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except OSError as error:
        message = f"no Ray cluster answers at {address} within {seconds:g} seconds: {error}; {advice}"
        raise ConnectionError(message) from None
    if address.startswith("ray://"):
        return
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", f"{host}:{port}"]
    try:
        done = subprocess.run(words, capture_output=True, timeout=max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        raise ConnectionError(f"something listens at {address}, but no Ray cluster answered within {seconds:g} seconds")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
