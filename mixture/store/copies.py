"""A whole store elsewhere: from a folder to PostgreSQL and S3, or back, with every version, mixture, run and score."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.fs as fs

from mixture.engine import in_threads
from mixture.errors import StoreError, UsageError
from mixture.progress import Progress, silent
from mixture.store import place
from mixture.store.catalog import Catalog, catalog_of
from mixture.store.connect import Store, connection_with
from mixture.store.files import data_files
from mixture.store.query import first_lines

# What a lake says of itself, which is not copied.
OWN = ("version", "created_by", "data_path", "encrypted")
CHUNK = 1 << 23


@dataclass(frozen=True)
class Copied:
    """What was copied: the lake's files, and the rows of its catalog."""

    store: str
    files: int
    num_bytes: int
    catalog_rows: int


def copy_store(source: Store, target: str, *, data: str | None = None, progress: Progress = silent) -> Copied:
    """Copy a store to a place where none is. Ids, digests, versions, mixtures, runs and scores are those of `source`.

    target: a folder, or the name of a PostgreSQL database, with `data` for its files, as for `Store.open`.

    Rows that the source keeps in its catalog are written to files first. Other processes that write to the source wait.
    A copy that was stopped goes on: the catalog comes last, so that there is no store before it is whole. What can be
    made again (materialised mixtures, checkpoints, models) stays behind. Raises `UsageError` where a store is already,
    or something else.
    """
    catalog = catalog_of(target, data)
    if catalog.exists():
        raise UsageError(f"there is a store at {catalog} already; name a new one in `target`")
    with source.catalog.turn():
        source.connection.execute("CALL ducklake_flush_inlined_data('lake')").fetchall()
        found = {file.path: file.num_bytes for file in data_files(source)}
        _prepare(catalog, data, set(found))
        there = place.file_system(catalog.data if data is None else place.checked(data))
        _copy_files(source.data, there, found, progress)
        rows = _copy_catalog(source.catalog, catalog)
    with Store.open(target) as copied, source.reading() as version:
        if copied.snapshot() != version:
            raise StoreError(f"the copy at {catalog} has version {copied.snapshot()}, the store {version}")
    return Copied(str(catalog), len(found), sum(found.values()), rows)


def _prepare(catalog: Catalog, data: str | None, ours: set[str]) -> None:
    """Make the place; files of ours that a stopped copy left there may stay."""
    try:
        catalog.create()
    except UsageError:
        if data is None:
            raise
        files = place.file_system(place.checked(data)).get_file_info(fs.FileSelector("", recursive=True))
        if not {file.path for file in files if file.is_file} <= ours:
            raise


def _copy_files(here: fs.FileSystem, there: fs.FileSystem, found: dict[str, int], progress: Progress) -> None:
    def one(path: str, size: int) -> str:
        known = there.get_file_info(path)
        if known.is_file and known.size == size:
            return path
        there.create_dir(path.rpartition("/")[0], recursive=True)
        with here.open_input_stream(path) as source, there.open_output_stream(path) as target:
            shutil.copyfileobj(source, target, CHUNK)
        return path

    try:
        tasks = [lambda path=path, size=size: one(path, size) for path, size in found.items()]
        for number, path in enumerate(in_threads(tasks), start=1):
            progress(number, len(found), path)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"the files could not be copied: {first_lines(error)}; the same call goes on") from error


def _copy_catalog(source: Catalog, target: Catalog) -> int:
    """The rows of DuckLake's own tables, in one transaction of the target's database."""
    connection = connection_with(tuple(dict.fromkeys((*source.extensions, *target.extensions))))
    try:
        # DuckLake makes its tables, as its version has them.
        connection.execute(target.attach(read_only=False))
        connection.execute("DETACH lake")
        connection.execute(source.attach_tables("here"))
        connection.execute(target.attach_tables("there"))
        known, wanted = (_tables(connection, name, one.schema) for name, one in (("here", source), ("there", target)))
        rows = 0
        connection.execute("BEGIN")
        for name, columns in wanted.items():
            own = f"WHERE key NOT IN {OWN}" if name == "ducklake_metadata" else ""
            into = f"there.{target.schema}.{name}"
            connection.execute(f"DELETE FROM {into} {own}")
            chosen = ", ".join(f'"{column}"::{kind} AS "{column}"' for column, kind in columns.items()
                               if column in known[name])  # fmt: skip
            found = connection.execute(f"SELECT {chosen} FROM here.{source.schema}.{name} {own}").to_arrow_table()
            connection.register("found", found)
            connection.execute(f"INSERT INTO {into} BY NAME FROM found")
            rows += found.num_rows
        connection.execute("COMMIT")
        return rows
    except duckdb.Error as error:
        raise StoreError(f"the catalog could not be copied: {first_lines(error)}") from error
    finally:
        connection.close()


def _tables(connection: duckdb.DuckDBPyConnection, database: str, schema: str) -> dict[str, dict[str, str]]:
    """DuckLake's own tables with their columns and types. Not those of rows kept in the catalog, which are empty."""
    found = connection.execute(
        """SELECT table_name, column_name, data_type FROM duckdb_columns()
           WHERE database_name = ? AND schema_name = ? AND table_name LIKE 'ducklake_%'
             AND table_name NOT LIKE 'ducklake_inlined_%' ORDER BY ALL""",
        [database, schema],
    ).fetchall()
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in found:
        tables.setdefault(table, {})[column] = kind
    return tables
