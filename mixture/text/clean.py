"""`rows.clean` for whole Arrow columns: a compiled look at every text, and Python only for those that need a change."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture import rows
from mixture.text.form import one_column
from mixture.text.kernels import compiled

# Above this no table is kept: such characters (rare ideographs, mostly) are looked at in Python.
TABLE_SIZE = 0x20000
SPACE, LOOK = np.uint8(254), np.uint8(255)


def cleaned(texts: pa.StringArray) -> pa.StringArray:
    """Every text as `rows.clean` gives it, NFC and trimmed; nulls become empty.

    texts: string array of (n,), valid UTF-8, less than 2 GiB; where nothing is to be changed the same array comes back.
    """
    if texts.null_count:
        texts = texts.fill_null("")
    offsets, data = one_column(texts)
    doubtful = np.flatnonzero(_doubtful(offsets, data, _table()))
    if not len(doubtful):
        return texts
    old = texts.take(pa.array(doubtful)).to_pylist()
    new = [rows.clean(text) for text in old]
    changed = np.array([a != b for a, b in zip(old, new, strict=True)])
    if not changed.any():
        return texts
    where = np.arange(len(texts), dtype=np.int64)
    where[doubtful[changed]] = len(texts) + np.arange(changed.sum())
    fresh = pa.array([text for text, other in zip(new, changed, strict=True) if other], pa.string())
    return pa.concat_arrays([texts, fresh]).take(pa.array(where))


@functools.cache
def _table() -> NDArray[np.uint8]:
    """For each code point its canonical combining class, or LOOK where it may change under NFC, or SPACE."""
    table = np.zeros(TABLE_SIZE, np.uint8)
    for code in range(TABLE_SIZE):
        character = chr(code)
        if character.isspace() or character == "\ufeff":
            table[code] = SPACE
        elif 0xD800 <= code <= 0xDFFF or unicodedata.normalize("NFC", character) != character:
            table[code] = LOOK
        else:
            table[code] = unicodedata.combining(character)
    for code in range(TABLE_SIZE):
        parts = unicodedata.decomposition(chr(code)).split()
        # The second half of a canonical pair may join the character before it.
        if len(parts) == 2 and not parts[0].startswith("<"):
            table[int(parts[1], 16)] = LOOK
    table[0x1161:0x1176] = LOOK  # Hangul vowels and finals join by rule, not by table
    table[0x11A7:0x11C3] = LOOK
    return table


@compiled
def _doubtful(offsets: NDArray[np.int64], data: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Texts that may not be NFC (quick check of Unicode annex 15, section 9) or begin or end with white space."""
    found = np.zeros(len(offsets) - 1, np.bool_)
    for index in range(len(found)):
        place, end = offsets[index], offsets[index + 1]
        last = np.uint8(0)
        first = True
        while place < end:
            byte = data[place]
            if byte < 0x80:
                # Most of most texts: nothing but a space at one of the ends can be wrong here.
                start = place
                while place < end and data[place] < 0x80:
                    place += 1
                if (first and table[data[start]] == SPACE) or (place == end and table[data[end - 1]] == SPACE):
                    found[index] = True
                    break
                last, first = np.uint8(0), False
                continue
            if byte < 0xE0:
                code, width = np.uint32(byte & 0x1F) << 6 | np.uint32(data[place + 1] & 0x3F), 2
            elif byte < 0xF0:
                code = np.uint32(byte & 0x0F) << 12 | np.uint32(data[place + 1] & 0x3F) << 6
                code, width = code | np.uint32(data[place + 2] & 0x3F), 3
            else:
                code, width = np.uint32(TABLE_SIZE), 4
                if byte == 0xF0 and data[place + 1] < 0xA0:  # below U+20000: emoji, historic scripts
                    code = np.uint32(data[place + 1] & 0x3F) << 12 | np.uint32(data[place + 2] & 0x3F) << 6
                    code = code | np.uint32(data[place + 3] & 0x3F)
            place += width
            kind = table[code] if code < TABLE_SIZE else LOOK
            if kind == SPACE:
                if first or place == end:
                    found[index] = True
                    break
                kind = np.uint8(0)
            if kind == LOOK or (kind != 0 and kind < last):
                found[index] = True
                break
            last, first = kind, False
    return found
