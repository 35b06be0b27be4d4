"""Texts of a store in parts: each is read from the data files that hold it, and from no others.

Ids are hashes, so rows in order of their ids lie all over a table, and to read some of them is to go over all of it. In
order of DuckLake's row ids rows lie side by side. A part says all that another process needs to read it from the same
snapshot.

Shapes: n rows, p of them in a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.store import read
from mixture.store.connect import Store
from mixture.store.query import quote

TABLES = {"query": "examples", "positive": "passages"}
TEXTS = {"query": "query", "positive": read.PASSAGE}


@dataclass(frozen=True)
class TextPart:
    """Rows of a table that lie side by side.

    kind:  "query", or "positive", which is title and text
    files: that hold them, as DuckLake names them
    rows:  their row ids, ascending, (p,) int64
    """

    kind: str
    files: tuple[str, ...]
    rows: NDArray[np.int64]


def text_parts(
    store: Store, kind: str, collections: Sequence[str], rows: NDArray[np.int64], size: int
) -> Iterator[tuple[NDArray[np.int64], TextPart]]:  # fmt: skip
    """Parts of up to `size` of these rows, given by their row ids, (n,), and which of the n they are, (p,)."""
    files = store.read(
        f"""SELECT filename, min(rowid) AS first, max(rowid) AS last FROM {TABLES[kind]}
            WHERE list_contains($names, collection) GROUP BY filename ORDER BY first, filename""",
        {"names": list(collections)},
    )
    names = np.array(files["filename"].to_pylist(), object)
    first, last = files["first"].to_numpy(), files["last"].to_numpy()
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(rows), size):
        places = order[start : start + size]
        own = rows[places]
        yield places, TextPart(kind, tuple(names[(first <= own[-1]) & (last >= own[0])]), own)


def texts_in(store: Store, part: TextPart) -> pa.Array:
    """The texts of a part's rows, in order."""
    return read.texts_for(
        store,
        pa.table({"row": part.rows}),
        f"""SELECT "text" FROM wanted JOIN
                (SELECT rowid AS "row", {TEXTS[part.kind]} AS "text" FROM {TABLES[part.kind]}
                 WHERE filename IN ({", ".join(map(quote, part.files))})
                 AND rowid BETWEEN {part.rows[0]} AND {part.rows[-1]})
            USING ("row") ORDER BY "row" """,
    )
