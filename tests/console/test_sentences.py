"""What a command says above its table; in --json there is nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, registry
from mixture.console import sentences


@pytest.fixture
def said(small_store: Store) -> Callable[..., str]:
    """`said(*arguments)`: the line above a command's table. The same command prints no such line with --json."""

    def run(*arguments: str) -> str:
        whole = ["--store", str(small_store.work), *arguments]
        result = CliRunner().invoke(app, whole)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        line = next((line for line, below in pairwise(lines) if below.startswith("┏")), lines[0])
        if arguments[0] in ("ingest", "show", "mine"):
            assert json.loads(CliRunner().invoke(app, [*whole, "--json"]).stdout) is not None
        return line

    return run


def test_each_command_says_what_it_did(
    said: Callable[..., str], small_store: Store, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    files = [str(write_collection(tmp_path / "more", name, rows=3)) for name in ("one", "two")]
    assert said("ingest", *files) == "6 rows of 2 collections: 6 stored, 0 exact repeats, 0 rejected"
    assert said("ingest", files[0]) == "0 rows of 1 collection: 0 stored, 0 exact repeats, 0 rejected"
    assert said("dedup") == "no near-duplicates found"
    row = small_store.rows("SELECT query FROM examples WHERE collection = 'easy' LIMIT 1")[0]
    tests = tmp_path / "tests.jsonl"
    tests.write_text(json.dumps({"suite": "s", "query_id": "q", "query": row["query"]}) + "\n")
    taken = said("decontaminate", "--against", str(tests))
    assert taken == "1 test query or passage removed from 1 collection (easy 1)"
    assert said("decontaminate", "--undo") == "1 test query or passage put back into 1 collection (easy 1)"
    said("decontaminate", "--forget", "s")  # else `create` refuses its row
    assert said("mine") == "every example has negatives"
    assert said("mine", "easy", "--per-query", "2").endswith(" BM25 negatives for 1 collection")
    first = said("create", "m")
    saved = registry.resolve(small_store, "m")
    assert first == f"m:1 = {saved.spec.id}: 5 collections, equal weights"
    assert said("show", "m") == first
    heavy = said("create", "p", "--proportional", "--collection", "easy", "--collection", "one")
    assert heavy.endswith(": 2 collections, heaviest easy 0.930, one 0.070  weights as sizes")
    assert said("select", "p", "--top", "50", "--name", "t").endswith(": 1 collection, equal weights  top 50 % of p:1")


def test_the_numbers_are_those_of_the_rows() -> None:
    rows = [{"collection": name, "removed": n} for name, n in (("a", 1), ("b", 1_200), ("c", 0), ("d", 7), ("e", 2))]
    assert sentences.removed(rows, "twin") == "1,210 twins removed from 4 collections (b 1,200, d 7, e 2, …)"
    mined = [{"negatives": 1_000}, {"negatives": 8}]
    assert sentences.mined(mined, "bm25", had_none=True) == "1,008 BM25 negatives for 2 collections that had none"
    assert sentences.mined(mined[:1], "all-MiniLM-L6-v2", had_none=False).startswith("1,000 all-MiniLM-L6-v2 negatives")
    scored: list[dict[str, Any]] = [{"metrics": {"ndcg@10": 0.25, "x": 1}}, {"metrics": {"ndcg@10": 0.5, "x": 1}}]
    assert sentences.evaluated(scored) == "mean nDCG@10 37.5 on 2 suites"
    scored.insert(1, {"metrics": {"accuracy@10": 1.0}})  # a suite of answers
    assert sentences.evaluated(scored) == "mean nDCG@10 37.5 on 2 suites"
    row = {"steps": 200, "mixture": "abc", "model": Path("out")}
    assert sentences.trained(row) == "200 steps on abc, saved to out"
