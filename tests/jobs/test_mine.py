"""What a miner's name means, and the filters that a caller names."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.jobs.mine import remarks
from mixture.mining import MINERS, Miner
from mixture.mining.filters import FILTERS, Candidates
from mixture.rows import NEGATIVES
from mixture.store.negatives import add_negatives


def encode(texts: list[str], kind: str) -> Any:
    """A bag of letters, of unit length."""
    counts = np.array([[text.count(letter) for letter in "abcdefghiklmnorstuv"] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def mined(store: Store) -> list[dict[str, Any]]:
    return store.rows(
        "SELECT example_id, passage_id, rank, score, miner FROM negatives "
        "WHERE collection = 'easy' AND miner <> 'provided' ORDER BY ALL"
    )


def test_a_model_is_given_as_a_function_or_made_of_its_name(small_store: Store) -> None:
    asked = []

    def encoder(model: str) -> Any:
        asked.append(model)
        return encode

    jobs.mine(small_store, "easy", miner="bag", encode=encode, per_query=3)
    once = mined(small_store)
    assert {row["miner"] for row in once} == {"bag", "random"}
    jobs.mine(small_store, "easy", miner="bag", encoder=encoder, per_query=3)
    assert (asked, mined(small_store)) == (["bag"], once)


def test_a_miner_in_front_of_a_model_gets_its_embeddings(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(pool: Any, depth: int, encode: Any, progress: Any) -> Iterator[Candidates]:
        assert encode(["abc"], "query").shape == (1, 19)
        for _ in pool.queries:
            yield Candidates(np.array([7, 3]), np.array([2.0, 1.0], np.float32), np.inf)

    monkeypatch.setitem(MINERS, "two", Miner(search=search, needs_encoder=True))
    asked: list[str] = []
    jobs.mine(small_store, ["easy"], miner="two:C:/bag", encoder=lambda model: asked.append(model) or encode)  # type: ignore[func-returns-value]
    assert asked == ["C:/bag"]
    assert {row["score"] for row in mined(small_store) if row["miner"] == "two:C:/bag"} == {2.0, 1.0}
    jobs.mine(small_store, "easy", miner="dense", encoder=lambda model: asked.append(model) or encode)  # type: ignore[func-returns-value]
    assert asked[1:] == ["BAAI/bge-large-en-v1.5"]
    assert "dense:BAAI/bge-large-en-v1.5" in {row["miner"] for row in mined(small_store)}
    with pytest.raises(UsageError, match="the miner two needs a model: two:MODEL in `miner`"):
        jobs.mine(small_store, miner="two")


def test_a_name_without_what_it_needs_is_refused(small_store: Store) -> None:
    with pytest.raises(
        UsageError, match=r"no miner .bm52.; did you mean .bm25.\? A model .* dense:bm52 \(miners: bm25, dense, both\)"
    ):
        jobs.mine(small_store, miner="bm52")
    with pytest.raises(UsageError, match="the miner bm25 reads no model; leave away `encode`"):
        jobs.mine(small_store, encode=encode)
    with pytest.raises(UsageError, match="reads no model; leave away 'some-model'"):
        jobs.mine(small_store, miner="bm25:some-model")

    def encoder(model: str) -> Any:
        raise UsageError(f"no model loads from {model!r}")

    with pytest.raises(UsageError, match=r"no model loads from 'org/bm52' \(miners: bm25, dense, both\)"):
        jobs.mine(small_store, "easy", miner="org/bm52", encoder=encoder)
    with pytest.raises(UsageError, match="no model loads from 'bm52'"):
        jobs.mine(small_store, "easy", miner="dense:bm52", encoder=encoder)


def test_filters_take_the_place_of_the_miners_own(small_store: Store) -> None:
    def highest(**options: Any) -> float:
        jobs.mine(small_store, "easy", miner="bag", encode=encode, per_query=5, **options)
        return max(row["score"] for row in mined(small_store) if row["score"] is not None)

    own, none, strict = highest(), highest(filters={"max_ratio": None}), highest(filters={"max_ratio": 0.85})
    assert strict < own < none
    assert highest(filters={"max_ratio": 0.95}) == own


def test_depth_limits_the_candidates(small_store: Store) -> None:
    (wide,) = jobs.mine(small_store, "easy", per_query=5)
    (narrow,) = jobs.mine(small_store, "easy", per_query=5, depth=2)
    assert wide.random == 0 < 120 <= narrow.random


def test_ranks_sampling_and_rescoring(small_store: Store) -> None:
    """The same candidates in another order, under another name, with the rescorer's scores; a second miner finds that
    they are there."""
    (bare,) = jobs.mine(small_store, "easy", per_query=4, ranks=(2, 12))
    best = {(row["example_id"], row["passage_id"]) for row in mined(small_store) if row["miner"] == "bm25"}
    assert bare.dropped["ranks"] >= 2 * 40
    jobs.mine(small_store, "easy", per_query=4)
    assert not best & {(row["example_id"], row["passage_id"]) for row in mined(small_store) if row["score"] and
                       row["rank"] <= 2}  # fmt: skip
    asked: list[tuple[str, str]] = []

    def length(pairs: list[tuple[str, str]]) -> Any:
        asked.extend(pairs)
        return np.array([len(passage) for _, passage in pairs], np.float32)

    jobs.mine(small_store, "easy", per_query=4, ranks=(2, 12), rescore=length)
    found = [row for row in mined(small_store) if row["miner"] == "bm25+length"]
    texts = {row["passage_id"]: row["text"] for row in small_store.rows("SELECT passage_id, text FROM passages")}
    assert len(found) > 40
    assert all(row["score"] == len(texts[row["passage_id"]]) for row in found)
    assert len(asked) <= 40 * (10 + 1)
    (row,) = small_store.rows("SELECT settings, dropped FROM minings WHERE miner = 'bm25+length'")
    assert json.loads(row["settings"])["ranks"] == [2, 12]
    assert json.loads(row["dropped"])["ranks"] >= 2 * 40
    with pytest.raises(UsageError, match="`rescore` is 'judge', which names a model; hand it over as rescore=train"):
        jobs.mine(small_store, "easy", rescore="judge")
    # A filter of one's own may take a value that JSON has no form for.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            FILTERS, "own", lambda value: lambda pool, example, candidates: np.isin(candidates.passages, [*value])
        )
        jobs.mine(small_store, "easy", filters={"own": {1, 2}}, per_query=1)
    (row,) = small_store.rows("SELECT settings FROM minings WHERE settings LIKE '%own%'")
    assert json.loads(row["settings"])["filters"]["own"] == "{1, 2}"
    named = jobs.mine(small_store, "easy", rescore="judge", rescorer=lambda name: length)
    assert {row["miner"] for row in mined(small_store)} > {"bm25+judge"}
    assert named[0].negatives
    top = jobs.mine(small_store, "easy", per_query=3, sample="random", dry_run=True)
    assert top[0].negatives + top[0].known == 3 * 40


def counts(store: Store) -> dict[str, int]:
    rows = store.rows("SELECT miner, count(*) AS n FROM negatives WHERE collection = 'easy' GROUP BY miner")
    return {row["miner"]: row["n"] for row in rows}


def test_a_miner_is_known_in_capitals_and_recorded_in_small_letters(small_store: Store) -> None:
    jobs.mine(small_store, "easy", miner="BM25", per_query=2)
    assert counts(small_store)["bm25"] > 0


def test_no_model_is_loaded_where_nothing_is_to_mine(small_store: Store) -> None:
    def encoder(model: str) -> Any:
        raise AssertionError("loaded")

    assert jobs.mine(small_store, miner="some-model", encoder=encoder) == []
    with pytest.raises(AssertionError, match="loaded"):
        jobs.mine(small_store, miner="some-model", encoder=encoder, replace=True)


def test_the_counts_are_those_of_the_store(small_store: Store) -> None:
    """What another miner found before is this one's too, and does not count as new."""
    (first,) = jobs.mine(small_store, "easy", per_query=5)
    assert (first.negatives, first.new, first.replaced) == (counts(small_store)["bm25"], first.negatives, 0)
    before = sum(counts(small_store).values())
    (second,) = jobs.mine(small_store, "easy", miner="bag", encode=encode, per_query=5, filters={"max_ratio": None})
    stored = counts(small_store)
    assert second.negatives == stored["bag"] + stored.get("random", 0)
    assert 0 < second.new < second.negatives == sum(stored.values()) - before == 40 * 5 - second.known
    assert second.known == 3  # of the file
    (pairs,) = small_store.rows(
        "SELECT count(DISTINCT (example_id, passage_id)) AS n FROM negatives WHERE collection = 'easy'"
    )
    assert second.new == pairs["n"] - before
    (again,) = jobs.mine(small_store, "easy", per_query=5)
    assert (again.new, again.replaced) == (0, 0)
    (fewer,) = jobs.mine(small_store, "easy", per_query=2)
    assert (fewer.new, fewer.replaced) == (0, first.negatives - fewer.negatives)


