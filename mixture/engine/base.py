"""What an engine is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from mixture.arguments import named
from mixture.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs the tasks of a job: one for each collection, or one for all where collections are compared."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`work` of each item, in the order of the items. An error in a task is raised here. A task may call `map` too.

        items: reads the store while it is iterated, so iterate it in the thread that calls `map`.
        work: can be pickled, as items and results can, and then reads the same snapshot of the store in another
        process (`jobs.tasks.Snapshot`). Only one that holds an encoder cannot.
        """
        ...


@runtime_checkable
class Elsewhere(Engine, Protocol):
    """An engine of several machines: it has an address, and its processes can hold what is dear to make, as a model."""

    def at(self, address: str) -> Engine:
        """The engine at an address, NAME:ADDRESS where it is named."""
        ...

    def machines(self) -> int:
        """How many machines it has."""
        ...

    def holders(
        self, make: Callable[[], Callable[[Item], Result]], count: int
    ) -> Callable[[Iterable[Item]], Iterator[Result]]:
        """Has each of `count` processes call `make` once, and returns the `map` of what that returns."""
        ...


ENGINES: dict[str, Engine] = {}
"""Filled by the modules of this package."""


def engine_of(engine: str | Engine) -> Engine:
    """The engine of this name in `ENGINES`, of NAME:ADDRESS where there are several, or the given one itself."""
    if not isinstance(engine, str):
        return engine
    name, colon, address = engine.partition(":")
    found = named("engine", name, ENGINES)
    if not colon:
        return found
    if not isinstance(found, Elsewhere) or not address:
        raise UsageError(f"`engine` is {engine!r}; allowed: {', '.join(ENGINES)}, or ray:ADDRESS")
    return found.at(address)
