"""Training passages that hold a test passage, or most of one.

Texts are compared by their letters: the normal form without spaces (`mixture.text.letters`). A training passage is
contaminated when it holds at least `share` of the distinct n-grams of a test passage that has at least `MIN_GRAMS` of
them, or when the two have the same letters, however few. The order of the grams does not count, nor what else the
training passage holds, so a test passage inside a longer text is found, and one that was cut or edited here and there.

An n-gram is `gram` letters in a row, or `gram_cjk` where it begins with an ideograph or kana. Counting letters needs no
word splitter: 13 are about three words of English, Arabic or Thai, 7 ideographs four words of Chinese. An edit spoils
at most `gram` + 1 grams, so longer grams miss more passages that were edited; shorter ones are common phrases.

Every gram of every test passage is in the index; nothing is sampled. Grams are compared by 64-bit hashes; a false alarm
would need many of them to collide at once. Shapes: v test passages, g distinct grams, n training texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.dedup.decontaminate import checked_count, found_rows, in_parts, named_rows, test_columns
from mixture.dedup.simhash import chained, text_hash
from mixture.errors import UsageError
from mixture.text.columns import DENSE, Tables, room, tables
from mixture.text.form import Column, Texts, one_column
from mixture.text.hashtable import hash_table, slot_of
from mixture.text.kernels import compiled
from mixture.text.letters import letter_codes

DEFAULT_GRAM, DEFAULT_GRAM_CJK = 13, 7
DEFAULT_SHARE = 0.5
"""Chosen on 3,592 passages of 13 evaluation suites and 65,915 training passages without them: 10 of these are flagged,
the most doubtful ones for short questions that serve as passages; a share of 0.3 flags 176. With 20 and 10 letters 4
are flagged, but of passages with a typo in 30 characters a third is found instead of nine in ten.
"""
MIN_GRAMS = 20
"""Distinct n-grams below which a test passage is found only where the letters are equal: 32 letters, 26 in Chinese."""

_LONGEST_GRAM = 64
_BASE = np.uint64(0x9E3779B97F4A7C15)
CONTAINED = pa.schema(
    [
        pa.field("removed", pa.string(), nullable=False),
        pa.field("suite", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("test_passage", pa.string(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
    ]
)


class PassageIndex(NamedTuple):
    """The test passages, made to be searched.

    num_grams: (v,), the distinct grams of each. least: (v,), how many of them a text must hold. keys, numbers: open
    hash table, gram -> its number. maybe: a bit for each of many hashes, 0 where no gram has it; it is small enough to
    stay in the processor's cache, and settles most grams. first: (g + 1,), where a gram's passages begin in passage.
    """

    num_grams: NDArray[np.int32]
    least: NDArray[np.int32]
    keys: NDArray[np.uint64]
    numbers: NDArray[np.int32]
    maybe: NDArray[np.uint64]
    first: NDArray[np.int64]
    passage: NDArray[np.int32]


@compiled
def _power(width: int) -> np.uint64:
    value = np.uint64(1)
    for _ in range(width):
        value *= _BASE
    return value


@compiled
def _grams(
    codes: NDArray[np.uint32], count: int, wide: int, narrow: int, t: Tables, rolling: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> int:  # fmt: skip
    """Hash every n-gram of the first `count` letters into `out`; returns how many there are.

    rolling: room for count + 1. It gets hashes of the beginnings, polynomials in _BASE over hashes of the letters; a
    gram's is the difference of two (Karp and Rabin 1987), so its length does not matter for the time.
    """
    rolling[0] = 0
    for index in range(count):
        rolling[index + 1] = rolling[index] * _BASE + chained(np.uint64(0), codes[index])
    power_wide, power_narrow = _power(wide), _power(narrow)
    size = 0
    for start in range(count):
        dense = t.kind[codes[start]] & DENSE != 0
        end = start + (narrow if dense else wide)
        if end <= count:
            value = rolling[end] - rolling[start] * (power_narrow if dense else power_wide)
            out[size] = chained(value, np.uint32(dense))
            size += 1
    return size


@compiled
def _passage_grams(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], wide: int, narrow: int, least: int, t: Tables,
    out: NDArray[np.uint64], ends: NDArray[np.int64],
) -> int:  # fmt: skip
    """Write the distinct grams of each test passage to `out`, their ends to `ends`.

    A passage with fewer than `least` has the hash of all its letters for its only gram, one without letters none.
    """
    codes = np.empty(room(offsets), dtype=np.uint32)
    rolling, grams = np.empty(len(codes) + 1, dtype=np.uint64), np.empty(len(codes) + 1, dtype=np.uint64)
    place = 0
    for row in range(len(offsets) - 1):
        count = letter_codes(data, offsets[row], offsets[row + 1], t, codes)
        size = _grams(codes, count, wide, narrow, t, rolling, grams)
        grams[:size].sort()
        start = place
        for index in range(size):
            if index == 0 or grams[index] != grams[index - 1]:
                out[place] = grams[index]
                place += 1
        if place - start < least and count:
            out[start] = text_hash(codes, count)
            place = start + 1
        ends[row] = place
    return place


@compiled
def _mark(maybe: NDArray[np.uint64], grams: NDArray[np.uint64]) -> None:
    last = np.uint64(64 * len(maybe) - 1)
    for gram in grams:
        bit = gram & last
        maybe[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@compiled
def _known(grams: NDArray[np.uint64], index: PassageIndex, out: NDArray[np.int32]) -> int:
    """Write the numbers of those grams that a test passage has to `out`, ascending, each once; how many there are."""
    size, last = 0, np.uint64(64 * len(index.maybe) - 1)
    for gram in grams:
        bit = gram & last
        if index.maybe[bit >> np.uint64(6)] >> (bit & np.uint64(63)) & np.uint64(1):
            number = index.numbers[slot_of(index.keys, index.numbers, gram)]
            if number >= 0:
                out[size] = number
                size += 1
    out[:size].sort()
    distinct = min(size, 1)
    for place in range(1, size):
        if out[place] != out[distinct - 1]:
            out[distinct] = out[place]
            distinct += 1
    return distinct


@compiled
def _held_most(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], wide: int, narrow: int, t: Tables, index: PassageIndex,
    out: NDArray[np.int64], shares: NDArray[np.float64],
) -> None:  # fmt: skip
    """For each of n UTF-8 texts the test passage that it holds most of (-1: none enough), and the share, both (n,)."""
    codes = np.empty(room(offsets), dtype=np.uint32)
    rolling, grams = np.empty(len(codes) + 1, dtype=np.uint64), np.empty(len(codes) + 1, dtype=np.uint64)
    known = np.empty(len(grams), dtype=np.int32)
    held, touched = np.zeros(len(index.least), dtype=np.int32), np.empty(len(index.least), dtype=np.int32)
    for row in range(len(out)):
        count = letter_codes(data, offsets[row], offsets[row + 1], t, codes)
        size = _grams(codes, count, wide, narrow, t, rolling, grams)
        grams[size] = text_hash(codes, count)
        num_touched = 0
        for number in known[: _known(grams[: size + 1], index, known)]:
            for passage in index.passage[index.first[number] : index.first[number + 1]]:
                touched[num_touched] = passage
                num_touched += held[passage] == 0
                held[passage] += 1
        out[row], shares[row] = -1, 0.0
        for passage in touched[:num_touched]:
            share = held[passage] / index.num_grams[passage]
            better = share > shares[row] or (share == shares[row] and passage < out[row])
            if held[passage] >= index.least[passage] and better:
                out[row], shares[row] = passage, share
            held[passage] = 0


def _make_index(tests: Texts, gram: int, gram_cjk: int, share: float) -> PassageIndex:
    offsets, data = one_column(tests, what="test passages")
    grams = np.empty(6 * int(offsets[-1] - offsets[0]) + 1, dtype=np.uint64)  # what is not written to is not taken
    ends = np.zeros(len(offsets) - 1, dtype=np.int64)
    grams = grams[: _passage_grams(offsets, data, gram, gram_cjk, MIN_GRAMS, tables(), grams, ends)]
    num_grams = np.diff(ends, prepend=0)
    order = np.argsort(grams, kind="stable")
    grams = grams[order]
    first = np.flatnonzero(np.diff(grams, prepend=~grams[:1]))
    distinct = grams[first]
    maybe = np.zeros(1 << max(4, len(distinct).bit_length() - 3), dtype=np.uint64)  # 8 to 16 bits a gram
    _mark(maybe, distinct)
    return PassageIndex(
        num_grams.astype(np.int32),
        np.ceil(share * num_grams - 1e-9).astype(np.int32),
        *hash_table(distinct),
        maybe,
        np.append(first, len(grams)),
        np.repeat(np.arange(len(num_grams), dtype=np.int32), num_grams)[order],
    )


def _searched(
    column: Column, first: int, end: int, widths: tuple[int, int], index: PassageIndex
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    offsets, data = column
    out, shares = np.empty(end - first, dtype=np.int64), np.empty(end - first)
    _held_most(offsets[first : end + 1], data, *widths, tables(), index, out, shares)
    return out, shares


def checked_share(share: float, name: str = "share") -> float:
    """The least share of a test passage's n-grams if it is a number above 0, at most 1; otherwise a UsageError."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise UsageError(f"`{name}` is {share!r}; allowed: numbers above 0, at most 1")
    return share


