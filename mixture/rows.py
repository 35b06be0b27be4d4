"""What one training example is, how it gets its id, and the Arrow shape in which examples travel.

Ids are content hashes: the same text has the same id in every file, store and process, so that to ingest a file twice
changes nothing. An id is the first 20 hexadecimal digits (80 bits) of a SHA-256; among 10 million ids the chance of
one collision is about 4e-11.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

ID_DIGITS = 20


@dataclass(frozen=True, slots=True)
class RawPassage:
    """A passage as a file has it. `score` is the file's own number for it (a teacher's score, a grade), if any."""

    text: str
    title: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class RawExample:
    """One row of a file, read but not yet normalised. `line` counts from 1 (for Parquet: the row)."""

    line: int
    query: str
    positives: Sequence[RawPassage]
    negatives: Sequence[RawPassage] = ()
    language: str | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be read or has an empty side. `raw` is the start of it, as text."""

    line: int
    reason: str
    raw: str = ""


def clean(text: str) -> str:
    """NFC, no surrounding white space (a byte order mark counts as white space)."""
    return unicodedata.normalize("NFC", text).strip().strip("\ufeff").strip()


def content_id(*parts: str) -> str:
    """The id of a tuple of strings; each part's length goes in, so ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:ID_DIGITS]


def passage_id(title: str, text: str) -> str:
    """Id of a passage from its cleaned title and text."""
    return content_id("passage", title, text)


def example_id(query: str, positive_ids: Sequence[str]) -> str:
    """Id of an example from its cleaned query and the ids of its positives, whatever their order."""
    return content_id("example", query, *sorted(set(positive_ids)))


# Columns of the large tables, without `collection`, which the store adds.
EXAMPLES = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("positives", pa.list_(pa.struct([("passage_id", pa.string()), ("grade", pa.float32())]))),
        pa.field("simhash", pa.uint64()),
    ]
)
PASSAGES = pa.schema(
    [
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("simhash", pa.uint64()),
    ]
)
NEGATIVES = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("miner", pa.string(), nullable=False),
    ]
)
REJECTS = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string()),
    ]
)


@dataclass(frozen=True)
class Batch:
    """What one unit of ingest (a file, or a part of a large one) adds to a collection."""

    examples: pa.Table
    passages: pa.Table
    negatives: pa.Table
    rejects: pa.Table
    rows_read: int
    prompts: tuple[str, ...] = field(default=())
