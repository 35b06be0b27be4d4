"""What ingest, dedup and mining leave in the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from mixture import Store, jobs
from mixture.cards import load_cards
from mixture.rows import Batch
from mixture.store import read
from mixture.store.intake import CollectionFacts, NewFile, add_files, declare
from mixture.store.negatives import add_negatives
from mixture.store.write import remove_examples


def _counts(store: Store) -> dict[str, int]:
    tables = ("examples", "passages", "negatives", "rejects", "sources")
    return {t: store.sql(f"SELECT count(*) AS n FROM {t}")["n"][0].as_py() for t in tables}


def test_the_same_file_again_changes_nothing(small_store: Store, tmp_path: Path) -> None:
    jobs.ingest(small_store, [str(tmp_path / "raw" / "easy.jsonl")])  # which the fixture moved
    before, snapshot = _counts(small_store), small_store.snapshot()
    results = jobs.ingest(small_store, [str(tmp_path / "raw" / "easy.jsonl")])
    assert (results[0].unchanged, results[0].counts.rows_read) == (1, 0)
    assert _counts(small_store) == before
    assert small_store.snapshot() == snapshot


def test_the_same_rows_in_another_file_are_not_stored_twice(small_store: Store, tmp_path: Path) -> None:
    before = _counts(small_store)
    lines = (tmp_path / "raw" / "easy.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "again.jsonl").write_text("".join(reversed(lines)))
    results = jobs.ingest(small_store, [str(tmp_path / "again.jsonl")], name="easy")
    assert (results[0].counts.stored, results[0].counts.repeated) == (0, 40)
    assert _counts(small_store) == before | {"sources": 4}


def test_a_file_killed_half_way_leaves_nothing(small_store: Store) -> None:
    before = _counts(small_store)
    whole = _one_batch("query one", "positive one")

    def killed() -> Iterator[Batch]:
        yield whole
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_files(small_store, [NewFile(CollectionFacts("new"), "new.jsonl", "0", killed)])
    assert _counts(small_store) == before
    (stored,) = add_files(small_store, [NewFile(CollectionFacts("new"), "new.jsonl", "0", lambda: [whole])])
    assert stored.counts.stored == 1


def test_rejects_of_a_mended_file_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    with Store.open(tmp_path / "s", create=True) as store:
        file.write_text('{"query": "q one", "pos": ["p one"]}\n{"query": "q two"\n')
        jobs.ingest(store, [str(file)])
        assert store.sql("SELECT line FROM rejects").to_pylist() == [{"line": 2}]
        file.write_text('{"query": "q one", "pos": ["p one"]}\n{"query": "q two", "pos": ["p two"]}\n')
        result = jobs.ingest(store, [str(file)])[0]
        assert (result.counts.stored, result.counts.repeated) == (1, 1)
        assert store.sql("FROM rejects").num_rows == 0


def test_removed_examples_stay_out_and_their_reason_stays(small_store: Store, tmp_path: Path) -> None:
    gone = read.queries(small_store, "easy")["example_id"].to_pylist()[:3]
    removals = pa.table({"collection": ["easy"] * 3, "example_id": gone, "reason": ["test"] * 3})
    version = small_store.snapshot()
    assert remove_examples(small_store, removals).to_pylist() == [True] * 3
    assert remove_examples(small_store, removals).to_pylist() == [False] * 3  # they are there no more
    (tmp_path / "again.jsonl").write_text((tmp_path / "raw" / "easy.jsonl").read_text() + "\n")
    jobs.ingest(small_store, [str(tmp_path / "again.jsonl")], name="easy")
    assert read.collections(small_store, ["easy"])[0].num_examples == 37
    rows = small_store.sql("SELECT example_id, query FROM removals").to_pylist()
    assert {r["example_id"] for r in rows} == set(gone)
    assert all(r["query"] for r in rows)
    orphans = "SELECT 1 FROM negatives n ANTI JOIN examples e USING (collection, example_id)"
    assert small_store.sql(orphans).num_rows == 0
    # One step back by time travel.
    then = small_store.sql(f"SELECT count(*) AS n FROM examples AT (VERSION => {version}) WHERE collection = 'easy'")
    assert then["n"][0].as_py() == 40


def test_mined_negatives_replace_those_of_their_miner_only(small_store: Store) -> None:
    example = read.queries(small_store, "easy")["example_id"][0].as_py()
    passage = read.passages(small_store, "easy")["passage_id"][0].as_py()
    row = {"example_id": example, "passage_id": passage, "rank": 1, "score": 1.0, "miner": "m"}
    for _ in range(2):
        add_negatives(small_store, "easy", pa.Table.from_pylist([row]), replace=["m"])
    counts = small_store.sql("SELECT miner, count(*) AS n FROM negatives WHERE collection = 'easy' GROUP BY ALL")
    assert {r["miner"]: r["n"] for r in counts.to_pylist()} == {"m": 1, "provided": 160}


def test_prompts_come_from_the_card_and_else_from_the_rows(
    tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    row = {"query": "a question", "pos": ["an answer"], "prompt": "Given a test, pass it"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "msmarco.jsonl").write_text(json.dumps(row) + "\n")
    with Store.open(tmp_path / "s", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "mine.jsonl"), str(tmp_path / "msmarco.jsonl")])
        prompts = {i.collection: i.prompts for i in read.collections(store)}
    assert prompts == {
        "mine": ("Given a test, pass it",),
        "msmarco": ("Given a web search query, retrieve relevant passages that answer the query",),
    }


def test_what_a_card_declares_lands_in_the_columns_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"query": "a question", "pos": ["an answer"]}) + "\n")
    facts = CollectionFacts(
        "c", card="own", prompts=("Find it",), is_symmetric=True, category="qa", license="mit", languages=("de", "en"),
        deduped_size=7, source="a url", negatives="by hand",
    )  # fmt: skip
    with Store.open(tmp_path / "s", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "c.jsonl")], card="msmarco", name="of_the_card")
        jobs.ingest(store, [str(tmp_path / "c.jsonl")])
        declare(store, facts)
        names = [name for name in vars(facts) if name != "collection"]
        row, other = store.sql(f"SELECT {', '.join(names)} FROM lake.collections ORDER BY collection").to_pylist()
    card = load_cards()["msmarco"]
    assert row == {name: list(v) if isinstance(v := getattr(facts, name), tuple) else v for name in names}
    assert (other["card"], other["prompts"], other["is_symmetric"]) == ("msmarco", list(card.prompts), card.symmetric)
    assert (other["category"] or "", other["license"], other["languages"]) == (
        card.category, card.license, list(card.language),
    )  # fmt: skip
    assert (other["deduped_size"], other["negatives"]) == (card.deduped_size, card.negatives)


def _one_batch(query: str, positive: str) -> Batch:
    from mixture.ingest.normalise import build_batches
    from mixture.rows import RawExample, RawPassage

    example = RawExample(1, query, [RawPassage(positive)])
    return next(iter(build_batches([example], file="f", language=None, fingerprint=None)))


def test_prompts_of_several_files_are_united_and_a_card_given_later_wins(tmp_path: Path) -> None:
    for name, prompt in (("one", "Second prompt"), ("two", "First prompt")):
        row = {"query": f"question {name}", "pos": [f"answer {name}"], "prompt": prompt}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    files = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    with Store.open(tmp_path / "s", create=True) as store:
        jobs.ingest(store, files, name="c")
        assert read.collections(store)[0].prompts == ("First prompt", "Second prompt")
        assert jobs.ingest(store, files, name="c", card="msmarco")[0].unchanged == 2
        found = read.collections(store)[0]
        assert (found.card, len(found.prompts)) == ("msmarco", 1)
        assert found.prompts[0].startswith("Given a web search query")
        (tmp_path / "three.jsonl").write_text((tmp_path / "one.jsonl").read_text().replace("one", "three"))
        jobs.ingest(store, [str(tmp_path / "three.jsonl")], name="c")
        assert read.collections(store)[0].prompts == found.prompts


def test_a_mined_negative_that_is_there_already_is_not_stored_twice(small_store: Store) -> None:
    negative = small_store.sql("SELECT example_id, passage_id FROM negatives WHERE collection = 'easy' LIMIT 1")
    row = negative.to_pylist()[0] | {"rank": 1, "score": 1.0, "miner": "m"}
    add_negatives(small_store, "easy", pa.Table.from_pylist([row]), replace=["m"])
    assert small_store.sql("SELECT 1 FROM negatives WHERE miner = 'm'").num_rows == 0
