"""Threads for what releases the interpreter lock: compiled kernels, parsers, file reads.

A pool lives only as long as one call: no thread is left that a later fork could lose.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import numba

Item = TypeVar("Item")
Result = TypeVar("Result")


_limit: int | None = None


def num_threads() -> int:
    """How many threads to use: as limited, else $NUMBA_NUM_THREADS, else the processors that this process may use."""
    return _limit or int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def limited() -> float | None:
    """The share of the machine that `limit_threads` leaves to this process; None where it is not limited."""
    return None if _limit is None else min(1.0, _limit / (os.cpu_count() or 1))


def limit_threads(number: int) -> None:
    """Have this process use no more, of a machine that it shares with others of its kind."""
    global _limit
    _limit = number


def in_threads(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """The results of the tasks, in their order, computed by `num_threads()` threads.

    Tasks are taken from the iterable as threads become free, so that few results wait at any time. An error in a task
    is raised here.
    """
    threads, tasks = num_threads(), iter(tasks)
    few = list(islice(tasks, 2))
    tasks = chain(few, tasks)
    if threads == 1 or len(few) < 2:  # a pool costs 0.1 ms
        yield from (task() for task in tasks)
    else:
        yield from in_order(lambda task: task(), tasks, threads, ahead=2 * threads)


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, *, ahead: int | None = None
) -> Iterator[Result]:
    """`work` of each item on some threads, results in the order of the items, at most `ahead` + 1 items (default: one
    more than there are threads) taken before their turn."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > (threads if ahead is None else ahead):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
