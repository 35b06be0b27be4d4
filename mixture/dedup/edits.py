"""The test query that a text is, but for a few edits: an exact search, with nothing left to chance.

An edit inserts, drops or replaces one letter, or swaps two adjacent ones (optimal string alignment: no part of a text
is edited twice). The search is a prefix filter on 3-grams in the order of their rarity, as in Xiao, Wang and Lin,
"Ed-Join: an efficient algorithm for similarity joins with edit distance constraints" (VLDB 2008), section 3: an edit
spoils at most 4 of a text's 3-grams (a swap; other edits 3). So of two texts k edits apart, the first 4 k + 1 grams of
each, rarest first, have one in common, which moved by at most k places. Only texts that meet there are compared, and
few do, because rare grams come first.

Departs from the paper: swaps are edits; k depends on the test text's length; grams that no test text has are the
rarest of all; what meets is compared at once, within the edits still of interest.

Shapes: v distinct test texts, g distinct grams, p postings, n texts to search for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixture.dedup.simhash import text_hash
from mixture.text.columns import Tables, room
from mixture.text.hashtable import hash_table, slot_of
from mixture.text.kernels import compiled
from mixture.text.letters import as_codes, letter_codes

GRAM = 3
_SPOILT = GRAM + 1  # grams that one edit can spoil
LEAST_SHORTEST, LEAST_PER_EDIT = GRAM + _SPOILT, _SPOILT
"""Letters for the first edit and for each further one. With fewer, k edits could spoil all of a text's grams, and
nothing would meet."""


class Index(NamedTuple):
    """The test texts, made to be searched.

    offsets: (v + 1,), codes: the letters of the test texts. allowed: (v,), how many edits each forgives. most: for a
    text of i letters the most edits that any test text near enough in length forgives; 0 beyond the end.
    whole_keys, whole: text hash -> test text. gram_keys, gram_rank: gram -> its place from rare to frequent; both are
    open hash tables with a power of two of slots, -1 in an empty one. first: (g + 1,), where a gram's postings begin.
    test, place, length: (p,), the test text, where in it the gram is, and its length, by which a gram's are sorted.
    """

    offsets: NDArray[np.int64]
    codes: NDArray[np.uint32]
    allowed: NDArray[np.int32]
    most: NDArray[np.int32]
    whole_keys: NDArray[np.uint64]
    whole: NDArray[np.int32]
    gram_keys: NDArray[np.uint64]
    gram_rank: NDArray[np.int32]
    first: NDArray[np.int64]
    test: NDArray[np.int32]
    place: NDArray[np.int32]
    length: NDArray[np.int32]


@compiled
def _gram(codes: NDArray[np.uint32], start: int) -> np.uint64:
    """The gram itself: three code points of 21 bits."""
    return (
        np.uint64(codes[start]) << np.uint64(42)
        | np.uint64(codes[start + 1]) << np.uint64(21)
        | np.uint64(codes[start + 2])
    )


@compiled
def _all_grams(offsets: NDArray[np.int64], codes: NDArray[np.uint32], out: NDArray[np.uint64]) -> int:
    count = 0
    for row in range(len(offsets) - 1):
        for start in range(offsets[row], offsets[row + 1] - GRAM + 1):
            out[count] = _gram(codes, start)
            count += 1
    return count


@compiled
def _whole_hashes(offsets: NDArray[np.int64], codes: NDArray[np.uint32], out: NDArray[np.uint64]) -> None:
    for row in range(len(offsets) - 1):
        out[row] = text_hash(codes[offsets[row] : offsets[row + 1]], offsets[row + 1] - offsets[row])


@compiled
def _prefix(
    codes: NDArray[np.uint32], edits: int, keys: NDArray[np.uint64], ranks: NDArray[np.int32], out: NDArray[np.int64]
) -> int:
    """Write the prefix of a text, (rank + 1) << 32 | place, rarest first, to `out`; its size.

    out: room for all grams. A gram that no test text has takes a place of the prefix, with rank -1.
    """
    count = max(0, len(codes) - GRAM + 1)
    for start in range(count):
        slot = slot_of(keys, ranks, _gram(codes, start))
        out[start] = (np.int64(ranks[slot]) + 1) << 32 | start
    out[:count].sort()
    return min(count, _SPOILT * edits + 1)


@compiled
def _postings(
    offsets: NDArray[np.int64], codes: NDArray[np.uint32], allowed: NDArray[np.int32], keys: NDArray[np.uint64],
    ranks: NDArray[np.int32], out: NDArray[np.int64],
) -> int:  # fmt: skip
    """Write rank, length, test text and place of each posting to the rows of `out`; how many there are."""
    longest = 1
    for row in range(len(allowed)):
        longest = max(longest, offsets[row + 1] - offsets[row])
    prefix = np.empty(longest, dtype=np.int64)
    count = 0
    for row in range(len(allowed)):
        if allowed[row] == 0:
            continue
        text = codes[offsets[row] : offsets[row + 1]]
        for index in range(_prefix(text, allowed[row], keys, ranks, prefix)):
            out[count, 0] = (prefix[index] >> 32) - 1
            out[count, 1] = len(text)
            out[count, 2] = row
            out[count, 3] = prefix[index] & 0xFFFFFFFF
            count += 1
    return count


def _most(lengths: NDArray[np.int64], allowed: NDArray[np.int32]) -> NDArray[np.int32]:
    """`Index.most`, for 0 to the longest length that is near any test text's."""
    most = np.zeros(int((lengths + allowed).max(initial=0)) + 1, dtype=np.int32)
    for length, edits in set(zip(lengths.tolist(), allowed.tolist(), strict=True)):
        near = most[max(0, length - edits) : length + edits + 1]
        np.maximum(near, edits, out=near)
    return most


