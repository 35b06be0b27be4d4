"""Are the lake's data files still what was written? Missing files, other sizes, changed bytes.

Parquet as DuckDB writes it carries no checksums: more than half of single flipped bits decode without an error. So a
file's SHA-256 is recorded when a mixture first needs it (`record_hashes`). A file without a record is decoded as a
whole, and the ids of its rows, which are hashes of their texts, are computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as fs

from mixture.errors import MixtureError, StoreError
from mixture.rows import content_ids, example_ids, passage_messages
from mixture.specs import Part
from mixture.store import read
from mixture.store.connect import Store
from mixture.store.place import reached
from mixture.store.query import first_lines
from mixture.store.write import append

READ_BYTES = 1 << 23
# {own}: what stands before the names of DuckLake's own tables
FILES = """
SELECT s.path || t.path || f.path AS path, t.table_name AS "table", p.partition_value AS collection,
       f.file_size_bytes AS num_bytes, f.num_rows, d.sha256
FROM (SELECT data_file_id, table_id, path, file_size_bytes, record_count AS num_rows FROM {own}data_file
      UNION ALL SELECT data_file_id, table_id, path, file_size_bytes, NULL FROM {own}delete_file) f
JOIN {own}table t ON t.table_id = f.table_id AND t.end_snapshot IS NULL
JOIN {own}schema s ON s.schema_id = t.schema_id
LEFT JOIN {own}file_partition_value p ON p.data_file_id = f.data_file_id
LEFT JOIN (SELECT path, any_value(sha256) AS sha256 FROM data_files GROUP BY path) d
     ON d.path = s.path || t.path || f.path
ORDER BY ALL"""


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of the lake. `path` is under the store's data folder; `num_rows` is None for a file of deletions;
    `collection` is None for tables that are not divided by collection; `sha256` is None where none was recorded."""

    path: str
    table: str
    collection: str | None
    num_bytes: int
    num_rows: int | None
    sha256: str | None


def data_files(store: Store, collections: Sequence[str] | None = None) -> list[DataFile]:
    """The files that the catalog names, those of older versions too; of all collections, or of those given."""
    files = [DataFile(**row) for row in store.rows(FILES.format(own=store.catalog.tables))]
    return [f for f in files if collections is None or f.collection is None or f.collection in collections]


def record_hashes(store: Store, collections: Sequence[str]) -> None:
    """Record the SHA-256 of the files of these collections that have none yet, but for those of the records themselves,
    which would need one more each time. Missing files are left to `fault`."""
    now = datetime.now(UTC)
    rows = [
        {"path": file.path, "sha256": _sha256(store, file), "hashed_at": now}
        for file in data_files(store, collections)
        if file.sha256 is None and file.table != "data_files" and _size(store, file) is not None
    ]
    if rows:
        store.transaction(lambda connection: append(connection, "data_files", rows))


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fault(store: Store, file: DataFile) -> str | None:
    """What is wrong with a file, in words; None where nothing is."""
    size = _size(store, file)
    if size is None:
        return "is missing"
    if size != file.num_bytes:
        return f"has {size:,} bytes; the catalog says {file.num_bytes:,}"
    if file.sha256 is not None:
        return None if _sha256(store, file) == file.sha256 else "its bytes have changed since they were recorded"
    try:
        return _content_fault(store, file)
    # Damaged metadata can ask for any size of memory, and Arrow's own errors are of both kinds.
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        return f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _size(store: Store, file: DataFile) -> int | None:
    """In bytes; None for a file that is not there."""
    with reached(store.catalog.data):
        found = store.data.get_file_info(file.path)
    return int(found.size) if found.type == fs.FileType.File else None


def _sha256(store: Store, file: DataFile) -> str:
    with reached(store.catalog.data), store.data.open_input_stream(file.path, buffer_size=READ_BYTES) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _content_fault(store: Store, file: DataFile) -> str | None:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file.path, filesystem=store.data)
    if file.num_rows is not None and parquet.metadata.num_rows != file.num_rows:
        return f"has {parquet.metadata.num_rows:,} rows; the catalog says {file.num_rows:,}"
    for batch in parquet.iter_batches(4_096):
        batch.validate(full=True)
        if file.num_rows is None:  # a file of deletions has places, no texts
            continue
        if file.table == "passages":
            wrong = pc.not_equal(batch["passage_id"], content_ids(passage_messages(batch["title"], batch["text"])))
        elif file.table == "examples":
            wrong = pc.not_equal(batch["example_id"], _example_ids(batch))
        else:
            continue
        count = pc.sum(wrong).as_py() or 0
        if count:
            return f"{count:,} rows do not have the content that their ids are hashes of"
    return None


def _example_ids(batch: pa.RecordBatch) -> pa.Array:
    """`rows.example_ids` of stored rows, whose positives are in the order of the file they came from."""
    lists = batch["positives"]
    pairs = pa.table({
        "row": pc.list_parent_indices(lists),
        "id": pc.struct_field(pc.list_flatten(lists), "passage_id"),
    }).group_by(["row", "id"]).aggregate([]).sort_by([("row", "ascending"), ("id", "ascending")])  # fmt: skip
    counts = np.bincount(pairs["row"].to_numpy(), minlength=batch.num_rows)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = pairs["id"].combine_chunks()
    return example_ids(batch["query"], offsets, ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids)


def digest(store: Store, part: Part) -> str | None:
    """`read.digest`; None where the collection is not there, or its files cannot be read."""
    try:
        return read.digest(store, part)
    except (MixtureError, duckdb.Error):
        return None


# Tables that contents are read from and that older versions of a store lack.
SINCE = {
    "answers": pa.schema([(name, pa.string()) for name in ("collection", "example_id", "passage_id", "command")]),
    "positive_scores": pa.schema([(name, pa.string()) for name in ("collection", "example_id", "passage_id", "miner")]
                                 + [("score", pa.float32())]),
}  # fmt: skip


@contextmanager
def at_version(store: Store, snapshot: int, selection: str | None = None) -> Iterator[Store]:
    """The store as it was at a snapshot, to read. Raises `StoreError` for a snapshot that is not there.

    selection: known there too, though the store may have kept it only in the snapshot after; its id is a hash of it
    """
    chosen = None
    if selection is not None:
        chosen = store.read("SELECT * FROM selected_examples WHERE selection = ?", [selection])
    with store.at(snapshot) as old:
        try:
            connection = old.connection
            for name, columns in SINCE.items():
                try:
                    connection.execute(f"SELECT 1 FROM {name} LIMIT 0")
                except duckdb.CatalogException:
                    connection.register(name, columns.empty_table())
            if chosen is not None:
                connection.register("selected_examples", chosen)
            yield old
        except duckdb.Error as error:
            raise StoreError(f"version {snapshot} of the store cannot be read: {first_lines(error)}") from error
