"""Relevance judgements (qrels) joined with queries and documents by id: one example for each judged query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mixture.ingest.damage import EMPTY_LINE, BadRow, StreamDamaged, check_utf8, start_of
from mixture.ingest.lines import byte_lines
from mixture.ingest.lookup import Lookup
from mixture.rows import RawExample, RawPassage, Reject
from mixture.suites.layout import grade, judgement

Judged = dict[str, list[tuple[str, float, int]]]  # by query id: document id, score, line


def judged_examples(
    qrels: Path, name: str, queries: Sequence[Lookup], documents: Lookup
) -> Iterator[RawExample | Reject]:
    """One example for each query of the qrels that has a document with a score above 0, in the order of the file.

    The scores become the positives' `score`; an example's line is that of its first positive in the qrels. A
    judgement of a query or document that is missing or has no text is one Reject of the qrels (file `name`).

    Memory: the ids and scores of all judgements above 0, some 250 bytes for each; no text.
    """
    judged: Judged = {}
    for row in _judgements(qrels, name):
        if isinstance(row, Reject):
            yield row
        elif row[2] > 0:
            judged.setdefault(row[0], []).append((row[1], row[2], row[3]))
    for query_id, positives in judged.items():
        try:
            query = text_of(queries, query_id, "query")[1]
        except BadRow as bad:
            yield from (Reject(line, str(bad), f"{query_id} {key}", name) for key, _, line in positives)
            continue
        passages: list[RawPassage] = []
        for document_id, score, line in positives:
            try:
                title, text = text_of([documents], document_id, "document")
            except BadRow as bad:
                yield Reject(line, str(bad), f"{query_id} {document_id}", name)
                continue
            passages.append(RawPassage(text, title, score))
        if passages:
            yield RawExample(positives[0][2], query, tuple(passages))


def text_of(lookups: Sequence[Lookup], identifier: str, kind: str) -> tuple[str, str]:
    """Title and text for an id. Raises BadRow when it is in none of the files, or without text."""
    for lookup in lookups:
        if found := lookup.get(identifier):
            if not found[1][1].strip():
                raise BadRow(f"{kind} {identifier!r} has no text ({lookup.name} line {found[0]})")
            return found[1]
    raise BadRow(f"{kind} {identifier!r} is not in {', '.join(lookup.name for lookup in lookups)}")


def _judgements(qrels: Path, name: str) -> Iterator[tuple[str, str, float, int] | Reject]:
    first = True
    try:
        for number, line in byte_lines(qrels):
            try:
                yield (*_judgement(check_utf8(line)), number)
            except BadRow as bad:
                header = first and str(bad).endswith("expected a number")
                if not header and str(bad) != EMPTY_LINE:
                    yield Reject(number, str(bad), start_of(line), name)
            first = False
    except StreamDamaged as damage:
        yield Reject(damage.line, damage.reason, damage.raw, name)


def _judgement(line: str) -> tuple[str, str, float]:
    if not line.strip():
        raise BadRow(EMPTY_LINE)
    try:
        query, document, score = judgement(line)
    except ValueError as error:
        raise BadRow(str(error)) from None
    if (value := grade(score)) is None:
        raise BadRow(f"score is {score[:40]!r}; expected a number")
    return query, document, value
