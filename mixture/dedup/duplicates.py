"""Which of many texts are near-equal, and which of them to remove.

Near-equal texts are linked; each connected group of links keeps its first text (by id) and loses the others. The
outcome depends on the set of (id, text), not on their order. A second run removes nothing, but where hundreds of texts
share a template and a pair was missed (`mixture.dedup.bands`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.dedup.bands import MOST_BLOCKS, many_fingerprints, proposed_pairs
from mixture.dedup.neighbours import connected, joined, near_duplicate_groups, near_duplicates
from mixture.dedup.second_look import Verifier, checked_threshold
from mixture.dedup.simhash import simhash_fingerprints
from mixture.errors import UsageError
from mixture.text.columns import normalise_texts
from mixture.text.form import Texts, text_list

METHODS = ("simhash", "minhash", "exact")
DEFAULT_VERIFY = 0.8
EQUAL_ROUNDS = 8
REMOVED = pa.schema(
    [
        pa.field("removed", pa.string(), nullable=False),
        pa.field("kept", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
    ]
)


def id_array(ids: Sequence[str] | pa.Array | pa.ChunkedArray, num_texts: int) -> pa.Array:
    """The ids as one Arrow string array; a UsageError unless there is one for each text and no two are equal."""
    array = pa.array(text_list(ids, what="ids"), type=pa.large_string())
    if len(array) != num_texts:
        raise UsageError(f"{num_texts} texts and {len(array)} ids: there must be one id for each text")
    if pc.count_distinct(array).as_py() != len(array):
        repeated = [identifier for identifier, count in Counter(array.to_pylist()).items() if count > 1]
        raise UsageError(f"id {repeated[0]!r} occurs more than once ({len(repeated)} such ids); make them unique")
    return array


def duplicate_groups(
    texts: Texts, *, method: str = "simhash", distance: int = 3, verify: float | None = DEFAULT_VERIFY
) -> NDArray[np.int64]:
    """For each text the first row of its group of near-equal texts; shape (n,).

    method: "exact": equal normal forms. "simhash": or fingerprints within `distance` (0 to 7) bits and, unless `verify`
    is None, equal numbers and at least `verify` (0 to 1) Jaccard similarity of their n-grams. Since `verify` decides,
    pairs further apart are looked at too, if the distance is not 0: those that agree on one of distance + 1 blocks (at
    most 4) of one of sixteen further fingerprints (`bands`); with 3 that misses few pairs of similarity 0.8.
    "minhash": or at least `verify` Jaccard similarity, of the pairs that MinHash proposes. Links chain. Equal texts
    count once, so a million of them cost no more than reading them. A wrong value is a UsageError.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: allowed are {', '.join(METHODS)}")
    checked_threshold(verify)
    near_duplicates(np.empty(0, dtype=np.uint64), distance)  # a wrong distance is refused even where it is not used
    # Numbers texts as they first appear, so a smaller number stands for an earlier row.
    encoded = normalise_texts(texts).combine_chunks().dictionary_encode()
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    forms = encoded.dictionary
    first = np.full(len(forms), -1, np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    if method == "exact":
        return first[code]
    if method == "simhash":
        return first[_near(forms, distance, verify)[code]]
    from mixture.dedup.minhash import minhash_pairs  # datasketch takes a while to load

    return first[connected(minhash_pairs(forms, DEFAULT_VERIFY if verify is None else verify), len(forms))[code]]


def _near(forms: pa.Array, distance: int, verify: float | None) -> NDArray[np.int64]:
    """For each distinct normal form the first of its group by fingerprints; shape (u,)."""
    fingerprints = simhash_fingerprints(forms)
    if verify is None:
        return near_duplicate_groups(fingerprints, distance)
    verifier = Verifier(forms, verify, same_numbers=True)
    equal = _of_equal_fingerprints(fingerprints, verifier)
    standing = np.flatnonzero(equal == np.arange(len(equal)))
    group = near_duplicate_groups(fingerprints[standing], distance, lambda p: verifier.accept_pairs(standing[p]))
    place = np.zeros(len(equal), np.int64)
    place[standing] = standing[group]
    if distance == 0:
        return place[equal]
    proposed = proposed_pairs(many_fingerprints(forms), min(distance + 1, MOST_BLOCKS), verify)
    return joined(place[equal], proposed, verifier.accept_pairs)


def _of_equal_fingerprints(fingerprints: NDArray[np.uint64], verifier: Verifier) -> NDArray[np.int64]:
    """For each text the first text of equal fingerprint that it is linked to, or itself; (u,).

    Long texts that differ in a word may share a fingerprint by the thousand. In each round the rest of each such group
    is compared with its first text, so that a group of m costs about m comparisons and not m squared.
    """
    linked = np.arange(len(fingerprints))
    rest = np.arange(len(fingerprints))
    for _ in range(EQUAL_ROUNDS):
        _, first, inverse, counts = np.unique(
            fingerprints[rest], return_index=True, return_inverse=True, return_counts=True
        )
        others = np.flatnonzero((counts[inverse] > 1) & (first[inverse] != np.arange(len(rest))))
        if not len(others):
            break
        pairs = np.stack([rest[first[inverse[others]]], rest[others]], axis=1)
        passed = verifier.accept_pairs(pairs)
        linked[pairs[passed, 1]] = pairs[passed, 0]
        rest = pairs[~passed, 1]
    return linked


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

    The settings are those of `duplicate_groups`. A row may differ from the kept one by more bits than `distance`: where
    pairs are verified that is no limit, and links chain.

    >>> find_duplicates(["Why?", "why", "How so?"], ["b", "a", "c"], method="exact").to_pylist()
    [{'removed': 'b', 'kept': 'a', 'distance': 0}]
    """
    texts = text_list(keys, what="keys")
    id_column = id_array(ids, len(texts))
    order = pc.sort_indices(id_column)  # by code point, like Python's comparison of str
    id_column, column = id_column.take(order), pa.array(texts, pa.large_string()).take(order)
    kept = duplicate_groups(column, method=method, distance=distance, verify=verify)
    removed = np.flatnonzero(kept != np.arange(len(kept)))
    bits = fingerprint_distances(column, removed, kept[removed])
    if method == "exact":
        bits[:] = 0
    return pa.table([id_column.take(removed), id_column.take(kept[removed]), bits], names=REMOVED.names).cast(REMOVED)


def fingerprint_distances(texts: pa.Array, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int32]:
    """Bits in which the fingerprints of the texts in these rows differ; left, right and result: (p,)."""
    apart = simhash_fingerprints(texts.take(pa.array(left))) ^ simhash_fingerprints(texts.take(pa.array(right)))
    return np.bitwise_count(apart).astype(np.int32)
