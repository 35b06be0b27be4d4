"""A whole store at another place: from a folder to PostgreSQL and S3, or back, with every version of every row.

Files go first, while others write. Then, in a turn of the source's, what came meanwhile, and DuckLake's own tables: so
rows, ids, versions and the names of files are those of the source. The new catalog appears in one step at the end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import duckdb
import pyarrow.fs as fs

from mixture.engine import in_threads
from mixture.errors import StoreError, UsageError
from mixture.progress import Progress, silent
from mixture.store import place
from mixture.store.catalog import Catalog, catalog_of
from mixture.store.connect import Store, connection_with
from mixture.store.files import READ_BYTES, DataFile, data_files
from mixture.store.maintain import OWN_FILES
from mixture.store.query import first_lines

logger = logging.getLogger(__name__)
# In the new place's data until the copy is whole: the number of the lake that is copied there, and the catalog to be.
MARK = "copy-of-a-store"
# Files that came while others were sent are sent without a turn too, until they are few, or nothing helps.
FEW, PASSES = 10, 5
# What a lake says of itself; and files that are in no version, which are not copied.
OWN = ("version", "created_by", "data_path", "encrypted")
PASSED_OVER = ("ducklake_files_scheduled_for_deletion",)


@dataclass(frozen=True)
class Copied:
    """A copy of a store.

    versions:        of the store, each with all of its rows
    files, num_bytes: of those versions
    files_sent:      by this call; a stopped one before it had sent the others
    """

    store: str
    versions: int
    files: int
    num_bytes: int
    files_sent: int


def copy_store(source: Store, target: str, *, data: str | None = None, progress: Progress = silent) -> Copied:
    """Copy a store to a place where none is. Ids, digests, versions, mixtures, runs and scores are those of `source`.

    target: a folder, or the name of a PostgreSQL database, with `data` for its files, as for `Store.open`.

    Other processes read and write the source meanwhile; those that write wait at the end, while the last files and the
    catalog are copied. A copy that was stopped is no store, and the same call goes on with it. What can be made again
    (materialised mixtures, checkpoints, models, embeddings) stays behind. Raises `UsageError` where something is
    already, and `StoreError` where a file of the source is missing or damaged.
    """
    catalog = _target(source, target, data)
    lake = source.rows(f"SELECT schema_uuid::VARCHAR AS id FROM {source.catalog.tables}schema WHERE schema_id = 0")
    mark = f"{lake[0]['id']} {catalog}"
    with catalog.turn():
        _claim(catalog, mark)
        files = _Files(source, catalog, progress)
        for _ in range(PASSES):
            before = files.sent
            files.send()
            if files.sent - before < FEW:
                break
        with catalog.staged() as stage:
            with source.catalog.turn():
                found = files.send(all_there=True)
                progress(0, 0, "the catalog")
                if not source.catalog.shared:
                    source.close()
                _copy_catalog(source.catalog, stage)
                versions = _compared(source, stage)
            files.delete_others(found)
            _claim(catalog, mark)
        try:
            with place.reached(catalog.data):
                files.there.delete_file(MARK)
        except StoreError as error:
            logger.warning("the copy is whole; a file of it is left there, which can go: %s", error)
    return Copied(str(catalog), versions, len(found), sum(file.num_bytes for file in found), files.sent)


def _target(source: Store, target: str, data: str | None) -> Catalog:
    """The catalog of a place where no store is, made so far that a turn can be waited for."""
    try:
        catalog = catalog_of(target, data)
        if catalog.kept is None:
            raise UsageError(f"no store is copied to {catalog}: nobody has found out how its kind keeps rows")
        _require_new(catalog)
        if catalog.data.startswith((source.catalog.data, f"{source.work}/")):
            raise UsageError(f"{catalog.data} is inside the store that is copied; name another place in `target`")
        if _marked(catalog) is None:
            catalog.create()
    except UsageError as error:
        raise UsageError(str(error).replace("`store`", "`target`")) from error
    return catalog


def _require_new(catalog: Catalog) -> None:
    if catalog.exists():
        raise UsageError(f"there is a store at {catalog} already; name a new one in `target`")


def _marked(catalog: Catalog) -> str | None:
    """What the mark of a place says; None where there is none."""
    files = place.file_system(catalog.data)
    with place.reached(catalog.data):
        if not files.get_file_info(MARK).is_file:
            return None
        with files.open_input_stream(MARK) as stream:
            return str(stream.read().decode())


def _claim(catalog: Catalog, mark: str) -> None:
    """Take a new place, or one that a stopped copy of the same lake to the same place has taken."""
    _require_new(catalog)  # another call may have made the same copy meanwhile
    says = _marked(catalog)
    if says is None:
        catalog.create()
    elif says not in (mark, ""):  # a kill may leave an empty one, and nothing else
        raise UsageError(f"{catalog.data} holds a part of another copy; name a new place, or delete what is there")
    if not says:
        with place.reached(catalog.data), place.file_system(catalog.data).open_output_stream(MARK) as stream:
            stream.write(mark.encode())


class _Files:
    """The files of the source, and those of a claimed place, which is nobody else's: listed once, then remembered.

    there: the place; sent: how many files this call has sent
    """

    def __init__(self, source: Store, catalog: Catalog, progress: Progress) -> None:
        self.there, self.sent = place.file_system(catalog.data), 0
        self._source, self._data, self._progress = source, catalog.data, progress
        with place.reached(self._data):
            found = self.there.get_file_info(fs.FileSelector("main", recursive=True, allow_not_found=True))
        self._sizes: dict[str, int | None] = {file.path: file.size for file in found if file.is_file}

    def send(self, *, all_there: bool = False) -> list[DataFile]:
        """Send what the place lacks of the source's files; all of these. Those that have gone meanwhile are passed
        over, unless all must be there."""
        found = data_files(self._source)
        wanted = [file for file in found if self._sizes.get(file.path) != file.num_bytes]

        def one(file: DataFile) -> int:
            self._sizes[file.path] = None  # a part of it, until it is whole
            try:
                self._send(file)
            except StoreError:
                if all_there or self._source.data.get_file_info(file.path).is_file:
                    raise
                return 0
            self._sizes[file.path] = file.num_bytes
            return 1

        tasks: list[Callable[[], int]] = [partial(one, file) for file in wanted]
        for number, (file, count) in enumerate(zip(wanted, in_threads(tasks), strict=True), start=1):
            self.sent += count
            self._progress(len(found) - len(wanted) + number, len(found), file.path)
        return found

    def _send(self, file: DataFile) -> None:
        digest = hashlib.sha256()
        with place.reached(self._data):
            if not self._data.startswith(place.S3):
                self.there.create_dir(file.path.rpartition("/")[0], recursive=True)
            with self.there.open_output_stream(file.path) as stream:
                for chunk in self._chunks(file.path):
                    digest.update(chunk)
                    stream.write(chunk)
                num_bytes = stream.tell()
            if num_bytes != file.num_bytes or file.sha256 not in (None, digest.hexdigest()):
                self.there.delete_file(file.path)
                raise StoreError(
                    f"{file.path} is damaged; `mixture verify` lists what is. The copy can go on when it is whole"
                )

    def _chunks(self, path: str) -> Iterator[bytes]:
        with place.reached(self._source.catalog.data), self._source.data.open_input_stream(path) as stream:
            while chunk := stream.read(READ_BYTES):
                yield chunk

    def delete_others(self, found: list[DataFile]) -> None:
        """The files of DuckLake's names that the source has no longer."""
        with place.reached(self._data):
            for path in self._sizes.keys() - {file.path for file in found}:
                if OWN_FILES.fullmatch(path):
                    self.there.delete_file(path)