def make_index(tests: list[str], distance: int, shortest: int, letters_per_edit: int) -> Index:
    """An index of v test texts, given by their letters, no two equal; in the order in which equally near ones count.

    A test text of `shortest` letters (at least LEAST_SHORTEST) forgives an edit, and another for each
    `letters_per_edit` (at least LEAST_PER_EDIT) letters that it is longer, at most `distance`.
    """
    offsets, codes = as_codes(tests)
    lengths = np.diff(offsets)
    earned = np.where(lengths < shortest, 0, 1 + (lengths - shortest) // letters_per_edit)
    allowed = np.minimum(earned, distance).astype(np.int32)
    grams = np.empty(len(codes), dtype=np.uint64)
    grams = grams[: _all_grams(offsets, codes, grams)]
    distinct, counts = np.unique(grams, return_counts=True)
    keys, ranks = hash_table(distinct[np.argsort(counts, kind="stable")])
    out = np.empty((int((_SPOILT * allowed.astype(np.int64) + 1).sum()), 4), dtype=np.int64)
    out = out[: _postings(offsets, codes, allowed, keys, ranks, out)]
    out = out[np.lexsort((out[:, 2], out[:, 1], out[:, 0]))]
    first = np.searchsorted(out[:, 0], np.arange(len(distinct) + 1))
    hashes = np.empty(len(tests), dtype=np.uint64)
    _whole_hashes(offsets, codes, hashes)
    length, test, place = (np.ascontiguousarray(column, dtype=np.int32) for column in out.T[1:])
    return Index(
        offsets, codes, allowed, _most(lengths, allowed), *hash_table(hashes), keys, ranks, first, test, place, length
    )


@compiled
def edits_between(a: NDArray[np.uint32], b: NDArray[np.uint32], limit: int, rows: NDArray[np.int32]) -> int:
    """The edits that turn a into b, or limit + 1 if it takes more. rows: (3, r), room; r above the length of b."""
    begin, end_a, end_b = 0, len(a), len(b)
    if abs(end_a - end_b) > limit:
        return limit + 1
    while begin < end_a and begin < end_b and a[begin] == b[begin]:
        begin += 1
    while end_a > begin and end_b > begin and a[end_a - 1] == b[end_b - 1]:
        end_a -= 1
        end_b -= 1
    size_a, size_b = end_a - begin, end_b - begin
    if size_a == 0 or size_b == 0 or limit == 0:
        return min(max(size_a, size_b), limit + 1)
    for j in range(min(limit, size_b) + 1):
        rows[0, j] = j
    for i in range(1, size_a + 1):  # only cells within `limit` of the diagonal can end at most at `limit`
        before, last, current = rows[(i + 1) % 3], rows[(i - 1) % 3], rows[i % 3]
        low, high = max(1, i - limit), min(size_b, i + limit)
        current[low - 1] = i if low == 1 else limit + 1
        least = current[low - 1]
        if high == i + limit:
            last[high] = limit + 1
        for j in range(low, high + 1):
            same = a[begin + i - 1] == b[begin + j - 1]
            cost = min(last[j - 1] + (not same), last[j] + 1, current[j - 1] + 1)
            if i > 1 and j > 1 and a[begin + i - 1] == b[begin + j - 2] and a[begin + i - 2] == b[begin + j - 1]:
                cost = min(cost, before[j - 2] + 1)
            current[j] = cost
            least = min(least, cost)
        if least > limit:
            return limit + 1
    return int(min(rows[size_a % 3, size_b], limit + 1))


@compiled
def _equal_test(codes: NDArray[np.uint32], index: Index) -> int:
    """The test text with exactly these letters, or -1."""
    slot = slot_of(index.whole_keys, index.whole, text_hash(codes, len(codes)))
    test = np.int64(index.whole[slot])
    if test >= 0:
        known = index.codes[index.offsets[test] : index.offsets[test + 1]]
        if len(known) != len(codes) or not np.array_equal(known, codes):
            return -1
    return int(test)


@compiled
def _nearest_test(
    codes: NDArray[np.uint32], row: int, index: Index, prefix: NDArray[np.int64], seen: NDArray[np.int64],
    rows: NDArray[np.int32],
) -> tuple[int, int]:  # fmt: skip
    """The test text fewest edits away (but not 0), the first of several, and the edits; -1 when there is none.

    prefix: room for all grams. seen: (v,), the row for which a test text was last compared. rows: room for the edits.
    """
    best, count = -1, len(codes)
    edits = int(index.most[count]) if count < len(index.most) else 0
    for number in range(_prefix(codes, edits, index.gram_keys, index.gram_rank, prefix) if edits else 0):
        rank, place = (prefix[number] >> 32) - 1, prefix[number] & 0xFFFFFFFF
        if rank < 0:
            continue
        begin, end = index.first[rank], index.first[rank + 1]
        begin += np.searchsorted(index.length[begin:end], count - edits)
        for posting in range(begin, end):
            if index.length[posting] > count + edits:
                break
            test = int(index.test[posting])
            bound = min(int(index.allowed[test]), edits)
            if best >= 0 and test > best:
                bound = min(bound, edits - 1)
            near = abs(index.place[posting] - place) <= bound and abs(index.length[posting] - count) <= bound
            if near and bound > 0 and seen[test] != row:
                seen[test] = row
                known = index.codes[index.offsets[test] : index.offsets[test + 1]]
                found = edits_between(codes, known, bound, rows)
                if found <= bound:
                    best, edits = test, found
    return best, edits


@compiled
def nearest_tests(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], t: Tables, index: Index, out: NDArray[np.int64]
) -> None:
    """For each of n UTF-8 texts the nearest test text (-1: none), the edits between, and the letters of the text.

    offsets: (n + 1,), into data. out: (n, 3). Among equally near test texts the one with the smallest number.
    """
    codes = np.empty(room(offsets), dtype=np.uint32)
    prefix = np.empty(len(codes), dtype=np.int64)
    seen = np.full(len(index.allowed), -1, dtype=np.int64)
    rows = np.empty((3, len(index.most) + 1), dtype=np.int32)
    for row in range(len(offsets) - 1):
        count = letter_codes(data, offsets[row], offsets[row + 1], t, codes)
        text = codes[:count]
        best, edits = _equal_test(text, index), 0
        if best < 0:
            best, edits = _nearest_test(text, row, index, prefix, seen, rows)
        out[row, 0], out[row, 1], out[row, 2] = best, edits, count
