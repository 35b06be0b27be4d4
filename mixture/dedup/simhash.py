"""64-bit SimHash fingerprints of texts.

Source: Charikar, "Similarity estimation techniques from rounding algorithms" (STOC 2002), section 3; as used on
web pages by Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling" (WWW 2007), section 2. Each
feature of a text votes with its 64 hash bits, and a bit of the fingerprint is what most features say.

Departs from both: features are overlapping character n-grams of the normal form (`normalise_text`), counted as
often as they occur, instead of weighted words. That needs no word splitter, hence no language detection.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from mixture.engine import in_threads
from mixture.text.columns import DENSE, Tables, normal_codes, parts_of, room, tables
from mixture.text.form import Column, Texts, text_columns
from mixture.text.kernels import compiled

GRAM = 3
"""Characters in an n-gram; `GRAM_CJK` in one that starts with an ideograph or kana, which carry more each.

Chosen on 121,911 distinct training and test queries in some thirty languages, at distance 3. Longer grams miss more: a
dropped letter in a query of over 64 characters stays within 3 bits in 43 % of the cases with 3 characters, 27 % with
4. With 2 characters 202 of 1,174 pairs found share less than half of their grams; with 3, none of 372 do.
"""
GRAM_CJK = 2
SHORT_TEXT = 12
"""Normal forms with fewer n-grams than this get a plain hash: only equal ones meet."""


@compiled
def _mix(value: np.uint64) -> np.uint64:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that spreads every bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def chained(value: np.uint64, code: np.uint32) -> np.uint64:
    """The hash of a sequence of characters, from the hash of all but the last one and the last one."""
    return _mix((value ^ np.uint64(code)) + np.uint64(0x9E3779B97F4A7C15))


@compiled
def text_hash(codes: NDArray[np.uint32], count: int) -> np.uint64:
    """One 64-bit hash of the first `count` characters in order."""
    value = np.uint64(count) + np.uint64(0x2545F4914F6CDD1D)
    for index in range(count):
        value = chained(value, codes[index])
    return value


@compiled
def gram_hashes(codes: NDArray[np.uint32], count: int, t: Tables, out: NDArray[np.uint64]) -> int:
    """Hash every n-gram of the first `count` characters into `out` (room for `count`); returns how many there are.

    A gram that starts with an ideograph or kana has `GRAM_CJK` characters, any other `GRAM`.
    """
    dense = np.uint8(0)
    for index in range(count):
        dense |= t.kind[codes[index]]
    if not dense & DENSE:  # the same as below, in a form that the compiler turns into vector instructions
        for start in range(count - GRAM + 1):
            value = np.uint64(GRAM)
            for offset in range(GRAM):
                value = chained(value, codes[start + offset])
            out[start] = value
        return max(0, count - GRAM + 1)
    size = 0
    for start in range(count):
        width = GRAM_CJK if t.kind[codes[start]] & DENSE else GRAM
        if start + width > count:
            continue
        value = np.uint64(width)
        for offset in range(width):
            value = chained(value, codes[start + offset])
        out[size] = value
        size += 1
    return size


@compiled
def _add(planes: NDArray[np.uint64], first: int, value: np.uint64) -> None:
    """Add 2**first to each of the 64 counters whose bit is set in `value`."""
    plane = first
    while value:
        carry = planes[plane] & value
        planes[plane] ^= value
        value = carry
        plane += 1


@compiled
def _sum3(a: np.uint64, b: np.uint64, c: np.uint64) -> tuple[np.uint64, np.uint64]:
    """A full adder on 64 bits at once: the sums and the carries."""
    half = a ^ b
    return half ^ c, (a & b) | (half & c)


@compiled
def majority(grams: NDArray[np.uint64], count: int, planes: NDArray[np.uint64]) -> np.uint64:
    """The bits that more than half of the first `count` grams have set.

    The 64 counters stand upright: planes[k] holds bit k of each, so one operation on a word works on all of them.
    Eight grams are added by seven full adders, as in Harley and Seal's population count (Warren, Hacker's Delight,
    2nd edition, section 5-1).
    """
    planes[:] = 0
    ones = twos = fours = np.uint64(0)
    end = count - count % 8
    for start in range(0, end, 8):
        g = grams[start : start + 8]
        ones, two_a = _sum3(ones, g[0], g[1])
        ones, two_b = _sum3(ones, g[2], g[3])
        twos, four_a = _sum3(twos, two_a, two_b)
        ones, two_a = _sum3(ones, g[4], g[5])
        ones, two_b = _sum3(ones, g[6], g[7])
        twos, four_b = _sum3(twos, two_a, two_b)
        fours, eight = _sum3(fours, four_a, four_b)
        _add(planes, 3, eight)
    planes[0], planes[1], planes[2] = ones, twos, fours
    for index in range(end, count):
        _add(planes, 0, grams[index])
    above, level = np.uint64(0), ~np.uint64(0)
    for plane in range(len(planes) - 1, -1, -1):  # counters > count // 2, compared from the highest bit; a tie is a 0
        if count // 2 >> plane & 1:
            level &= planes[plane]
        else:
            above |= level & planes[plane]
            level &= ~planes[plane]
    return above


@compiled
def _fingerprints(offsets: NDArray[np.int64], data: NDArray[np.uint8], t: Tables, out: NDArray[np.uint64]) -> None:
    """Fingerprint the texts data[offsets[i]:offsets[i + 1]] into out[i]."""
    codes = np.empty(room(offsets), dtype=np.uint32)
    grams = np.empty(len(codes), dtype=np.uint64)
    planes = np.empty(40, dtype=np.uint64)
    for row in range(len(out)):
        count = normal_codes(data, offsets[row], offsets[row + 1], t, codes)
        size = gram_hashes(codes, count, t, grams)
        out[row] = text_hash(codes, count) if size < SHORT_TEXT else majority(grams, size, planes)


def _column_fingerprints(column: Column, first: int, end: int) -> NDArray[np.uint64]:
    offsets, data = column
    out = np.empty(end - first, dtype=np.uint64)
    _fingerprints(offsets[first : end + 1], data, tables(), out)
    return out


def simhash_fingerprints(texts: Texts) -> NDArray[np.uint64]:
    """64-bit SimHash of each text; the same on every machine and in every process.

    texts: n strings, as a sequence of str or an Arrow string array (chunked or not); a null or another type is a
    UsageError. Arrow's buffers are read where they are, by `$NUMBA_NUM_THREADS` threads (all cores). Returns shape
    (n,), dtype uint64. Texts that differ only in case, punctuation, white space or Unicode compatibility forms have
    equal fingerprints. Below `SHORT_TEXT` n-grams one changed character turns a good part of the votes and unrelated
    texts share many, so the distance says little: there the fingerprint is a plain hash of the normal form, and only
    equal texts meet.

    >>> a, b = simhash_fingerprints(["What is dense retrieval?", "what is  DENSE retrieval"])
    >>> a == b
    np.True_
    """
    tasks = (
        partial(_column_fingerprints, column, first, end)
        for column in text_columns(texts)
        for first, end in parts_of(column[0])
    )
    return np.concatenate([np.empty(0, dtype=np.uint64), *in_threads(tasks)])
