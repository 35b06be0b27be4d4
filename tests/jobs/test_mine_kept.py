"""Mining keeps a model's embeddings in the store's folder, and encodes only what is not there."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixture import Store, jobs
from mixture.embeddings import Space
from mixture.embeddings.search import tiles
from mixture.errors import UsageError
from mixture.jobs.mine import remarks
from mixture.registry.gc import LEFTOVER_SECONDS, gc


class Model:
    """A bag of letters, of unit length, that remembers what it was given."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.given: list[tuple[str, str]] = []
        self.fails_after = fails_after

    def __call__(self, texts: Any, kind: str) -> np.ndarray:
        if self.fails_after is not None and len(self.given) >= self.fails_after:
            raise InterruptedError
        self.given += [(kind, text) for text in texts]
        counts = np.array([[text.count(letter) for letter in "abcdefghiklmnorstuv"] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)

    def space(self, kind: str) -> Space:
        return Space(model="letters", prompt="query: " if kind == "query" else "")


def mine(store: Store, model: Any, *names: str, **options: Any) -> list[jobs.MiningResult]:
    return jobs.mine(store, names, miner="letters", encode=model, per_query=3, **options)


def negatives(store: Store) -> list[dict[str, Any]]:
    return store.rows("SELECT * FROM negatives WHERE miner IN ('letters', 'random') ORDER BY ALL")


def spaces(store: Store) -> list[Path]:
    return sorted((store.work / "embeddings").glob("*"))


def test_a_second_call_encodes_nothing_and_finds_the_same(small_store: Store) -> None:
    first, second = Model(), Model()
    (one,) = mine(small_store, first, "easy")
    found = negatives(small_store)
    assert len(set(first.given)) == len(first.given) == one.encoded > 80
    assert one.reused == 0
    (two,) = mine(small_store, second, "easy")
    assert second.given == []
    assert (two.encoded, two.reused) == (0, one.encoded)
    assert negatives(small_store) == found
    assert len(spaces(small_store)) == 2  # queries stand behind a prompt


def test_after_new_rows_only_these_are_encoded(small_store: Store, tmp_path: Path) -> None:
    (before,) = mine(small_store, Model(), "easy")
    rows = [{"query": f"new query {n}", "pos": [f"new answer {n}"], "neg": []} for n in range(2)]
    rows.append({"query": "new query 0", "pos": ["another answer"], "neg": []})  # a query that is there twice
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs.ingest(small_store, tmp_path / "more.jsonl", name="easy")
    model = Model()
    (after,) = mine(small_store, model, "easy")
    assert sorted(model.given) == [
        ("passage", "another answer"), ("passage", "new answer 0"), ("passage", "new answer 1"),
        ("query", "new query 0"), ("query", "new query 1"),
    ]  # fmt: skip
    assert (after.encoded, after.reused) == (5, before.encoded)


def test_what_is_kept_changes_no_negative(small_store: Store) -> None:
    (alone,) = mine(small_store, Model(), "easy", keep_embeddings=False)
    found = negatives(small_store)
    assert not spaces(small_store)
    assert (alone.encoded > 80, alone.reused) == (True, 0)
    mine(small_store, Model(), "easy")
    assert [row | {"score": 0} for row in negatives(small_store)] == [row | {"score": 0} for row in found]
    np.testing.assert_allclose(*([row["score"] or 0 for row in rows] for rows in (negatives(small_store), found)),
                               rtol=1e-6)  # fmt: skip


def test_a_killed_call_goes_on(small_store: Store) -> None:
    """Killed in the second collection."""
    whole, killed, again = Model(), Model(fails_after=200), Model()
    mine(small_store, whole, keep_embeddings=False, replace=True, dry_run=True)
    with pytest.raises(InterruptedError):
        mine(small_store, killed, replace=True)
    mine(small_store, again, replace=True)
    assert 200 <= len(killed.given) < len(set(whole.given))
    assert set(killed.given) | set(again.given) == set(whole.given)
    assert not set(killed.given) & set(again.given)


@pytest.mark.parametrize("miner", ["dense:letters", "both:letters"])
def test_a_killed_search_goes_on(small_store: Store, monkeypatch: pytest.MonkeyPatch, miner: str) -> None:
    """Killed by the encoder, when two of the blocks of passages are encoded, searched and noted."""
    searched: list[int] = []

    def counted(queries: Any, size: int) -> Any:
        searched.append(size)
        return tiles(queries, size)

    monkeypatch.setattr("mixture.embeddings.source.AT_ONCE", 16)
    monkeypatch.setattr("mixture.embeddings.standing.EVERY", 0.0)
    monkeypatch.setattr("mixture.embeddings.search.tiles", counted)
    whole = Model()
    jobs.mine(small_store, "easy", miner=miner, encode=whole, keep_embeddings=False)
    found = small_store.rows("SELECT * FROM negatives ORDER BY ALL")
    jobs.undo_mining(small_store)
    queries = sum(kind == "query" for kind, _ in set(whole.given))
    with pytest.raises(InterruptedError):
        jobs.mine(small_store, "easy", miner=miner, encode=Model(fails_after=queries + 32))
    assert len(list(small_store.work.glob("embeddings/*/.search-*"))) == 1
    searched.clear()
    jobs.mine(small_store, "easy", miner=miner, encode=Model())
    blocks = -(-sum(kind == "passage" for kind, _ in set(whole.given)) // 16)
    assert len(searched) == blocks - 2 > 0
    assert small_store.rows("SELECT * FROM negatives ORDER BY ALL") == found
    assert not list(small_store.work.glob("embeddings/*/.search-*"))


def test_a_dry_run_keeps_them_and_a_plain_function_does_not(small_store: Store) -> None:
    plain = Model()
    (result,) = jobs.mine(small_store, "easy", miner="letters", encode=lambda t, k: plain(t, k))  # type: ignore[arg-type]
    assert (result.encoded, result.reused) == (len(plain.given), 0)
    assert not spaces(small_store)
    (planned,) = mine(small_store, Model(), "easy", dry_run=True)
    (done,) = mine(small_store, Model(), "easy")
    assert (planned.reused, done.encoded) == (0, 0)
    assert done.reused == planned.encoded > 80


def test_half_precision_is_a_choice(small_store: Store) -> None:
    mine(small_store, Model(), "easy")
    mine(small_store, Model(), "easy", precision="float16")
    kinds = [str(pq.read_schema(next(path.glob("*.parquet"))).field("embedding").type) for path in spaces(small_store)]
    assert sorted("halffloat" in kind for kind in kinds) == [False, False, True, True]
    with pytest.raises(UsageError, match="`precision` is 'int8'; allowed: float32, float16"):
        mine(small_store, Model(), "easy", precision="int8")


def test_an_index_is_used_and_says_its_recall(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    monkeypatch.setattr("mixture.embeddings.indexes.faiss.WORTH", 1)
    (exact,) = mine(small_store, Model(), "easy")
    ranked = "SELECT example_id, rank, score FROM negatives WHERE miner = 'letters' ORDER BY ALL"
    found = small_store.rows(ranked)
    (flat,) = mine(small_store, Model(), "easy", index="faiss:Flat")
    same = small_store.rows(ranked)  # by score: of nearly equal ones either product may be the larger by a bit
    assert [row["example_id"] for row in same] == [row["example_id"] for row in found]
    np.testing.assert_allclose([row["score"] for row in same], [row["score"] for row in found], rtol=1e-5)
    (few,) = mine(small_store, Model(), "easy", index="faiss:IVF1,Flat:nprobe=1")
    (plain,) = mine(small_store, lambda texts, kind: Model()(texts, kind), "easy", index="faiss:HNSW2:efSearch=1")
    assert (exact.recall, flat.recall, few.recall) == (None, 1.0, 1.0)
    assert plain.recall is not None and plain.recall <= 1
    told = store_settings(small_store)
    assert [("index" in one, one.get("recall")) for one in told] == [
        (False, None), (True, 1.0), (True, 1.0), (True, plain.recall),
    ]  # fmt: skip
    flat = replace(flat, short=0)
    assert remarks([flat], 3) == []
    (line,) = remarks([replace(flat, recall=0.9)], 3)
    assert line.startswith("easy: `index` found 90.0 % of the candidates of an exact search; raise")


def store_settings(store: Store) -> list[dict[str, Any]]:
    return [json.loads(row["settings"]) for row in store.rows("SELECT settings FROM minings ORDER BY mined_at")]


def test_a_wrong_index_is_said_before_anything_is_encoded(small_store: Store) -> None:
    model = Model()
    with pytest.raises(UsageError, match="`index` is 'fais'; allowed: exact, faiss"):
        mine(small_store, model, "easy", index="fais")
    with pytest.raises(UsageError, match="the miner bm25 searches no embeddings; leave away `index`"):
        jobs.mine(small_store, "easy", index="faiss")
    assert model.given == []


def test_what_gc_frees_comes_back(small_store: Store) -> None:
    mine(small_store, Model(), "easy")
    assert gc(small_store) == []
    long_ago = time.time() - LEFTOVER_SECONDS - 60
    for file in (small_store.work / "embeddings").rglob("*"):
        os.utime(file, (long_ago, long_ago))
    mine(small_store, Model(), "easy")  # which uses them
    assert gc(small_store) == []
    for file in (small_store.work / "embeddings").rglob("*"):
        os.utime(file, (long_ago, long_ago))
    assert len(gc(small_store)) == 2
    assert not spaces(small_store)
    assert mine(small_store, Model(), "easy")[0].reused == 0
