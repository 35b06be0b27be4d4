"""`normalise_text` for whole columns: compiled, from Arrow's UTF-8 bytes to code points, on all cores.

The Unicode data come from Python's own `unicodedata` when they are first needed. A character's folded form is looked
up; the canonical composition of the whole (NFC, Unicode Standard Annex 15) is computed only for texts that the
annex's quick check (section 9) does not pass.

Shapes: N = 0x110000 code points.
"""

from __future__ import annotations

import unicodedata
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.engine import in_threads
from mixture.text.form import Column, Texts, folded, is_gap, text_columns
from mixture.text.kernels import compiled

GAP, WHITE, JOINS, SPLITS, DIGIT, DENSE = 1, 2, 4, 8, 16, 32
"""Bits of `Tables.kind`: becomes a space; is white space; can compose with what is before it; has a canonical
decomposition; is a digit; is an ideograph or kana, which carries more than a letter."""

_N = 0x110000
_LONGEST = 18  # code points in the longest folded form, U+FDFA's; its 3 bytes make 6 code points a byte
_HANGUL, _LEADS, _VOWELS, _TAILS = 0xAC00, 0x1100, 0x1161, 0x11A7
_PLAIN = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x2F800), (0x30000, 0xE0000), (0xF0000, _N))
"""Code points that fold to themselves, are no gap and take no part in the tables of pairs: not looked at one by one.
A character that a future Unicode puts there and that is not like this needs a change here; a test compares them."""

_PART_BYTES = 1 << 19  # bytes of text in one task


class Tables(NamedTuple):
    """What the kernels know about Unicode.

    target: (N,) uint32, the folded form, or N + 32 * place + length of one that is not one character. pool: (p,)
    uint32, those forms. kind: (N,) uint8, bits as above. order: (N,) uint8, canonical combining class. first, second,
    composed: (c,), pairs that compose, `pair` = first << 32 | second in ascending order, and into what. split: (s,)
    uint32, ascending, characters with a canonical decomposition; split_place and split_length say where it is in pool.
    """

    target: NDArray[np.uint32]
    pool: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    order: NDArray[np.uint8]
    pair: NDArray[np.uint64]
    composed: NDArray[np.uint32]
    split: NDArray[np.uint32]
    split_place: NDArray[np.int64]
    split_length: NDArray[np.int64]


def _special_codes() -> list[int]:
    """The code points outside of `_PLAIN`."""
    codes: list[int] = []
    start = 0
    for first, end in _PLAIN:
        codes.extend(range(start, first))
        start = end
    return codes


@cache
def tables() -> Tables:
    """The tables, made on first use (about 0.1 s)."""
    target = np.arange(_N, dtype=np.uint32)
    kind, order = np.zeros(_N, dtype=np.uint8), np.zeros(_N, dtype=np.uint8)
    pool: list[int] = []
    pairs: dict[int, int] = {}
    splits: dict[int, tuple[int, int]] = {}
    for code in _special_codes():
        char = chr(code)
        form = folded(code)
        if len(form) == 1:
            target[code] = ord(form)
        else:
            target[code] = _N + 32 * len(pool) + len(form)
            pool.extend(map(ord, form))
        order[code] = unicodedata.combining(char)
        kind[code] = GAP * is_gap(code) | WHITE * char.isspace() | DIGIT * char.isdecimal()
        parts = unicodedata.decomposition(char)
        if parts and parts[0] != "<":
            whole = unicodedata.normalize("NFD", char)
            splits[code] = (len(pool), len(whole))
            pool.extend(map(ord, whole))
            halves = [int(part, 16) for part in parts.split()]
            if len(halves) == 2 and unicodedata.normalize("NFC", char) == char:
                pairs[halves[0] << 32 | halves[1]] = code
    for pair in pairs:
        kind[pair & 0xFFFFFFFF] |= JOINS
    kind[_VOWELS : _VOWELS + 21] |= JOINS
    kind[_TAILS + 1 : _TAILS + 28] |= JOINS
    kind[list(splits)] |= SPLITS
    for first, end in ((0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000), (0x3040, 0x3100), (0x31F0, 0x3200)):
        kind[first:end] |= DENSE
    keys = sorted(pairs)
    split = sorted(splits)
    return Tables(
        target,
        np.array(pool, dtype=np.uint32),
        kind,
        order,
        np.array(keys, dtype=np.uint64),
        np.array([pairs[key] for key in keys], dtype=np.uint32),
        np.array(split, dtype=np.uint32),
        np.array([splits[code][0] for code in split], dtype=np.int64),
        np.array([splits[code][1] for code in split], dtype=np.int64),
    )


