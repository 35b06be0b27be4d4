"""What a task of a job takes along when its engine sends it to another process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mixture.progress import Progress, silent
from mixture.store import Store
from mixture.store.catalog import Catalog
from mixture.store.files import at_version


@dataclass(frozen=True)
class Snapshot:
    """A store as it is within `store.reading()`. Unpickled it is the same snapshot on a connection of its own."""

    catalog: Catalog
    number: int
    store: Store | None = None

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """The store, to read."""
        if self.store is not None:
            yield self.store
            return
        with at_version(Store(self.catalog), self.number) as store:
            yield store

    def __reduce__(self) -> tuple[type[Snapshot], tuple[Catalog, int]]:
        return Snapshot, (self.catalog, self.number)


@dataclass(frozen=True)
class ProgressHere:
    """Progress that is shown in this process. Unpickled it is silent."""

    progress: Progress = silent

    def __call__(self, done: int, total: int, what: str) -> None:
        self.progress(done, total, what)

    def __reduce__(self) -> tuple[type[ProgressHere], tuple[()]]:
        return ProgressHere, ()
