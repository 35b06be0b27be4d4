"""Which of many texts to remove so that no two near-equal ones remain, and which text each was a twin of.

Near-equal texts are linked; each connected group of links keeps the text with the smallest id and loses the others.
The outcome depends on the set of (id, text), not on their order, and a second run removes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mixture.dedup.neighbours import near_duplicates
from mixture.dedup.simhash import fingerprints_of_normal
from mixture.dedup.text import Texts, normalise_text, text_list
from mixture.dedup.verify import Verifier, checked_threshold
from mixture.errors import UsageError

METHODS = ("simhash", "exact")
DEFAULT_VERIFY = 0.8
REMOVED = pa.schema(
    [
        pa.field("removed", pa.string(), nullable=False),
        pa.field("kept", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class _Distinct:
    """n rows by their u distinct normal forms, which are in the order of their smallest id.

    ids: the n ids in ascending order. code: shape (n,), for each of these the number of its text. texts: the u normal
    forms. first: shape (u,), the place of each text's smallest id in `ids`.
    """

    ids: pa.Array
    code: NDArray[np.int64]
    texts: list[str]
    first: NDArray[np.int64]


def id_array(ids: Sequence[str] | pa.Array | pa.ChunkedArray, num_texts: int) -> pa.Array:
    """The ids as one Arrow string array; a UsageError unless there is one for each text and no two are equal."""
    array = pa.array(text_list(ids, what="ids"), type=pa.large_string())
    if len(array) != num_texts:
        raise UsageError(f"{num_texts} texts and {len(array)} ids: there must be one id for each text")
    if pc.count_distinct(array).as_py() != len(array):
        repeated = [identifier for identifier, count in Counter(array.to_pylist()).items() if count > 1]
        raise UsageError(f"id {repeated[0]!r} occurs more than once ({len(repeated)} such ids); make them unique")
    return array


def _distinct(texts: list[str], ids: pa.Array) -> _Distinct:
    order = pc.sort_indices(ids)  # by code point, like Python's comparison of str
    normal = pa.array([normalise_text(text) for text in texts], type=pa.large_string()).take(order)
    encoded = normal.dictionary_encode()  # numbers texts as they first appear: in the order of their smallest id
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return _Distinct(ids.take(order), code, text_list(encoded.dictionary), np.unique(code, return_index=True)[1])


def _equal_links(fingerprints: NDArray[np.uint64], verifier: Verifier) -> tuple[list[tuple[int, int]], list[int]]:
    """Link texts with equal fingerprints to the first such text that the verifier accepts.

    Returns the links and the texts that stand for themselves. A million texts with one fingerprint cost a million
    comparisons this way, not half a billion: a text once linked is not compared again.
    """
    links: list[tuple[int, int]] = []
    standing: list[int] = []
    seen: dict[int, list[int]] = {}
    for index, fingerprint in enumerate(fingerprints.tolist()):
        others = seen.setdefault(fingerprint, [])
        twin = next((other for other in others if verifier.accepts(other, index)), None)
        if twin is None:
            others.append(index)
            standing.append(index)
        else:
            links.append((twin, index))
    return links, standing


def _keepers(num_texts: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each text the smallest text number in its connected group. links: shape (p, 2); returns (num_texts,)."""
    graph = coo_array((np.ones(len(links), dtype=np.int8), (links[:, 0], links[:, 1])), shape=(num_texts, num_texts))
    num_groups, group = connected_components(graph, directed=False)
    smallest = np.full(num_groups, num_texts, dtype=np.int64)
    np.minimum.at(smallest, group, np.arange(num_texts))
    return smallest[group]


def _simhash_keepers(
    texts: list[str], distance: int, verify: float | None
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """For each distinct text the one that is kept for it, and how many bits they differ. Both shape (u,)."""
    fingerprints = fingerprints_of_normal(texts)
    verifier = Verifier(texts, verify, same_numbers=True)
    links, standing = _equal_links(fingerprints, verifier)
    rows = np.asarray(standing, dtype=np.int64)
    near = rows[near_duplicates(fingerprints[rows], distance)]
    links += [(i, j) for i, j in near.tolist() if verifier.accepts(i, j)]
    keeper = _keepers(len(texts), np.asarray(links, dtype=np.int64).reshape(-1, 2))
    return keeper, np.bitwise_count(fingerprints ^ fingerprints[keeper])


def find_duplicates(
    keys: Texts,
    ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    *,
    method: str = "simhash",
    distance: int = 3,
    verify: float | None = DEFAULT_VERIFY,
) -> pa.Table:
    """The rows to remove so that no near-equal ones remain: a table (removed, kept, distance), ordered by `removed`.

    keys: the n texts to compare, ids: their n distinct ids (strings). Of each group of twins the row with the
    smallest id is kept, and every other points to it with the number of bits between the two.

    method "exact": twins have the same `normalise_text`; distance is 0. Method "simhash": or fingerprints within
    `distance` (0 to 7) bits and, unless `verify` is None, equal numbers and at least `verify` (0 to 1) Jaccard
    similarity of their n-grams. Links chain: in a long chain a row may differ from the kept one by more bits.
    Equal texts count once, so a million equal rows cost no more than reading them. A wrong value is a UsageError.

    >>> find_duplicates(["Why?", "why", "How so?"], ["b", "a", "c"], method="exact").to_pylist()
    [{'removed': 'b', 'kept': 'a', 'distance': 0}]
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: allowed are {', '.join(METHODS)}")
    checked_threshold(verify)
    near_duplicates(np.empty(0, dtype=np.uint64), distance)  # a wrong distance is refused even where it is not used
    texts = text_list(keys, what="keys")
    rows = _distinct(texts, id_array(ids, len(texts)))
    if method == "exact":
        keeper = np.arange(len(rows.texts))
        bits = np.zeros(len(rows.texts), dtype=np.uint8)
    else:
        keeper, bits = _simhash_keepers(rows.texts, distance, verify)
    kept = rows.first[keeper][rows.code]
    removed = np.flatnonzero(kept != np.arange(len(rows.code)))
    distances = pa.array(bits[rows.code[removed]], type=pa.int32())
    return pa.table([rows.ids.take(removed), rows.ids.take(kept[removed]), distances], names=REMOVED.names).cast(
        REMOVED
    )
