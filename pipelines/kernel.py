"""Loops over arrays as machine code: numba's `njit`, with its cache on disk where there is one.

Compiled code is kept beside the source, or in the user's cache when that cannot be written; with neither, every process
compiles for itself (seconds) and nothing fails. A cached kernel is keyed by its own file only: kernels that call one
another live in one file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """The same function, compiled at its first call for the types that it is called with; releases the GIL.

    Integers wrap, indices are not checked: a kernel states what its caller must hold.
    """
    jit: Any = numba.njit  # typed since numba 0.63 only
    try:
        kernel: Loop = jit(nogil=True, boundscheck=False, cache=True)(loop)
    except RuntimeError:  # "cannot cache function": neither the source's folder nor the user's cache can be written
        kernel = jit(nogil=True, boundscheck=False)(loop)
    return kernel
