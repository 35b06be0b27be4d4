"""Pairs of texts that may be near-equal although one fingerprint is not enough to see it.

Source: SimHash is a locality-sensitive hash (Charikar, STOC 2002): two texts differ in each bit with the chance
angle / pi, so a block of bits is equal with the chance (1 - angle / pi)**width. As with MinHash's bands (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, section 3.4), pairs that agree on one of many blocks are proposed.
At a Jaccard similarity of 0.8 a bit differs in 15 of 100 cases, 10 of 64: no search within 7 bits finds most of these
pairs, but of 64 blocks of 16 bits one is equal in 99 of 100 cases.

Before a pair is proposed all its bits are counted: 1,024 of them tell the angle so well that texts which only share a
block are hardly ever read. What is proposed must be verified. A pair can be missed; none is proposed twice.

Shapes: n texts, k fingerprints of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mixture.dedup.blocks import Words, popcount
from mixture.dedup.simhash import chained, gram_hashes, majority, text_hash
from mixture.engine import in_threads
from mixture.text.columns import Tables, normal_codes, parts_of, room, tables
from mixture.text.form import Column, Texts, one_column
from mixture.text.kernels import compiled

NUM_FINGERPRINTS = 16
"""Measured with benchmarks/dedup_quality.py: with 8, 12 and 16 the F1 at similarity 0.8 is 0.717, 0.720 and 0.720, at
0.6 it is 0.807, 0.815 and 0.817; MinHash with 128 permutations has 0.718 and 0.815."""
MOST_BLOCKS = 4
"""Of one fingerprint; at least 2. Blocks of fewer than 16 bits would propose too much."""
_MARGIN, _MOST = 0.04, 0.35  # share of differing bits, above what is expected at the threshold and at most
_WINDOW = 256
"""In a larger group that agrees on a block each text is compared with this many next ones, so that thousands of texts
of one template do not cost the square. A pair that the window of its first common block leaves out is not proposed."""
_BUFFER = 2**16  # pairs found before the buffer is emptied


@compiled
def _sign(offsets: NDArray[np.int64], data: NDArray[np.uint8], t: Tables, out: Words) -> None:
    """Fill out[i] with k fingerprints of text i: majorities of its n-grams, each hashed anew for each fingerprint."""
    codes = np.empty(room(offsets) + 1, dtype=np.uint32)
    grams, seeded = np.empty(len(codes), dtype=np.uint64), np.empty(len(codes), dtype=np.uint64)
    planes = np.empty(40, dtype=np.uint64)
    for row in range(len(out)):
        count = normal_codes(data, offsets[row], offsets[row + 1], t, codes)
        size = gram_hashes(codes, count, t, grams)
        if size == 0:  # no n-gram: the text itself is the only element
            grams[0], size = text_hash(codes, count), 1
        for number in range(out.shape[1]):
            for index in range(size):
                seeded[index] = chained(grams[index], np.uint32(number + 1))
            out[row, number] = majority(seeded, size, planes)


def _signed(column: Column, first: int, end: int) -> Words:
    out = np.empty((end - first, NUM_FINGERPRINTS), dtype=np.uint64)
    _sign(column[0][first : end + 1], column[1], tables(), out)
    return out


def many_fingerprints(texts: Texts) -> Words:
    """`NUM_FINGERPRINTS` independent SimHash fingerprints of each text, of short ones too; shape (n, k), uint64."""
    column = one_column(texts)
    tasks = (partial(_signed, column, first, end) for first, end in parts_of(column[0]))
    return np.concatenate([np.empty((0, NUM_FINGERPRINTS), dtype=np.uint64), *in_threads(tasks)])


def most_bits(similarity: float) -> float:
    """The share of bits in which texts of this Jaccard similarity (0 to 1) may differ and still be proposed.

    Two sets of one size and Jaccard similarity s have the cosine 2 s / (1 + s).
    """
    return min(_MOST, math.acos(2 * similarity / (1 + similarity)) / math.pi + _MARGIN)


@compiled
def _agrees_before(first: Words, second: Words, number: int, shift: int, width: int) -> bool:
    """Whether two texts agree on a block that comes before the block at bit `shift` of fingerprint `number`."""
    mask = np.uint64(2**width - 1)
    for earlier in range(number + 1):
        differ = first[earlier] ^ second[earlier]
        for start in range(0, shift if earlier == number else 64 - width + 1, width):
            if differ >> np.uint64(start) & mask == 0:
                return True
    return False


@compiled
def _compare(
    prints: Words, order: NDArray[np.int64], near: Words, block: tuple[int, int, int], limits: tuple[int, int],
    progress: NDArray[np.int64], out: Words,
) -> int:  # fmt: skip
    """Write the pairs that agree on a block as row << 32 | other row; returns how many.

    prints: (n, k). order: rows, by the block; near: (2, n), in this order, the fingerprint that the block is of and the
    next one: these are read in a row, the others wherever they are. block: number of the fingerprint, first bit, width.
    limits: most differing bits of these two, of all. Stops when `out` is nearly full and goes on when called again;
    progress: (1,) the place, from 0 to n.
    """
    number, shift, width = block
    mask = np.uint64(2**width - 1) << np.uint64(shift)
    count = 0
    for i in range(progress[0], len(order)):
        if count + _WINDOW > len(out):
            progress[0] = i
            return count
        value, following = near[0, i], near[1, i]
        for j in range(i + 1, min(len(order), i + 1 + _WINDOW)):
            differ = value ^ near[0, j]
            if differ & mask != 0:
                break
            if np.int64(popcount(differ)) + np.int64(popcount(following ^ near[1, j])) > limits[0]:
                continue
            first, second = prints[order[i]], prints[order[j]]
            bits = np.int64(0)
            for other in range(len(first)):
                bits += np.int64(popcount(first[other] ^ second[other]))
            if bits <= limits[1] and not _agrees_before(first, second, number, shift, width):
                low, high = min(order[i], order[j]), max(order[i], order[j])
                out[count] = np.uint64(low) << np.uint64(32) | np.uint64(high)
                count += 1
    progress[0] = len(order)
    return count


def _ordered(values: Words, shift: int, width: int) -> NDArray[np.int64]:
    """The rows by the block; those of a group that exceeds the window by the bits that follow, in a circle."""
    turned = values
    if shift + width < 64:
        turned = values << np.uint64(64 - width - shift) | values >> np.uint64(shift + width)
    keys = turned >> np.uint64(64 - width)
    order = np.argsort(keys.astype(np.uint16) if width <= 16 else keys, kind="stable")
    ordered = keys[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(order))
    for end, size in zip(ends, np.diff(ends, prepend=0), strict=True):
        if size > _WINDOW:
            group = order[end - size : end]
            order[end - size : end] = group[np.argsort(turned[group], kind="stable")]
    return order


def _in_block(prints: Words, block: tuple[int, int, int], share: float) -> list[Words]:
    """All pairs that agree on this block and on no earlier one. share: most differing bits, of all."""
    number, shift, width = block
    order = _ordered(np.ascontiguousarray(prints[:, number]), shift, width)
    near = np.stack([prints[order, number], prints[order, (number + 1) % prints.shape[1]]])
    rest = 128 - width
    limits = (math.ceil(rest * share + 3 * math.sqrt(rest * share * (1 - share))), int(share * 64 * prints.shape[1]))
    progress, found = np.zeros(1, dtype=np.int64), []
    out = np.empty(_BUFFER, dtype=np.uint64)
    while progress[0] < len(order):
        count = _compare(prints, order, near, block, limits, progress, out)
        found.append(out[:count].copy())
    return found


def proposed_pairs(prints: Words, num_blocks: int, similarity: float) -> Iterator[Words]:
    """Pairs i < j of rows, packed as i << 32 | j, each once, that may have at least this similarity (0 to 1).

    prints: (n, k), from `many_fingerprints`. num_blocks: 2 to `MOST_BLOCKS`, into how many blocks each fingerprint is
    cut; a pair that agrees on none is not proposed. Comes in many parts, computed on all cores.
    """
    width = 64 // num_blocks
    blocks = [(number, shift, width) for number in range(prints.shape[1]) for shift in range(0, 65 - width, width)]
    for found in in_threads(partial(_in_block, prints, block, most_bits(similarity)) for block in blocks):
        yield from found
