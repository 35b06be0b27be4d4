"""Opening the store: a folder with a DuckLake catalog in SQLite and Parquet data files."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import filelock
import pyarrow as pa

from mixture.errors import StoreError, UsageError
from mixture.store import layout
from mixture.store.limits import Limits
from mixture.store.query import Reader, first_lines, is_ctrl_c, quote
from mixture.store.schema import migrate, stored_version

logger = logging.getLogger(__name__)
T = TypeVar("T")
EXTENSIONS = ("ducklake", "sqlite_scanner")
COMMIT_ATTEMPTS = 12
PATIENCE = 5.0  # seconds of waiting for other processes before a word about it
CONFLICT_SIGNS = ("conflict", "database is locked", "failed to commit")


class Store:
    """A store of collections and mixtures. Use as a context manager.

    `Store.open("my-store", create=True)` makes the folder where it is missing; without `create` a missing store is a
    `UsageError`. Several processes may read and write one store at the same time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = filelock.FileLock(layout.lock(root))
        self._writer: duckdb.DuckDBPyConnection | None = None
        self._reader: Reader | None = None

    @classmethod
    def open(cls, uri: str | Path, *, create: bool = False) -> Store:
        if re.match(r"[a-z0-9]{2,}:", str(uri)):
            raise UsageError(f"{uri}: a store is a folder for now; catalogs in PostgreSQL are not there yet")
        root = Path(uri).expanduser().resolve()
        exists = layout.catalog(root).is_file()
        if not exists:
            if not create:
                raise UsageError(f"no store at {root}; `mixture ingest` creates one, or name another in `store`")
            # A data folder without a catalog is what a kill leaves at the very start.
            early = (layout.data(root), layout.lock(root))
            if root.exists() and (not root.is_dir() or any(p not in early for p in root.iterdir())):
                raise UsageError(f"{root} is not a store and not empty; name an empty or a new folder in `store`")
        store = cls(root)
        if not exists:
            layout.data(root).mkdir(parents=True, exist_ok=True)
        if not exists or stored_version(store.read) is None:
            store.transaction(migrate)
        return store

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
        self._reader = self._writer = None

    def sql(
        self, query: str, params: Sequence[Any] | dict[str, Any] | None = None, *, limits: Limits | None = None
    ) -> pa.Table:
        """One read-only query over everything in the store, as an Arrow table. `docs/sql.md` lists what can be asked.

        The connection is shut in: no files, no network, no extensions, no settings, no writes. A mistake in the query
        is a `UsageError` with DuckDB's first line; one that passes the limits (default: 60 s, 2 GB) a `StoreError`.
        """
        limits = limits or Limits()
        if self._reader is not None and self._reader.memory_bytes != limits.memory_bytes:
            self._reader.close()
            self._reader = None
        if self._reader is None:
            self._reader = Reader(_connect(self.root, read_only=True), layout.data(self.root), limits.memory_bytes)
        return self._reader.sql(query, params, limits)

    def read(self, query: str, params: Sequence[Any] | dict[str, Any] | None = None) -> pa.Table:
        """A query of the toolkit's own (large results, registered tables), outside any transaction."""
        try:
            return self.connection.execute(query, params).to_arrow_table()
        except duckdb.Error as error:
            raise StoreError(f"the store could not be read: {first_lines(error)}") from error

    def rows(self, query: str, params: Sequence[Any] | dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """`read` as a list of dictionaries, for small results."""
        return self.read(query, params).to_pylist()

    @contextlib.contextmanager
    def reading(self) -> Iterator[int]:
        """One snapshot for all reads inside, whatever other processes commit meanwhile; yields its number.

        Nothing can be written inside. Without it each query reads the newest snapshot, and two of them need not agree.
        """
        self.connection.execute("BEGIN")
        try:
            yield self.snapshot()
        finally:
            _rollback(self.connection)

    def transaction(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Run `work(connection)` as one transaction, after those of other processes; says so when it waits for long.

        They take turns, since of two that overlap SQLite refuses one, which would have to be repeated whole. That is
        still done where something else writes to the catalog: `work` may run several times, and must not leave anything
        behind but what it wrote through the connection.
        """
        with self._turn():
            return self._transaction(work)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            self._lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            logger.warning("waiting for another process that writes to %s", self.root)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _transaction(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        connection = self.connection
        for attempt in range(COMMIT_ATTEMPTS):
            connection.execute("BEGIN")
            try:
                result = work(connection)
                connection.execute("COMMIT")
                return result
            except duckdb.Error as error:
                _rollback(connection)
                text = str(error).lower()
                if attempt + 1 == COMMIT_ATTEMPTS or not any(sign in text for sign in CONFLICT_SIGNS):
                    raise StoreError(f"the store refused a write: {first_lines(error)}") from error
                # Jitter of the wait only: nothing that is stored depends on it.
                time.sleep(min(2.0, 0.02 * 2**attempt) * (0.5 + random.random()))
            except BaseException:
                _rollback(connection)
                raise
        raise AssertionError("unreachable")

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The writing connection, opened on first use."""
        if self._writer is None:
            self._writer = _connect(self.root, read_only=False)
        return self._writer

    def snapshot(self) -> int:
        """Number of the newest snapshot, for `AT (VERSION => n)`; within a transaction that of its reads."""
        return int(self.rows("SELECT max(snapshot_id) AS n FROM lake.snapshots()")[0]["n"])


def _connect(root: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    connection = _with_extensions()
    # The catalog remembers where the data was; the override lets a store's folder be moved or mounted elsewhere.
    options = f"DATA_PATH {quote(f'{layout.data(root)}/')}, OVERRIDE_DATA_PATH true"
    # With a write-ahead log who reads the catalog does not keep another process from committing. Without it two
    # processes stop each other for minutes where one holds a transaction open for longer than SQLite waits.
    options += ", READ_ONLY" if read_only else ", META_JOURNAL_MODE 'WAL'"
    try:
        connection.execute(f"ATTACH {quote(f'ducklake:sqlite:{layout.catalog(root)}')} AS lake ({options})")
        connection.execute("USE lake")
    except (duckdb.Error, RuntimeError) as error:
        connection.close()
        if is_ctrl_c(error):
            raise KeyboardInterrupt from error
        raise StoreError(f"the store at {root} does not open: {first_lines(error)}") from error
    # DuckDB's own default is a folder .tmp wherever the command was started. One folder for each connection: two that
    # share one overwrite each other's files. DuckDB makes it when it must, and removes it.
    connection.execute(f"SET temp_directory = {quote(str(layout.spill(root)))}")
    # Texts of 2 MB times a batch of rows pass 2 GB: 64-bit offsets.
    connection.execute("SET arrow_large_buffer_size = true")
    return connection


def _with_extensions() -> duckdb.DuckDBPyConnection:
    """A connection with `EXTENSIONS`, from their pinned packages; without the packages, from DuckDB's repository.

    DuckDB checks signatures of what it fetched. What pip installed stands as DuckDB itself does, whose library nobody
    checks either: reading 70 MB for that made up most of opening a store.
    """
    files = [file for name in EXTENSIONS if (file := _packaged(name))]
    if len(files) == len(EXTENSIONS):
        connection = duckdb.connect(config={"allow_unsigned_extensions": True, "autoload_known_extensions": False})
        for file in files:
            connection.execute(f"LOAD {quote(str(file))}")
        return connection
    connection = duckdb.connect()
    for name in EXTENSIONS:
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


def _rollback(connection: duckdb.DuckDBPyConnection) -> None:
    # A failed commit has ended the transaction already.
    with contextlib.suppress(duckdb.TransactionException):
        connection.execute("ROLLBACK")
