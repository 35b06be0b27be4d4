"""What a task of a job takes along when its engine sends it to another process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pyarrow as pa
from numpy.typing import NDArray

from mixture.embeddings import Encode, Encoder
from mixture.engine import LOCAL, Elsewhere, Engine, engine_of, limited, num_threads
from mixture.errors import UsageError
from mixture.mining.judges import Judge
from mixture.mining.miners import Rescore
from mixture.progress import Progress, silent
from mixture.store import Store
from mixture.store.catalog import Catalog
from mixture.store.files import at_version
from mixture.store.parts import TextPart, texts_in


class _Opened:
    """The snapshot that this process read last, open for its next task: opening it is half the work of a small part."""

    def __init__(self) -> None:
        self._key: tuple[str, int] | None = None
        self._stack = ExitStack()

    def store(self, catalog: Catalog, number: int) -> Store:
        key = str(catalog), number  # the catalog itself is another object in each task
        if self._key != key:
            self.close()
            self._open = self._stack.enter_context(at_version(Store(catalog), number))
            self._key = key
            if (share := limited()) is not None:  # each DuckDB would take all processors, and most of the memory
                self._open.connection.execute(f"SET threads = {num_threads()}")
                memory = int(0.8 * share * psutil.virtual_memory().total / 2**20)
                self._open.connection.execute(f"SET memory_limit = '{memory}MiB'")
        return self._open

    def close(self, *error: Any) -> bool:
        self._key = None
        return bool(self._stack.__exit__(*(error or (None, None, None))))


_opened = _Opened()


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
        store = _opened.store(self.catalog, self.number)
        try:
            yield store
        except BaseException:
            if not _opened.close(*sys.exc_info()):
                raise

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


def engine_for(store: Store, engine: str | Engine) -> Engine:
    """The engine of tasks that read this store. A `UsageError` where they would on other machines than its own."""
    runs = engine_of(engine)
    if isinstance(runs, Elsewhere) and not store.catalog.anywhere and (count := runs.machines()) > 1:
        raise UsageError(f"the store {store.catalog} is one machine's, and the cluster has {count}; a store in "
                         "PostgreSQL is reached from all of them")  # fmt: skip
    return runs


def beside(engine: Engine, encode: Encode | None, rescore: Rescore | None = None, judge: Judge | None = None) -> Engine:
    """The engine of tasks that take these along: a model that is loaded stays where it is, as a judge does, whose
    program and kept answers are here; and the tasks with them."""
    return LOCAL if rescore is not None or judge is not None or isinstance(encode, Encoder) else engine


def of_part(source: Snapshot, work: Callable[[pa.Array], NDArray[Any]], part: TextPart) -> NDArray[Any]:
    """What `work` makes of the texts of a part, (p, …)."""
    with source.opened() as store:
        return work(texts_in(store, part))