def _copy_catalog(source: Catalog, target: Catalog) -> None:
    """The rows of DuckLake's own tables, in one transaction of the target's database."""
    connection = connection_with(tuple(dict.fromkeys((*source.extensions, *target.extensions))))
    try:
        connection.execute(target.attach(read_only=False))  # DuckLake makes its tables
        connection.execute("DETACH lake")
        connection.execute(source.attach_tables("here"))
        connection.execute(target.attach_tables("there"))
        theirs = _tables(connection, "there", target)
        types = _types(connection, f"here.{source.schema}")
        connection.execute("BEGIN")
        for name, columns in _tables(connection, "here", source).items():
            into, own = f"there.{target.schema}.{name}", f"WHERE key NOT IN {OWN}" * (name == "ducklake_metadata")
            if name not in theirs:  # rows that DuckLake keeps in the catalog
                theirs[name] = {column: _kept(types.get(name, {}).get(column), kind, target)
                                for column, kind in columns.items()}  # fmt: skip
                listed = ", ".join(f"{_name(column)} {kind}" for column, kind in theirs[name].items())
                connection.execute(f"CREATE TABLE {into} ({listed})")
            connection.execute(f"DELETE FROM {into} {own}")
            moved = ", ".join(_moved(column, kind, theirs[name][column]) for column, kind in columns.items())
            connection.execute(f"INSERT INTO {into} BY NAME SELECT {moved} FROM here.{source.schema}.{name} {own}")
        connection.execute("COMMIT")
    except duckdb.Error as error:
        raise StoreError(f"the catalog could not be copied: {first_lines(error)}") from error
    finally:
        connection.close()


