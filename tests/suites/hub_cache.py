"""A cache of the hub's client, as it lays one out, with small repositories of the published layouts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixture.suites.hub import Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Rows = Sequence[Mapping[str, Any]]

DOCUMENTS = [{"_id": "d1", "title": "Tea", "text": "green leaves"}, {"_id": "d2", "title": "", "text": "black beans"},
             {"_id": "d3", "title": "Milk", "text": ""}]  # fmt: skip
QUERIES = [{"_id": "q1", "text": "what is tea"}, {"_id": "other", "text": "who asks"}, {"_id": "q2", "text": "coffee?"}]
JUDGED = [{"query-id": "q2", "corpus-id": "d2", "score": 1}, {"query-id": "q1", "corpus-id": "d1", "score": 2},
          {"query-id": "q1", "corpus-id": "gone", "score": 1}]  # fmt: skip


def write(file: Path, content: Rows | str) -> None:
    """Rows as the file's name says, or a text."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        file.write_text(content, encoding="utf-8")
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(content)), file)
    else:
        text = "".join(json.dumps(row) + "\n" for row in content).encode()
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


def cached(root: Path, source: Source, files: Mapping[str, Rows | str]) -> Path:
    """A snapshot of the source's repository that holds these files."""
    repo = root / f"datasets--{source.repo.replace('/', '--')}"
    commit = source.revision
    if len(commit) != 40:
        write(repo / "refs" / commit, COMMIT)
        commit = COMMIT
    for name, content in files.items():
        write(repo / "snapshots" / commit / name, content)
    return repo / "snapshots" / commit
