"""How far a search is, in a file from time to time, so that a killed one goes on where it stood.

Shapes: n queries, m passages, k results for a query, p pairs whose scores are wanted.
"""

from __future__ import annotations

import logging
import time
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EVERY = 60.0
"""Seconds between two notes. A killed search loses at most so many, and one block."""

WRITING, SEARCH = ".writing-", ".search-"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

logger = logging.getLogger(__name__)


class Standing:
    """Of one search, in the file `.search-ID.npz` of a folder.

    id:    of all that decides what the search finds
    every: seconds between two notes; None: `EVERY`
    """

    def __init__(self, folder: Path, id: str, every: float | None = None) -> None:
        self._file, self._every = folder / f"{SEARCH}{id}.npz", EVERY if every is None else every
        self._noted = time.monotonic()

    def take_up(self, keys: NDArray[np.int64], scores: NDArray[np.float32], done: NDArray[np.bool_]) -> None:
        """Fill in what an earlier call noted: the best so far, (n, k), the scores of pairs, (p,), and which passages
        were searched, (m,). What is damaged counts as not there."""
        try:
            with np.load(self._file, allow_pickle=False) as noted:
                found = [noted[name] for name in ("keys", "scores", "done")]
        except FileNotFoundError:
            return
        except _DAMAGED as error:
            logger.warning("%s is damaged, and its search begins anew: %s", self._file, error)
            return
        own: list[NDArray[Any]] = [keys, scores, done]
        if [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in own]:
            for array, there in zip(own, found, strict=True):
                array[:] = there

    def note(
        self, keys: NDArray[np.int64], scores: NDArray[np.float32], done: NDArray[np.bool_], *, last: bool = False
    ) -> None:  # fmt: skip
        """Write all of it, where the last time is long enough ago. last: of the search; what it found may be wanted
        again, so it is written where the search was long enough to be noted before."""
        if time.monotonic() - self._noted < self._every and not (last and self._file.exists()):
            return
        scratch = self._file.parent / f"{WRITING}{uuid.uuid4().hex[:8]}.npz"
        try:
            np.savez(scratch, keys=keys, scores=scores, done=done)
            scratch.replace(self._file)
        except OSError as error:
            logger.warning("how far a search is could not be noted; killed now, it would begin anew: %s", error)
        finally:
            scratch.unlink(missing_ok=True)
        self._noted = time.monotonic()

    def drop(self) -> None:
        """The search is of no more use."""
        self._file.unlink(missing_ok=True)
