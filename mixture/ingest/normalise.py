"""Raw rows into Arrow batches: cleaned texts, content ids, every passage and example once, bad rows with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mixture import rows
from mixture.ingest.formats.damage import BadRow, start_of
from mixture.rows import Batch, RawExample, RawPassage, Reject

Fingerprint = Callable[[list[str]], np.ndarray]

PROVIDED = "provided"  # the miner of negatives that came with the file
DEFAULT_GRADE = 1.0
# A batch also ends here, whatever its rows: 50,000 rows with a hundred long negatives each would not fit a laptop.
# In UTF-8 it stays below the 2 GiB that one Arrow string array can hold.
MAX_BATCH_CHARS = 256 * 2**20


@dataclass(slots=True)
class _Example:
    query: str
    language: str | None
    grades: dict[str, float]  # by passage id, in file order
    negatives: dict[str, float | None] = field(default_factory=dict)  # scores by passage id, in file order


def build_batches(
    raw: Iterable[RawExample | Reject],
    *,
    file: str,
    language: str | None,
    fingerprint: Fingerprint | None,
    max_rows: int = 50_000,
) -> Iterator[Batch]:
    """Turn the rows of one file into batches of at most `max_rows` rows read (and `MAX_BATCH_CHARS` characters).

    `file` is written to the rejects; `language` holds where a row does not say its own. `fingerprint` (texts to a
    uint64 array of the same length) fills the simhash columns, which are null without it.

    Within a batch a passage and an example appear once; the negatives of equal examples are united, in the order of
    the file. Equal rows in different batches have equal ids, so the store sees that they are the same.

    Raises ValueError when `max_rows` is below 1 or `fingerprint` returns an array of another shape or type.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}; expected 1 or more")
    builder = _Builder(file, language)
    for row in raw:
        builder.add(row)
        if builder.rows_read >= max_rows or builder.chars >= MAX_BATCH_CHARS:
            yield builder.batch(fingerprint)
            builder = _Builder(file, language)
    if builder.rows_read:
        yield builder.batch(fingerprint)


class _Builder:
    """What one batch has so far."""

    def __init__(self, file: str, language: str | None) -> None:
        self._file = file
        self._language = language
        self._examples: dict[str, _Example] = {}
        self._passages: dict[str, tuple[str, str]] = {}
        self._rejects: list[Reject] = []
        self._prompts: dict[str, None] = {}
        self.rows_read = 0
        self.chars = 0

    def add(self, row: RawExample | Reject) -> None:
        self.rows_read += 1
        if isinstance(row, Reject):
            self._rejects.append(row)
            return
        try:
            self._add_example(row)
        except BadRow as bad:
            texts = map(rows.clean, (row.query, *(passage.text for passage in row.positives)))
            self._rejects.append(Reject(row.line, str(bad), start_of(next(filter(None, texts), ""))))

    def _add_example(self, row: RawExample) -> None:
        query = _cleaned(row.query, "query")
        if not query:
            raise BadRow("query is empty")
        if not row.positives:
            raise BadRow("no positives")
        positives = _identified(row.positives, "positive")
        if not positives:
            raise BadRow("positives are empty" if len(row.positives) > 1 else "positive is empty")
        negatives = _identified(row.negatives, "negative")
        prompt = None if row.prompt is None else _cleaned(row.prompt, "prompt")
        # Nothing may be kept of a row that is refused, so storing starts only here.
        example_id = rows.example_id(query, list(positives))
        example = self._examples.get(example_id)
        if example is None:
            grades = {key: DEFAULT_GRADE if score is None else score for key, (_, score) in positives.items()}
            example = self._examples[example_id] = _Example(query, row.language or self._language, grades)
            self.chars += len(query)
        if prompt:
            self._prompts[prompt] = None
        for key, (texts, score) in negatives.items():
            if key in positives:
                continue
            if example.negatives.get(key) is None:
                example.negatives[key] = score
            self._keep_passage(key, texts)
        for key, (texts, _) in positives.items():
            self._keep_passage(key, texts)

    def _keep_passage(self, key: str, texts: tuple[str, str]) -> None:
        if key not in self._passages:
            self._passages[key] = texts
            self.chars += len(texts[0]) + len(texts[1])

    def batch(self, fingerprint: Fingerprint | None) -> Batch:
        return Batch(
            examples=_examples_table(self._examples, fingerprint),
            passages=_passages_table(self._passages, fingerprint),
            negatives=_negatives_table(self._examples),
            rejects=_rejects_table(self._rejects, self._file),
            rows_read=self.rows_read,
            prompts=tuple(self._prompts),
        )


