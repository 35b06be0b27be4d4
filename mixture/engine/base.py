"""What an engine is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from mixture.arguments import named

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs the tasks of a job: one for each collection, or one for all where collections are compared."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`work` of each item, in the order of the items. An error in a task is raised here.

        items: reads the store while it is iterated, so iterate it in the thread that calls `map`.
        work: can be pickled, as items and results can, and then reads the same snapshot of the store in another
        process (`jobs.tasks.Snapshot`). Only one that holds an encoder cannot.
        """
        ...


ENGINES: dict[str, Engine] = {}
"""Filled by the modules of this package."""


def engine_of(engine: str | Engine) -> Engine:
    """The engine of this name in `ENGINES`, or the given one itself."""
    return named("engine", engine, ENGINES) if isinstance(engine, str) else engine
