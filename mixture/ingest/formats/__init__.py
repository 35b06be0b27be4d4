"""Readers, one small module each: a path in, rows (or the reasons why not) out, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mixture.ingest.formats import delimited, jsonl, parquet
from mixture.rows import RawExample, Reject

Reader = Callable[[Path], Iterator[RawExample | Reject]]

READERS: Mapping[str, Reader] = {
    "jsonl": jsonl.read,
    "csv": delimited.read_csv,
    "tsv": delimited.read_tsv,
    "parquet": parquet.read,
}
