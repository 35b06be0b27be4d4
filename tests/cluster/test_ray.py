"""Jobs on a Ray cluster of two nodes on loopback: the same results, whatever dies. Nothing of the environment goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import trainers
from cli import app
from mixture import Store, UsageError, jobs
from mixture.engine import Engine, engine_of, on_ray
from mixture.errors import MixtureError, StoreError
from mixture.jobs.tasks import Snapshot
from trainers import encode_with
from trainers.jobs.workers import ClusterWorkers
from trainers.model.tiny import build_tiny

PARTS = 9


@pytest.fixture(scope="module")
def nodes(postgres: Any, s3: Any) -> Iterator[Any]:
    servers = sys.modules["servers"]
    cluster = servers.RayNodes(2, s3.environment)  # type: ignore[attr-defined]
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cluster.token.items():
                patch.setenv(name, value)
            yield cluster
            if "ray" in sys.modules:
                import ray

                ray.shutdown()
    finally:
        cluster.close()


@pytest.fixture
def engine(nodes: Any) -> Engine:
    return engine_of(f"ray:{nodes.address}")


@pytest.fixture
def lake(postgres: Any, tmp_path: Path, monkeypatch: Any, write_collection: Callable[..., Path]) -> Iterator[Store]:
    """Three collections of 40, one with near-equal rows, on PostgreSQL and S3."""
    monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))
    schema = "ray" + tmp_path.name.replace("-", "_")
    rows = [{"query": f"{'The' if n % 2 else 'the'} lighthouse of cape number {n // 2}", "pos": ["It stands."]}
            for n in range(40)]  # fmt: skip
    with Store.open(f"{postgres.name} schema={schema}", create=True, data=f"s3://lake/{schema}") as store:
        jobs.ingest(store, [str(write_collection(tmp_path / "given", name)) for name in ("easy", "hard")])
        jobs.ingest(store, rows, name="capes")
        yield store


def test_jobs_find_what_they_find_here(lake: Store, engine: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    tests = tmp_path / "tests.txt"
    tests.write_text("the lighthouse of cape number 3\n")
    for across in (False, True):
        expected = jobs.dedup(lake, across=across, dry_run=True)
        assert sum(result.removed for result in expected) == 20
        with monkeypatch.context() as patch:  # so that parts of a collection travel too
            patch.setattr(sys.modules["mixture.jobs.dedup"], "PART_ROWS", PARTS)
            found = jobs.dedup(lake, across=across, dry_run=True, engine=engine)
        assert [one.removals for one in found] == [one.removals for one in expected]
    contaminated = jobs.decontaminate(lake, tests, dry_run=True)
    assert sum(one.removed for one in contaminated) > 0
    again = jobs.decontaminate(lake, tests, dry_run=True, engine=engine)
    assert [one.removals for one in again] == [one.removals for one in contaminated]
    query = "SELECT collection, example_id, passage_id, rank, score, miner FROM negatives ORDER BY ALL"
    jobs.mine(lake, ["easy", "capes", "hard"], per_query=2, fill_random=False)
    mined = lake.rows(query)
    jobs.mine(lake, ["easy", "capes", "hard"], per_query=2, fill_random=False, engine=engine)
    assert lake.rows(query) == mined
    assert any(row["miner"] == "bm25" for row in mined)


def test_the_command(lake: Store, nodes: Any, tmp_path: Path) -> None:
    """In a process of its own, as a user runs it; its output is JSON and nothing else."""
    name = str(lake.catalog)
    done = subprocess.run(
        [sys.executable, "-m", "mixture", "--store", name, "dedup", "--engine", f"ray:{nodes.address}", "--json"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {row["collection"]: row["removed"] for row in json.loads(done.stdout)} == {"capes": 20, "easy": 0, "hard": 0}
    assert "Ray" not in done.stderr and "ray" not in done.stderr


def test_both_nodes_work_and_get_nothing_of_this_environment(engine: Engine, monkeypatch: Any) -> None:
    monkeypatch.setenv("MIXTURE_TEST_SECRET", "hunter2")

    def seen(number: int) -> tuple[str, str | None, int]:
        import os
        import time

        import ray

        from mixture.engine import num_threads

        time.sleep(0.3)
        return ray.get_runtime_context().get_node_id(), os.environ.get("MIXTURE_TEST_SECRET"), num_threads()

    found = list(engine.map(_by_value(seen), range(8)))
    assert len({node for node, _, _ in found}) == 2
    assert {secret for _, secret, _ in found} == {None}
    assert {threads for _, _, threads in found} == {1}


def test_a_task_has_its_share_of_the_machine(lake: Store, engine: Engine) -> None:
    """DuckDB would take all processors and most of the memory in each."""
    with lake.reading() as number:
        source = Snapshot(lake.catalog, number, lake)

        def settings(_: int) -> list[Any]:
            query = "SELECT current_setting('threads') AS threads, current_setting('memory_limit') AS memory"
            with source.opened() as store:
                return list(store.rows(query)[0].values())

        ((threads, memory), _) = engine.map(_by_value(settings), range(2))
    assert threads == 1
    here = lake.rows("SELECT current_setting('memory_limit') AS v")[0]["v"]
    assert os.cpu_count() == 1 or float(memory.split()[0]) < float(here.split()[0]) * 0.9


def test_this_process_is_on_one_cluster(engine: Engine) -> None:
    list(engine.map(lambda number: number, range(2)))
    with pytest.raises(UsageError, match=r"`engine` is 'ray:127\.0\.0\.9:6399', and this process is on the cluster"):
        list(engine_of("ray:127.0.0.9:6399").map(lambda number: number, range(2)))
    assert list(engine_of("ray").map(lambda number: number, range(3))) == [0, 1, 2]


def test_nobody_works_on_after_an_interrupt(engine: Engine, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def slow(number: int) -> None:
        import time
        from pathlib import Path

        (Path(folder) / f"begun-{number}").touch()
        time.sleep(2)
        (Path(folder) / f"done-{number}").touch()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt() -> None:
        while not list(tmp_path.glob("begun-*")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupted)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            list(engine.map(_by_value(slow), range(4)))
    finally:
        signal.signal(signal.SIGUSR1, before)
    time.sleep(3)
    assert not list(tmp_path.glob("done-*"))


def test_results_come_in_order_and_items_are_taken_as_they_are_needed(engine: Engine) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    results = engine.map(lambda number: (__import__("time").sleep(0.02 * (number % 3)), number)[1], items())
    assert next(results) == 0
    assert len(taken) < 10  # of texts of forty collections few are in memory
    assert list(results) == list(range(1, 40))


def test_a_task_that_dies_is_done_again(engine: Engine, tmp_path: Path) -> None:
    def dying(number: int) -> int:
        import os
        from pathlib import Path

        mark = Path(folder) / f"{number}"
        if number % 3 == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        return number * number

    folder = str(tmp_path)
    assert list(engine.map(_by_value(dying), range(8))) == [number * number for number in range(8)]
    assert len(list(tmp_path.iterdir())) == 3


def test_an_error_of_a_task_is_raised_as_it_was(engine: Engine) -> None:
    def wrong(number: int) -> int:
        from mixture.errors import StoreError

        if number == 2:
            raise StoreError(f"row {number} went away")
        return number

    found = engine.map(_by_value(wrong), range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(StoreError, match=r"^row 2 went away$"):
        next(found)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny([f"the river of the {word} is long" for word in ("north", "south", "east")] * 40, folder, seed=1,
               vocabulary=200, hidden=64)  # fmt: skip
    return folder


def test_encoders_give_the_same_bits_however_many_there_are_and_whatever_dies(
    model: Path, engine: Engine, tmp_path: Path
) -> None:
    words = ["river", "north", "long", "south", "the", "of"]
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(words, random.integers(1, 12))) + f" {number}" for number in range(2_500)]
    here = encode_with(str(model))
    for count in (1, 2):
        there = encode_with(str(model), processes=count, engine=engine)
        there.encoder.forward = None  # type: ignore[assignment]  # so that only the cluster can have encoded
        for kind in ("query", "passage"):
            np.testing.assert_array_equal(there(texts, kind), here(texts, kind))  # type: ignore[arg-type]
        np.testing.assert_array_equal(there(texts[:3], "query"), here(texts[:3], "query"))  # few go there too
    for actor in _holders():
        os.kill(actor, signal.SIGKILL)
    np.testing.assert_array_equal(there(texts, "query"), here(texts, "query"))


def test_a_model_that_a_machine_has_not(model: Path, engine: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    """A folder travels by its whole name; one that is not there, or another, is said, and is no endless loop."""
    shutil.copytree(model, tmp_path / "mine" / "tiny")
    monkeypatch.chdir(tmp_path / "mine")
    here, there = encode_with("tiny"), encode_with("tiny", engine=engine)
    np.testing.assert_array_equal(there(["a river"], "query"), here(["a river"], "query"))
    with pytest.raises(UsageError, match=r"on the machine .*: .*nowhere"):
        ClusterWorkers("/nowhere", 1, engine, "x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has another model by the name"):
        ClusterWorkers(str(model), 1, engine, "x")  # type: ignore[arg-type]

    def dying() -> Callable[[object], object]:
        import os

        os._exit(3)

    with pytest.raises(MixtureError, match="ended before its time"):
        engine.holders(_by_value(dying), 1)  # type: ignore[attr-defined]


def test_a_failed_call_leaves_nothing_to_the_next(engine: Engine) -> None:
    def make() -> Callable[[int], int]:
        def work(number: int) -> int:
            if number > 99:
                raise ValueError(f"old {number}")
            return number

        return work

    each = engine.holders(_by_value(make), 2)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="old 100"):
        list(each([100, 101, 102, 103]))
    assert list(each(range(6))) == list(range(6))


def test_judges_and_stores_of_one_machine_stay_there(
    lake: Store, engine: Engine, small_store: Store, monkeypatch: Any
) -> None:
    seen: list[int] = []

    def judge(pairs: list[tuple[str, str]]) -> list[str]:
        seen.append(os.getpid())
        return ["keep"] * len(pairs)

    jobs.mine(lake, ["easy", "hard"], per_query=1, judge=judge, engine=engine, dry_run=True)
    assert set(seen) == {os.getpid()}
    assert engine.machines() == 1  # type: ignore[attr-defined]
    assert jobs.dedup(small_store, dry_run=True, engine=engine)
    monkeypatch.setattr(on_ray.Ray, "machines", lambda self: 3)
    for work in (jobs.dedup, lambda store, **given: jobs.decontaminate(store, "x", **given)):
        with pytest.raises(UsageError, match="is one machine's, and the cluster has 3"):
            work(small_store, dry_run=True, engine=engine)  # type: ignore[operator]
    assert jobs.dedup(lake, dry_run=True, engine=engine)


def test_mining_with_a_model_and_evaluation_on_the_cluster(
    lake: Store, model: Path, engine: Engine, tmp_path: Path
) -> None:
    query = "SELECT collection, example_id, passage_id, rank, score FROM negatives ORDER BY ALL"
    mined = []
    for runs in ("local", engine):
        encoder = partial(encode_with, engine=runs)
        results = jobs.mine(lake, ["easy", "hard"], miner=str(model), encoder=encoder, per_query=2, fill_random=False,
                            engine=runs, keep_embeddings=False)  # fmt: skip
        assert sum(result.encoded for result in results) > 100
        mined.append(lake.rows(query))
    assert mined[0] == mined[1]

    suite = tmp_path / "rivers"
    (suite / "qrels").mkdir(parents=True)
    lines = [
        {"_id": f"d{number}", "title": "", "text": f"the river of the north is {number} long"} for number in range(60)
    ]
    (suite / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"_id": f"q{number}", "text": f"river {number}"} for number in range(20)]
    (suite / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(
        f"q{number}\td{number}\t1\n" for number in range(20)))  # fmt: skip
    scored = [trainers.evaluate(lake, str(model), str(suite), engine=runs)[0] for runs in ("local", engine)]
    assert scored[0].per_query == scored[1].per_query
    assert 0 < scored[0].metrics["ndcg@10"] < 1
    with pytest.raises(UsageError, match="`batch_size` is of one process here; leave it away, or `engine`"):
        trainers.evaluate(lake, str(model), str(suite), engine=engine, batch_size=8)


def test_a_node_that_goes_away(nodes: Any, engine: Engine) -> None:
    """Last of all: the cluster has one node afterwards."""

    def slow(number: int) -> int:
        import time

        time.sleep(0.5)
        return -number

    found = engine.map(_by_value(slow), range(12))
    assert next(found) == 0
    nodes.kill(1)
    assert list(found) == [-number for number in range(1, 12)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ray:", "`engine` is 'ray:'; allowed: local, ray, or ray:ADDRESS"),
        ("local:127.0.0.2:1", "`engine` is 'local:127.0.0.2:1'; allowed: local, ray, or ray:ADDRESS"),
        ("ry", "`engine` is 'ry'; allowed: local, ray"),
    ],
)
def test_names(name: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        engine_of(name)
    assert str(error.value) == said


def test_without_ray(small_store: Store, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["--store", str(small_store.work), "dedup", "--engine", "ray"])
    assert done.exit_code == 2
    assert "needs the package ray; pip install 'retrieval-mixture[ray]'" in done.stderr


def _by_value(work: Callable[..., Any]) -> Callable[..., Any]:
    """As it travels from a module that the nodes have not."""
    work.__module__ = "__main__"
    return work


def _holders() -> list[int]:
    """The processes that hold a model."""
    import psutil

    named = [(p.pid, (p.info["cmdline"] or [""])[0]) for p in psutil.process_iter(["cmdline"])]
    found = [pid for pid, name in named if name.startswith("ray::_Holder")]
    assert found
    return found
