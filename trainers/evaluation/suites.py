"""Evaluation suites in BEIR layout (arXiv 2104.08663), read from a folder.

```
<suite>/corpus.jsonl[.gz]    one document a line: _id, title (may be absent), text
<suite>/queries.jsonl[.gz]   one query a line: _id, text
<suite>/qrels/<split>.tsv    header, then query id, document id, grade, separated by tabs
```
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixture.errors import UsageError

LAYOUT = "a suite folder holds corpus.jsonl, queries.jsonl (either may end in .gz) and qrels/test.tsv"

# The public BEIR archive keeps the twelve CQADupStack forums one folder deeper than its other suites.
_SEARCH_DEPTH = 2


@dataclass(frozen=True)
class Suite:
    """One benchmark, in memory.

    `corpus[i]` is the (title, text) of document `corpus_ids[i]`, `queries[i]` the text of `query_ids[i]`. Only judged
    queries are kept, in the order of the queries file; `qrels[query_id][document_id]` is the grade (1 and more:
    relevant), with exactly the keys of `query_ids`. `missing_documents` counts judgements of documents that the corpus
    does not hold; they stay in `qrels`, as in BEIR, so a relevant one counts as not found.
    """

    name: str
    corpus_ids: list[str]
    corpus: list[tuple[str, str]]
    query_ids: list[str]
    queries: list[str]
    qrels: dict[str, dict[str, int]]
    missing_documents: int = 0

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides a score, 16 hexadecimal digits."""
        parts = (self.corpus_ids, self.corpus, self.query_ids, self.queries, sorted(self.qrels.items()))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_suite(folder: Path, split: str = "test") -> Suite:
    """Read a suite; its name is the folder's.

    Raises UsageError, with file and line, for whatever cannot be scored as it stands: a missing or damaged file, an
    unreadable line, an id given twice, two grades for one pair, a judged query without text, no judged document in the
    corpus. A judgement of a document that is not in the corpus is counted instead: published suites hold a few.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; {LAYOUT}")
    qrels_file = _qrels_file(folder, split)
    corpus_file, queries_file = _jsonl_file(folder, "corpus"), _jsonl_file(folder, "queries")

    documents: dict[str, tuple[str, str]] = {}
    for line, row in _rows(corpus_file):
        document_id = _new_id(row, documents, corpus_file, line)
        documents[document_id] = (
            _text(row, "title", corpus_file, line, optional=True),
            _text(row, "text", corpus_file, line),
        )
    queries: dict[str, str] = {}
    for line, row in _rows(queries_file):
        queries[_new_id(row, queries, queries_file, line)] = _text(row, "text", queries_file, line)
    for file, found in ((corpus_file, documents), (queries_file, queries)):
        if not found:
            raise UsageError(f"{file}: no rows")

    qrels = _read_qrels(qrels_file)
    _require_known_queries(qrels, queries, qrels_file, queries_file)
    judged = [document_id for grades in qrels.values() for document_id in grades]
    missing = sum(document_id not in documents for document_id in judged)
    if missing == len(judged):
        raise UsageError(
            f"{qrels_file}: none of the {len(judged)} judged documents is in {corpus_file} "
            f"(first: {judged[0]!r}); are they of the same suite?"
        )
    query_ids = [query_id for query_id in queries if query_id in qrels]
    return Suite(
        name=folder.resolve().name,
        corpus_ids=list(documents),
        corpus=list(documents.values()),
        query_ids=query_ids,
        queries=[queries[query_id] for query_id in query_ids],
        qrels={query_id: qrels[query_id] for query_id in query_ids},
        missing_documents=missing,
    )


def find_suites(paths: Sequence[Path]) -> list[Path]:
    """The suite folders at `paths`: each a suite itself, or a folder of suites (sorted, at most two levels down).

    A folder with a corpus file counts as a suite, so that an incomplete one is an error of `load_suite` and not
    quietly left out. Raises UsageError where a path holds none, and where two suites share a name, because a result
    is kept under the suite's name.
    """
    by_name: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UsageError(f"no folder {path}; {LAYOUT}")
        found = _suites_below(path, _SEARCH_DEPTH)
        if not found:
            raise UsageError(f"no suite in {path}; {LAYOUT}")
        for suite in found:
            resolved = suite.resolve()
            known = by_name.setdefault(resolved.name, suite)
            if known.resolve() != resolved:
                raise UsageError(
                    f"two suites are called {resolved.name!r}: {known} and {suite}; evaluate one at a time"
                )
    if not by_name:
        raise UsageError(f"no suite given; {LAYOUT}")
    return list(by_name.values())


def _suites_below(folder: Path, depth: int) -> list[Path]:
    if any((folder / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz")):
        return [folder]
    if depth == 0:
        return []
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    return [suite for child in children for suite in _suites_below(child, depth - 1)]


def _jsonl_file(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{folder} has no {stem}.jsonl or {stem}.jsonl.gz; {LAYOUT}")


def _qrels_file(folder: Path, split: str) -> Path:
    file = folder / "qrels" / f"{split}.tsv"
    if file.is_file():
        return file
    splits = sorted(found.stem for found in (folder / "qrels").glob("*.tsv"))
    if splits:
        raise UsageError(f"{folder} has no split {split!r}; there are: {', '.join(splits)}")
    raise UsageError(f"{folder} has no qrels/{split}.tsv; {LAYOUT}")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, without their end, counted from 1; a byte order mark is skipped."""
    line = 0
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8-sig")
            if file.suffix == ".gz"
            else file.open(encoding="utf-8-sig") as stream
        ):
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    yield line, text.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}, after line {line}: not UTF-8 ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{file}, after line {line}: cannot be read ({error})") from error


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in _lines(file):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{file}, line {line}: not JSON ({error.msg}): {text[:60]}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{file}, line {line}: expected a JSON object, got {text[:60]}")
        yield line, row


