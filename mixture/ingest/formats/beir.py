"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv (or qrels.tsv), plain or packed, as one unit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.formats.damage import EMPTY_LINE, BadRow, check_utf8
from mixture.ingest.formats.judged import judged_examples
from mixture.ingest.formats.lookup import Lookup
from mixture.ingest.formats.renaming import Renaming
from mixture.ingest.formats.splits import choose_split
from mixture.rows import RawExample, Reject

PACKED = ("", ".gz", ".zst")


def is_beir(folder: Path) -> bool:
    """Whether a folder holds a corpus and its queries. Without qrels it is one too, but cannot be read."""
    return _file(folder, "corpus.jsonl") is not None and _file(folder, "queries.jsonl") is not None


def data_files(folder: Path) -> list[Path]:
    """Corpus, queries and the qrels of the split to train on (`choose_split`).

    Raises UsageError when one of them is missing, and when no split can be chosen.
    """
    corpus, queries, single = (_file(folder, name) for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"))
    splits = {
        file.name.removesuffix(ending): file
        for packed in PACKED
        for ending in [".tsv" + packed]
        for file in (folder / "qrels").glob("*" + ending)
    }
    qrels = choose_split(splits, folder / "qrels") if splits else single
    if corpus is None or queries is None or qrels is None:
        raise UsageError(f"{folder}: expected corpus.jsonl, queries.jsonl and qrels/train.tsv (BEIR layout)")
    return [corpus, queries, qrels]


def read_folder(folder: Path, columns: Renaming | None = None) -> Iterator[RawExample | Reject]:
    """One example for each query that the qrels judge with a score above 0; see `judged_examples`.

    Memory: 24 bytes for each document and query, some 250 for each judgement; texts stay in the files (`Lookup`).
    Raises UsageError for a column mapping: the names in these files are fixed.
    """
    if columns:
        raise UsageError(f"{folder}: a column mapping is not for BEIR folders, whose names are fixed")
    corpus, queries, qrels = data_files(folder)
    with Lookup(corpus, corpus.name, _document) as documents, Lookup(queries, queries.name, _document) as questions:
        yield from documents.build()
        yield from questions.build()
        yield from judged_examples(qrels, qrels.relative_to(folder).as_posix(), [questions], documents)


def _file(folder: Path, name: str) -> Path | None:
    return next((file for packed in PACKED if (file := folder / (name + packed)).is_file()), None)


def _document(line: bytes) -> tuple[str, tuple[str, str]]:
    text = check_utf8(line)
    if not text.strip():
        raise BadRow(EMPTY_LINE)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"line is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRow("line is no JSON object; expected _id and text")
    identifier, title, body = value.get("_id"), value.get("title") or "", value.get("text")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not isinstance(body, str) or not isinstance(title, str):
        raise BadRow("expected _id and text (and title) as texts")
    return identifier, (title, body)
