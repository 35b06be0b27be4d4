"""Columns into Arrow batches: cleaned texts, content ids, every passage and example once, bad rows with a reason.

What is done to texts, for every format alike: Unicode NFC, white space (and a byte order mark) cut off both ends,
nothing else. Title and text stay apart. A row with an empty query or without a positive that has text is refused; empty
negatives are dropped, and negatives that are positives of the same row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture import rows
from mixture.engine import in_order
from mixture.ingest.chunks import THREADS
from mixture.ingest.columns import Columns, Side, from_rows
from mixture.ingest.damage import start_of
from mixture.rows import Batch, RawExample, Reject
from mixture.text.clean import cleaned

Fingerprint = Callable[[pa.StringArray], NDArray[np.uint64]]

PROVIDED = "provided"  # the miner of negatives that came with the file
DEFAULT_GRADE = 1.0
# A batch also ends here, whatever its rows: 50,000 rows with a hundred long negatives each would not fit a laptop.
# In UTF-8 it stays below the 2 GiB that one Arrow string array can hold.
MAX_BATCH_CHARS = 256 * 2**20


def build_batches(
    raw: Iterable[Columns | RawExample | Reject],
    *,
    file: str,
    language: str | None,
    fingerprint: Fingerprint | None,
    max_rows: int = 50_000,
) -> Iterator[Batch]:
    """Turn what a reader gives into batches: each block of columns is one, single rows are collected.

    Collected rows end a batch at `max_rows` rows read or `MAX_BATCH_CHARS` characters. `file` is written to the rejects
    that do not name one; `language` holds where a row does not say its own. `fingerprint` (texts to a uint64 array of
    the same length) fills the simhash columns, which are null without it.

    Within a batch a passage and an example appear once; the negatives of equal examples are united, in the order of
    the file. Equal rows in different batches have equal ids, so the store sees that they are the same.

    Raises ValueError when `max_rows` is below 1 or `fingerprint` returns an array of another shape or type.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}; expected 1 or more")

    def built(block: tuple[Columns | Sequence[RawExample], Sequence[Reject]]) -> Batch:
        columns, refused = from_rows(block[0]) if not isinstance(block[0], Columns) else (block[0], [])
        return build(columns, [*block[1], *refused], file=file, language=language, fingerprint=fingerprint)

    return in_order(built, _blocks(raw, max_rows), THREADS)


def _blocks(
    raw: Iterable[Columns | RawExample | Reject], max_rows: int
) -> Iterator[tuple[Columns | list[RawExample], list[Reject]]]:
    """Blocks of columns as they are; single rows, collected."""
    examples: list[RawExample] = []
    rejects: list[Reject] = []
    chars = 0
    for item in raw:
        if isinstance(item, Columns):
            yield item, []
            continue
        if isinstance(item, Reject):
            rejects.append(item)
        else:
            examples.append(item)
            chars += len(item.query) + sum(len(p.title) + len(p.text) for p in (*item.positives, *item.negatives))
        if len(examples) + len(rejects) >= max_rows or chars >= MAX_BATCH_CHARS:
            yield examples, rejects
            examples, rejects, chars = [], [], 0
    if examples or rejects:
        yield examples, rejects


def build(
    columns: Columns, rejects: Sequence[Reject], *, file: str, language: str | None, fingerprint: Fingerprint | None
) -> Batch:
    """One batch from the rows of `columns`; `rejects` are rows that were read with them and refused."""
    queries = cleaned(columns.queries)
    sides = _Passages(columns)
    refused = _refused(columns, queries, sides)
    kept = np.flatnonzero(refused == 0)
    new_row = np.full(len(columns), -1, np.int64)
    new_row[kept] = np.arange(len(kept))
    positives, negatives = sides.of(sides.positive, new_row), sides.of(~sides.positive, new_row)
    queries = queries.take(pa.array(kept))
    ids = sides.ids
    example_ids = rows.example_ids(queries, *_ascending(positives, ids, len(kept)))
    # Equal examples are one: each row gets the number of its example, `first` is the row that an example is taken from.
    first, number, _ = _distinct(example_ids)
    positives = positives.where(np.isin(positives.row, first)).numbered(number)
    negatives = _united(negatives.numbered(number), positives, len(ids))
    used = np.unique(np.concatenate([positives.passage, negatives.passage]))
    names = example_ids.take(pa.array(first))
    languages = _languages(columns, kept[first], language)
    refusals = [_reject(columns, row, REASONS[refused[row]]) for row in np.flatnonzero(refused).tolist()]
    return Batch(
        examples=_examples(names, queries.take(pa.array(first)), languages, positives, ids, fingerprint),
        passages=_passages(ids, sides, used, fingerprint),
        negatives=_negatives(names, ids, negatives),
        rejects=_rejects([*rejects, *refusals], file),
        rows_read=len(columns) + columns.merged + sum(reject.rows for reject in rejects),
        prompts=tuple(dict.fromkeys(filter(None, map(rows.clean, columns.prompts)))),
        stand_for=(*(reject.rows for reject in rejects), *(1 for _ in refusals)),
        merged=columns.merged,
    )


