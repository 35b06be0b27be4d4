"""One suite in BEIR layout: whole, for an evaluation, or what of it must not be trained on.

What cannot be read is a `UsageError` with file and line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixture.errors import UsageError
from mixture.ingest.damage import StreamDamaged
from mixture.ingest.lines import placed_lines
from mixture.suites.documents import Columns, Documents
from mixture.suites.layout import (
    CORPUS,
    LAYOUT,
    QUERIES,
    grade,
    identifier,
    judgement,
    qrels_files,
    qrels_to_test,
    required_file,
    suite_name,
)
from mixture.text.strings import Strings


@dataclass(frozen=True)
class Suite:
    """One benchmark, in memory.

    `corpus[i]` is the (title, text) of document `corpus_ids[i]`, `queries[i]` the text of `query_ids[i]`. Only judged
    queries are kept, in the order of the queries file; `qrels[query_id][document_id]` is the grade (1 and more:
    relevant), with exactly the keys of `query_ids`. `missing_documents` counts judgements of documents that the corpus
    does not hold; they stay in `qrels`, as in BEIR, so a relevant one counts as not found.

    answers: of each query the strings that answer it, where documents are judged by whether they hold one; `qrels` has
             its keys and no grades then
    metrics: names of the metrics that the suite is reported in; none: those that every suite is
    language, prompt: of its queries, where the suite says so; the prompt is its text, for a model that has none for it
    benchmark: that the suite belongs to by its name (beir, miracl), where it has one
    revision: of the data it was read from, where that has one
    excluded: of each query the documents that are not ranked for it; None: there are none
    """

    name: str
    corpus_ids: Sequence[str]
    corpus: Sequence[tuple[str, str]]
    query_ids: list[str]
    queries: list[str]
    qrels: dict[str, dict[str, int]]
    missing_documents: int = 0
    half: str | None = None
    answers: dict[str, list[str]] | None = None
    metrics: tuple[str, ...] = ()
    language: str | None = None
    prompt: str | None = None
    revision: str | None = None
    excluded: dict[str, list[str]] | None = None
    benchmark: str | None = None

    @property
    def title(self) -> str:
        """What its scores are kept under: the name, and the half (`halves.halved`) where it is not whole."""
        return self.name if self.half is None else f"{self.name}/{self.half}"

    @property
    def relevant(self) -> list[tuple[str, str]]:
        """Id and text of the documents that are judged relevant, as `suite_passages` gives them."""
        judged = {key for grades in self.qrels.values() for key, value in grades.items() if value > 0}
        rows = zip(self.corpus_ids, self.corpus, strict=True)
        found = ((key, text if text.strip() else title) for key, (title, text) in rows if key in judged)
        return [(key, text) for key, text in found if text.strip()]

    @property
    def test_texts(self) -> list[str]:
        """What must not be trained on: its queries, and its relevant documents."""
        return [*self.queries, *(text for _, text in self.relevant)]

    @cached_property
    def documents(self) -> Strings:
        """Of each document title and text joined by a space, one alone where the other is empty."""
        return Documents.of(self.corpus).joined

    def unranked(self, query_id: str) -> set[str]:
        """Documents that are left out of a query's ranking: those that are excluded, and the one with the query's id,
        because in suites such as ArguAna and Quora it is the query itself (`ignore_identical_ids=True` in BEIR).

        Departs from BEIR: that one stays where the qrels call it relevant, as in suites where question and answer carry
        the id of one article.
        """
        excluded = set() if self.excluded is None else set(self.excluded[query_id])
        return excluded if self.qrels[query_id].get(query_id, 0) >= 1 else excluded | {query_id}

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides a score, 16 hexadecimal digits."""
        rest: list[Any] = [self.query_ids, self.queries, sorted(self.qrels.items())]
        if self.answers is not None:
            rest.append(sorted(self.answers.items()))
        if self.excluded is not None:
            rest.append({"excluded": sorted(self.excluded.items())})
        hashed = hashlib.sha256(b"[")
        for column in (self.corpus_ids, self.corpus):  # as one list of JSON, but never held as one
            for number, value in enumerate(column):
                hashed.update((", " if number else "[").encode() + json.dumps(value).encode())
            hashed.update(b"], " if len(column) else b"[], ")
        hashed.update(json.dumps(rest, sort_keys=True)[1:].encode())
        return hashed.hexdigest()[:16]