def test_a_dry_run_counts_as_the_run_does_and_changes_nothing(small_store: Store) -> None:
    snapshot = small_store.snapshot()
    (planned,) = jobs.mine(small_store, "easy", per_query=3, dry_run=True)
    assert small_store.snapshot() == snapshot
    (done,) = jobs.mine(small_store, "easy", per_query=3)
    assert planned == done


def test_random_passages_are_counted_named_and_can_be_left_out(small_store: Store) -> None:
    (filled,) = jobs.mine(small_store, "easy", per_query=1_000)
    assert (filled.random, filled.short) == (counts(small_store)["random"], 40)
    (line,) = remarks([filled], 1_000)
    assert line == (
        f"easy: fewer than 1,000 candidates remained for 40 of 40 examples, so {filled.random:,} of the "
        f"{filled.negatives:,} negatives are random passages (`fill_random`); lower `per_query` or raise `depth`"
    )
    (bare,) = jobs.mine(small_store, "easy", per_query=1_000, fill_random=False)
    assert (bare.random, "random" in counts(small_store)) == (0, False)
    assert bare.negatives == filled.negatives - filled.random
    (enough,) = jobs.mine(small_store, "easy", per_query=2)
    assert remarks([enough], 2) == []


def test_one_call_is_taken_back_and_then_the_one_before(small_store: Store) -> None:
    query = "SELECT collection, example_id, passage_id, rank, score, miner FROM negatives ORDER BY ALL"
    states = [small_store.rows(query)]
    for names, options in ((["easy", "hard"], {"per_query": 4}), (["easy"], {"per_query": 2}),
                           (["easy"], {"miner": "bag", "encode": encode})):  # fmt: skip
        jobs.mine(small_store, names, **options)
        states.append(small_store.rows(query))
    assert all(a != b for a, b in itertools.pairwise(states))
    for now, before in itertools.pairwise(reversed(states)):
        planned = jobs.undo_mining(small_store, dry_run=True)
        assert small_store.rows(query) == now
        taken = jobs.undo_mining(small_store)
        assert (taken, small_store.rows(query)) == (planned, before)
        assert sum(one.put_back - one.removed for one in taken) == len(before) - len(now)
    with pytest.raises(UsageError, match="nothing to take back"):
        jobs.undo_mining(small_store)


