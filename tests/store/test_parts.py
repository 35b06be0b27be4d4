"""Texts in parts, each from the files that hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixture import Store, jobs
from mixture.errors import StoreError
from mixture.store import files, read
from mixture.store.parts import text_parts, texts_in


def rows_of(store: Store, kind: str, names: list[str]):
    return read.query_prints(store, names) if kind == "query" else read.positive_prints(store, names)


@pytest.mark.parametrize("kind", ["query", "positive"])
@pytest.mark.parametrize("size", [7, 1000])
def test_parts_have_the_texts_of_their_rows(small_store: Store, kind: str, size: int) -> None:
    """Of three files, of rows that the catalog holds itself, and of what is left of a file after a removal."""
    rows = [{"query": f"what is tin number {n}", "pos": [f"A metal, {n}."]} for n in range(3)]
    jobs.ingest(small_store, rows, name="small")
    jobs.ingest(
        small_store,
        [{"query": f"{'The' if n % 2 else 'the'} lighthouse of cape {n // 2}", "pos": ["Yes."]} for n in range(40)],
        name="copies",
    )
    names = ["middle", "small", "copies", "easy"]
    before = small_store.snapshot()
    assert sum(result.removed for result in jobs.dedup(small_store)) > 0
    with files.at_version(small_store, before) as old:
        _compare(old, kind, names, size)
    _compare(small_store, kind, names, size)


def _compare(store: Store, kind: str, names: list[str], size: int) -> None:
    rows = rows_of(store, kind, names)
    expected = read.texts_of(store, kind, rows).to_pylist()
    found: list[str | None] = [None] * len(expected)
    for places, part in text_parts(store, kind, names, rows["row"].to_numpy(), size):
        assert len(part.rows) <= size
        for place, text in zip(places, texts_in(store, part).to_pylist(), strict=True):
            found[place] = text
    assert found == expected
    assert len(set(expected)) > 40


@pytest.mark.folder
def test_a_part_reads_its_own_files_only(small_store: Store) -> None:
    names = ["easy", "middle", "hard"]
    rows = read.query_prints(small_store, names)
    parts = [part for _, part in text_parts(small_store, "query", names, rows["row"].to_numpy(), 40)]
    assert [len(part.files) for part in parts] == [1, 1, 1]
    for other in parts[1:]:
        Path(other.files[0]).unlink()
    assert len(texts_in(small_store, parts[0])) == 40
    with pytest.raises(StoreError, match="No such file"):
        texts_in(small_store, parts[1])


def test_a_row_that_is_not_there_is_an_error(small_store: Store) -> None:
    rows = read.query_prints(small_store, ["easy"])["row"].to_numpy()
    ((_, part),) = text_parts(small_store, "query", ["easy"], rows, 100)
    jobs.ingest(small_store, [{"query": "what is lead made of", "pos": ["Of lead."]}], name="other")
    small_store.transaction(
        lambda connection: connection.execute("DELETE FROM examples WHERE rowid = ?", [int(rows[3])])
    )
    with pytest.raises(StoreError, match="1 of 40 rows went away"):
        texts_in(small_store, part)
    assert np.all(np.diff(part.rows) > 0)
