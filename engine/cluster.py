"""Ray: an embedded one on this machine, or the cluster at RAY_ADDRESS. Stops only what it started."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from engine.errors import ConfigError

# Tables never travel through the object store (a task returns an Outcome of 200 bytes), so the least that Ray takes.
OBJECT_STORE_BYTES = 100 << 20
CONNECT_S = 10.0


@contextlib.contextmanager
def connect(num_cpus: int | None = None, scratch: str = "", gpus: bool = False) -> Iterator[Any]:
    """A connected `ray` module; ConfigError if RAY_ADDRESS answers nobody.

    For an embedded Ray: num_cpus: how many units run at once (default: the machine's cores); gpus: whether it has the
    machine's.
    """
    # Ray 2.60 writes a token and refuses clients without one unless the mode is said; a Ray on loopback needs none
    os.environ.setdefault("RAY_AUTH_MODE", "token" if os.environ.get("RAY_ADDRESS") else "disabled")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not address:
        options.update(
            num_cpus=num_cpus or os.cpu_count() or 1,
            num_gpus=None if gpus else 0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
        if scratch and len(scratch) < 60:  # sockets below it must stay under 107 bytes
            options["_temp_dir"] = os.path.join(scratch, "ray")
        _room()
    else:
        _answers(address)
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if address:
            raise ConfigError(
                f"no Ray cluster answers at RAY_ADDRESS={address} ({reason}); unset RAY_ADDRESS to run on this machine"
            ) from None
        raise ConfigError(f"Ray cannot start on this machine: {reason}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def connected() -> bool:
    """Whether this process has a Ray already, without loading it."""
    loaded = sys.modules.get("ray")
    return loaded is not None and bool(loaded.is_initialized())


def where(num_cpus: int = 0) -> str:
    """Where `connect` would take its Ray from, for people."""
    address = os.environ.get("RAY_ADDRESS")
    return f"at {address}" if address else f"on this machine, {num_cpus or os.cpu_count() or 1} units at once"


def _answers(address: str) -> None:
    # Ray itself asks a dead address for two minutes before it says so
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"nothing answers at RAY_ADDRESS={address} ({error}); start the cluster, or unset RAY_ADDRESS to run on "
            "this machine"
        ) from None


def _room() -> None:
    # Ray falls back to a slow disk-backed store, with pages of warnings, when /dev/shm is small (Docker gives 64 MB)
    with contextlib.suppress(OSError):
        if shutil.disk_usage("/dev/shm").free < OBJECT_STORE_BYTES:
            os.environ.setdefault("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "1")
