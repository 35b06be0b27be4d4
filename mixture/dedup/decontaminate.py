"""Training queries that are in a test set, or nearly.

Texts are compared by their letters: the normal form (`normalise_text`: case, Unicode compatibility forms and
punctuation are gone) without spaces. A training query is contaminated when its letters are those of a test query, or
when as many edits as that test query forgives turn the one into the other: one from `shortest` letters on and another
for each `letters_per_edit` letters more, at most `distance`; by default one from 8 letters, two from 32, three from 56
and so on. An edit inserts, drops or replaces a letter or swaps two adjacent ones.

The search is exact: nothing that meets the rule is missed. SimHash does not serve here: test queries are short, and a
typo turns many bits of a short text's fingerprint. For long test queries that come back rewritten in part there is
`find_contained`.

Here a false alarm costs one training row and a miss costs the evaluation, so numbers and names may differ: "in 1998"
is one edit from "in 1994".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.dedup.duplicates import id_array
from mixture.dedup.edits import LEAST_PER_EDIT, LEAST_SHORTEST, Index, make_index, nearest_tests
from mixture.engine import in_threads
from mixture.errors import UsageError
from mixture.text.columns import parts_of, tables
from mixture.text.form import Column, Texts, text_columns
from mixture.text.letters import letters_of

DEFAULT_DISTANCE = 16
DEFAULT_SHORTEST, DEFAULT_LETTERS_PER_EDIT = 8, 24
"""Chosen on 1,250 edited test queries of BEIR and MIRACL, and on a third of their 60,777 queries against the others.

From 7 letters on 99.9 % of the edited ones are found, from 8 on 99.4 %, from 9 on 98.9 %, from 10 on 98.6 %: Chinese
queries often have no more. An edit for each 8 letters finds none more, but flags 319 unequal pairs among the 20,259
queries, many of them another question in the same words; for each 24 it is 73. What remains in any setting are names
and years that differ in a letter, and short questions that differ in one ideograph.
"""
MOST_DISTANCE, MOST_LETTERS = 64, 1_000_000
Part = TypeVar("Part")
CONTAMINATED = pa.schema(
    [
        pa.field("removed", pa.string(), nullable=False),
        pa.field("suite", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("test_query", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
    ]
)


def checked_count(name: str, value: int, least: int, most: int) -> int:
    """The value if it is a whole number from `least` to `most`; otherwise a UsageError that calls it `name`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise UsageError(f"`{name}` is {value!r}; allowed: whole numbers from {least} to {most}")
    return int(value)


def checked_distance(distance: int) -> int:
    """The most edits if that is a whole number from 0 to 64; otherwise a UsageError."""
    return checked_count("distance", distance, 0, MOST_DISTANCE)