def _new_id(row: dict[str, Any], known: dict[str, Any], file: Path, line: int) -> str:
    value = row.get("_id")
    # Some exports write numeric ids as JSON numbers; the qrels can only hold their text.
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise UsageError(f"{file}, line {line}: '_id' must be a string, got {value!r}")
    if str(value) in known:
        raise UsageError(f"{file}, line {line}: '_id' {str(value)!r} was given on an earlier line")
    return str(value)


def _text(row: dict[str, Any], field: str, file: Path, line: int, *, optional: bool = False) -> str:
    value = row.get(field)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{file}, line {line}: {field!r} must be a string, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # Half of a \ud83d\ude00 pair: no tokenizer takes it, and this is the last place that knows the line.
        raise UsageError(f"{file}, line {line}: {field!r} holds half a surrogate pair ({error.reason})") from error
    return value


def _read_qrels(file: Path) -> dict[str, dict[str, int]]:
    lines = _lines(file)
    header_line, header = next(lines, (0, ""))
    header_fields = header.split("\t")
    # BEIR skips the first line unread, which loses a judgement where the header is missing.
    if len(header_fields) != 3 or _grade(header_fields[2]) is not None:
        raise UsageError(
            f"{file}, line {header_line}: expected the header 'query-id<TAB>corpus-id<TAB>score', got {header[:60]!r}"
        )
    qrels: dict[str, dict[str, int]] = {}
    for line, text in lines:
        fields = text.split("\t")
        if len(fields) != 3:
            raise UsageError(
                f"{file}, line {line}: expected 3 fields separated by tabs, got {len(fields)}: {text[:60]!r}"
            )
        query_id, document_id, grade = fields[0], fields[1], _grade(fields[2])
        if grade is None:
            raise UsageError(f"{file}, line {line}: the score must be a whole number, got {fields[2]!r}")
        if qrels.setdefault(query_id, {}).setdefault(document_id, grade) != grade:
            raise UsageError(
                f"{file}, line {line}: query {query_id!r} and document {document_id!r} have grade {grade} here "
                f"and {qrels[query_id][document_id]} on an earlier line"
            )
    if not qrels:
        raise UsageError(f"{file}: no judgements below the header")
    return qrels


def _grade(text: str) -> int | None:
    """A grade; some exports write whole numbers as 1.0. None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def _require_known_queries(
    qrels: dict[str, dict[str, int]], queries: dict[str, str], qrels_file: Path, queries_file: Path
) -> None:
    """A judged query without text cannot be asked, and leaving it out would change the mean: an error, as in BEIR."""
    unknown = [query_id for query_id in qrels if query_id not in queries]
    if unknown:
        # The line is looked up only now: keeping one for every judgement would cost memory on large suites.
        line = next((n for n, text in _lines(qrels_file) if text.split("\t")[0] == unknown[0]), 0)
        raise UsageError(
            f"{qrels_file}, line {line}: query {unknown[0]!r} is not in {queries_file} "
            f"({len(unknown)} of {len(qrels)} judged queries are not)"
        )