@compiled
def _decoded(data: NDArray[np.uint8], place: int, end: int) -> tuple[int, int]:
    """The code point at `place`, which is not ASCII, and its length in bytes; U+FFFD and 1 where it is no UTF-8."""
    lead = int(data[place])
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or place + length > end:
        return 0xFFFD, 1
    code = lead & (0x7F >> length)
    for offset in range(1, length):
        byte = int(data[place + offset])
        if byte & 0xC0 != 0x80:
            return 0xFFFD, 1
        code = code << 6 | (byte & 0x3F)
    return (code, length) if code < 0x110000 else (0xFFFD, 1)


@compiled
def _fold(data: NDArray[np.uint8], begin: int, end: int, t: Tables, out: NDArray[np.uint32]) -> tuple[int, bool]:
    """Write the folded characters of one text to `out`; how many, and whether they are already in NFC."""
    count, place, last, composed = 0, begin, 0, True
    while place < end:
        if data[place] < 0x80:
            out[count] = t.target[data[place]]
            count += 1
            place += 1
            last = 0
            continue
        code, length = _decoded(data, place, end)
        place += length
        start = count
        target = np.int64(t.target[code])
        if target < 0x110000:
            out[count] = target
            count += 1
        else:
            source, size = (target - 0x110000) >> 5, (target - 0x110000) & 31
            for offset in range(size):
                out[count] = t.pool[source + offset]
                count += 1
        for index in range(start, count):
            order = t.order[out[index]]
            if t.kind[out[index]] & JOINS or (order != 0 and order < last):
                composed = False
            last = order
    return count, composed


@compiled
def _decompose(codes: NDArray[np.uint32], count: int, t: Tables, out: NDArray[np.uint32]) -> int:
    """Write the canonical decomposition (NFD), in canonical order, to `out`; its length."""
    size = 0
    for index in range(count):
        code = np.int64(codes[index])
        start = size
        if 0xAC00 <= code < 0xD7A4:
            syllable = code - 0xAC00
            out[size] = 0x1100 + syllable // 588
            out[size + 1] = 0x1161 + syllable % 588 // 28
            out[size + 2] = 0x11A7 + syllable % 28
            size += 3 if syllable % 28 else 2
        elif t.kind[code] & SPLITS:
            row = np.searchsorted(t.split, np.uint32(code))
            for offset in range(t.split_length[row]):
                out[size] = t.pool[t.split_place[row] + offset]
                size += 1
        else:
            out[size] = code
            size += 1
        for place in range(start, size):
            current = out[place]
            order = t.order[current]
            before = place - 1
            while order and before >= 0 and t.order[out[before]] > order:
                out[before + 1] = out[before]
                before -= 1
            out[before + 1] = current
    return size


@compiled
def _pair(first: int, second: int, t: Tables) -> int:
    """What two characters compose into, or 0."""
    if 0x1100 <= first < 0x1113 and 0x1161 <= second < 0x1176:
        return 0xAC00 + ((first - 0x1100) * 21 + second - 0x1161) * 28
    if 0xAC00 <= first < 0xD7A4 and (first - 0xAC00) % 28 == 0 and 0x11A7 < second < 0x11C3:
        return first + second - 0x11A7
    if t.kind[second] & JOINS == 0:
        return 0
    key = np.uint64(first) << np.uint64(32) | np.uint64(second)
    row = np.searchsorted(t.pair, key)
    return int(t.composed[row]) if row < len(t.pair) and t.pair[row] == key else 0


