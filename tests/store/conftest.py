"""A small hand-made store for the tests of the SQL surface."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixture import Store
from mixture.store.write import insert_rows

START = datetime(2026, 1, 1, tzinfo=UTC)
# collection, category, license, languages, languages of its examples
COLLECTIONS = (
    ("forum", "Forum", "cc-by-4.0", ["en"], [None] * 40),
    ("wiki", "Wikipedia", "cc-by-sa-3.0", ["sw", "zh"], ["sw"] * 15 + ["zh"] * 45),
    ("web", "Web", None, None, [None] * 20),
)
# name, version, id, weights
MIXTURES: tuple[tuple[str, int, str, dict[str, float]], ...] = (
    ("base", 1, "aaaa11112222", {"forum": 0.5, "wiki": 0.25, "web": 0.25}),
    ("base", 2, "aaaa33334444", {"forum": 0.2, "wiki": 0.8}),
    ("other", 1, "bbbb55556666", {"forum": 0.5, "gone": 0.5}),
)
NUM_EXAMPLES = {name: len(spoken) for name, *_, spoken in COLLECTIONS} | {"gone": 7}


def _rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "collections", [
        {"collection": name, "category": category, "license": license, "languages": languages, "added_at": START,
         "deduped_size": 50}
        for name, category, license, languages, _ in COLLECTIONS
    ]  # fmt: skip
    for name, *_, spoken in COLLECTIONS:
        yield "examples", [
            {"collection": name, "example_id": f"{name}{i}", "query": f"query {i}", "language": language,
             "positives": [{"passage_id": f"p{i}", "grade": 1.0}]}
            for i, language in enumerate(spoken)
        ]  # fmt: skip
        yield (
            "passages",
            [{"collection": name, "passage_id": f"p{i}", "title": "", "text": f"text {i}"} for i in range(len(spoken))],
        )
    yield (
        "negatives",
        [
            {"collection": "forum", "example_id": "forum0", "passage_id": f"p{i}", "rank": i, "miner": "bm25"}
            for i in (1, 2)
        ],
    )
    yield "rejects", [{"collection": "web", "file": "web.jsonl", "line": 3, "reason": "not JSON"}]
    yield (
        "removals",
        [
            {"collection": "wiki", "example_id": f"x{i}", "query": "q", "reason": reason, "removed_at": START}
            for i, reason in enumerate(["duplicate", "duplicate", "test query"])
        ],
    )
    for number, (name, version, mixture, weights) in enumerate(MIXTURES):
        yield "mixtures", [
            {"mixture": mixture, "name": name, "version": version, "spec": "{}",
             "created_at": START + timedelta(days=number)}
        ]  # fmt: skip
        yield "mixture_weights", [
            {"mixture": mixture, "collection": collection, "digest": "d", "weight": weight, "loss_weight": 1.0,
             "num_examples": NUM_EXAMPLES[collection]}
            for collection, weight in weights.items()
        ]  # fmt: skip


@pytest.fixture(scope="module")
def facts_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Three collections (forum, wiki, web) and the mixtures base:1, base:2, other:1. Made once a module: only read."""
    folder: Path = tmp_path_factory.mktemp("facts")
    with Store.open(folder / "store", create=True) as store:
        for table, rows in _rows():
            insert_rows(store, table, pa.Table.from_pylist(rows))
        yield store
