"""JSON lines by the chunk: parsed as columns by Arrow, on all cores; only what Arrow refuses is read line by line.

What comes out is the same either way (a test compares the two). A chunk that does not parse is halved until the damaged
lines are alone.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from mixture.engine import in_order
from mixture.ingest.columns import Columns
from mixture.ingest.damage import BadRow, StreamDamaged, start_of
from mixture.ingest.formats import jsonl
from mixture.ingest.lines import BYTE_ORDER_MARK, blocks
from mixture.ingest.reading import Reading
from mixture.ingest.shapes import LIST_NAME, LIST_SHAPE, LIST_SIDES, Shape, Sides, shape_of
from mixture.ingest.tables import NotColumns, columns_of
from mixture.ingest.unpack import packing
from mixture.rows import RawExample, Reject
from mixture.text.kernels import compiled

Item = Columns | RawExample | Reject

CHUNK_BYTES = 64 * 2**20
FEW_LINES = 32  # fewer are read one by one rather than halved again
SAMPLE_LINES = 100
MAX_KEYS = 200  # of lines with more, whose keys are data, each is read by itself
THREADS = 1  # beside the one that stores: more would only hold more chunks in memory


@dataclass(frozen=True)
class _Layout:
    """How the lines of a file are turned into columns.

    keys: those that change no row; None for lines that are lists
    """

    shape: Shape
    sides: Sides
    schema: pa.Schema
    keys: _Keys | None = None


class _Keys:
    """Which keys of later lines change nothing about how they are read: those of the sampled lines (inside passages,
    too), those that the schema has anyway, and others that mean nothing beside them.

    watched: those that stand only inside passages so far, and that would make another row of a line as its own
    """

    def __init__(self, sample: bytes, shape: Shape, names: Sequence[str], wanted: Collection[str]) -> None:
        self._shape, self._names, self._wanted = shape, tuple(names), wanted
        found = dict(_new_keys(sample, len(sample), np.zeros(0, np.uint64)))
        self._hashes = np.array(list(found.values()), np.uint64)
        self.watched = tuple(n for n in found if n not in wanted and n not in self._names and self._changes(n))

    def check(self, data: bytes, end: int) -> None:
        """Raise ArrowInvalid for a key that would change how its line is read."""
        for name, key in _new_keys(data, end, self._hashes):
            if len(self._hashes) > MAX_KEYS or (name not in self._wanted and self._changes(name)):
                raise pa.ArrowInvalid(f"a key that no line before had: {name}")
            self._names, self._hashes = (*self._names, name), np.append(self._hashes, key)

    def _changes(self, name: str) -> bool:
        try:
            found = shape_of((*self._names, name), "key")
        except BadRow:
            return True
        return (found.roles, found.sides) != (self._shape.roles, self._shape.sides)


@dataclass(frozen=True)
class _Chunk:
    """Whole lines of a file: the number of the first, how many there are, how many begin as the first does, and the
    bytes up to `end`."""

    number: int
    lines: int
    alike: int
    data: bytes
    end: int

    @property
    def whole(self) -> bytes:
        return self.data[: self.end]


def read(path: Path, reading: Reading) -> Iterator[Item]:
    """The rows of a JSON lines file, as columns where that is possible, in the order of the file but for rows that
    were read one by one, which follow their chunk.

    Raises StreamDamaged when the packed data is cut or damaged, after all that could be read.
    """
    chunks = _chunks(path)
    first = next(chunks, None)
    if first is None:
        return
    layout = None if isinstance(first, StreamDamaged) else _layout(first.data, reading)

    def parse(chunk: _Chunk | StreamDamaged) -> list[Item] | StreamDamaged:
        return chunk if isinstance(chunk, StreamDamaged) else list(_items(chunk, layout, reading))

    for items in in_order(parse, itertools.chain([first], chunks), THREADS):
        if isinstance(items, StreamDamaged):
            raise items
        yield from items


def _chunks(path: Path) -> Iterator[_Chunk | StreamDamaged]:
    """The file in pieces; last the damage, if there is any, with the line it fell on."""
    number = 1
    damage: list[StreamDamaged] = []
    for data, end in _packed(path, damage) if _is_packed(path) else _plain(path):
        if number == 1:
            data, end = (
                data.removeprefix(BYTE_ORDER_MARK),
                end - len(BYTE_ORDER_MARK) * data.startswith(BYTE_ORDER_MARK),
            )
        if damage:
            yield StreamDamaged(damage[0].reason, number, start_of(data))
        elif end:
            chunk = _chunk(number, data, end)
            yield chunk
            number += chunk.lines


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return packing(file.read(16)) is not None


def _plain(path: Path) -> Iterator[tuple[bytes, int]]:
    """Pieces of a file and where their last whole line ends. What follows is read again, which beats joining it."""
    with path.open("rb") as file:
        start, size = 0, CHUNK_BYTES
        while data := file.read(size):
            end = data.rfind(b"\n") + 1 if len(data) == size else len(data)
            if not end:  # one line that is longer
                size *= 2
            else:
                yield data, end
                start, size = start + end, CHUNK_BYTES
            file.seek(start)


def _packed(path: Path, damage: list[StreamDamaged]) -> Iterator[tuple[bytes, int]]:
    """The same of a packed file. Where it is damaged, `damage` is filled, and the rest of the last line comes last."""
    parts: list[bytes] = []
    size = 0
    try:
        for block in blocks(path):
            parts.append(block)
            size += len(block)
            if size >= CHUNK_BYTES and (end := block.rfind(b"\n") + 1):
                yield b"".join(parts), size - len(block) + end
                parts, size = [block[end:]], len(block) - end
    except StreamDamaged as found:
        data = b"".join(parts)
        end = data.rfind(b"\n") + 1
        if end:
            yield data, end
        damage.append(found)
        yield data[end:], 0
        return
    if size:
        yield b"".join(parts), size


def _chunk(number: int, data: bytes, end: int) -> _Chunk:
    newlines, alike = _newlines(np.frombuffer(data, np.uint8, end), data[0])
    return _Chunk(number, newlines + (not data.endswith(b"\n", 0, end)), alike + 1, data, end)


def _new_keys(data: bytes, end: int, known: NDArray[np.uint64]) -> Iterator[tuple[str, np.uint64]]:
    """The keys in JSON whose hashes are not known, each once, with its hash."""
    view, place = np.frombuffer(data, np.uint8, end), 0
    while True:
        start, place, key = _new_key(view, known, place)
        if place < 0:
            return
        known = np.append(known, np.uint64(key))
        yield data[start:place].decode("utf-8", "replace"), np.uint64(key)


@compiled
def _new_key(data: NDArray[np.uint8], known: NDArray[np.uint64], place: int) -> tuple[int, int, np.uint64]:
    """Where the first key from a place on begins and ends that is not known, and its FNV-1a hash; -1 for none. A key is
    what stands in quotes before a colon."""
    for colon in range(place, len(data)):
        if data[colon] != 58:
            continue
        end = colon - 1
        while end > 0 and data[end] == 32:
            end -= 1
        if end < 1 or data[end] != 34 or data[end - 1] == 92:  # a quote within a text has a backslash
            continue
        start, key = end, np.uint64(14695981039346656037)
        while start > 0 and data[start - 1] != 34:
            start -= 1
            key = (key ^ np.uint64(data[start])) * np.uint64(1099511628211)
        if not (known == key).any():
            return start, end, key
    return -1, -1, np.uint64(0)


@compiled
def _newlines(data: NDArray[np.uint8], following: int) -> tuple[int, int]:
    """How many line feeds there are, and after how many of them this byte follows."""
    found = before = 0
    for place in range(len(data) - 1):
        feed = data[place] == 10
        found += feed
        before += feed & (data[place + 1] == following)
    return found + (len(data) > 0 and data[-1] == 10), before


def _items(chunk: _Chunk, layout: _Layout | None, reading: Reading) -> Iterator[Item]:
    """Rows of whole lines: columns, or halves of them, or one by one."""
    if layout is None or chunk.lines <= FEW_LINES:
        yield from _one_by_one(chunk, reading)
        return
    try:
        columns, doubtful = columns_of(_parsed(chunk, layout), layout.sides, chunk.number)
    except (pa.ArrowException, NotColumns):
        halves = _halves(chunk)
        for half in halves:
            yield from _items(half, layout, reading) if len(halves) > 1 else _one_by_one(half, reading)
        return
    if len(columns):
        yield columns
    if len(doubtful):
        each = chunk.whole.split(b"\n")
        for index in doubtful.tolist():
            yield _one(each[index].removesuffix(b"\r"), chunk.number + index, reading)


def _halves(chunk: _Chunk) -> list[_Chunk]:
    """The chunk in two, at the end of a line near its middle; the chunk itself when it is one line."""
    data, half = chunk.whole, chunk.end // 2
    middle = data.find(b"\n", half) + 1
    if not 0 < middle < len(data):
        middle = data.rfind(b"\n", 0, half) + 1
    if not 0 < middle < len(data):
        return [chunk]
    first = _chunk(chunk.number, data[:middle], middle)
    return [first, _chunk(chunk.number + first.lines, data[middle:], len(data) - middle)]


def _parsed(chunk: _Chunk, layout: _Layout) -> pa.RecordBatch:
    opening = b"[" if layout.shape is LIST_SHAPE else b"{"
    if not chunk.data.startswith(opening) or chunk.alike != chunk.lines:
        raise pa.ArrowInvalid("a line that is no object")  # Arrow does not survive a line that is null
    if layout.keys is not None:
        layout.keys.check(chunk.data, chunk.end)
    data = memoryview(chunk.data)[: chunk.end]
    if layout.shape is LIST_SHAPE:
        start, between = b'{"%s":' % LIST_NAME.encode(), b'}\n{"%s":' % LIST_NAME.encode()
        data = memoryview(start + chunk.whole.removesuffix(b"\n").replace(b"\n", between) + b"}")
    table = pa.json.read_json(
        pa.BufferReader(pa.py_buffer(data)),
        # One block: lines are long and blocks would be parsed one after the other on one thread anyway.
        read_options=pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pa.json.ParseOptions(explicit_schema=layout.schema, unexpected_field_behavior="ignore"),
    )
    if table.num_rows != chunk.lines:
        raise pa.ArrowInvalid("an empty line, or two values on one")
    watched = layout.keys.watched if layout.keys is not None else ()
    if late := [name for name in watched if table[name].null_count < table.num_rows]:
        raise pa.ArrowInvalid(f"keys that only passages had: {', '.join(late)}")
    table = table.drop_columns(list(watched))
    table.validate(full=True)  # bytes that are not UTF-8 pass the parser
    (batch,) = table.combine_chunks().to_batches()
    return batch


def _one_by_one(chunk: _Chunk, reading: Reading) -> Iterator[RawExample | Reject]:
    for index, line in enumerate(chunk.whole.split(b"\n")[: chunk.lines]):
        yield _one(line.removesuffix(b"\r"), chunk.number + index, reading)


def _one(line: bytes, number: int, reading: Reading) -> RawExample | Reject:
    try:
        return jsonl.example(line, number, reading)
    except BadRow as bad:
        return Reject(number, str(bad), start_of(line))


def _layout(data: bytes, reading: Reading) -> _Layout | None:
    """The layout of the first lines; None when they are of no shape, of several, or of one that is read row by row."""
    values = []
    lines = data.split(b"\n", SAMPLE_LINES)[:SAMPLE_LINES]
    for line in lines:
        try:
            jsonl.example(line, 1, reading)
            values.append(json.loads(line))
        except BadRow:
            continue
    if not values:
        return None
    if all(isinstance(value, list) for value in values):
        return _Layout(LIST_SHAPE, LIST_SIDES, pa.schema([(LIST_NAME, pa.list_(pa.string()))]))
    if not all(isinstance(value, dict) for value in values):
        return None
    names = dict.fromkeys(name for value in values for name in value)
    try:
        shape = reading.shape(tuple(names), "key")
    except BadRow:
        return None
    if (sides := shape.sides) is None:
        return None
    # A later line may have a key that no sampled line has: the optional ones are always looked for.
    wanted = dict.fromkeys((*shape.names, *sides.negatives, *sides.scores.values(), "language", "lang"))
    keys = _Keys(b"\n".join(lines), shape, tuple(names), wanted)
    fields = [(name, _type(name, sides, values)) for name in wanted] + [(name, pa.string()) for name in keys.watched]
    return _Layout(shape, sides, pa.schema(fields), keys)


def _type(name: str, sides: Sides, values: list[dict[str, Any]]) -> pa.DataType:
    if name in sides.scores.values():
        return pa.list_(pa.float64())
    for value in (found for row in values if (found := row.get(name)) not in (None, [])):
        if isinstance(value, list) and isinstance(value[0], dict):
            return PASSAGES
        if isinstance(value, list):
            return pa.list_(pa.string())
        return pa.string()
    if name == "negative_passages":
        return PASSAGES
    return pa.list_(pa.string()) if name in sides.negatives else pa.string()


PASSAGES = pa.list_(pa.struct([("title", pa.string()), ("text", pa.string()), ("score", pa.float64())]))
