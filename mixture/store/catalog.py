"""What a store's catalog can be: where it lies, how DuckDB attaches it, how the processes that write take turns.

The catalog is DuckLake's database of tables, snapshots and files. `Store.open` looks up in `CATALOGS` which kind its
URI asks for; nothing else tells the kinds apart.
"""

from __future__ import annotations

import logging
import pkgutil
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

import filelock

from mixture.errors import NO_ROOM, UsageError
from mixture.store import layout
from mixture.store.query import quote

logger = logging.getLogger(__name__)
PATIENCE = 5.0  # seconds of waiting for other processes before a word about it
LOCKED_SECONDS = 600.0  # of waiting for a catalog that something else has locked
ROOM = 2**17  # bytes that SQLite needs beside a catalog, to read it
# Kinds by the scheme of a URI, as module:class. A class is called with what follows the scheme, and with `data`; its
# module is loaded when a store of its kind is opened.
CATALOGS = {
    "": "mixture.store.catalog:SqliteCatalog",
    "postgres": "mixture.store.postgres:PostgresCatalog",
    "postgresql": "mixture.store.postgres:PostgresCatalog",
}


class Patience:
    """Waits for a store that something else has locked, which needs no turn: a copy, a backup, an older version."""

    def __init__(self, store: Catalog) -> None:
        self._store = store
        self._begun: float | None = None
        self._said = False

    def lasts(self) -> bool:
        """Wait a moment; whether it is worth another attempt. Says so, once, when it waits for long."""
        now = time.monotonic()
        self._begun = self._begun or now
        if now - self._begun > PATIENCE and not self._said:
            self._said = True
            logger.warning("waiting for another process that has locked %s", self._store)
        time.sleep(0.5 + random.random())  # nothing that is stored depends on it
        return now - self._begun < LOCKED_SECONDS


class Catalog(Protocol):
    """Where a store is, and how its database is opened and written. `str` of it names the store in messages.

    data:       where the lake's Parquet files are: a folder or s3://bucket/prefix, with a slash at its end
    work:       the folder of what can be made again: materialised mixtures, models, runs, what queries spill
    tables:     what stands before the names of DuckLake's own tables, in SQL
    schema:     where they are in the database of `attach_tables`
    kept:       SQL's types of the rows that DuckLake keeps in the catalog, by its own names of types that our tables
                have; VARCHAR for others. None where nobody has found out: no store is copied there (`store.copies`)
    extensions: of DuckDB, that attaching it needs; each has a package `duckdb_extension_<name>`
    conflicts:  texts, in small letters, of errors that mean that another process committed first: the work is repeated
    locked:     texts, in small letters, of errors that mean that something else has it locked: one waits
    shared:     whether several connections can have it open at once, of this process and of others
    anywhere:   whether other machines reach it by the same name
    maintained: whether small files can be merged and old versions dropped while others read (`store.maintain`)
    """

    @property
    def tables(self) -> str: ...

    schema: str
    kept: Mapping[str, str] | None
    conflicts: tuple[str, ...]
    locked: tuple[str, ...]
    shared: bool
    anywhere: bool
    maintained: bool

    @property
    def data(self) -> str: ...

    @property
    def work(self) -> Path: ...

    @property
    def extensions(self) -> tuple[str, ...]: ...

    def exists(self) -> bool: ...

    def create(self) -> None:
        """Make what attaching a new store needs. Raises `UsageError` for a place that holds something else."""

    def attach(self, *, read_only: bool, snapshot: int | None = None) -> str:
        """The SQL that attaches it as `lake`, of the newest version or as it was at a snapshot; settings and secrets of
        the connection may stand before."""

    def attach_tables(self, name: str) -> str:
        """The SQL that attaches the database of DuckLake's own tables under a name, without DuckLake."""

    def aside(self, folder: Path) -> Catalog | None:
        """A copy to read, in `folder`, of a catalog that is on a full disk, where reading it needs room; else None."""

    def staged(self) -> AbstractContextManager[Catalog]:
        """A new catalog of the same data, beside this one, which is not there; at the end it becomes this one in one
        step, unless an error is raised."""

    def turn(self) -> AbstractContextManager[None]:
        """Wait for the other processes that write, and keep them waiting; a process that is killed keeps nobody."""


