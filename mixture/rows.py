"""What one training example is, how it gets its id, and the Arrow shape in which examples travel.

Ids are content hashes: the same text has the same id in every file, store and process, so that to ingest a file twice
changes nothing. An id is the first 20 hexadecimal digits (80 bits) of a SHA-256; among 10 million ids the chance of
one collision is about 4e-11.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ID_DIGITS = 20


@dataclass(frozen=True, slots=True)
class RawPassage:
    """A passage as a file has it. `score` is the file's own number for it (a teacher's score, a grade), if any."""

    text: str
    title: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class RawExample:
    """One row of a file, read but not yet normalised. `line` counts from 1 (for Parquet: the row).

    label: how well the positive answers the query, 0 for not at all, where the row says so; such rows become one
           example for each query (`mixture.ingest.labels`)
    rows:  how many rows of the file it was made of
    """

    line: int
    query: str
    positives: Sequence[RawPassage]
    negatives: Sequence[RawPassage] = ()
    language: str | None = None
    prompt: str | None = None
    label: float | None = None
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be read or has an empty side. `raw` is the start of it, as text.

    `file` is set where several files are read as one unit: its path within the unit. `rows` is how many rows of the
    file it stands for, where the reason is the same for all of them.
    """

    line: int
    reason: str
    raw: str = ""
    file: str | None = None
    rows: int = 1


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


def passage_messages(titles: pa.StringArray, texts: pa.StringArray) -> pa.StringArray:
    """What `passage_id` hashes, for whole columns: equal for equal (title, text) and only for those."""
    return pc.binary_join_element_wise("7:passage", _length(titles), ":", titles, _length(texts), ":", texts, "")


def example_ids(queries: pa.StringArray, offsets: NDArray[np.int64], passage_ids: pa.StringArray) -> pa.StringArray:
    """`example_id` for whole columns.

    queries: (n,); offsets: (n + 1,), where each row's positives begin and end in passage_ids, which are distinct
    and ascending within a row.
    """
    framed = pc.binary_join_element_wise(f"{ID_DIGITS}:", passage_ids, "")
    tails = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), framed), "")
    return content_ids(pc.binary_join_element_wise("7:example", _length(queries), ":", queries, tails, ""))


def content_ids(messages: pa.StringArray) -> pa.StringArray:
    """The id of each message."""
    data = memoryview(messages.buffers()[2] or b"")
    ends = np.frombuffer(messages.buffers()[1] or b"\0\0\0\0", np.int32)[messages.offset :].tolist()
    sha256 = hashlib.sha256
    pairs = itertools.pairwise(ends[: len(messages) + 1])
    digests = np.frombuffer(b"".join([sha256(data[start:end]).digest() for start, end in pairs]), np.uint8)
    digits = digests.reshape(-1, 32)[:, : ID_DIGITS // 2].tobytes().hex().encode()
    offsets = np.arange(len(messages) + 1, dtype=np.int32) * ID_DIGITS
    return pa.StringArray.from_buffers(len(messages), pa.py_buffer(offsets), pa.py_buffer(digits))


def joined(title: str, text: str) -> str:
    """Title and text of a passage as one text, as models and fingerprints read it."""
    return f"{title} {text}" if title else text


def whole_texts(titles: pa.StringArray, texts: pa.StringArray) -> pa.StringArray:
    """`joined` for whole columns, of string or large_string, in one piece or several.

    >>> whole_texts(pa.array(["Paris", "", None]), pa.array(["is a city", "no title", "none"])).to_pylist()
    ['Paris is a city', 'no title', 'none']
    """
    untitled = pc.fill_null(pc.equal(titles, ""), True)
    if pc.all(untitled).as_py():
        return texts
    return pc.if_else(untitled, texts, pc.binary_join_element_wise(titles, texts, pa.scalar(" ", titles.type)))


def _length(texts: pa.StringArray) -> pa.StringArray:
    return pc.binary_length(texts).cast(pa.string())


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
    """What one unit of ingest (a file, or a part of a large one) adds to a collection.

    rows_read: rows of the file; of these `refused` were refused, and `merged` went into an example of another row
    stand_for: how many rows of the file each reject stands for
    """

    examples: pa.Table
    passages: pa.Table
    negatives: pa.Table
    rejects: pa.Table
    rows_read: int
    prompts: tuple[str, ...] = field(default=())
    stand_for: tuple[int, ...] = ()
    merged: int = 0

    @property
    def refused(self) -> int:
        """Rows of the file that were refused."""
        return sum(self.stand_for)