def test_columns(table: pa.Table, names: tuple[str, str, str], *, what: str) -> pa.Table:
    """The columns used, suite, id and text, in the order of the first two; a UsageError when one is absent."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise UsageError(f"{what}: no column {missing[0]!r}; there are: {', '.join(table.column_names)}")
    # In this order the first of several equally near test texts is the one to report.
    return table.select(names).sort_by([(name, "ascending") for name in names[:2]])


class QuerySearch:
    """Test queries, made to be searched any number of times. The arguments are those of `find_contaminated`."""

    def __init__(
        self, test_queries: pa.Table, *, distance: int = DEFAULT_DISTANCE, shortest: int = DEFAULT_SHORTEST,
        letters_per_edit: int = DEFAULT_LETTERS_PER_EDIT,
    ) -> None:  # fmt: skip
        distance = checked_distance(distance)
        shortest = checked_count("shortest", shortest, LEAST_SHORTEST, MOST_LETTERS)
        letters_per_edit = checked_count("letters_per_edit", letters_per_edit, LEAST_PER_EDIT, MOST_LETTERS)
        tests = test_columns(test_queries, ("suite", "query_id", "query"), what="test queries")
        first_row: dict[str, int] = {}
        for row, letters in enumerate(letters_of(tests["query"], what="test queries")):
            if letters:
                first_row.setdefault(letters, row)
        self._tests = tests.take(np.array(list(first_row.values()), dtype=np.int64))
        self._index = make_index(list(first_row), distance, shortest, letters_per_edit)

    def find(self, queries: Texts) -> pa.Table:
        """The rows of n queries that are contaminated, ascending: row, suite, query_id, test_query, distance,
        similarity."""
        parts = in_parts(queries, "queries", partial(_searched, index=self._index))
        test, edits, letters = np.concatenate([np.empty((0, 3), dtype=np.int64), *parts]).T
        hits = np.flatnonzero(test >= 0)
        longer = np.maximum(letters[hits], np.diff(self._index.offsets)[test[hits]])
        found = self._tests.take(test[hits])
        columns = {
            "row": hits,
            "suite": found["suite"],
            "query_id": found["query_id"],
            "test_query": found["query"],
            "distance": edits[hits],
            "similarity": 1 - edits[hits] / np.maximum(longer, 1),
        }
        return found_rows(columns, CONTAMINATED)


def in_parts(texts: Texts, what: str, search: Callable[[Column, int, int], Part]) -> list[Part]:
    """What a search gives for each part of some texts (a column, its first row and the one after its last), in order.
    The parts are searched in threads."""
    columns = text_columns(texts, what=what)
    return list(in_threads(partial(search, column, *part) for column in columns for part in parts_of(column[0])))


def found_rows(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """What was found, by row number in place of the id that stands first in `schema`."""
    return pa.table(columns).cast(pa.schema([pa.field("row", pa.int64(), nullable=False), *list(schema)[1:]]))


def named_rows(
    found: pa.Table, ids: Sequence[str] | pa.Array | pa.ChunkedArray, num: int, schema: pa.Schema
) -> pa.Table:
    """Found rows of num texts with their ids in place of the row numbers, ordered by them."""
    rows = id_array(ids, num).take(found["row"].combine_chunks())
    return found.set_column(0, "removed", rows).cast(schema).sort_by("removed")


def _searched(column: Column, first: int, end: int, index: Index) -> NDArray[np.int64]:
    offsets, data = column
    out = np.empty((end - first, 3), dtype=np.int64)
    nearest_tests(offsets[first : end + 1], data, tables(), index, out)
    return out


def find_contaminated(
    queries: Texts,
    ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    test_queries: pa.Table,
    *,
    distance: int = DEFAULT_DISTANCE,
    shortest: int = DEFAULT_SHORTEST,
    letters_per_edit: int = DEFAULT_LETTERS_PER_EDIT,
) -> pa.Table:
    """The training queries to remove, ordered by `removed`: removed, suite, query_id, test_query, distance, similarity.

    queries: n training queries, ids: their n distinct ids (strings). test_queries: a table with the columns suite,
    query_id, query (others are ignored). One row for each contaminated training query (this module says what that is)
    with its nearest test query; among equally near ones the first by suite, then query_id. distance (column): the
    edits between the two; similarity: 1 - edits / letters of the longer one.

    distance: most edits, 0 to 64; with 0 only equal letters count. shortest: 7 or more; a test query with fewer letters
    is found only where the letters are equal. letters_per_edit: 4 or more. A wrong value is a UsageError.

    >>> tests = pa.table({"suite": ["nq"], "query_id": ["1"], "query": ["Who wrote Hamlet"]})
    >>> find_contaminated(["who wrote hamelt?", "who wrote Faust?"], ["a", "b"], tests)["removed"].to_pylist()
    ['a']
    """
    search = QuerySearch(test_queries, distance=distance, shortest=shortest, letters_per_edit=letters_per_edit)
    return named_rows(search.find(queries), ids, len(queries), CONTAMINATED)