class _Links:
    """Which row has which passage: rows, passage numbers, scores (NaN for none); equal length, in file order."""

    def __init__(self, row: NDArray[np.int64], passage: NDArray[np.int64], score: NDArray[np.float64]) -> None:
        self.row, self.passage, self.score = row, passage, score

    def where(self, mask: NDArray[np.bool_]) -> _Links:
        return _Links(self.row[mask], self.passage[mask], self.score[mask])

    def numbered(self, number: NDArray[np.int64]) -> _Links:
        return _Links(number[self.row], self.passage, self.score)

    def distinct(self, num_passages: int) -> _Links:
        """Each (row, passage) once, at its first place, with the first score that is known."""
        keys = self.row * max(num_passages, 1) + self.passage
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        score = np.full(len(first), np.nan)
        known = np.flatnonzero(~np.isnan(self.score))[::-1]  # backwards, so that the first one is written last
        score[inverse[known]] = self.score[known]
        order = np.argsort(first)
        return _Links(self.row[first[order]], self.passage[first[order]], score[order])


class _Passages:
    """The passages of both sides: each distinct text cleaned and hashed once."""

    def __init__(self, columns: Columns) -> None:
        parts = (columns.positives, columns.negatives)
        titles = pa.concat_arrays([part.titles for part in parts]).fill_null("")
        texts = pa.concat_arrays([part.texts for part in parts])
        self.row = np.concatenate([part.rows() for part in parts])
        self.positive = np.arange(len(texts)) < len(columns.positives.texts)
        self.score = np.concatenate([_numbers(part) for part in parts])
        # Number of each passage of the file: that of its text among the distinct ones.
        first, self.number, messages = _distinct(rows.passage_messages(titles, texts))
        titles, texts = titles.take(pa.array(first)), texts.take(pa.array(first))
        self.titles, self.texts = cleaned(titles), cleaned(texts)
        if self.titles is not titles or self.texts is not texts:
            first, number, messages = _distinct(rows.passage_messages(self.titles, self.texts))
            self.titles, self.texts = self.titles.take(pa.array(first)), self.texts.take(pa.array(first))
            self.number = number[self.number]
        self.ids = rows.content_ids(messages)
        self.empty = pc.equal(pc.binary_length(self.texts), 0).to_numpy(zero_copy_only=False)[self.number]

    def of(self, side: NDArray[np.bool_], new_row: NDArray[np.int64]) -> _Links:
        """The links of one side that have text and whose row is kept, rows numbered anew, each passage once."""
        mask = side & ~self.empty & (new_row[self.row] >= 0)
        return _Links(new_row[self.row[mask]], self.number[mask], self.score[mask]).distinct(len(self.ids))


def _numbers(side: Side) -> NDArray[np.float64]:
    found: NDArray[np.float64] = side.scores.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    return found


def _distinct(values: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.int64], pa.StringArray]:
    """Where each distinct value stands first, in order of appearance; for each value the number of its kind; and the
    distinct values."""
    encoded = values.dictionary_encode()
    number = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.full(len(encoded.dictionary), -1, np.int64)
    first[number[::-1]] = np.arange(len(number))[::-1]
    return first, number, encoded.dictionary


REASONS = ("", "positives are empty", "positive is empty", "no positives", "query is empty")


def _refused(columns: Columns, queries: pa.StringArray, sides: _Passages) -> NDArray[np.int64]:
    """Why each row cannot be used, as a place in REASONS, or 0; (n,)."""
    n = len(columns)
    given = np.bincount(sides.row[sides.positive], minlength=n)
    usable = np.bincount(sides.row[sides.positive & ~sides.empty], minlength=n)
    empty = pc.equal(pc.binary_length(queries), 0).to_numpy(zero_copy_only=False)
    return np.select([empty, given == 0, (usable == 0) & (given == 1), usable == 0], [4, 3, 2, 1], 0)


def _reject(columns: Columns, row: int, reason: str) -> Reject:
    start, end = columns.positives.offsets[row : row + 2]
    texts = [columns.queries[row].as_py(), *columns.positives.texts[int(start) : int(end)].to_pylist()]
    return Reject(int(columns.lines[row]), reason, start_of(next(filter(None, map(rows.clean, texts)), "")))


def _ascending(links: _Links, ids: pa.StringArray, n: int) -> tuple[NDArray[np.int64], pa.StringArray]:
    """Offsets (n + 1,) and passage ids of each row's positives, in ascending order of id."""
    order = np.argsort(ids.to_numpy(zero_copy_only=False).astype("S"), kind="stable")
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    by_id = np.lexsort((place[links.passage], links.row))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(links.row, minlength=n))])
    return offsets, ids.take(pa.array(links.passage[by_id]))