def load_suite(folder: Path, split: str | None = None) -> Suite:
    """Read a suite; its name is the folder's. split: see `qrels_to_test`.

    Raises UsageError, with file and line, for whatever cannot be scored as it stands: a missing or damaged file, an
    unreadable line, an id given twice, two grades for one pair, a judged query without text, no judged document in the
    corpus. A judgement of a document that is not in the corpus is counted instead: published suites hold a few.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; {LAYOUT}")
    corpus_file, queries_file = required_file(folder, CORPUS), required_file(folder, QUERIES)
    qrels_file = qrels_to_test(folder, split)

    columns, known = Columns(3), set[str]()
    for line, document_id, row in _rows(corpus_file, known):
        known.add(document_id)
        title = _text(row, "title", corpus_file, line, optional=True)
        columns.append(document_id, title, _text(row, "text", corpus_file, line))
    queries: dict[str, str] = {}
    for line, query_id, row in _rows(queries_file, queries):
        queries[query_id] = _text(row, "text", queries_file, line)
    for file, found in ((corpus_file, known), (queries_file, queries)):
        if not found:
            raise UsageError(f"{file}: no rows")

    qrels = grades_of(qrels_file)
    _require_known_queries(qrels, queries, qrels_file, queries_file)
    judged = [document_id for grades in qrels.values() for document_id in grades]
    missing = sum(document_id not in known for document_id in judged)
    if missing == len(judged):
        raise UsageError(
            f"{qrels_file}: none of the {len(judged)} judged documents is in {corpus_file} "
            f"(first: {judged[0]!r}); are they of the same suite?"
        )
    query_ids = [query_id for query_id in queries if query_id in qrels]
    corpus_ids, titles, texts = columns.strings
    return Suite(
        name=suite_name(folder),
        corpus_ids=corpus_ids,
        corpus=Documents(titles, texts),
        query_ids=query_ids,
        queries=[queries[query_id] for query_id in query_ids],
        qrels={query_id: qrels[query_id] for query_id in query_ids},
        missing_documents=missing,
    )


def suite_queries(folder: Path) -> Iterator[tuple[str, str]]:
    """Id and text of a suite's queries, without those that only other splits (train) judge; those that nobody judges
    stay. Without qrels these are all queries."""
    splits = qrels_files(folder)
    foreign: set[str] = set()
    if splits:
        used = qrels_to_test(folder)
        foreign = {query for file in splits.values() if file != used for _, query, _, _ in _judgements(file)}
        foreign -= {query for _, query, _, _ in _judgements(used)} if foreign else set()
    file = required_file(folder, QUERIES)
    for line, query_id, row in _rows(file):
        text = _text(row, "text", file, line)
        if query_id not in foreign and text.strip():
            yield query_id, text


def suite_passages(folder: Path, *, judged_only: bool = True) -> Iterator[tuple[str, str]]:
    """Id and text of a suite's documents; judged_only: those that its judgements call relevant, with a grade above 0.

    A document without text is its title; one without either is left out.
    """
    file = required_file(folder, CORPUS)
    relevant = {doc for _, _, doc, value in _judgements(qrels_to_test(folder)) if value > 0} if judged_only else None
    for line, document_id, row in _rows(file):
        if relevant is None or document_id in relevant:
            texts = (_text(row, field, file, line, optional=True) for field in ("text", "title"))
            if text := next((text for text in texts if text.strip()), None):
                yield document_id, text


def documents(file: Path) -> Iterator[tuple[str, str]]:
    """Title and text of each document of a corpus; both may be empty."""
    for line, _, row in _rows(file):
        yield _text(row, "title", file, line, optional=True), _text(row, "text", file, line, optional=True)


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, without their end, counted from 1, of a file that is plain, gzip or zstandard.

    A byte order mark is skipped.
    """
    line = 0
    try:
        for line, _, raw in placed_lines(file):
            text = raw.decode()
            if text.strip():
                yield line, text
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except StreamDamaged as damage:
        raise UsageError(
            f"{file}, after line {damage.line - 1}: cannot be read: damaged gzip or zstandard file ({damage}); "
            "fetch it again"
        ) from damage
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from error


def json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and object of each line of JSON Lines."""
    for line, text in lines(file):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise UsageError(f"{file}, line {line}: not JSON ({reason}): {text[:60]}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{file}, line {line}: expected a JSON object, got {text[:60]}")
        yield line, row


def _rows(file: Path, known: Container[str] = ()) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Line, id and object of each document or query; an id that is in `known` by now is an error."""
    for line, row in json_rows(file):
        key = identifier(row.get("_id"))
        if key is None:
            raise UsageError(f"{file}, line {line}: '_id' must be a string, got {row.get('_id')!r}")
        if key in known:
            raise UsageError(f"{file}, line {line}: '_id' {key!r} was given on an earlier line")
        yield line, key, row


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


def _judgements(file: Path) -> Iterator[tuple[int, str, str, float]]:
    """Line, query id, document id and grade of each judgement; the first line may be a header."""
    first = True
    for line, text in lines(file):
        try:
            query_id, document_id, score = judgement(text)
        except ValueError:
            raise UsageError(
                f"{file}, line {line}: expected 'query<TAB>document<TAB>grade', got {text[:60]!r}"
            ) from None
        value = grade(score)
        if value is not None:
            yield line, query_id, document_id, value
        elif not first:
            raise UsageError(f"{file}, line {line}: the score must be a whole number, got {score!r}")
        first = False


def grades_of(file: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line, query_id, document_id, value in _judgements(file):
        if not value.is_integer():  # some exports write whole numbers as 1.0
            raise UsageError(f"{file}, line {line}: the score must be a whole number, got {value}")
        if qrels.setdefault(query_id, {}).setdefault(document_id, int(value)) != value:
            raise UsageError(
                f"{file}, line {line}: query {query_id!r} and document {document_id!r} have grade {int(value)} here "
                f"and {qrels[query_id][document_id]} on an earlier line"
            )
    if not qrels:
        raise UsageError(f"{file}: no judgements in it")
    return qrels


def _require_known_queries(
    qrels: dict[str, dict[str, int]], queries: dict[str, str], qrels_file: Path, queries_file: Path
) -> None:
    """A judged query without text cannot be asked, and leaving it out would change the mean: an error, as in BEIR."""
    unknown = [query_id for query_id in qrels if query_id not in queries]
    if unknown:
        # The line is looked up only now: keeping one for every judgement would cost memory on large suites.
        line = next(line for line, query_id, _, _ in _judgements(qrels_file) if query_id == unknown[0])
        raise UsageError(
            f"{qrels_file}, line {line}: query {unknown[0]!r} is not in {queries_file} "
            f"({len(unknown)} of {len(qrels)} judged queries are not)"
        )