def _tables(connection: duckdb.DuckDBPyConnection, database: str, catalog: Catalog) -> dict[str, dict[str, str]]:
    """DuckLake's own tables with their columns and the types of these, as DuckDB sees them."""
    found = connection.execute(
        """SELECT table_name, column_name, data_type FROM duckdb_columns()
           WHERE database_name = ? AND schema_name = ? AND starts_with(table_name, 'ducklake_')
             AND NOT list_contains(?, table_name) ORDER BY table_name, column_index""",
        [database, catalog.schema, list(PASSED_OVER)],
    ).fetchall()
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in found:
        tables.setdefault(table, {})[column] = kind
    return tables


def _types(connection: duckdb.DuckDBPyConnection, own: str) -> dict[str, dict[str, str]]:
    """DuckLake's types of the columns of each table of rows that it keeps in the catalog."""
    found = connection.execute(
        f"""SELECT DISTINCT t.table_name, c.column_name, c.column_type FROM {own}.ducklake_inlined_data_tables t
            JOIN {own}.ducklake_column c USING (table_id) WHERE c.parent_column IS NULL"""
    ).fetchall()
    types: dict[str, dict[str, str]] = {}
    for table, column, kind in found:
        if types.setdefault(table, {}).setdefault(column, kind) != kind:
            raise StoreError(f"the catalog could not be copied: {table}.{column} has had several types")
    return types


def _kept(lake: str | None, kind: str, target: Catalog) -> str:
    """In which type the target keeps a column in the catalog; DuckLake's own columns, of numbers, as they are."""
    return kind if lake is None else (target.kept or {}).get(lake, "VARCHAR")


def _moved(column: str, kind: str, wanted: str) -> str:
    """The SQL that makes a column of one type another. A cast between bytes and text would write what is not ASCII as
    escapes."""
    name = _name(column)
    if kind != wanted and kind == "BLOB":
        return f"decode({name})::{wanted} AS {name}"
    if kind != wanted and wanted == "BLOB":
        return f"encode({name}::VARCHAR) AS {name}"
    return f"{name}::{wanted} AS {name}"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _compared(source: Store, stage: Catalog) -> int:
    """The number of versions. Raises `StoreError` where what the copy's catalog gives is not what the source's does."""
    with Store(stage) as copy:
        versions, theirs = (store.rows("FROM lake.snapshots() ORDER BY snapshot_id") for store in (source, copy))
        if versions != theirs or _rows(source) != _rows(copy):
            raise StoreError("the catalog could not be copied: the copy gives other rows than the store")
    return len(versions)


def _rows(store: Store) -> list[dict[str, object]]:
    """Of each table the number of today's rows that are in the catalog, and a hash of all of them."""
    tables = store.rows("SELECT table_name AS name FROM duckdb_tables() WHERE database_name = 'lake' ORDER BY 1")
    return store.rows(" UNION ALL ".join(
        f"""SELECT '{table["name"]}' AS "table", count(*) AS rows, sum(hash(t)::HUGEINT) AS hash FROM {table["name"]} t
            WHERE starts_with(filename, 'ducklake_inlined_data')""" for table in tables))  # fmt: skip
