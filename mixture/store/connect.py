"""Opening the store: a DuckLake, whose tables and snapshots are in a catalog and whose rows are in Parquet files."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.fs as fs

from mixture.errors import StoreError, UsageError
from mixture.store import layout, place
from mixture.store.catalog import Catalog, Patience, catalog_of
from mixture.store.limits import Limits
from mixture.store.query import Reader, first_lines, is_ctrl_c, quote, refused
from mixture.store.schema import migrate, stored_version

T = TypeVar("T")
COMMIT_ATTEMPTS = 12
OPENING_WAITS = (0.1, 0.5, 2.0, 5.0)


class Store:
    """A store of collections and mixtures. Use as a context manager.

    `Store.open("my-store", create=True)` makes the folder where it is missing; without `create` a missing store is a
    `UsageError`. Several processes may read and write one store at the same time. Other catalogs than a file in the
    store's folder are named by a URI (`mixture.store.catalog`); there `data` says where a new store's files go.
    """

    def __init__(self, catalog: Catalog, snapshot: int | None = None) -> None:
        """snapshot: of what all reads show; None for the newest."""
        if isinstance(catalog, str | Path):
            raise UsageError(f"`Store.open({str(catalog)!r})` opens a store")
        self.catalog = catalog
        self._snapshot = snapshot
        self._reading: int | None = None  # the snapshot of `reading`, within it
        self._writer: duckdb.DuckDBPyConnection | None = None
        self._reader: Reader | None = None
        self._aside: tuple[Catalog, tempfile.TemporaryDirectory[str]] | None = None  # a copy to read, on a full disk

    @classmethod
    def open(cls, uri: str | Path, *, create: bool = False, data: str | None = None) -> Store:
        catalog = catalog_of(uri, data)
        exists = catalog.exists()
        if not exists:
            if not create:
                raise UsageError(f"no store at {catalog}; `mixture ingest` creates one, or name another in `store`")
            catalog.create()
        store = cls(catalog)
        if not exists or stored_version(store.read) is None:
            store.transaction(migrate)
        return store

    @functools.cached_property
    def data(self) -> fs.FileSystem:
        """The lake's Parquet files, by their paths in the catalog."""
        return place.file_system(self.catalog.data)

    @property
    def work(self) -> Path:
        """The folder of what can be made again: materialised mixtures, models, runs. `layout` knows the names in it."""
        return self.catalog.work

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = self._aside = None

    def sql(
        self, query: str, params: Sequence[Any] | dict[str, Any] | None = None, *, limits: Limits | None = None
    ) -> pa.Table:
        """One read-only query over everything in the store, as an Arrow table. `docs/sql.md` lists what can be asked.

        The connection is shut in: no files, no network, no extensions, no settings, no writes. A mistake in the query
        is a `UsageError` with DuckDB's first line; one that passes the limits (default: 60 s, 2 GB) a `StoreError`.
        """
        limits = limits or Limits()
        wanted = (limits.memory_bytes, self._snapshot)
        if self._reader is not None and (self._reader.memory_bytes, self._reader.snapshot) != wanted:
            self._reader.close()
            self._reader = None
        if self._reader is None:
            self._reader = Reader(self._connect(read_only=True), self.catalog.data, *wanted)
        return self._reader.sql(query, params, limits)

    def read(self, query: str, params: Sequence[Any] | dict[str, Any] | None = None) -> pa.Table:
        """A query of the toolkit's own (large results, registered tables), outside any transaction."""
        try:
            return self.connection.execute(query, params).to_arrow_table()
        except (duckdb.Error, UnicodeDecodeError) as error:
            raise refused("the store could not be read", error) from error

    def rows(self, query: str, params: Sequence[Any] | dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """`read` as a list of dictionaries, for small results."""
        return self.read(query, params).to_pylist()

    @contextlib.contextmanager
    def reading(self) -> Iterator[int]:
        """One snapshot for all reads inside, whatever other processes commit meanwhile; yields its number.

        That goes for `sql` too, which is a connection of its own. Nothing can be written inside. Without it each query
        reads the newest snapshot, and two of them need not agree. Within another one it is that one.
        """
        if self._reading is not None:
            yield self._reading
            return
        self.connection.execute("BEGIN")
        before = self._snapshot
        try:
            self._snapshot = self._reading = self.snapshot()
            yield self._reading
        finally:
            self._snapshot, self._reading = before, None
            if self.catalog.shared:
                self._roll_back()
            else:  # the connection may be another one meanwhile, of that snapshot
                self.close()

    def at(self, snapshot: int) -> Store:
        """The store as it was at a snapshot, to read; close it before this one is used again."""
        if not self.catalog.shared:
            self.close()
        return Store(self.catalog, snapshot)

    def transaction(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Run `work(connection)` as one transaction, after those of other processes; says so when it waits for long.

        They take turns, since of two that overlap the catalog refuses one, which would have to be repeated whole. That
        is still done where something else writes to the catalog: `work` may run several times, and must not leave
        anything behind but what it wrote through the connection.
        """
        with self.catalog.turn():
            return self._transaction(work)

    def _transaction(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        patience, attempt = Patience(self.catalog), 0
        while True:
            connection = self.connection
            if self._aside is not None:
                raise StoreError(f"no space left in {self.catalog.work}: the store can be read, and not written")
            connection.execute("BEGIN")
            try:
                result = work(connection)
                connection.execute("COMMIT")
                return result
            except (duckdb.Error, UnicodeDecodeError) as error:
                self._roll_back()
                if _has_sign(error, self.catalog.locked) and patience.lasts():
                    continue
                attempt += 1
                if attempt == COMMIT_ATTEMPTS or not _has_sign(error, self.catalog.conflicts):
                    raise refused("the store refused a write", error) from error
                # Jitter of the wait only: nothing that is stored depends on it.
                time.sleep(min(2.0, 0.01 * 2**attempt) * (0.5 + random.random()))
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.TransactionException:
            pass  # a failed commit has ended the transaction already
        except duckdb.Error:  # the server is gone, and the connection is of no use any more
            self.close()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The writing connection, opened on first use."""
        if self._writer is None:
            self._writer = self._connect(read_only=self._snapshot is not None)
        return self._writer

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """A new connection; in place of those that there are, where the catalog does not bear two."""
        if not self.catalog.shared:
            self.close()
        # Who opens a new lake makes its tables; of several processes at it at once one does.
        patience, waits = Patience(self.catalog), list(OPENING_WAITS)
        while True:
            try:
                return _connect(self.catalog, self._snapshot, read_only=read_only)
            except StoreError as error:
                if _has_sign(error, self.catalog.locked) and patience.lasts():
                    continue
                if aside := self._read_aside(error):
                    return aside
                if not waits or not _has_sign(error, (*self.catalog.conflicts, "already exists")):
                    raise
                time.sleep(waits.pop(0))

    def _read_aside(self, error: StoreError) -> duckdb.DuckDBPyConnection | None:
        """A connection that reads a copy of the catalog, where it does not open since its disk is full."""
        if "disk i/o error" not in str(error).lower():
            return None
        if self._aside is None:
            folder = tempfile.TemporaryDirectory(prefix="mixture-")  # which goes with the store
            if (copy := self.catalog.aside(Path(folder.name))) is None:
                return None
            self._aside = copy, folder
        return _connect(self._aside[0], self._snapshot, read_only=True)

    def snapshot(self) -> int:
        """Number of the newest snapshot, for `AT (VERSION => n)`; within a transaction that of its reads."""
        if self._snapshot is not None:
            return self._snapshot
        return int(self.rows("SELECT max(snapshot_id) AS n FROM lake.snapshots()")[0]["n"])


def _has_sign(error: Exception, signs: Sequence[str]) -> bool:
    return any(sign in str(error).lower() for sign in signs)


def _connect(catalog: Catalog, snapshot: int | None, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    connection = connection_with(catalog.extensions)
    try:
        connection.execute(catalog.attach(read_only=read_only, snapshot=snapshot))
        connection.execute("USE lake")
    except (duckdb.Error, RuntimeError, UnicodeDecodeError) as error:
        connection.close()
        if is_ctrl_c(error):
            raise KeyboardInterrupt from error
        version = "" if snapshot is None else f"version {snapshot} of "
        raise refused(f"{version}the store at {catalog} does not open", error) from error
    # DuckDB's own default is a folder .tmp wherever the command was started. One folder for each connection: two that
    # share one overwrite each other's files. DuckDB makes it when it must, and removes it.
    connection.execute(f"SET temp_directory = {quote(str(layout.spill(catalog.work)))}")
    # Of a commit that takes long DuckDB draws a bar, among the results.
    connection.execute("SET enable_progress_bar = false")
    # Texts of 2 MB times a batch of rows pass 2 GB: 64-bit offsets.
    connection.execute("SET arrow_large_buffer_size = true")
    return connection


def connection_with(extensions: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """A connection with these extensions, from their pinned packages; without the packages, from DuckDB's repository.

    DuckDB checks signatures of what it fetched. What pip installed stands as DuckDB itself does, whose library nobody
    checks either: reading 70 MB for that made up most of opening a store.
    """
    files = [file for name in extensions if (file := _packaged(name))]
    if len(files) == len(extensions):
        connection = duckdb.connect(config={"allow_unsigned_extensions": True, "autoload_known_extensions": False})
        for file in files:
            connection.execute(f"LOAD {quote(str(file))}")
        return connection
    connection = duckdb.connect()
    for name in extensions:
        try:
            connection.execute(f"INSTALL {name}")
            connection.execute(f"LOAD {name}")
        except duckdb.Error as error:
            wheel = "duckdb-extension-" + name.replace("_", "-")
            raise StoreError(
                f"DuckDB's extension {name} is missing; pip install {wheel}=={duckdb.__version__} "
                f"({first_lines(error)})"
            ) from error
    return connection


def _packaged(name: str) -> Path | None:
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    for folder in package.submodule_search_locations or () if package else ():
        for file in sorted(Path(folder).glob(f"extensions/v{duckdb.__version__}/*.duckdb_extension")):
            return file
    return None
