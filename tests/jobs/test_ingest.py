"""Ingest as a whole: limits on refused rows, several processes at once, a kill, a card that says where its rows are."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mixture import Store, jobs
from mixture.errors import StoreError, UsageError
from mixture.store.intake import RejectLimit

ROOT = Path(__file__).parent.parent.parent


def lines(count: int, name: str = "c") -> str:
    rows = ({"query": f"{name} query {i}", "pos": [f"{name} passage {i}"]} for i in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows)


def counts(store: Store) -> dict[str, int]:
    rows = store.sql("SELECT collection, count(*) AS n FROM examples GROUP BY ALL").to_pylist()
    return {row["collection"]: row["n"] for row in rows}


@pytest.fixture
def damaged(tmp_path: Path) -> list[str]:
    """One good file of 90 rows, and one of 5 good and 5 bad ones."""
    (tmp_path / "good.jsonl").write_text(lines(90, "good"))
    (tmp_path / "bad.jsonl").write_text(lines(5, "bad") + "{\n" * 5)
    return [str(tmp_path / "good.jsonl"), str(tmp_path / "bad.jsonl")]


@pytest.mark.parametrize("limit", ["4", "4.9%", "0"])
def test_too_many_refused_rows_store_nothing_of_any_file(tmp_path: Path, damaged: list[str], limit: str) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        before = store.snapshot()
        with pytest.raises(StoreError, match=r"5 of 10*0 rows were refused.*nothing was stored"):
            jobs.ingest(store, damaged, name="all", max_rejects=limit)
        assert store.snapshot() == before
        for table in ("examples", "passages", "rejects", "sources", "collections"):
            assert store.sql(f"FROM {table}").num_rows == 0


@pytest.mark.parametrize("limit", ["5", "5%", None])
def test_as_many_as_allowed_are_set_aside(tmp_path: Path, damaged: list[str], limit: str | None) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        (result,) = jobs.ingest(store, damaged, name="all", max_rejects=limit)
        assert (result.files, result.counts.rows_read, result.counts.stored, result.counts.rejected) == (2, 100, 95, 5)
        assert store.sql("SELECT line FROM rejects ORDER BY line")["line"].to_pylist() == [6, 7, 8, 9, 10]


def test_a_name_that_no_folder_can_have_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(lines(2))
    with Store.open(tmp_path / "s", create=True) as store:
        for name in ("x" * 244, "本" * 27):
            jobs.ingest(store, [str(tmp_path / "c.jsonl")], name=name)
        assert counts(store) == {"x" * 244: 2, "本" * 27: 2}
        for name in ("x" * 245, "本" * 28):
            with pytest.raises(UsageError, match="too long for a collection's name"):
                jobs.ingest(store, [str(tmp_path / "c.jsonl")], name=name)


@pytest.mark.parametrize("text", ["many", "-1", "101%", "1.5", ""])
def test_a_limit_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="`max_rejects`"):
        RejectLimit.parse(text)


def ingest_process(store: Path, file: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", "--store", str(store), "ingest", str(file), "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    Store.open(tmp_path / "s", create=True).close()
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for size, file in zip((12_000, 8_000), files, strict=True):
        file.write_text(lines(size, file.stem) + "{\n")
    running = [ingest_process(tmp_path / "s", file) for file in files]
    results = [json.loads(process.communicate(timeout=120)[0])[0] for process in running]
    assert [(r["stored"], r["rejected"]) for r in results] == [(12_000, 1), (8_000, 1)]
    with Store.open(tmp_path / "s") as store:
        assert counts(store) == {"first": 12_000, "second": 8_000}
        assert store.sql("SELECT count(*) AS n FROM passages")["n"].to_pylist() == [20_000]
        assert store.sql("SELECT file FROM rejects").num_rows == 2


KILLED = """
import os, signal, sys
import mixture
job = sys.modules["mixture.jobs.ingest"]
real = job.build_batches

def build_batches(raw, *, file, **more):
    for batch in real(raw, file=file, **more):
        yield batch
        if "part3" in file:  # its first batch has been written
            os.kill(os.getpid(), signal.SIGKILL)

job.build_batches = build_batches
with mixture.Store.open(sys.argv[1], create=True) as store:
    mixture.jobs.ingest(store, [sys.argv[2]])
