"""What dedup and decontaminate print: counts by collection, and rows with the texts that were compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixture import Store, jobs
from mixture.console.removals import SHOWN_LETTERS, show_removals
from mixture.console.terminal import AFTERWARDS, stopped

PASSAGE = "The lighthouse on the northern cape was built of granite in 1868 and burned whale oil for sixty years. " * 3
TEST = "how do I reset the password of my account"
TWIN = "How do I reset the password of my account?"


@pytest.fixture
def store(tmp_path: Path) -> Any:
    rows = {"a": [(TEST, "By the link."), (TWIN, "By the link!")], "b": [("who built it?", PASSAGE), ("how", "So.")]}
    for name, pairs in rows.items():
        lines = [json.dumps({"query": query, "pos": [positive]}) + "\n" for query, positive in pairs]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    suite = tmp_path / "desk"
    (suite / "qrels").mkdir(parents=True)
    (suite / "corpus.jsonl").write_text(json.dumps({"_id": "d1", "title": "", "text": PASSAGE}) + "\n")
    (suite / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": TEST + "s"}) + "\n")
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    with Store.open(tmp_path / "s", create=True) as lake:
        jobs.ingest(lake, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
        yield lake


def shown(capsys: pytest.CaptureFixture[str], results: Any, *reasons: str, **options: Any) -> str:
    given = {"dry_run": False, "undo": False, "limit": 5, "as_json": False} | options
    show_removals(results, reasons, **given)
    return capsys.readouterr().out


def test_a_dry_run_shows_counts_and_both_texts_by_their_names(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = jobs.decontaminate(store, tmp_path / "desk", distance=8, dry_run=True)
    kinds = ("test query", "test passage")
    out = shown(capsys, found, *kinds, dry_run=True)
    counts = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert counts == [["a", "2", "2", "2", "0"], ["b", "2", "1", "0", "1"]]
    assert f"  test_query:    {TEST}s\n" in out
    assert f"  query:         {TWIN}\n" in out
    assert f"  positive:      {PASSAGE[:SHOWN_LETTERS]}…\n" in out
    assert f"  test_passage:  {PASSAGE[:SHOWN_LETTERS]}…\n" in out
    assert "holds 100 % of test passage d1 of desk" in out
    # One of each collection comes first.
    few = shown(capsys, found, *kinds, dry_run=True, limit=2)
    assert few.count("query:") == 3 and "test_passage:" in few
    assert "2 of 3 rows; --limit 0 shows all" in few
    assert shown(capsys, found, *kinds, dry_run=True, limit=0).count("\n  query:") == 3
    rows = json.loads(shown(capsys, found, *kinds, dry_run=True, as_json=True))
    common = ["collection", "example_id", "query", "reason", "similarity", "suite"]
    assert [sorted(row) for row in rows] == [
        *[sorted([*common, "distance", "query_id", "test_query"])] * 2,
        sorted([*common, "doc_id", "positive", "test_passage"]),
    ]  # fmt: skip
    assert rows[2]["positive"].strip() == PASSAGE.strip() == rows[2]["test_passage"].strip()


def test_what_was_done_is_counted_and_an_undo_says_what_was_put_back(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ("test query", "test passage")
    done = shown(capsys, jobs.decontaminate(store, tmp_path / "desk", distance=8), *kinds, as_json=True)
    assert json.loads(done) == [
        {"collection": "a", "examples": 2, "removed": 2, "test_queries": 2, "test_passages": 0},
        {"collection": "b", "examples": 2, "removed": 1, "test_queries": 0, "test_passages": 1},
    ]
    facts = store.sql(
        "SELECT collection, test_queries_removed, test_passages_removed FROM collection_facts"
    ).to_pylist()
    assert [tuple(row.values()) for row in facts] == [("a", 2, 0), ("b", 0, 1)]
    snapshot = store.snapshot()
    planned = shown(capsys, jobs.undo(store, "decontaminate", dry_run=True), *kinds, dry_run=True, undo=True)
    assert store.snapshot() == snapshot
    assert planned.startswith("would be put back") and f"  test_query:    {TEST}s\n" in planned
    back = json.loads(shown(capsys, jobs.undo(store, "decontaminate"), *kinds, undo=True, as_json=True))
    assert [(row["collection"], row["examples"], row["put_back"]) for row in back] == [("a", 2, 2), ("b", 2, 1)]
    assert all("removed" not in row for row in back)


@pytest.mark.parametrize(
    ("key", "names"), [("pair", ("query", "kept_query")), ("positive", ("positive", "kept_positive"))]
)
def test_dedup_shows_the_side_that_was_compared(
    store: Store, capsys: pytest.CaptureFixture[str], key: str, names: tuple[str, str]
) -> None:
    out = shown(capsys, jobs.dedup(store, key=key, dry_run=True), "duplicate", dry_run=True)
    texts = {
        line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in out.splitlines() if line[:2] == "  "
    }
    wanted = {TEST, TWIN} if key == "pair" else {"By the link.", "By the link!"}
    assert {texts[name] for name in names} == wanted
    assert "duplicate of a " in out


def test_what_ctrl_c_leaves_is_said_for_each_command() -> None:
    from typer.main import get_command

    from cli import app

    assert set(AFTERWARDS) <= set(get_command(app).commands)  # type: ignore[attr-defined]
    assert "checkpoint" in stopped("train") and "checkpoint" not in stopped("dedup") + stopped("mine")
    assert stopped("sql") == "stopped"
