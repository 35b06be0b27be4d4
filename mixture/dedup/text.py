"""Texts as deduplication sees them: one normal form, and the columns they come in.

The normal form needs no word splitter, so it serves Chinese and Thai as it serves English.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias, cast

import pyarrow as pa

from mixture.errors import UsageError

Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


class _Drop(dict[int, int | None]):
    """Translation table that drops invisible format characters (Unicode Cf: zero-width space and joiners, direction
    marks, soft hyphen, byte order mark) and the variation selectors, as Unicode's NFKC_Casefold does. Filled on use."""

    def __missing__(self, code: int) -> int | None:
        drop = 0xFE00 <= code <= 0xFE0F or unicodedata.category(chr(code)) == "Cf"
        self[code] = None if drop else code
        return self[code]


class _Fold(dict[int, int]):
    """Translation table that turns punctuation, white space and control characters into a space. Filled on use.

    ASCII goes by the C locale, which calls `$+<=>^`|~` punctuation too; beyond ASCII the categories P, Z and Cc
    decide, so emoji, currency and mathematical signs stay.
    """

    def __missing__(self, code: int) -> int:
        char = chr(code)
        category = unicodedata.category(char)
        self[code] = 0x20 if char in string.punctuation or category[0] in "PZ" or category == "Cc" else code
        return self[code]


_DROP, _FOLD = _Drop(), _Fold()


def normalise_text(text: str) -> str:
    """The form in which two texts are compared: NFKC, case folded, punctuation and white-space runs one space.

    A text of nothing but punctuation keeps it (otherwise all such texts would be equal). The result can depend on
    Python's Unicode version only for characters that the older version does not know.

    >>> normalise_text("  Who wrote_“Ｈａｍｌｅｔ”?! ")
    'who wrote hamlet'
    >>> normalise_text("《战国无双3》是？")
    '战国无双3 是'
    >>> normalise_text(" ?! ")
    '?!'
    """
    if text.isascii():
        folded = text.lower()
    else:
        # Case folding can undo NFKC (U+0345 and kin), so NFKC runs again after it.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.translate(_DROP)).casefold())
    return " ".join(folded.translate(_FOLD).split()) or " ".join(folded.split())


def text_list(texts: Texts, *, what: str = "texts") -> list[str]:
    """A sequence of str, or an Arrow string array, as a list; a null or anything else is a UsageError."""
    if isinstance(texts, str):
        raise UsageError(f"{what}: expected a sequence of str, got one str")
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        kind = texts.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not is_text and len(texts):  # pa.array([]) has the type null
            raise UsageError(f"{what}: expected an Arrow string array, got {kind}")
        if texts.null_count:
            raise UsageError(f"{what}: {texts.null_count} of {len(texts)} are null; leave these rows out first")
        return cast(list[str], texts.to_pylist())
    values = list(texts)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise UsageError(f"{what}: row {row} is {type(value).__name__}, not str")
    return values
