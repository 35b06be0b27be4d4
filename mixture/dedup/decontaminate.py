"""Training queries that are in a test set, or nearly.

A training query is contaminated when its normal form equals a test query's, or when their fingerprints are within a
few bits and the second look (`Verifier`) agrees. Here a false alarm costs one training row and a miss costs the
evaluation, so the second look is milder than between training rows: numbers may differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.dedup.duplicates import id_array
from mixture.dedup.neighbours import cross_pairs
from mixture.dedup.simhash import fingerprints_of_normal
from mixture.dedup.text import Texts, normalise_text, text_list
from mixture.dedup.verify import Verifier
from mixture.errors import UsageError

DEFAULT_VERIFY = 0.5
CONTAMINATED = pa.schema(
    [
        pa.field("removed", pa.string(), nullable=False),
        pa.field("suite", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("test_query", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
    ]
)


def _number_texts(texts: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The distinct texts, and for each text the number of its distinct one."""
    numbers: dict[str, int] = {}
    code = np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), dtype=np.int64, count=len(texts))
    return code, list(numbers)


def _test_columns(table: pa.Table) -> pa.Table:
    """The columns used, without rows whose query is null; a UsageError when one is absent."""
    missing = [name for name in ("suite", "query_id", "query") if name not in table.column_names]
    if missing:
        raise UsageError(f"test queries: no column {missing[0]!r}; there are: {', '.join(table.column_names)}")
    # In this order the first of several equally near test queries is the one to report.
    return table.select(["suite", "query_id", "query"]).sort_by([("suite", "ascending"), ("query_id", "ascending")])


def _nearest(
    train: list[str], test: list[str], first_row: NDArray[np.int64], distance: int, verify: float | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each distinct training text its nearest distinct test text (-1: none) and the bits between. Shapes (u,).

    first_row: shape (v,), the first row of each test text in the test table; decides between equally near ones.
    """
    left, right = fingerprints_of_normal(train), fingerprints_of_normal(test)
    pairs = cross_pairs(left, right, distance)
    bits = np.bitwise_count(left[pairs[:, 0]] ^ right[pairs[:, 1]]).astype(np.int64)
    order = np.lexsort((first_row[pairs[:, 1]], bits, pairs[:, 0]))
    verifier = Verifier(train + test, verify, same_numbers=False)
    nearest = np.full(len(train), -1, dtype=np.int64)
    best_bits = np.zeros(len(train), dtype=np.int64)
    for row in order.tolist():
        i, j = pairs[row].tolist()
        if nearest[i] < 0 and verifier.accepts(i, len(train) + j):
            nearest[i], best_bits[i] = j, bits[row]
    return nearest, best_bits


def find_contaminated(
    queries: Texts,
    ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    test_queries: pa.Table,
    *,
    distance: int = 3,
    verify: float | None = DEFAULT_VERIFY,
) -> pa.Table:
    """The training queries to remove: a table (removed, suite, query_id, test_query, distance), ordered by `removed`.

    queries: n training queries, ids: their n distinct ids (strings). test_queries: a table with the columns suite,
    query_id, query (others are ignored: fingerprints are computed anew, which costs less than trusting old ones). One
    row for each contaminated training query, with its nearest test query; among equally near ones the first by suite,
    then query_id. distance: 0 to 7 bits; verify: least n-gram Jaccard similarity, 0 to 1, or None for no second look.
    A wrong value is a UsageError.

    >>> tests = pa.table({"suite": ["nq"], "query_id": ["1"], "query": ["Who wrote Hamlet"]})
    >>> find_contaminated(["who wrote hamlet?", "who wrote Faust?"], ["a", "b"], tests)["removed"].to_pylist()
    ['a']
    """
    texts = [normalise_text(text) for text in text_list(queries, what="queries")]
    id_column = id_array(ids, len(texts))
    tests = _test_columns(test_queries)
    test_texts = [normalise_text(text) for text in text_list(tests["query"], what="test queries")]
    train_code, train = _number_texts(texts)
    test_code, test = _number_texts(test_texts)
    first_row = np.unique(test_code, return_index=True)[1]
    nearest, bits = _nearest(train, test, first_row, distance, verify)
    hits = np.flatnonzero(nearest[train_code] >= 0)
    found = tests.take(first_row[nearest[train_code[hits]]])
    columns = {
        "removed": id_column.take(hits),
        "suite": found["suite"],
        "query_id": found["query_id"],
        "test_query": found["query"],
        "distance": bits[train_code[hits]],
    }
    return pa.table(columns).cast(CONTAMINATED).sort_by("removed")