def test_an_undo_leaves_what_came_in_otherwise(small_store: Store, tmp_path: Path) -> None:
    """Examples that dedup takes out meanwhile, or that a file brings, keep their negatives."""
    jobs.mine(small_store, "easy", per_query=3)
    row = {"query": "a new query", "pos": ["a new answer"], "neg": ["no answer at all"]}
    (tmp_path / "more.jsonl").write_text(json.dumps(row) + "\n")
    jobs.ingest(small_store, tmp_path / "more.jsonl", name="easy")
    jobs.undo_mining(small_store)
    assert counts(small_store) == {"provided": 161}


def test_an_undo_brings_the_passages_of_its_negatives_and_none_twice(tmp_path: Path) -> None:
    """The file has changed since: most rows went, and one has a mined negative of its own now."""
    rows: list[dict[str, Any]] = [{"query": f"query {n}", "pos": [f"answer {n}"], "neg": []} for n in range(9)]
    file = tmp_path / "c.jsonl"

    def write(rows: list[dict[str, Any]]) -> str:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return str(file)

    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, write(rows))
        jobs.mine(store, "c", per_query=8)
        jobs.mine(store, "c", per_query=1)
        jobs.ingest(store, write([rows[0] | {"neg": ["answer 3", "answer 4"]}]))
        assert store.sql("FROM passages").num_rows < 9
        jobs.undo_mining(store)
        found = store.rows("SELECT text, miner FROM negatives JOIN passages USING (collection, passage_id)")
        assert sorted(row["text"] for row in found) == [f"answer {n}" for n in range(1, 9)]
        assert {row["text"] for row in found if row["miner"] == "provided"} == {"answer 3", "answer 4"}
        assert store.sql("FROM negatives").num_rows == 8


def test_negatives_whose_passages_went_while_they_were_mined_are_left_out(small_store: Store) -> None:
    (example,) = small_store.rows("SELECT example_id FROM examples WHERE collection = 'easy' ORDER BY 1 LIMIT 1")
    row = {**example, "passage_id": "gone", "rank": 1, "score": 1.0, "miner": "bm25"}
    added = add_negatives(small_store, "easy", pa.Table.from_pylist([row], schema=NEGATIVES))
    assert (added.stored, added.new) == (0, 0)
    assert small_store.sql("FROM negatives WHERE passage_id = 'gone'").num_rows == 0