class FolderCatalog:
    """A catalog that is one file, in the folder of everything else."""

    kind: ClassVar[str]  # how the file's name ends
    prefix: ClassVar[str]  # what stands before the file in ATTACH
    write_options: ClassVar[tuple[str, ...]] = ()
    tables = "__ducklake_metadata_lake.ducklake_"
    schema = "main"
    kept: Mapping[str, str] | None = None
    extensions: tuple[str, ...] = ("ducklake",)
    conflicts: tuple[str, ...] = ("conflict", "failed to commit")
    locked: tuple[str, ...] = ()
    shared = True
    anywhere = False  # SQLite's log needs the one machine's memory
    maintained = False

    def __init__(self, folder: str, data: str | None = None) -> None:
        if data is not None:
            raise UsageError(f"`data` is {data}, and a store in a folder has its files there")
        self.work = Path(folder).expanduser().resolve()
        self.data = f"{layout.data(self.work)}/"
        self._file = layout.catalog(self.work, self.kind)
        self._lock = filelock.FileLock(layout.lock(self.work))

    def __str__(self) -> str:
        return str(self.work)

    def __reduce__(self) -> tuple[type[FolderCatalog], tuple[str]]:
        """A catalog travels to another process as the place that it is; a lock does not."""
        return type(self), (str(self.work),)

    def exists(self) -> bool:
        return self._file.is_file()

    def create(self) -> None:
        # An empty data folder without a catalog is what a kill leaves at the very start.
        data = layout.data(self.work)
        there = [*self.work.iterdir(), *(data.iterdir() if data.is_dir() else ())] if self.work.is_dir() else []
        if not {*there} <= {data, layout.lock(self.work)} or (self.work.exists() and not self.work.is_dir()):
            raise UsageError(f"{self} is not a store and not empty; name an empty or a new folder in `store`")
        try:
            data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self} cannot be made: {error}") from error

    def attach(self, *, read_only: bool, snapshot: int | None = None) -> str:
        # The catalog remembers where the data was; the override lets a store's folder be moved or mounted elsewhere.
        options = [f"DATA_PATH {quote(self.data)}", "OVERRIDE_DATA_PATH true"]
        options += ("READ_ONLY",) if read_only else self.write_options
        if snapshot is not None:
            options.append(f"SNAPSHOT_VERSION {snapshot}")
        return f"ATTACH {quote(f'{self.prefix}{self._file}')} AS lake ({', '.join(options)})"

    def attach_tables(self, name: str) -> str:
        return f"ATTACH {quote(f'{self.prefix}{self._file}'.removeprefix('ducklake:'))} AS {name}"

    def aside(self, folder: Path) -> FolderCatalog | None:
        try:
            with tempfile.TemporaryFile(dir=self.work) as probe:
                probe.write(bytes(ROOM))
            return None
        except OSError as error:
            if error.errno not in NO_ROOM:
                return None
        copy = type(self)(str(self.work))
        copy._file = folder / self._file.name
        with self.turn():
            for file in self.work.glob(f"{self._file.name}*"):
                if not file.name.endswith("-shm"):  # the memory of processes that have it open
                    shutil.copyfile(file, folder / file.name)
        return copy

    @contextmanager
    def staged(self) -> Iterator[FolderCatalog]:
        stage = type(self)(str(self.work))
        stage._file = layout.staged_catalog(self.work, self.kind)
        for left in self.work.glob(f"{stage._file.name}*"):  # of a kill
            left.unlink()
        yield stage
        if self.exists():
            raise UsageError(f"there is a store at {self} now")
        stage._file.replace(self._file)

    @contextmanager
    def turn(self) -> Iterator[None]:
        try:
            self._lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            logger.warning("waiting for another process that writes to %s", self)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()


class SqliteCatalog(FolderCatalog):
    """The usual one: several processes of one machine read and write it at the same time."""

    kind = "sqlite"
    prefix = "ducklake:sqlite:"
    kept = dict.fromkeys(("boolean", "int32", "int64"), "BIGINT")
    extensions = ("ducklake", "sqlite_scanner")
    locked = ("database is locked",)
    # With a write-ahead log who reads the catalog does not keep another process from committing. Without it two
    # processes stop each other for minutes where one holds a transaction open for longer than SQLite waits.
    write_options = ("META_JOURNAL_MODE 'WAL'",)


def catalog_of(uri: str | Path, data: str | None = None) -> Catalog:
    """The catalog that a URI names, which need not exist: SCHEME:PLACE, or a folder. Raises `UsageError` for a scheme
    that is none of `CATALOGS`.

    data: where a new store's Parquet files go, for a catalog that is no folder"""
    # One letter before a colon is a Windows drive.
    scheme, place = match.groups() if (match := re.fullmatch(r"([a-z0-9]{2,}):(.*)", str(uri))) else ("", str(uri))
    if scheme not in CATALOGS:
        # Not the URI itself: it may hold a password.
        raise UsageError(f"`store` begins with {scheme + ':'!r}; allowed: {spellings()}")
    catalog: Catalog = pkgutil.resolve_name(CATALOGS[scheme])(place, data)
    return catalog


def spellings() -> str:
    """How a store can be named, for help texts and errors."""
    return ", ".join(f"{scheme}:…" if scheme else "a folder" for scheme in CATALOGS)
