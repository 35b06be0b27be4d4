"""What tells texts apart: 128 bits of SHA-256, for whole columns, and the sorted search for them.

Among 10 million different texts the chance that any two have one digest is about 1.5e-25. Shapes: n texts.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixture.text.form import Texts, text_columns

DIGEST_BYTES = 16

Digests: TypeAlias = NDArray[np.uint64]
"""(n, 2): the first 16 bytes of the SHA-256 of each text's UTF-8, as two big-endian numbers."""


def text_digests(texts: Texts) -> Digests:
    """The digest of each text, (n, 2).

    >>> bytes_of(text_digests(["abc"])).hex() == hashlib.sha256(b"abc").hexdigest()[:32]
    True
    """
    sha256, found = hashlib.sha256, []
    data: Any
    for offsets, data in text_columns(texts):
        view = memoryview(data)
        found += [sha256(view[start:end]).digest()[:DIGEST_BYTES] for start, end in pairwise(offsets.tolist())]
    return digests_of(b"".join(found))


def digests_of(written: bytes | memoryview) -> Digests:
    """Digests from their bytes, 16 for each: (len / 16, 2)."""
    return np.frombuffer(written, ">u8").astype(np.uint64).reshape(-1, 2)


def bytes_of(digests: Digests) -> bytes:
    """The bytes of n digests, one after the other: 16 n."""
    return digests.astype(">u8").tobytes()


def numbered(digests: Digests) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Equal digests get one number, in the order in which they first appear.

    Returns the number of each row, (n,), and for each of g numbers its first row, (g,) ascending.

    >>> numbered(text_digests(["b", "a", "b", "c"]))
    (array([0, 1, 0, 2]), array([0, 1, 3]))
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal digests the first row comes first
    ordered = digests[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(begins) - 1
    leaders = order[begins]
    by_place = np.argsort(leaders)
    rank = np.empty(len(leaders), np.int64)
    rank[by_place] = np.arange(len(leaders))
    return rank[group], leaders[by_place]


class DigestIndex:
    """Where digests stand among N known ones, by binary search; 32 bytes for each known one."""

    def __init__(self, known: Digests) -> None:
        self._order = np.lexsort((known[:, 1], known[:, 0]))
        self._high, self._low = known[self._order, 0], known[self._order, 1]

    def __len__(self) -> int:
        return len(self._order)

    def find(self, digests: Digests) -> NDArray[np.int64]:
        """The place of each of n digests among the known ones, the first of equal ones; -1 for one that is unknown."""
        found = np.full(len(digests), -1, np.int64)
        places = np.searchsorted(self._high, digests[:, 0])
        open_rows = np.arange(len(digests))
        while len(open_rows):  # a second round only where two digests have the same first half
            at = places[open_rows]
            open_rows, at = open_rows[at < len(self)], at[at < len(self)]
            same = self._high[at] == digests[open_rows, 0]
            open_rows, at = open_rows[same], at[same]
            hit = self._low[at] == digests[open_rows, 1]
            found[open_rows[hit]] = self._order[at[hit]]
            open_rows = open_rows[~hit]
            places[open_rows] += 1
        return found
