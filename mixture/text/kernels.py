"""Compiled kernels.

They release the interpreter lock, so plain threads run them side by side (`mixture.engine`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """numba.njit, cached on disk where that is possible (numba picks the folder) and only in memory where not."""
    try:
        kernel = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # read-only installation and no home directory
        return numba.njit(nogil=True)(function)
    _forget_unreadable(kernel)
    return kernel


def _forget_unreadable(kernel: Any) -> None:
    """Delete a cache that numba cannot read. It would raise: an index names the modules of its argument types, and an
    older version's modules may be gone, while an upgrade leaves its caches behind."""
    cache = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    if cache is None:
        return
    try:
        cache._load_index()
    except Exception:  # whatever unpickling raises
        with contextlib.suppress(OSError):
            Path(cache._index_path).unlink()