class PassageSearch:
    """Test passages, made to be searched any number of times. The arguments are those of `find_contained`."""

    def __init__(
        self, test_passages: pa.Table, *, gram: int = DEFAULT_GRAM, gram_cjk: int = DEFAULT_GRAM_CJK,
        share: float = DEFAULT_SHARE,
    ) -> None:  # fmt: skip
        self._widths = (
            checked_count("gram", gram, 2, _LONGEST_GRAM), checked_count("gram_cjk", gram_cjk, 2, _LONGEST_GRAM)
        )  # fmt: skip
        self._tests = test_columns(test_passages, ("suite", "doc_id", "text"), what="test passages")
        self._index = _make_index(self._tests["text"], *self._widths, checked_share(share))

    def find(self, texts: Texts) -> pa.Table:
        """The rows of n texts that are contaminated, ascending: row, suite, doc_id, test_passage, share."""
        parts = in_parts(texts, "train_texts", partial(_searched, widths=self._widths, index=self._index))
        passage = np.concatenate([np.empty(0, dtype=np.int64), *(part[0] for part in parts)])
        shares = np.concatenate([np.empty(0), *(part[1] for part in parts)])
        hits = np.flatnonzero(passage >= 0)
        found = self._tests.take(passage[hits])
        columns = {
            "row": hits,
            "suite": found["suite"],
            "doc_id": found["doc_id"],
            "test_passage": found["text"],
            "share": shares[hits],
        }
        return found_rows(columns, CONTAINED)


