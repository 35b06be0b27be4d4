"""Measured facts against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixture import Store, jobs
from mixture.cards.measured import Lengths, Mined, measured
from mixture.errors import UsageError
from mixture.store.negatives import add_negatives


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five examples, of which one is a repeat and one a test query; a row that is damaged; two files."""
    english = [
        {"query": "how do ships float", "pos": ["they push water aside"], "neg": ["a duck quacks", "iron is heavy"]},
        {"query": "why is the sky blue", "pos": ["blue light scatters", "air bends blue light"], "neg": ["fog"]},
        {"query": "why is the sky  blue?", "pos": ["blue light scatters", "air bends blue light"]},
        {"query": "who wrote hamlet in the year sixteen hundred", "pos": ["shakespeare"]},
    ]
    (tmp_path / "c").mkdir()
    lines = [json.dumps(row) for row in english] + ['{"query": "cut off']
    (tmp_path / "c" / "c.en.jsonl").write_text("\n".join(lines) + "\n")
    titled = {"query": "wo", "positive_passages": [{"docid": "1", "title": "Ort", "text": "am See"}]}
    (tmp_path / "c" / "c.de.jsonl").write_text(json.dumps(titled) + "\n")
    made = Store.open(tmp_path / "store", create=True)
    jobs.ingest(made, [str(tmp_path / "c")])
    return made


def test_every_fact_of_a_small_collection(store: Store, tmp_path: Path) -> None:
    with store:
        before = measured(store, "c")
        assert (before.num_examples, before.num_passages, before.num_files, before.num_rejected) == (5, 8, 2, 1)
        assert before.languages == {"en": 4, "de": 1}
        # Queries have 18, 19, 21, 44 and 2 characters.
        assert before.query_chars == Lengths(mean=104 / 5, p95=44)
        # 21; twice 19 and 20; 11; with its title 10.
        assert before.positive_chars == Lengths(mean=(21 + 2 * 39 + 11 + 10) / 7, p95=21)
        assert (before.negatives_per_query, before.share_with_negatives) == (3 / 5, 2 / 5)
        assert before.negatives_by_miner == {"provided": Mined(negatives=3, examples=2)}
        assert (before.share_removed_by_dedup, before.share_removed_by_decontamination) == (0, 0)

        jobs.dedup(store, ["c"])
        (tmp_path / "tests.jsonl").write_text(json.dumps({"suite": "s", "query_id": "1", "query": "wo"}) + "\n")
        jobs.decontaminate(store, [str(tmp_path / "tests.jsonl")])
        after = measured(store, "c")
        assert after.num_examples == 3
        assert (after.share_removed_by_dedup, after.share_removed_by_decontamination) == (1 / 5, 1 / 5)
        assert after.languages == {"en": 3}


def test_negatives_are_told_apart_by_miner(store: Store) -> None:
    with store:
        jobs.mine(store, ["c"], miner="bm25", per_query=1)
        facts = measured(store, "c")
        assert set(facts.negatives_by_miner) >= {"provided"}
        total = store.rows("SELECT count(*) AS n FROM negatives")[0]["n"]
        assert sum(m.negatives for m in facts.negatives_by_miner.values()) == total > 3
        assert facts.negatives_per_query == total / 5
        add_negatives(store, "c", store.read("SELECT * EXCLUDE (collection) FROM negatives LIMIT 0"),
                      replace=list(facts.negatives_by_miner))  # fmt: skip
        assert measured(store, "c").negatives_by_miner == {}


def test_a_collection_without_examples_has_zeros(store: Store) -> None:
    with store:
        store.transaction(lambda connection: connection.execute("DELETE FROM examples"))
        facts = measured(store, "c")
    assert (facts.num_examples, facts.query_chars, facts.negatives_per_query) == (0, Lengths(0, 0), 0)


def test_an_unknown_collection_is_refused(small_store: Store) -> None:
    with pytest.raises(UsageError, match="no collection 'esay'; did you mean 'easy'"):
        measured(small_store, "esay")
