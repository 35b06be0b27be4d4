"""The engine that is used unless another one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mixture.engine.base import ENGINES, Item, Result


class Local:
    """Runs the tasks in this thread, one after the other.

    Not on threads, for three reasons. A store's connection is one transaction with one result at a time: of two threads
    that share it, one could fetch the other's rows. A task already uses all cores, by `in_threads`. And the texts of
    one collection are in memory at a time, not those of as many as there are threads.
    """

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(work, items)


LOCAL = ENGINES["local"] = Local()