@compiled
def _compose(codes: NDArray[np.uint32], count: int, t: Tables) -> int:
    """NFC of the first `count` codes, in their place; its length."""
    parts = np.empty(4 * count, dtype=np.uint32)
    size = _decompose(codes, count, t, parts)
    starter, length, last = -1, 0, 0
    for index in range(size):
        code = int(parts[index])
        order = int(t.order[code])
        if starter >= 0 and (length - 1 == starter or last < order):
            whole = _pair(np.int64(codes[starter]), code, t)
            if whole:
                codes[starter] = whole
                continue
        if order == 0:
            starter = length
        codes[length] = code
        length += 1
        last = order
    return length


@compiled
def normal_codes(data: NDArray[np.uint8], begin: int, end: int, t: Tables, out: NDArray[np.uint32]) -> int:
    """Write the normal form of the text data[begin:end] to `out` (room: 6 * (end - begin)); its length."""
    count, composed = _fold(data, begin, end, t, out)
    if not composed:
        count = _compose(out, count, t)
    gap = WHITE  # a text of nothing but gaps keeps its punctuation
    for index in range(count):
        if t.kind[out[index]] & GAP == 0:
            gap = GAP
            break
    length, after_gap = 0, True
    for index in range(count):  # without a branch: where words end cannot be predicted
        code = out[index]
        is_a_gap = t.kind[code] & gap != 0
        out[length] = 0x20 if is_a_gap else code
        length += not (is_a_gap and after_gap)
        after_gap = is_a_gap
    return length - (after_gap and length > 0)


@compiled
def _encode(codes: NDArray[np.uint32], count: int, out: NDArray[np.uint8], place: int) -> int:
    """Write the codes as UTF-8 to out[place:]; where it ends."""
    for index in range(count):
        code = codes[index]
        if code < 0x80:
            out[place] = code
            place += 1
            continue
        length = 2 if code < 0x800 else 3 if code < 0x10000 else 4
        for offset in range(length - 1, 0, -1):
            out[place + offset] = 0x80 | (code & 0x3F)
            code >>= 6
        out[place] = (0xF00 >> length) & 0xFF | code
        place += length
    return place


@compiled
def room(offsets: NDArray[np.int64]) -> int:
    """Code points that the normal form of any one of these texts can need."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    return 6 * longest


@compiled
def _normal_part(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], t: Tables, ends: NDArray[np.int64], out: NDArray[np.uint8]
) -> int:
    codes = np.empty(room(offsets), dtype=np.uint32)
    place = 0
    for row in range(len(offsets) - 1):
        count = normal_codes(data, offsets[row], offsets[row + 1], t, codes)
        place = _encode(codes, count, out, place)
        ends[row + 1] = place
    return place


def parts_of(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut n texts into runs of rows (first, end) of about `_PART_BYTES` bytes, at least one row each."""
    cuts = np.searchsorted(offsets, np.arange(offsets[0], offsets[-1], _PART_BYTES)[1:])
    edges = np.unique(np.concatenate([[0], cuts, [len(offsets) - 1]])).tolist()
    return list(pairwise(edges))


def _normal_array(column: Column, first: int, end: int) -> pa.Array:
    offsets, data = column
    rows = offsets[first : end + 1]
    ends = np.zeros(end - first + 1, dtype=np.int64)
    # U+FDFA is the worst: 33 bytes from 3. Memory that is not written to is not taken.
    out = np.empty(11 * int(rows[-1] - rows[0]), dtype=np.uint8)
    size = _normal_part(rows, data, tables(), ends, out)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(out[:size].copy())]
    return pa.Array.from_buffers(pa.large_string(), end - first, buffers)


def normalise_texts(texts: Texts) -> pa.ChunkedArray:
    """`normalise_text` of each text, as Arrow large strings in the same order.

    texts: a sequence of str or an Arrow string array (chunked or not); a null or another type is a UsageError. Bytes
    that are no UTF-8 count as U+FFFD each.

    >>> normalise_texts(["Who wrote “Hamlet”?", "ＷＨＯ"]).to_pylist()
    ['who wrote hamlet', 'who']
    """
    tasks = (
        partial(_normal_array, column, first, end)
        for column in text_columns(texts)
        for first, end in parts_of(column[0])
    )
    return pa.chunked_array(list(in_threads(tasks)), type=pa.large_string())
