"""A job reads one snapshot of the store, whatever other processes commit meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, jobs, registry
from mixture.jobs import removals
from mixture.registry.verify import verify
from mixture.report import build, facts
from mixture.store import read
from mixture.store.write import remove_examples

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def other(small_store: Store) -> Any:
    """Another process's connection to the store."""
    with Store.open(small_store.work) as store:
        yield store


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`between(module, name, work)`: the next call of a function does `work` first, once."""

    def put(module: Any, name: str, work: Callable[[], object]) -> None:
        whole, left = getattr(module, name), [work]

        def first_works(*arguments: Any, **options: Any) -> Any:
            if left:
                left.pop()()
            return whole(*arguments, **options)

        monkeypatch.setattr(module, name, first_works)

    return put


def _more(other: Store, folder: Path, name: str = "easy", rows: int = 30) -> Callable[[], object]:
    """Another process ingests new rows, and old ones again."""
    old = (folder / "raw" / f"{name}.jsonl").read_text().splitlines()
    new = [json.dumps({"query": f"{name} new question {i}", "pos": [f"new answer {i}"]}) for i in range(rows)]
    file = folder / f"more-{name}.jsonl"
    file.write_text("\n".join(old + new))
    return lambda: jobs.ingest(other, [str(file)], name=name)


def test_reading_sees_one_snapshot_and_names_it(small_store: Store, other: Store, tmp_path: Path) -> None:
    ingest = _more(other, tmp_path)
    before = small_store.snapshot()
    with small_store.reading() as snapshot:
        counts = [read.collections(small_store, ["easy"])[0].num_examples]
        ingest()
        counts.append(read.collections(small_store, ["easy"])[0].num_examples)
        assert small_store.snapshot() == snapshot == before
    counts.append(read.collections(small_store, ["easy"])[0].num_examples)
    assert counts == [40, 40, 70]
    assert small_store.snapshot() > snapshot


@pytest.mark.parametrize("place", ["positive_prints", "positives_of", "texts_of"])
def test_dedup_beside_an_ingest_finds_what_its_snapshot_has(
    small_store: Store, other: Store, tmp_path: Path, between: Callable[..., None], place: str
) -> None:
    """Positives that come between two reads had no place among those read before."""
    wanted = jobs.dedup(small_store, dry_run=True)
    before = small_store.snapshot()
    between(read, place, _more(other, tmp_path))
    found = jobs.dedup(small_store, dry_run=True)
    assert [r.removals for r in found] == [r.removals for r in wanted]
    assert {r.snapshot for r in found} == {before}
    assert small_store.snapshot() > before


def test_decontaminate_beside_a_removal_goes_on(
    small_store: Store, other: Store, tmp_path: Path, between: Callable[..., None]
) -> None:
    suite = tmp_path / "suite"
    (suite / "qrels").mkdir(parents=True)
    queries = read.queries(small_store, "easy").to_pylist()
    passage = read.passages(small_store, "easy")["text"][0].as_py()
    (suite / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": queries[0]["query"]}))
    (suite / "corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": passage}))
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    gone = small_store.read(
        "SELECT collection, example_id, 'duplicate' AS reason FROM examples WHERE collection = 'easy'"
    )
    between(read, "texts_of", lambda: remove_examples(other, gone.slice(0, 5), other.snapshot()))
    found = {r.collection: r for r in jobs.decontaminate(small_store, [str(suite)], ["easy"])}
    left = read.queries(small_store, "easy")["example_id"].to_pylist()
    assert queries[0]["example_id"] not in left
    # Who was taken out by the other is not counted again.
    removed = small_store.rows("SELECT example_id FROM removals")
    assert len({r["example_id"] for r in removed}) == len(removed) == 5 + found["easy"].removed
    assert len(left) == 40 - len(removed)


def test_a_duplicate_stays_where_what_it_repeats_has_gone_meanwhile(
    small_store: Store, other: Store, tmp_path: Path, between: Callable[..., None]
) -> None:
    rows = [{"query": "what is the king of the north called", "pos": [f"his name is {name}"]} for name in "ab"]
    (tmp_path / "twins.jsonl").write_text("\n".join(map(json.dumps, rows)))
    jobs.ingest(small_store, [str(tmp_path / "twins.jsonl")])
    (planned,) = jobs.dedup(small_store, ["twins"], key="query", dry_run=True)
    (kept,) = planned.removals["kept_id"].to_pylist()
    keeper = small_store.read(
        "SELECT collection, example_id, 'test query' AS reason FROM examples WHERE example_id = ?", [kept]
    )
    between(removals, "remove_examples", lambda: remove_examples(other, keeper, other.snapshot()))
    (found,) = jobs.dedup(small_store, ["twins"], key="query")
    assert (found.removed, planned.removed) == (0, 1)
    assert len(read.queries(small_store, "twins")) == 1


def test_negatives_of_examples_that_went_meanwhile_are_not_stored(
    small_store: Store, other: Store, between: Callable[..., None]
) -> None:
    gone = small_store.read(
        "SELECT collection, example_id, 'duplicate' AS reason FROM examples WHERE collection = 'hard'"
    )
    between(
        sys.modules["mixture.jobs.mine"],
        "add_negatives",
        lambda: remove_examples(other, gone.slice(0, 3), other.snapshot()),
    )
    jobs.mine(small_store, ["hard"])
    orphans = "SELECT 1 FROM negatives n ANTI JOIN examples e USING (collection, example_id)"
    assert small_store.rows(orphans) == []
    assert small_store.rows("SELECT count(DISTINCT example_id) AS n FROM negatives WHERE miner = 'bm25'")[0]["n"] == 37


@pytest.mark.parametrize("words", [["--proportional"], ["--where", "length(query) > 5"]])
def test_a_mixture_names_the_snapshot_that_its_contents_are_of(
    small_store: Store, other: Store, tmp_path: Path, between: Callable[..., None], words: list[str]
) -> None:
    """Between pinning and saving, others ingest and mine: the newest snapshot then holds other contents."""
    ingest = _more(other, tmp_path)
    between(registry, "save", lambda: (ingest(), jobs.mine(other, ["easy"])))
    done = CliRunner().invoke(app, ["--store", str(small_store.work), "create", "m", *words])
    assert done.exit_code == 0, done.output
    mixture = registry.resolve(small_store, "m")
    assert [f.says for f in verify(small_store).faults] == []
    (finding,) = verify(small_store).findings
    assert finding.says == f"is no longer today's; version {mixture.snapshot} holds it"
    facts = registry.pinned_facts(small_store, mixture.spec)
    assert [known.num_examples for known in facts.values()] == [40, 40, 40]


WORKERS: dict[str, str] = {
    # Each does its command over and over until the time is up, and says what failed.
    "ingest": "jobs.ingest(store, [make()], name=random.choice(['easy', 'hard', 'new']))",
    "dedup": "jobs.dedup(store); jobs.undo(store, 'dedup') if store.rows('FROM removals') else None",
    "decontaminate": "jobs.decontaminate(store, [suite])",
    "create": "create()",
    "sql": "store.sql('SELECT collection, count(*), count(DISTINCT example_id) FROM examples GROUP BY ALL')",
}
WORKER = """
import json, random, sys, time, traceback
from pathlib import Path
from mixture import Store, jobs, registry
from mixture.errors import UsageError
root, suite, scratch, kind, number, seconds = sys.argv[1:]
random.seed(int(number))
scratch, made = Path(scratch), 0
def make():
    global made
    made += 1
    file = scratch / f"{kind}-{number}-{made}.jsonl"
    words = "king river north south capital tower bridge".split()
    rows = [{"query": " ".join(random.choices(words, k=5)) + f" {random.randrange(300)}",
             "pos": [" ".join(random.choices(words, k=6)) + f" {random.randrange(300)}"]} for _ in range(40)]
    file.write_text("\\n".join(map(json.dumps, rows)))
    return str(file)
