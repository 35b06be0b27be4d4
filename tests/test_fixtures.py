"""The demo data: complete, consistent, the same on each run, and planted as its own record says."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mixture.cards import load_cards
from mixture.fixtures import COLLECTION_NAMES, write_fixtures
from mixture.fixtures.planting import text_key

WITH_NEGATIVES = {
    "AllNLI",
    "dureader",
    "miracl",
    "mr_tydi_combined",
    "msmarco",
    "nq",
    "quora_duplicates_triplets",
    "t2ranking",
    "trivia",
}
SUITES = {"nq", "hotpotqa", "msmarco", "nfcorpus", "quora", "codesearchnet", "miracl-zh", "miracl-sw"}


@dataclass(frozen=True)
class Read:
    """A row as read back from a file."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def _json_lines(path: Path) -> list[Any]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().splitlines()]


def _texts(passages: list[Any]) -> tuple[str, ...]:
    return tuple(p if isinstance(p, str) else f"{p['title']} {p['text']}" for p in passages)


def _row(value: Any) -> Read:
    if isinstance(value, list):
        return Read(value[0], (value[1],), tuple(value[2:]))
    if "set" in value:
        return Read(value["set"][0], tuple(value["set"][1:]), ())
    if "positive_passages" in value:
        return Read(value["query"], _texts(value["positive_passages"]), _texts(value["negative_passages"]))
    return Read(value["query"], _texts(value["pos"]), _texts(value.get("neg", [])))


def _read(path: Path) -> list[Read]:
    if path.suffix == ".parquet":
        return [_row([row["anchor"], row["positive"]]) for row in pq.read_table(path).to_pylist()]
    if path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8", newline="") as lines:
            header, *rows = csv.reader(lines, delimiter="," if path.suffix == ".csv" else "\t")
        assert header == ["anchor", "positive"]
        return [_row(row) for row in rows]
    return [_row(value) for value in _json_lines(path)]


def _read_suite(folder: Path) -> Suite:
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as lines:
        header, *judged = csv.reader(lines, delimiter="\t")
    assert header == ["query-id", "corpus-id", "score"]
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in judged:
        qrels.setdefault(query, {})[document] = int(grade)
    return Suite(
        {line["_id"]: f"{line['title']} {line['text']}".strip() for line in _json_lines(folder / "corpus.jsonl")},
        {line["_id"]: line["text"] for line in _json_lines(folder / "queries.jsonl")},
        qrels,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fixtures")
    write_fixtures(path)
    return path


@pytest.fixture(scope="module")
def collections(folder: Path) -> dict[str, list[Read]]:
    return {
        path.name: [row for file in sorted(path.iterdir()) for row in _read(file)]
        for path in sorted((folder / "raw").iterdir())
    }


@pytest.fixture(scope="module")
def suites(folder: Path) -> dict[str, Suite]:
    return {path.name: _read_suite(path) for path in sorted((folder / "eval").iterdir())}


@pytest.fixture(scope="module")
def planted(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "planted.json").read_text(encoding="utf-8"))


def test_the_collections_are_those_of_the_cards(collections: dict[str, list[Read]]) -> None:
    assert set(collections) == set(COLLECTION_NAMES) == set(load_cards())
    for name, rows in collections.items():
        assert 120 <= len(rows) <= 400, name
        assert all(row.query.strip() and all(text.strip() for text in row.positives) for row in rows), name
    assert 4500 <= sum(map(len, collections.values())) <= 6000


def test_nine_collections_come_with_negatives(collections: dict[str, list[Read]]) -> None:
    for name, rows in collections.items():
        if name in WITH_NEGATIVES:
            assert all(row.negatives for row in rows), name
        else:
            assert not any(row.negatives for row in rows), name


def test_no_positive_is_its_own_negative(collections: dict[str, list[Read]]) -> None:
    for name, rows in collections.items():
        assert not any(set(row.positives) & set(row.negatives) for row in rows), name


def test_many_formats(folder: Path) -> None:
    files = [path for path in (folder / "raw").rglob("*") if path.is_file()]
    endings = Counter("".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix for path in files)
    assert set(endings) == {".jsonl.gz", ".jsonl", ".parquet", ".csv", ".tsv"}
    assert {path.name for path in (folder / "raw" / "miracl").iterdir()} == {
        f"miracl.{code}.jsonl" for code in ("ar", "en", "es", "ja", "ru", "sw", "te", "zh")
    }


def test_the_suites_are_consistent(suites: dict[str, Suite]) -> None:
    assert set(suites) == SUITES
    for name, suite in suites.items():
        assert 60 <= len(suite.queries) <= 120, name
        assert 150 <= len(suite.documents) <= 300, name
        assert set(suite.qrels) == set(suite.queries), name
        assert len(set(map(text_key, suite.queries.values()))) == len(suite.queries), name
        assert len(set(suite.documents.values())) == len(suite.documents), name
        for graded in suite.qrels.values():
            assert graded.keys() <= suite.documents.keys(), name
            assert min(graded.values()) > 0, name


def test_the_test_queries_are_those_of_the_suites(folder: Path, suites: dict[str, Suite]) -> None:
    lines = _json_lines(folder / "test_queries.jsonl")
    assert {(line["suite"], line["query_id"], line["query"]) for line in lines} == {
        (name, key, query) for name, suite in suites.items() for key, query in suite.queries.items()
    }


def test_what_is_planted_is_what_is_recorded(
    collections: dict[str, list[Read]], suites: dict[str, Suite], planted: dict[str, Any]
) -> None:
    test_queries = {query for suite in suites.values() for query in suite.queries.values()}
    test_keys = set(map(text_key, test_queries))
    for name, rows in collections.items():
        clean = [row for row in rows if text_key(row.query) not in test_keys]
        distinct = set(clean)
        exact = sum(row.query in test_queries for row in rows)
        assert planted["collections"][name] == {
            "rows": len(rows),
            "exact_duplicates": len(clean) - len(distinct),
            "near_duplicates": len(distinct) - len({text_key(row.query) for row in distinct}),
            "test_queries_exact": exact,
            "test_queries_edited": len(rows) - len(clean) - exact,
        }, name
    total = planted["total"]
    assert total == {key: sum(counts[key] for counts in planted["collections"].values()) for key in total}
    assert all(total.values())


def test_suite_documents_are_in_no_collection_but_as_planted(
    collections: dict[str, list[Read]], suites: dict[str, Suite]
) -> None:
    documents = {text for suite in suites.values() for text in suite.documents.values()}
    test_keys = {text_key(query) for suite in suites.values() for query in suite.queries.values()}
    for name, rows in collections.items():
        clean = [row for row in rows if text_key(row.query) not in test_keys]
        shared = {text for row in clean for text in row.positives} & documents
        assert not shared, name


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    # Another process has another hash seed, which shows an order that came from a set.
    code = "import sys, pathlib, mixture.fixtures as f; f.write_fixtures(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert _bytes(tmp_path) == _bytes(folder)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_another_seed_gives_other_rows_of_the_same_number(seed: int, tmp_path: Path, planted: dict[str, Any]) -> None:
    write_fixtures(tmp_path, seed=seed)
    other = json.loads((tmp_path / "planted.json").read_text(encoding="utf-8"))
    assert other == {**planted, "seed": seed}
    assert len(list((tmp_path / "raw").iterdir())) == 25


def test_fixtures_do_not_import_torch() -> None:
    code = "import sys, mixture.fixtures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
