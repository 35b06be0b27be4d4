"""Which of many texts are near-equal, and which of them to remove.

Near-equal texts are linked; each connected group of links keeps its first text (by id) and loses the others. The
outcome depends on the set of (id, text), not on their order. A second run removes nothing, but where hundreds of texts
share a template and a pair was missed (`mixture.dedup.bands`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.arguments import named
from mixture.dedup.methods import METHODS, Settings
from mixture.dedup.methods.base import DEFAULT_SIMILARITY, DEFAULT_VERIFY
from mixture.dedup.simhash import simhash_fingerprints
from mixture.embeddings import Encode, Kind, source_of
from mixture.errors import UsageError
from mixture.text.form import Texts, text_list

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
    texts: Texts, *, method: str = "simhash", distance: int = 3, verify: float | None = DEFAULT_VERIFY,
    similarity: float = DEFAULT_SIMILARITY, encode: Encode | None = None, kind: Kind = "query",
) -> NDArray[np.int64]:  # fmt: skip
    """For each text the first row of its group of near-equal texts; shape (n,).

    method: a name of `METHODS`, whose modules say what links two texts. Links chain. distance: 0 to 7; verify: above 0
    to 1, or None; similarity: above 0 to 1. A wrong value is a UsageError, also where the method does not read it.
    encode: from texts of this kind to embeddings, for a method that needs them
    """
    vectors = None if encode is None else partial(source_of(encode).vectors, kind=kind, again=True)
    chosen, settings = named("method", method, METHODS), Settings(distance, verify, similarity, vectors=vectors)
    chosen.check(settings)
    return chosen.groups_of(texts, settings)


def find_duplicates(
    keys: Texts,
    ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    *,
    method: str = "simhash",
    distance: int = 3,
    verify: float | None = DEFAULT_VERIFY,
    similarity: float = DEFAULT_SIMILARITY,
    encode: Encode | None = None,
    kind: Kind = "query",
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
    kept = duplicate_groups(
        column, method=method, distance=distance, verify=verify, similarity=similarity, encode=encode, kind=kind
    )
    removed = np.flatnonzero(kept != np.arange(len(kept)))
    bits = fingerprint_distances(column, removed, kept[removed])
    return pa.table([id_column.take(removed), id_column.take(kept[removed]), bits], names=REMOVED.names).cast(REMOVED)


def fingerprint_distances(texts: pa.Array, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int32]:
    """Bits in which the fingerprints of the texts in these rows differ; left, right and result: (p,)."""
    apart = simhash_fingerprints(texts.take(pa.array(left))) ^ simhash_fingerprints(texts.take(pa.array(right)))
    return np.bitwise_count(apart).astype(np.int32)
