"""Texts as deduplication sees them: one normal form, and the columns they come in.

The normal form needs no word splitter, so it serves Chinese and Thai as it serves English. This module says what it
is, one text at a time; `mixture.text.columns` computes the same for whole columns.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.errors import UsageError

Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
Column: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""n texts as Arrow keeps them: offsets, shape (n + 1,), and the UTF-8 bytes that they point into."""


def folded(code: int) -> str:
    """One character in NFKC and case folded; nothing for one that cannot be seen.

    Invisible are Unicode's format characters (Cf: zero-width space and joiners, direction marks, soft hyphen, byte
    order mark) and the variation selectors, as in Unicode's NFKC_Casefold. Half a surrogate pair is U+FFFD.
    """
    char = chr(code)
    if 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or unicodedata.category(char) == "Cf":
        return ""
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    last, form = "", unicodedata.normalize("NFKC", char)
    while form != last:  # case folding can undo NFKC (U+0345 and kin)
        last, form = form, unicodedata.normalize("NFKC", form.casefold())
    return form


def is_gap(code: int) -> bool:
    """True for punctuation, white space and control characters, which the normal form turns into spaces.

    ASCII goes by the C locale, which calls `$+<=>^`|~` punctuation too; beyond ASCII the categories P, Z and Cc
    decide, so emoji, currency and mathematical signs stay.
    """
    char = chr(code)
    category = unicodedata.category(char)
    return char in string.punctuation or category[0] in "PZ" or category == "Cc"


class _Folded(dict[int, str]):
    """`folded` as a translation table, filled on use."""

    def __missing__(self, code: int) -> str:
        self[code] = folded(code)
        return self[code]


class _Gaps(dict[int, int]):
    """Translation table that turns the characters of `is_gap` into a space. Filled on use."""

    def __missing__(self, code: int) -> int:
        self[code] = 0x20 if is_gap(code) else code
        return self[code]


_FOLDED, _GAPS = _Folded(), _Gaps()


def normalise_text(text: str) -> str:
    """The form in which two texts are compared.

    Each character by itself is put into NFKC and case folded (invisible ones fall away), the whole into NFC, and runs
    of punctuation and white space become one space. A text of nothing but punctuation keeps it (otherwise all such
    texts would be equal). The result can depend on Python's Unicode version only for characters that the older
    version does not know.

    >>> normalise_text("  Who wrote_“Ｈａｍｌｅｔ”?! ")
    'who wrote hamlet'
    >>> normalise_text("《战国无双3》是？")
    '战国无双3 是'
    >>> normalise_text(" ?! ")
    '?!'
    """
    if text.isascii():
        form = text.lower()
    else:
        form = unicodedata.normalize("NFC", text.translate(_FOLDED))
    return " ".join(form.translate(_GAPS).split()) or " ".join(form.split())


def check_arrow(texts: pa.Array | pa.ChunkedArray, what: str) -> None:
    """Raise a `UsageError` for an Arrow column that has nulls or holds no strings."""
    kind = texts.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not is_text and len(texts):  # pa.array([]) has the type null
        raise UsageError(f"{what}: expected an Arrow string array, got {kind}")
    if texts.null_count:
        raise UsageError(f"{what}: {texts.null_count} of {len(texts)} are null; leave these rows out first")


def text_list(texts: Texts, *, what: str = "texts") -> list[str]:
    """A sequence of str, or an Arrow string array, as a list; a null or anything else is a UsageError."""
    if isinstance(texts, str):
        raise UsageError(f"{what}: expected a sequence of str, got one str")
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        check_arrow(texts, what)
        return cast(list[str], texts.to_pylist())
    values = list(texts)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise UsageError(f"{what}: row {row} is {type(value).__name__}, not str")
    return values


def _buffers(array: Any) -> Column:
    """The offsets and bytes of an Arrow (large) string or binary array, without a copy of the bytes."""
    if not len(array):
        return np.zeros(1, dtype=np.int64), np.frombuffer(b"", dtype=np.uint8)
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    _, offsets, data = array.buffers()
    every = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)
    chosen = every[array.offset : array.offset + len(array) + 1].astype(np.int64)
    # All views read-only, so that kernels are compiled for one kind of array.
    return chosen, np.frombuffer(memoryview(data or b"").toreadonly(), dtype=np.uint8)


def text_columns(texts: Texts, *, what: str = "texts") -> Iterator[Column]:
    """The texts' buffers, one pair for each chunk of an Arrow array; a null or what is no text is a UsageError."""
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        check_arrow(texts, what)
        for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
            kept = pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type)
            yield _buffers(chunk if kept else chunk.cast(pa.large_string()))
        return
    values = text_list(texts, what=what)
    try:
        yield _buffers(pa.array(values, pa.large_string()))
    except UnicodeEncodeError:  # halves of surrogate pairs, which Python allows in a str
        yield _buffers(pa.array([value.encode("utf-8", "surrogatepass") for value in values], pa.large_binary()))


def one_column(texts: Texts, *, what: str = "texts") -> Column:
    """All texts as one pair of buffers, for access by row; several chunks are copied together."""
    columns = list(text_columns(texts, what=what))
    if len(columns) == 1:
        return columns[0]
    offsets, data, end = [np.zeros(1, dtype=np.int64)], [np.empty(0, dtype=np.uint8)], 0
    for starts, payload in columns:
        data.append(payload[starts[0] : starts[-1]])
        offsets.append(starts[1:] - starts[0] + end)
        end += int(starts[-1] - starts[0])
    joined = np.concatenate(data)
    joined.flags.writeable = False
    return np.concatenate(offsets), joined
