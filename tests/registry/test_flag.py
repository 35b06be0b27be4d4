"""FlagEmbedding's rows with scores, out of a mixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture import Store, jobs
from mixture.errors import UsageError

ROWS: list[dict[str, Any]] = [
    {"query": "who painted it", "pos": ["she did", "he helped"], "neg": ["nobody", "the wind"],
     "pos_scores": [0.75, 0.5], "neg_scores": [0.25, 0.125], "prompt": "find the painter"},
    {"query": "where is it", "pos": ["in the hall"], "neg": ["in the <sea>"], "pos_scores": [2.0],
     "neg_scores": [None], "prompt": "find the painter"},
    {"query": "wer war das", "pos": ["sie wars"], "neg": [], "pos_scores": [1.0], "prompt": "find the painter"},
]  # fmt: skip


def written(folder: Path, name: str = "art") -> dict[str, dict[str, Any]]:
    lines = (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
    return {row["query"]: row for row in map(json.loads, lines)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "art.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS), "utf-8")
    store = Store.open(tmp_path / "store", create=True)
    jobs.ingest(store, tmp_path / "art.jsonl")
    return store


def test_the_scores_of_a_file_come_back(store: Store, tmp_path: Path) -> None:
    jobs.create(store, "m")
    out = jobs.export(store, "m", flagembedding=tmp_path / "out")
    assert out.counts == {"collections": 1, "rows": 3}
    wanted = {row["query"]: dict(row) for row in ROWS}
    del wanted["where is it"]["neg_scores"]  # none of them is a number
    found = written(tmp_path / "out")
    drawn = found["wer war das"].pop("neg")
    assert not wanted["wer war das"].pop("neg")
    assert found == wanted
    others = {text for row in ROWS for side in ("pos", "neg") for text in row[side]} - {"sie wars"}
    assert set(drawn) == others and len(drawn) == len(others)  # six: of more it takes seven
    assert out.remarks == (
        "art: 2 of 3 rows lack scores of a side, which FlagEmbedding's knowledge_distillation does not take",
        "art: 1 of its examples have no negatives; the reader needs one, so they have passages of the collection, "
        "drawn at random, 7 at most",
    )
    with pytest.raises(UsageError, match="is not empty; name a new folder"):
        jobs.export(store, "m", flagembedding=tmp_path / "out")


def test_rows_with_negatives_come_back_as_the_same_mixture(store: Store, tmp_path: Path) -> None:
    (tmp_path / "art.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS if row["neg"]), "utf-8")
    jobs.ingest(store, tmp_path / "art.jsonl")
    saved = jobs.create(store, "now")
    jobs.export(store, "now", flagembedding=tmp_path / "out")
    with Store.open(tmp_path / "again", create=True) as again:
        jobs.ingest(again, tmp_path / "out" / "art.jsonl")
        assert jobs.create(again, "m").spec.id == saved.spec.id


def encode(texts: list[str], kind: str) -> Any:
    counts = np.array([[text.count(letter) for letter in "abcdefghiklmnorstuvw"] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def test_a_miners_scores_are_those_of_both_sides(store: Store, tmp_path: Path) -> None:
    jobs.mine(store, "art", miner="bag", encode=encode, per_query=2, name="mined", filters={"max_ratio": None})
    jobs.create(store, "m", miners="mined")
    jobs.export(store, "m", flagembedding=tmp_path / "out")
    rows = written(tmp_path / "out")
    assert any("neg_scores" in row for row in rows.values())
    for query, row in rows.items():
        for side in ("pos", "neg"):
            vectors = encode([query, *row[side]], "query")
            found = [score for score in row.get(f"{side}_scores", []) if score is not None]
            assert len(found) in (0, len(row[side]))
            if found:
                np.testing.assert_allclose(found, vectors[1:] @ vectors[0], atol=1e-6)
        assert len(row["pos_scores"]) == len(row["pos"])


def test_scores_of_several_miners_are_left_out_and_said(store: Store, tmp_path: Path) -> None:
    jobs.mine(store, "art", miner="bag", encode=encode, per_query=2, name="mined", filters={"max_ratio": None})
    jobs.create(store, "m")
    out = jobs.export(store, "m", flagembedding=tmp_path / "out")
    assert "art: without scores, since negatives of mined, provided have some" in out.remarks[0]
    assert not [row for row in written(tmp_path / "out").values() if row.keys() & {"pos_scores", "neg_scores"}]


def test_what_a_mixture_pins_is_written_when_the_store_has_moved_on(store: Store, tmp_path: Path) -> None:
    jobs.create(store, "m")
    (tmp_path / "art.jsonl").write_text(json.dumps({"query": "new", "pos": ["p"], "neg": ["n"]}))
    jobs.ingest(store, tmp_path / "art.jsonl")
    jobs.export(store, "m", flagembedding=tmp_path / "out")
    assert set(written(tmp_path / "out")) == {row["query"] for row in ROWS}
    jobs.create(store, "now")
    jobs.export(store, "now", flagembedding=tmp_path / "now")
    assert written(tmp_path / "now") == {"new": {"query": "new", "pos": ["p"], "neg": ["n"]}}