"""


HOLD = """
import sys, time
from mixture import Store, jobs
job = sys.modules["mixture.jobs.ingest"]
batches, held = job._batches, []
def slow(unit, report):
    inner = batches(unit, report)
    def held_open():
        for batch in inner():
            yield batch
            if not held:
                held.append(print("holding", flush=True))
                time.sleep(14)
    return held_open
job._batches = slow
with Store.open(sys.argv[1]) as store:
    jobs.ingest(store, [sys.argv[2]])
"""


@pytest.mark.slow
def test_a_transaction_that_is_open_for_long_keeps_nobody_from_writing(tmp_path: Path) -> None:
    """Longer than SQLite waits for a lock: the other commits at once, and the first one then repeats its file."""
    for name in ("long", "short"):
        rows = [{"query": f"question {n} of {name}", "pos": [f"answer {n} of {name}"]} for n in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Store.open(tmp_path / "s", create=True).close()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "s"), str(tmp_path / "long.jsonl")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holding:
        assert holding.stdout is not None
        holding.stdout.readline()
        other = ingest_process(tmp_path / "s", tmp_path / "short.jsonl")
        assert other.wait(60) == 0
        assert holding.poll() is None
        assert holding.wait(120) == 0
    with Store.open(tmp_path / "s") as store:
        found = store.sql("SELECT collection, count(*) AS n FROM examples GROUP BY ALL ORDER BY ALL").to_pylist()
    assert found == [{"collection": "long", "n": 200}, {"collection": "short", "n": 200}]


def test_a_killed_ingest_goes_on_with_the_file_it_was_in(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(6):
        (folder / f"part{number}.jsonl").write_text(lines(1000, f"part{number}"))
    script = "import mixture.jobs\n" + KILLED
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s"), str(folder)], cwd=ROOT, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with Store.open(tmp_path / "s") as store:
        assert counts(store) == {"c": 3000}
        (result,) = jobs.ingest(store, [str(folder)])
        assert (result.files, result.unchanged, result.counts.stored) == (6, 3, 3000)
        assert counts(store) == {"c": 6000}


def test_a_card_knows_where_its_rows_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixture.cards import load_cards

    card = load_cards()["agnews"]
    assert card.source is not None
    repository = tmp_path / "mirror" / card.source.hub_id
    repository.mkdir(parents=True)
    for file in card.source.files:
        (repository / file).write_bytes(gzip.compress(b'["a title", "a description"]\n["b title", "b description"]\n'))
    monkeypatch.setenv("MIXTURE_HUB_MIRROR", str(tmp_path / "mirror"))
    with Store.open(tmp_path / "s", create=True) as store:
        (result,) = jobs.ingest(store, [], card="agnews")
        assert (result.collection, result.counts.stored) == ("agnews", 2)
        (row,) = store.sql(
            "SELECT card, category, license, languages, deduped_size, source FROM collections"
        ).to_pylist()
        assert row == {
            "card": "agnews", "category": card.category, "license": card.license, "languages": list(card.language),
            "deduped_size": 1157745, "source": f"hf:{card.source.hub_id} {' '.join(card.source.files)}",
        }  # fmt: skip
        assert jobs.ingest(store, [], card="agnews")[0].unchanged == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_file_name_that_is_not_utf8_is_a_mistake(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")
    (tmp_path / name).write_text('{"query": "q", "pos": ["p"]}\n')
    with Store.open(tmp_path / "s", create=True) as store:
        for source in (tmp_path / name, tmp_path):
            with pytest.raises(UsageError, match=r"caf\\udce9.jsonl' is not UTF-8"):
                jobs.ingest(store, [str(source)])


def test_negatives_of_an_example_that_is_there_are_added_to_it(tmp_path: Path) -> None:
    for number, negative in enumerate(("first negative", "second negative")):
        row = {"query": "q", "pos": ["p"], "neg": [negative]}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    with Store.open(tmp_path / "s", create=True) as store:
        for number in range(2):
            jobs.ingest(store, [str(tmp_path / f"{number}.jsonl")], name="c")
        assert counts(store) == {"c": 1}
        assert store.sql("SELECT count(*) AS n FROM negatives").to_pylist() == [{"n": 2}]


def test_nothing_to_ingest_is_a_mistake(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store, pytest.raises(UsageError, match="no sources"):
        jobs.ingest(store, [])
