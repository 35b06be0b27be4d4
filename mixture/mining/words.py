"""What BM25 counts: words of scripts with spaces, pairs of characters of scripts without.

`tokenize` says what the tokens are, one text at a time; `Vocabulary` numbers those of whole columns, compiled. It tells
tokens apart by 64-bit hashes of their characters: among 10 million different ones the chance that any two have one
hash is about 3e-6.
"""

from __future__ import annotations

import re
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from mixture.dedup.simhash import chained
from mixture.engine import in_threads
from mixture.text.columns import Tables, normal_codes, parts_of, room, tables
from mixture.text.form import Column, Texts, normalise_text, text_columns
from mixture.text.hashtable import hash_table, slot_of
from mixture.text.kernels import compiled

# Han (with its iteration marks), kana, bopomofo, Thai, Lao, Burmese, Khmer. Tibetan is not among them: it divides
# syllables by a mark that counts as punctuation.
_UNSPACED = (
    (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3100, 0x312F), (0x31A0, 0x31BF),
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0xAA60, 0xAA7F), (0xA9E0, 0xA9FF), (0x1780, 0x17FF),
)  # fmt: skip
_RUN = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED) + "]+")


def tokenize(text: str) -> list[str]:
    """Words of spaced scripts, overlapping character pairs of unspaced ones (a lone character is one token).

    >>> tokenize("Who wrote 红楼梦?")
    ['who', 'wrote', '红楼', '楼梦']
    """
    tokens: list[str] = []
    for word in normalise_text(text).split():
        place = 0
        for run in _RUN.finditer(word):
            if run.start() > place:
                tokens.append(word[place : run.start()])
            chars = run.group()
            tokens += [chars[i : i + 2] for i in range(len(chars) - 1)] or [chars]
            place = run.end()
        if place < len(word):
            tokens.append(word[place:])
    return tokens


@cache
def _unspaced() -> NDArray[np.bool_]:
    """Whether a code point is of a script without spaces, (0x110000,)."""
    found = np.zeros(0x110000, np.bool_)
    for first, last in _UNSPACED:
        found[first : last + 1] = True
    return found


@compiled
def _hash(codes: NDArray[np.uint32], begin: int, end: int) -> np.uint64:
    value = np.uint64(0)
    for index in range(begin, end):
        value = chained(value, codes[index])
    return value


@compiled
def _write_hashes(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], t: Tables, unspaced: NDArray[np.bool_],
    out: NDArray[np.uint64], ends: NDArray[np.int64],
) -> None:  # fmt: skip
    """Write the hash of each token to `out`, and to `ends` where each text's end."""
    codes = np.empty(room(offsets), dtype=np.uint32)
    place = 0
    for row in range(len(offsets) - 1):
        count = normal_codes(data, offsets[row], offsets[row + 1], t, codes)
        index = 0
        while index < count:
            begin, pairs = index, unspaced[codes[index]]
            while index < count and codes[index] != 0x20 and unspaced[codes[index]] == pairs:
                index += 1
            if pairs and index - begin > 1:
                for first in range(begin, index - 1):
                    out[place] = _hash(codes, first, first + 2)
                    place += 1
            elif index > begin:
                out[place] = _hash(codes, begin, index)
                place += 1
            else:  # a space
                index += 1
        ends[row] = place


def _hashes(column: Column, first: int, end: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    offsets, data = column
    rows = offsets[first : end + 1]
    # No more tokens than characters in normal form. Memory that is not written to is not taken.
    out = np.empty(6 * int(rows[-1] - rows[0]), dtype=np.uint64)
    ends = np.zeros(end - first, dtype=np.int64)
    _write_hashes(rows, data, tables(), _unspaced(), out, ends)
    return out[: ends[-1] if len(ends) else 0].copy(), ends


@compiled
def _number(
    hashes: NDArray[np.uint64], keys: NDArray[np.uint64], numbers: NDArray[np.int32], known: int, out: NDArray[np.int32]
) -> int:
    for place in range(len(hashes)):
        slot = slot_of(keys, numbers, hashes[place])
        if numbers[slot] < 0 and known >= 0:
            keys[slot] = hashes[place]
            numbers[slot] = known
            known += 1
        out[place] = numbers[slot]
    return known


class Vocabulary:
    """Tokens and their numbers, in the order in which they first appear."""

    def __init__(self) -> None:
        self._size = 0
        self._keys, self._numbers = hash_table(np.empty(0, dtype=np.uint64))

    def __len__(self) -> int:
        return self._size

    def number(self, texts: Texts, *, grow: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The numbers of the tokens of n texts, one text after the other, and how many each has, (n,).

        A token that is unknown becomes known with `grow`, and has the number -1 without.
        """
        tasks = (partial(_hashes, column, first, end) for column in text_columns(texts)
                 for first, end in parts_of(column[0]))  # fmt: skip
        found, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for hashes, ends in in_threads(tasks):
            if grow:
                self._make_room(len(hashes))
            numbers = np.empty(len(hashes), dtype=np.int32)
            known = _number(hashes, self._keys, self._numbers, self._size if grow else -1, numbers)
            self._size = known if grow else self._size
            found.append(numbers)
            lengths.append(np.diff(ends, prepend=0))
        return np.concatenate(found), np.concatenate(lengths)

    def _make_room(self, coming: int) -> None:
        """Slots for as many new tokens, at most half of them taken."""
        if 2 * (self._size + coming) <= len(self._keys):
            return
        there = self._numbers >= 0
        known = np.empty(self._size, dtype=np.uint64)
        known[self._numbers[there]] = self._keys[there]
        self._keys, self._numbers = hash_table(known, room=2 * (self._size + coming))
