"""BEIR folders (`mixture.suites.layout`) as one unit of ingest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.damage import EMPTY_LINE, BadRow, check_utf8
from mixture.ingest.format import Folder, Format
from mixture.ingest.formats.judged import judged_examples
from mixture.ingest.lookup import Lookup
from mixture.ingest.reading import Reading
from mixture.ingest.splits import choose_split
from mixture.rows import RawExample, Reject
from mixture.suites.layout import CORPUS, QUERIES, identifier, packed_file, qrels_files


def is_beir(folder: Path) -> bool:
    """Whether a folder holds a corpus and its queries. Without qrels it is one too, but cannot be read."""
    return packed_file(folder, CORPUS) is not None and packed_file(folder, QUERIES) is not None


def data_files(folder: Path, split: str | None = None) -> list[Path]:
    """Corpus, queries and the qrels of the split (`choose_split`).

    Raises UsageError when one of them is missing, and when no split can be chosen.
    """
    corpus, queries = packed_file(folder, CORPUS), packed_file(folder, QUERIES)
    # A qrels.tsv beside the corpus does not say what it is for.
    splits = {name if file.parent != folder else "qrels": file for name, file in qrels_files(folder).items()}
    if corpus is None or queries is None or not splits:
        raise UsageError(f"{folder}: expected corpus.jsonl, queries.jsonl and qrels/train.tsv (BEIR layout)")
    return [corpus, queries, choose_split(splits, folder / "qrels", split)]


def read_folder(folder: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """One example for each query that the qrels judge with a score above 0; see `judged_examples`.

    Memory: 24 bytes for each document and query, some 250 for each judgement; texts stay in the files (`Lookup`).
    Raises UsageError for a column mapping: the names in these files are fixed.
    """
    reading = reading or Reading()
    reading.no_columns(folder, "BEIR folders, whose names are fixed")
    corpus, queries, qrels = data_files(folder, reading.split)
    judged = qrels.relative_to(folder).as_posix()
    reading.note(f"query ← {queries.name}, positive ← documents that {judged} judges above 0")
    with Lookup(corpus, corpus.name, _document) as documents, Lookup(queries, queries.name, _document) as questions:
        yield from documents.build()
        yield from questions.build()
        yield from judged_examples(qrels, judged, [questions], documents)


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
    key, title, body = identifier(value.get("_id")), value.get("title") or "", value.get("text")
    if key is None or not isinstance(body, str) or not isinstance(title, str):
        raise BadRow("expected _id and text (and title) as texts")
    return key, (title, body)


FORMATS = (Format("beir", folder=Folder(is_beir, data_files, read_folder)),)
