"""The views and macros: what they answer on a store whose numbers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixture import Store, UsageError, jobs
from mixture.store.surface import MACROS, VIEWS
from mixture.store.write import insert_rows

Rows = list[dict[str, Any]]


def _rows(store: Store, query: str, params: list[Any] | None = None) -> Rows:
    return store.sql(query, params).to_pylist()


@pytest.mark.parametrize(
    ("reference", "mixture"),
    [
        ("base", "aaaa33334444"),
        ("base:", "aaaa33334444"),
        ("base:latest", "aaaa33334444"),
        ("base:1", "aaaa11112222"),
        ("aaaa1", "aaaa11112222"),
        ("bbbb", "bbbb55556666"),
        ("bbbb55556666", "bbbb55556666"),
        ("other:1", "bbbb55556666"),
    ],
)
def test_a_reference_is_resolved_as_by_the_registry(facts_store: Store, reference: str, mixture: str) -> None:
    rows = _rows(facts_store, "FROM mixture(?)", [reference])
    assert {row["mixture"] for row in rows} == {mixture}
    assert _rows(facts_store, "SELECT mixture_id(?) AS id", [reference]) == [{"id": mixture}]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("baes", "no mixture 'baes'; did you mean 'base'?"),
        ("base:7", "mixture 'base' has versions 1 to 2, not '7'"),
        ("aaaa", "'aaaa' begins 2 mixture ids: aaaa11112222, aaaa33334444"),
        ("bbb", "no mixture 'bbb'"),
        ("bbbb:1", "no mixture 'bbbb'"),
        ("", "no mixture ''"),
        (None, "no mixture"),
        ("x' OR true --", "no mixture 'x' OR true --'"),
    ],
)
@pytest.mark.parametrize("call", ["mixture(?)", "composition(?)", "epochs(?, 10, 10)"])
def test_an_unknown_reference_is_an_error(facts_store: Store, call: str, reference: str | None, said: str) -> None:
    for query in (f"FROM {call}", f"SELECT count(*) AS n FROM {call}"):
        with pytest.raises(UsageError) as caught:
            facts_store.sql(query, [reference])
        assert str(caught.value).startswith(said)


def test_a_store_without_mixtures_says_so(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "s", create=True) as store,
        pytest.raises(UsageError, match="no mixture 'base'; there are: none yet"),
    ):
        store.sql("FROM mixture('base')")


def test_mixture_lists_components_heaviest_first_also_those_that_the_store_lacks(facts_store: Store) -> None:
    columns = "collection, weight, num_examples, category, license, languages"
    assert [tuple(row.values()) for row in _rows(facts_store, f"SELECT {columns} FROM mixture('base:1')")] == [
        ("forum", 0.5, 40, "Forum", "cc-by-4.0", ["en"]),
        ("web", 0.25, 20, "Web", None, None),
        ("wiki", 0.25, 60, "Wikipedia", "cc-by-sa-3.0", ["sw", "zh"]),
    ]
    gone = _rows(facts_store, f"SELECT {columns} FROM mixture('other') WHERE collection = 'gone'")[0]
    assert tuple(gone.values()) == ("gone", 0.5, 7, None, None, None)


def test_composition_divides_a_multilingual_collection_by_its_rows(facts_store: Store) -> None:
    rows = [tuple(row.values()) for row in _rows(facts_store, "FROM composition('base:1')")]
    # wiki holds 15 rows of sw and 45 of zh: its 0.25 is 0.0625 and 0.1875. forum's card has one language, web's none.
    assert rows == [
        ("category", "Forum", 0.5, 40, 1),
        ("category", "Web", 0.25, 20, 1),
        ("category", "Wikipedia", 0.25, 60, 1),
        ("language", "en", 0.5, 40, 1),
        ("language", "unknown", 0.25, 20, 1),
        ("language", "zh", 0.1875, 45, 1),
        ("language", "sw", 0.0625, 15, 1),
        ("license", "cc-by-4.0", 0.5, 40, 1),
        ("license", "cc-by-sa-3.0", 0.25, 60, 1),
        ("license", "unknown", 0.25, 20, 1),
    ]


@pytest.mark.parametrize("reference", ["base:1", "base:2", "other"])
def test_each_dimension_of_a_composition_sums_to_one(facts_store: Store, reference: str) -> None:
    sums = "SELECT dimension, sum(weight) AS w, sum(num_examples) AS n FROM composition(?) GROUP BY 1"
    rows = _rows(facts_store, sums, [reference])
    total = _rows(facts_store, "SELECT sum(num_examples) AS n FROM mixture(?)", [reference])[0]["n"]
    assert len(rows) == 3
    for row in rows:
        assert row["w"] == pytest.approx(1)
        assert row["n"] == total


def test_epochs_by_hand(facts_store: Store) -> None:
    rows = [tuple(row.values()) for row in _rows(facts_store, "FROM epochs('base:2', steps := 10, batch_size := 10)")]
    # 100 draws: 80 of wiki's 60 examples, 20 of forum's 40.
    assert rows == [
        ("wiki", 0.8, 60, pytest.approx(80), pytest.approx(80 / 60), True),
        ("forum", 0.2, 40, pytest.approx(20), pytest.approx(0.5), False),
    ]


@pytest.mark.parametrize("numbers", ["-1, 64", "10, -64", "0, 64", "NULL, 64"])
def test_epochs_of_no_training_are_refused(facts_store: Store, numbers: str) -> None:
    with pytest.raises(UsageError, match=r"^epochs takes steps and a batch size from 1 on$"):
        facts_store.sql(f"FROM epochs('base:2', {numbers})")


@pytest.mark.parametrize("version", ["NULL", "1 + NULL", "NULL::INT"])
def test_null_is_no_version(facts_store: Store, version: str) -> None:
    with pytest.raises(UsageError, match=r"^AT \(VERSION => NULL\) is no version; FROM snapshots\(\) lists"):
        facts_store.sql(f"FROM examples AT (VERSION => {version})")


def test_collection_facts_counts_everything_once(facts_store: Store) -> None:
    rows = _rows(facts_store, "FROM collection_facts ORDER BY collection")
    names = ["num_examples", "num_passages", "num_negatives", "without_negatives", "rejected", "duplicates_removed"]
    names += ["test_queries_removed", "declared_size"]
    counted = {row["collection"]: tuple(row[name] for name in names) for row in rows}
    assert counted == {
        "forum": (40, 40, 2, 39, 0, 0, 0, 50),
        "web": (20, 20, 0, 20, 1, 0, 0, 50),
        "wiki": (60, 60, 0, 60, 0, 2, 1, 50),
    }


def test_newest_mixtures_and_evaluations_leave_older_ones_out(tmp_path: Path, facts_store: Store) -> None:
    rows = _rows(facts_store, "SELECT name, version, num_collections, heaviest FROM newest_mixtures ORDER BY name")
    assert [tuple(row.values()) for row in rows] == [("base", 2, 2, "wiki"), ("other", 1, 2, "forum")]
    with Store.open(tmp_path / "s", create=True) as store:
        for value in (0.4, 0.6):
            store.transaction(
                lambda c, value=value: c.execute(
                    """INSERT INTO evaluations (model, suite, metric, value, num_queries, num_documents, corpus,
                                                evaluated_at) VALUES ('m', 's', 'ndcg@10', ?, 1, 1, 'full', ?)""",
                    [value, f"2026-01-0{int(value * 10) % 7 + 1} 00:00:00+00"],
                )
            )
        # 0.4 is of 5 January, 0.6 of 7 January.
        assert [row["value"] for row in _rows(store, "FROM newest_evaluations")] == [0.6]


def test_a_table_is_read_at_an_older_version(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        versions = []
        for number in range(3):
            insert_rows(store, "test_queries", [{"suite": "s", "query_id": str(number), "query": "q"}])
            versions.append(store.snapshot())
        for number, version in enumerate(versions):
            query = f"SELECT count(*) AS n FROM test_queries AT (VERSION => {version})"
            assert _rows(store, query) == [{"n": number + 1}]
        with pytest.raises(UsageError, match="No snapshot"):
            store.sql("FROM test_queries AT (VERSION => 999)")


def test_a_view_sees_what_was_written_after_the_first_query(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        assert store.sql("FROM collection_facts").num_rows == 0
        row = {"collection": "c", "example_id": "e", "query": "q"}
        insert_rows(store, "examples", [row])
        assert _rows(store, "SELECT collection, num_examples, share FROM collection_languages") == [
            {"collection": "c", "num_examples": 1, "share": 1.0}
        ]


def test_the_store_itself_holds_no_view_and_no_macro(facts_store: Store) -> None:
    assert VIEWS
    assert MACROS
    for sort in ("views", "functions"):
        found = facts_store.rows(f"SELECT * FROM duckdb_{sort}() WHERE database_name = 'lake' AND NOT internal")
        assert found == []


def test_pairs_shows_each_example_with_its_texts_in_order(tmp_path: Path) -> None:
    rows = [
        {"query": "q1", "pos": [{"title": "T", "text": "first"}, "second"], "neg": ["n1", "n2"]},
        {"query": "q2", "pos": ["second"], "neg": []},
    ]
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Store.open(tmp_path / "s", create=True) as store:
        jobs.ingest(store, file)
        assert _rows(store, "SELECT * EXCLUDE example_id FROM pairs ORDER BY query") == [
            {"collection": "c", "query": "q1", "positives": ["T first", "second"], "negatives": ["n1", "n2"]},
            {"collection": "c", "query": "q2", "positives": ["second"], "negatives": []},
        ]
        assert _rows(store, "SELECT e.query FROM pairs JOIN examples e USING (example_id) WHERE 'n2' IN negatives") == [
            {"query": "q1"}
        ]
