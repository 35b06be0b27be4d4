"""Readers, one small module each: a path in, rows (or the reasons why not) out, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mixture.ingest import renaming
from mixture.ingest.formats import array, arrow, beir, delimited, msmarco, parquet
from mixture.ingest.renaming import Renaming
from mixture.rows import RawExample, Reject

Reader = Callable[[Path, Renaming | None], Iterator[RawExample | Reject]]

READERS: Mapping[str, Reader] = {
    "jsonl": renaming.read_json_lines,
    "json": array.read,
    "csv": delimited.read_csv,
    "tsv": delimited.read_tsv,
    "triples": msmarco.read_triples,
    "parquet": parquet.read,
    "arrow": arrow.read,
}


@dataclass(frozen=True, slots=True)
class FolderFormat:
    """A folder that is read as a whole: how it is known, which of its files count, and how it is read."""

    is_one: Callable[[Path], bool]
    data_files: Callable[[Path], list[Path]]
    read: Reader


FOLDERS: Mapping[str, FolderFormat] = {
    "beir": FolderFormat(beir.is_beir, beir.data_files, beir.read_folder),
    "msmarco": FolderFormat(msmarco.is_msmarco, msmarco.data_files, msmarco.read_folder),
    "arrow": FolderFormat(arrow.is_saved_dataset, arrow.data_files, arrow.read_folder),
}
FORMATS = tuple(sorted({*READERS, *FOLDERS}))