def create():
    pins = registry.pin_all(store)
    weights = dict.fromkeys(pins.components, 1.0)
    registry.save(store, registry.weighted(pins.components, weights), "m", pins=pins)
end, done = time.monotonic() + float(seconds), 0
with Store.open(root) as store:
    while time.monotonic() < end:
        try:
            WORK
        except UsageError as error:
            if "nothing to put back" not in str(error):
                raise
        done += 1
print(done)
"""


def six_processes(store: Store, folder: Path, seconds: float) -> dict[str, int]:
    """Run the six beside each other; how often each did its work. Whatever one raises fails."""
    suite = folder / "suite.jsonl"
    suite.write_text("\n".join(json.dumps({"_id": f"q{n}", "text": f"king river north south capital {n}"})
                               for n in range(300)))  # fmt: skip
    kinds = ["ingest", "ingest", "dedup", "decontaminate", "create", "sql"]
    running = []
    for number, kind in enumerate(kinds):
        names = [str(store.work), str(suite), str(folder), kind, str(number), str(seconds)]
        command = [sys.executable, "-c", WORKER.replace("WORK", WORKERS[kind]), *names]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))  # type: ignore[call-overload]
    found = {}
    for number, (kind, process) in enumerate(zip(kinds, running, strict=True)):
        out, errors = process.communicate(timeout=seconds + 240)
        assert process.returncode == 0, f"{kind}: {errors[-3000:]}"
        found[f"{kind} {number}"] = int(out)
    return found


@pytest.mark.parametrize(
    "seconds", [pytest.param(60, marks=pytest.mark.slow), pytest.param(180, marks=pytest.mark.slow)]
)
def test_six_processes_on_one_store_neither_fail_nor_tear(small_store: Store, tmp_path: Path, seconds: float) -> None:
    began = time.monotonic()
    counts = six_processes(small_store, tmp_path, seconds)
    assert min(counts.values()) >= 1, counts
    result = verify(small_store)
    assert [finding.says for finding in result.faults] == []
    assert result.checked["mixtures"] >= 1
    # No row twice, and none lost: what was read is there, or the table removals has it.
    for table, key in (("examples", "example_id"), ("passages", "passage_id")):
        twice = small_store.rows(f"SELECT collection, {key} FROM {table} GROUP BY ALL HAVING count(*) > 1")
        assert twice == []
    both = "SELECT 1 FROM removals SEMI JOIN examples USING (collection, example_id)"
    assert small_store.rows(both) == []
    stored = small_store.rows("SELECT sum(stored) AS n FROM sources")[0]["n"]
    held = small_store.rows("SELECT (SELECT count(*) FROM examples) + (SELECT count(*) FROM removals) AS n")[0]["n"]
    assert held == stored
    print(f"{time.monotonic() - began:.0f} s: {counts}, {result.checked}")


def test_a_report_beside_an_ingest_is_of_one_snapshot(
    small_store: Store, other: Store, tmp_path: Path, between: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads through two connections; the second one is opened after the other process has committed."""
    saved = registry.save(small_store, registry.weighted(registry.pin(small_store), {"easy": 1.0}), "one")
    before = small_store.snapshot()
    between(facts, "learning", _more(other, tmp_path))
    gathered: list[facts.Facts] = []
    monkeypatch.setattr(build, "render", lambda found, drawn: gathered.append(found) or "")
    build.write_report(small_store, saved, tmp_path / "report.html")
    (part,), (taken,), (epochs,) = gathered[0].components, gathered[0].taken_out, gathered[0].epochs
    assert (part.num_today, taken.rows_read, epochs.num_examples) == (40, 40, 40)
    assert gathered[0].snapshot == before