def _united(negatives: _Links, positives: _Links, num_passages: int) -> _Links:
    """The negatives of each example, sorted by it and in order of appearance, without its positives."""
    n = max(num_passages, 1)
    own = np.isin(negatives.row * n + negatives.passage, positives.row * n + positives.passage)
    found = negatives.where(~own).distinct(num_passages)
    order = np.argsort(found.row, kind="stable")
    return _Links(found.row[order], found.passage[order], found.score[order])


def _languages(columns: Columns, places: NDArray[np.int64], language: str | None) -> pa.StringArray:
    if columns.languages is None:
        return pa.array([language] * len(places), pa.string())
    found = columns.languages.take(pa.array(places))
    found = pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)
    return found if language is None else found.fill_null(language)


def _simhash(texts: pa.StringArray, fingerprint: Fingerprint | None) -> pa.Array:
    if fingerprint is None or not len(texts):
        return pa.nulls(len(texts), pa.uint64())
    prints = fingerprint(texts)
    if prints.dtype != np.uint64 or prints.shape != (len(texts),):
        raise ValueError(f"fingerprint gave {prints.dtype} {prints.shape}; expected uint64 ({len(texts)},)")
    return pa.array(prints)


def _examples(
    names: pa.StringArray, queries: pa.StringArray, languages: pa.StringArray, positives: _Links, ids: pa.StringArray,
    fingerprint: Fingerprint | None,
) -> pa.Table:  # fmt: skip
    type_ = rows.EXAMPLES.field("positives").type
    order = np.argsort(positives.row, kind="stable")
    grades = np.where(np.isnan(positives.score), DEFAULT_GRADE, positives.score)[order].astype(np.float32)
    links = pa.StructArray.from_arrays(
        [ids.take(pa.array(positives.passage[order])), pa.array(grades)], fields=list(type_.value_type)
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(positives.row, minlength=len(names)))])
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), links, type=type_)
    return pa.Table.from_arrays(
        [names, queries, languages, lists, _simhash(queries, fingerprint)], schema=rows.EXAMPLES
    )


def _passages(
    ids: pa.StringArray, sides: _Passages, used: NDArray[np.int64], fingerprint: Fingerprint | None
) -> pa.Table:
    at = pa.array(used)
    titles, texts = sides.titles.take(at), sides.texts.take(at)
    whole = texts if fingerprint is None else rows.whole_texts(titles, texts)
    return pa.Table.from_arrays([ids.take(at), titles, texts, _simhash(whole, fingerprint)], schema=rows.PASSAGES)


def _negatives(names: pa.StringArray, ids: pa.StringArray, links: _Links) -> pa.Table:
    counts = np.bincount(links.row, minlength=len(names))
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(links.row)) - starts[links.row] + 1
    arrays = [
        names.take(pa.array(links.row)),
        ids.take(pa.array(links.passage)),
        pa.array(rank, pa.int32()),
        pa.array(links.score.astype(np.float32), mask=np.isnan(links.score)),
        pa.repeat(pa.scalar(PROVIDED, pa.string()), len(links.row)),
    ]
    return pa.Table.from_arrays(arrays, schema=rows.NEGATIVES)


def _rejects(rejects: Sequence[Reject], file: str) -> pa.Table:
    arrays: list[pa.Array] = [
        pa.array([_storable(f"{file}/{reject.file}" if reject.file else file) for reject in rejects], pa.string()),
        pa.array([reject.line for reject in rejects], pa.int64()),
        pa.array([_storable(reject.reason) for reject in rejects], pa.string()),
        pa.array([_storable(reject.raw) for reject in rejects], pa.string()),
    ]
    return pa.Table.from_arrays(arrays, schema=rows.REJECTS)


def sample(batch: Batch, count: int) -> list[dict[str, Any]]:
    """The first examples of a batch with their texts, as they would be stored."""
    examples = batch.examples.slice(0, max(count, 0)).to_pylist()
    passages = batch.passages
    titles, bodies = (passages[name].combine_chunks() for name in ("title", "text"))
    ids = passages["passage_id"].to_pylist()
    texts = dict(zip(ids, rows.whole_texts(titles, bodies).to_pylist(), strict=True)) if examples else {}
    found = []
    for example in examples:
        own = batch.negatives.filter(pc.equal(batch.negatives["example_id"], example["example_id"]))
        found.append({
            "query": example["query"],
            "positives": [texts[p["passage_id"]] for p in example["positives"]],
            "negatives": [texts[p] for p in own["passage_id"].to_pylist()],
            "grades": [p["grade"] for p in example["positives"]],
            "language": example["language"],
        })  # fmt: skip
    return found


def _storable(text: str) -> str:
    """Half a surrogate pair cannot be written as UTF-8; in a record of damage a question mark is enough."""
    return text.encode("utf-8", "replace").decode("utf-8")
