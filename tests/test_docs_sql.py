"""`docs/sql.md`: its list of tables is complete, and its answers are what its queries return.

`python tests/test_docs_sql.py --write` brings the page up to date.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mixture import Store, jobs, registry
from mixture.console.output import print_table
from mixture.fixtures import write_fixtures
from mixture.registry import slices
from mixture.store.surface import MACROS, VIEWS
from mixture.store.write import insert_rows

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sql.md"
ANSWERED = re.compile(r"```sql\n(?P<query>.*?)```\n\n```text\n(?P<answer>.*?)```", re.DOTALL)
SURFACE = re.compile(r"(?<=<!-- surface -->\n).*?(?=<!-- /surface -->)", re.DOTALL)
COLLECTIONS = ("agnews", "miracl", "msmarco", "nq", "quora_duplicates_triplets", "squad_pairs")
WEIGHTS = {"miracl": 0.2, "msmarco": 0.3, "nq": 0.3, "quora_duplicates_triplets": 0.15, "squad_pairs": 0.05}


def build_store(folder: Path) -> Store:
    """The store of the page: six collections of the fixtures, one with damage, three mixtures and some scores."""
    write_fixtures(folder)
    _write_damaged(folder / "raw")
    store = Store.open(folder / "store", create=True)
    jobs.ingest(store, [str(folder / "raw" / name) for name in (*COLLECTIONS, "helpdesk")])
    _save(store, "raw", None)
    jobs.dedup(store)
    jobs.decontaminate(store, [str(folder / "test_queries.jsonl")])
    _save(store, "all", None)
    _save(store, "all", WEIGHTS)
    sliced = slices.freeze(store, slices.by_column(store, "miracl:language"))
    sliced |= slices.freeze(store, slices.by_predicate(store, "collection = 'nq' AND length(query) > 40"))
    registry.save(store, registry.weighted(sliced, dict.fromkeys(sliced, 1.0)), "sliced")
    insert_rows(store, "run_draws", [
        {"run_id": "4ab1f0e2c9d3", "collection": name, "digest": part.digest, "num_examples": num_examples,
         "batches": 10, "examples_drawn": drawn, "epochs": 640 / num_examples}
        for part in registry.resolve(store, "all").spec.components
        for name, num_examples, drawn in (("nq", 279, 638), ("squad_pairs", 237, 640)) if part.name == name
    ])  # fmt: skip
    values = {"raw": (0.31, 0.28), "all:1": (0.33, 0.29), "all:2": (0.32, 0.34)}
    insert_rows(store, "evaluations", [
        {"model": reference, "mixture": registry.resolve(store, reference).spec.id, "suite": suite, "metric": "ndcg@10",
         "value": value, "num_queries": 50, "num_documents": 500, "corpus": "full",
         "evaluated_at": datetime(2026, 1, 1, tzinfo=UTC)}
        for reference, pair in values.items() for suite, value in zip(("msmarco", "nq"), pair, strict=True)
    ])  # fmt: skip
    insert_rows(store, "evaluation_queries", [
        {"model": reference, "mixture": registry.resolve(store, reference).spec.id, "suite": "nq", "corpus": "full",
         "metric": "ndcg@10", "query_id": f"test{number}", "value": value,
         "evaluated_at": datetime(2026, 1, 1, tzinfo=UTC)}
        for reference, values in {"all:1": (1.0, 0.63, 0.5, 0.0), "all:2": (0.39, 0.63, 1.0, 0.43)}.items()
        for number, value in enumerate(values)
    ])  # fmt: skip
    insert_rows(store, "layer_losses", [
        {"run_id": "0d41c6f7be22", "removed": removed, "num_removed": len(removed), "best": removed != [1],
         "collection": name, "num_rows": 32, "loss": loss}
        for name, losses in {"msmarco": (0.31, 0.52, 0.33), "nq": (0.20, 0.26, 0.41)}.items()
        for removed, loss in zip(([], [0], [1]), losses, strict=True)
    ])  # fmt: skip
    return store


def _save(store: Store, name: str, weights: dict[str, float] | None) -> None:
    parts = registry.pin(store, list(weights or ()))
    registry.save(store, registry.weighted(parts, weights or dict.fromkeys(parts, 1.0)), name)


def _write_damaged(raw: Path) -> None:
    """A collection of two files: some passages of squad_pairs under other queries, and rows that cannot be read."""
    with gzip.open(raw / "squad_pairs" / "squad_pairs.jsonl.gz", "rt", encoding="utf-8") as stream:
        passages = [json.loads(line)[1] for line in stream]
    good = [json.dumps({"query": f"ticket {i}", "pos": [passages[i * 40]]}, ensure_ascii=False) for i in range(4)]
    folder = raw / "helpdesk"
    folder.mkdir()
    (folder / "week-1.jsonl").write_text("\n".join([good[0], '{"query": "half a r', good[1], '{"query": "no answer"}']))
    (folder / "week-2.jsonl").write_text("\n".join([*good[2:], *['{"query": "", "pos": ["nobody asked"]}'] * 3]))


def answer(store: Store, query: str) -> str:
    """What `mixture sql` prints."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_table(store.sql(query), "table")
    return shown.getvalue()


def surface(store: Store) -> str:
    """The page's lists of macros, views and tables with their columns."""

    def columns(source: str) -> str:
        return ", ".join(store.sql(f"DESCRIBE FROM {source}")["column_name"].to_pylist())

    lines = ["| Macro | | Columns |", "|---|---|---|"]
    lines += [f"| `{macro.call}` | {macro.says} | {columns(macro.example)} |" for macro in MACROS.values()]
    lines += ["", "| View | | Columns |", "|---|---|---|"]
    lines += [f"| `{name}` | {view.says} | {columns(name)} |" for name, view in VIEWS.items()]
    lines += ["", "| Table | Columns |", "|---|---|"]
    tables = store.sql("SHOW TABLES")["name"].to_pylist()
    lines += [f"| `{name}` | {columns(name)} |" for name in tables if name not in VIEWS and name != "store_versions"]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with build_store(tmp_path_factory.mktemp("docs")) as built:
        yield built


QUERIES = [(found["query"], found["answer"]) for found in ANSWERED.finditer(PAGE.read_text("utf-8"))]


@pytest.mark.parametrize(("query", "answered"), QUERIES, ids=[" ".join(query.split())[:60] for query, _ in QUERIES])
def test_the_page_shows_what_the_query_returns(store: Store, query: str, answered: str) -> None:
    assert store.sql(query).num_rows > 0
    assert answer(store, query) == answered


def test_every_query_of_the_page_is_run_and_there_are_ten_or_more() -> None:
    assert len(QUERIES) == PAGE.read_text("utf-8").count("```sql") >= 10


def test_the_page_lists_every_table_view_and_macro_with_its_columns(store: Store) -> None:
    found = SURFACE.search(PAGE.read_text("utf-8"))
    assert found
    assert found[0] == surface(store)


def write_page() -> None:
    with tempfile.TemporaryDirectory() as folder, build_store(Path(folder)) as store:
        page = SURFACE.sub(lambda _: surface(store), PAGE.read_text("utf-8"))
        # How many versions the ingest made is no promise.
        raw = registry.resolve(store, "raw").snapshot
        page = re.sub(r"(?<=FROM examples AT \(VERSION => )\d+", str(raw), page)
        page = ANSWERED.sub(lambda m: f"```sql\n{m['query']}```\n\n```text\n{answer(store, m['query'])}```", page)
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_docs_sql.py --write")
    write_page()