def find_contained(
    train_texts: Texts,
    train_ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    test_passages: pa.Table,
    *,
    gram: int = DEFAULT_GRAM,
    gram_cjk: int = DEFAULT_GRAM_CJK,
    share: float = DEFAULT_SHARE,
) -> pa.Table:
    """The training passages to remove, ordered by `removed`: removed, suite, doc_id, test_passage, share.

    train_texts: n training passages, train_ids: their n distinct ids (strings). test_passages: a table with the columns
    suite, doc_id, text (others are ignored), as `read_test_passages` gives. One row for each contaminated training
    passage (this module says what that is), with the test passage that it holds the largest share of; among equal ones
    the first by suite, then doc_id. share (column): of the test passage's distinct n-grams, 0 to 1.

    gram, gram_cjk: letters in an n-gram, 2 to 64. share: the least, above 0, at most 1. A wrong value is a UsageError.
    Memory: up to 60 bytes for each letter of the test passages; the training texts are read where they are. Test
    passages that share much text with many others (forms, licences) make training texts with that text slow.

    >>> test = "The tower, built in 1889, is 330 metres tall and was the tallest structure for 41 years."
    >>> tests = pa.table({"suite": ["nq"], "doc_id": ["7"], "text": [test]})
    >>> found = find_contained([f"Facts. {test} It stands in Paris.", "A tower."], ["a", "b"], tests)
    >>> found.select(["removed", "doc_id", "share"]).to_pylist()
    [{'removed': 'a', 'doc_id': '7', 'share': 1.0}]
    """
    search = PassageSearch(test_passages, gram=gram, gram_cjk=gram_cjk, share=share)
    return named_rows(search.find(train_texts), train_ids, len(train_texts), CONTAINED)
