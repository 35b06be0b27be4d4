"""Compiled kernels.

They release the interpreter lock, so plain threads run them side by side (`mixture.engine`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """numba.njit, cached on disk where that is possible (numba picks the folder) and only in memory where not."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # read-only installation and no home directory
        return numba.njit(nogil=True)(function)
