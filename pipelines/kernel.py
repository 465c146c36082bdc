"""Loops over arrays as machine code: numba's `njit`, with its cache on disk where there is one.

numba keys a cached kernel by its own file, yet a kernel also holds constants and kernels of other files. So the cache
lies in a folder named by a digest of all sources of the package: any change starts an empty one. Where no folder can be
written every process compiles for itself (seconds) and nothing fails.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


@cache
def cache_folder() -> str:
    """Where kernels of these sources are kept: below NUMBA_CACHE_DIR, or the user's cache."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(user, "kosmos-engine")
    return os.path.join(root, f"kernels-{digest.hexdigest()[:12]}")


def compiled(loop: Loop, *, allocates: bool = True) -> Loop:
    """The same function, compiled at its first call for the types that it is called with; releases the GIL.

    Integers wrap, indices are not checked: a kernel states what its caller must hold. allocates: whether it makes
    arrays. One that makes none counts no references, and may call only its like: each call and each row of an array
    costs two locked instructions a reference, which were half the time of the walk over tokens.
    """
    jit: Any = numba.njit  # typed since numba 0.63 only
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = cache_folder()  # read when the cache of a function is set up, which is now
    try:
        kernel: Loop = jit(nogil=True, boundscheck=False, cache=True, _nrt=allocates)(loop)
    except (RuntimeError, OSError):  # "cannot cache function": the folder cannot be written
        kernel = jit(nogil=True, boundscheck=False, _nrt=allocates)(loop)
    finally:
        config.CACHE_DIR = before
    return kernel