def _cleaned(text: str, side: str) -> str:
    cleaned = rows.clean(text)
    try:
        cleaned.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise BadRow(f"{side} is not valid Unicode: \\u{half:04x} is half of a surrogate pair") from None
    return cleaned


def _identified(passages: Sequence[RawPassage], side: str) -> dict[str, tuple[tuple[str, str], float | None]]:
    """Cleaned (title, text) and score by passage id; those without text are dropped, of equal ones the first stays."""
    found: dict[str, tuple[tuple[str, str], float | None]] = {}
    for passage in passages:
        text = _cleaned(passage.text, side)
        if text:
            title = _cleaned(passage.title, f"title of a {side}")
            found.setdefault(rows.passage_id(title, text), ((title, text), passage.score))
    return found


def _simhash(texts: list[str], fingerprint: Fingerprint | None) -> pa.Array:
    if fingerprint is None or not texts:
        return pa.nulls(len(texts), pa.uint64())
    prints = fingerprint(texts)
    if prints.dtype != np.uint64 or prints.shape != (len(texts),):
        raise ValueError(f"fingerprint gave {prints.dtype} {prints.shape}; expected uint64 ({len(texts)},)")
    return pa.array(prints)


def _examples_table(examples: dict[str, _Example], fingerprint: Fingerprint | None) -> pa.Table:
    values = list(examples.values())
    queries = [example.query for example in values]
    counts = np.array([len(example.grades) for example in values], dtype=np.int32)
    type_ = rows.EXAMPLES.field("positives").type
    positives = pa.StructArray.from_arrays(
        [
            pa.array([key for example in values for key in example.grades], pa.string()),
            pa.array([grade for example in values for grade in example.grades.values()], pa.float32()),
        ],
        fields=list(type_.value_type),
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    arrays: list[pa.Array] = [
        pa.array(list(examples), pa.string()),
        pa.array(queries, pa.string()),
        pa.array([example.language for example in values], pa.string()),
        pa.ListArray.from_arrays(offsets, positives, type=type_),
        _simhash(queries, fingerprint),
    ]
    return pa.Table.from_arrays(arrays, schema=rows.EXAMPLES)


def _passages_table(passages: dict[str, tuple[str, str]], fingerprint: Fingerprint | None) -> pa.Table:
    titles = [title for title, _ in passages.values()]
    texts = [text for _, text in passages.values()]
    # The list is only built when it is used: it is a second copy of all the text.
    whole = [f"{title} {text}" if title else text for title, text in passages.values()] if fingerprint else texts
    arrays: list[pa.Array] = [
        pa.array(list(passages), pa.string()),
        pa.array(titles, pa.string()),
        pa.array(texts, pa.string()),
        _simhash(whole, fingerprint),
    ]
    return pa.Table.from_arrays(arrays, schema=rows.PASSAGES)


def _negatives_table(examples: dict[str, _Example]) -> pa.Table:
    found = [
        (example_id, passage_id, rank, score)
        for example_id, example in examples.items()
        for rank, (passage_id, score) in enumerate(example.negatives.items(), start=1)
    ]
    example_ids, passage_ids, ranks, scores = zip(*found, strict=True) if found else ((), (), (), ())
    arrays: list[pa.Array] = [
        pa.array(example_ids, pa.string()),
        pa.array(passage_ids, pa.string()),
        pa.array(ranks, pa.int32()),
        pa.array(scores, pa.float32()),
        pa.array([PROVIDED] * len(found), pa.string()),
    ]
    return pa.Table.from_arrays(arrays, schema=rows.NEGATIVES)


def _rejects_table(rejects: Sequence[Reject], file: str) -> pa.Table:
    arrays: list[pa.Array] = [
        pa.array([_storable(file)] * len(rejects), pa.string()),
        pa.array([reject.line for reject in rejects], pa.int64()),
        pa.array([_storable(reject.reason) for reject in rejects], pa.string()),
        pa.array([_storable(reject.raw) for reject in rejects], pa.string()),
    ]
    return pa.Table.from_arrays(arrays, schema=rows.REJECTS)


def _storable(text: str) -> str:
    """Half a surrogate pair cannot be written as UTF-8; in a record of damage a question mark is enough."""
    return text.encode("utf-8", "replace").decode("utf-8")
