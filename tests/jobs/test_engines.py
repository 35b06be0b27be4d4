"""Jobs run their tasks through an engine; a task that travels to another process reads the same snapshot there."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any, ClassVar

import numpy as np
import pytest

from mixture import Store, jobs
from mixture.engine import ENGINES, Engine
from mixture.errors import UsageError
from mixture.jobs.tasks import Snapshot


class Travelling:
    """Sends work, items and results through pickle, as an engine of processes does, after all items were made.

    meanwhile: done once, before the first task runs
    """

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.meanwhile, self.tasks = meanwhile, 0

    maps: ClassVar[list[int]] = []  # how many items each call had, those of tasks included

    def __reduce__(self) -> tuple[type[Travelling], tuple[()]]:
        return Travelling, ()

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        sent = [pickle.dumps((work, item)) for item in items]
        self.maps.append(len(sent))
        self.meanwhile()
        for task in sent:
            self.tasks += 1
            there, item = pickle.loads(task)
            yield pickle.loads(pickle.dumps(there(item)))


TEXT = "who kept the lighthouse on the northern cape in the year of the great storm"


@pytest.fixture
def store(small_store: Store, tmp_path: Path) -> Store:
    """Beside the three collections one with a near-equal pair, a test query, and no negatives."""
    rows = [{"query": TEXT, "pos": ["Three keepers and their families."]},
            {"query": TEXT.upper() + "?", "pos": ["three keepers, and their families"]},
            {"query": "how long does the ferry to the islands take", "pos": ["It takes four hours."]}]  # fmt: skip
    (tmp_path / "twins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tests.txt").write_text("how long does the ferry to the islands take?\n")
    jobs.ingest(small_store, [str(tmp_path / "twins.jsonl")])
    return small_store


def letters(texts: list[str], kind: str) -> Any:
    """An encoder that can be pickled: counts of letters."""
    return np.array([[text.lower().count(letter) for letter in ascii_lowercase] for text in texts], np.float32)


JOBS: dict[str, Callable[..., Any]] = {
    "dedup": lambda store, engine: jobs.dedup(store, engine=engine, dry_run=True),
    "semantic dedup": lambda store, engine: jobs.dedup(
        store, method="semantic", encode=letters, similarity=0.999, engine=engine, dry_run=True
    ),
    "decontaminate": lambda store, engine: jobs.decontaminate(
        store, store.work.parent / "tests.txt", engine=engine, dry_run=True
    ),
}


def test_parts_of_a_collection_travel_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = jobs.dedup(store, ["easy", "twins"], across=True, dry_run=True)
    assert [result.removed for result in expected] == [0, 1]
    monkeypatch.setattr(sys.modules["mixture.jobs.dedup"], "PART_ROWS", 9)
    monkeypatch.setattr(Travelling, "maps", [])
    said: list[str] = []
    found = jobs.dedup(store, ["easy", "twins"], across=True, dry_run=True, engine=Travelling(),
                       progress=lambda done, total, what: said.append(what))  # fmt: skip
    assert Travelling.maps == [1, 5, 5]  # the task, 43 queries, 43 positives: 9 at a time
    assert [result.removals for result in found] == [result.removals for result in expected]
    jobs.dedup(store, ["easy", "twins"], across=True, dry_run=True,
               progress=lambda done, total, what: said.append(what))  # fmt: skip
    assert said[-2] == "easy, twins: 5/5 parts of the positives read"


@pytest.mark.parametrize("job", JOBS)
def test_where_a_task_runs_changes_nothing(store: Store, job: str) -> None:
    expected = JOBS[job](store, "local")
    assert sum(result.removed for result in expected) == 1
    with Store.open(store.work) as other:

        def remove_all() -> None:
            assert jobs.dedup(other)[3].removed == 1
            jobs.decontaminate(other, store.work.parent / "tests.txt")

        engine = Travelling(remove_all)
        found = JOBS[job](store, engine)
        assert store.rows("SELECT count(*) AS n FROM removals")[0]["n"] == 2
    assert engine.tasks == 4
    assert [(r.collection, r.removed) for r in found] == [(r.collection, r.removed) for r in expected]
    assert [r.removals for r in found] == [r.removals for r in expected]


def test_where_negatives_are_mined_changes_nothing(store: Store, tmp_path: Path) -> None:
    query = "SELECT collection, example_id, passage_id, rank, score, miner FROM negatives ORDER BY ALL"
    said: list[str] = []
    first = jobs.mine(store, ["easy", "twins"], per_query=3, progress=lambda done, total, what: said.append(what))
    expected = store.rows(query)
    assert said == ["easy", "easy 40/40", "twins", "twins 3/3", "done"]
    engine = Travelling()
    again = jobs.mine(store, ["easy", "twins"], per_query=3, engine=engine, progress=lambda *_: None)
    assert engine.tasks == 2
    assert [(r.collection, r.examples, r.negatives, r.random) for r in again] == [
        (r.collection, r.examples, r.negatives, r.random) for r in first
    ]
    assert store.rows(query) == expected


def test_a_process_opens_a_snapshot_once_for_all_its_tasks(store: Store) -> None:
    """Each task brings its own copy of the catalog."""
    with store.reading() as number:
        sent = [pickle.dumps(Snapshot(store.catalog, number, store)) for _ in range(2)]
    opened = []
    for task in sent:
        with pickle.loads(task).opened() as one:
            opened.append(one)
            assert one.rows("SELECT count(*) AS n FROM collections") == [{"n": 4}]
    assert opened[0] is opened[1] is not store
    jobs.ingest(store, [{"query": "what is tin", "pos": ["A metal."]}], name="more")
    with store.reading() as newer:
        later = pickle.loads(pickle.dumps(Snapshot(store.catalog, newer, store)))
    with later.opened() as one:
        assert one is not opened[0]
        assert one.rows("SELECT count(*) AS n FROM collections") == [{"n": 5}]


def test_an_engine_is_named_or_given(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Engine = Travelling()
    monkeypatch.setitem(ENGINES, "travelling", engine)
    jobs.dedup(store, "easy", engine="travelling")
    assert engine.tasks == 1  # type: ignore[attr-defined]
    for job in (jobs.dedup, jobs.mine, lambda store, engine: jobs.decontaminate(store, "nq", engine=engine)):
        with pytest.raises(UsageError, match="`engine` is 'lokal'; allowed: local, ray, travelling"):
            job(store, engine="lokal")  # type: ignore[operator]


def test_local_runs_a_task_when_its_result_is_asked_for() -> None:
    """So one collection is in memory at a time, and what one task leads to is stored before the next one reads."""
    seen: list[str] = []

    def items() -> Iterator[int]:
        for number in range(3):
            seen.append(f"item {number}")
            yield number

    for result in ENGINES["local"].map(lambda number: number * 10, items()):
        seen.append(f"result {result}")
    assert seen == ["item 0", "result 0", "item 1", "result 10", "item 2", "result 20"]
