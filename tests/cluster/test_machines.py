"""Several machines that share PostgreSQL, S3 and TCP, and no folder: each has its own home and cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mixture import Store

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["batch_size=4", "negatives=1", "learning_rate=0.01", "checkpoint_every=2", "evaluate_every=2", "final=best",
            "holdout=0.4", "tracker=none"]  # fmt: skip


class Machine:
    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.environment = {
            **os.environ, "HOME": str(folder), "MIXTURE_CACHE": str(folder / "cache"), "MIXTURE_STORE": store,
            "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self, *arguments: str, launch: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *launch, "-m", "mixture", *arguments], cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str) -> Any:
        return json.loads(said(self.start(*arguments, "--json")))


def said(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


def training(
    steps: int, launch: list[tuple[str, ...]], machines: list[Machine], out: str, *more: str
) -> list[subprocess.Popen[str]]:
    train = ["train", "--mix", "uniform", "--model", "tiny-qwen2", "--out", out, "--steps", str(steps), "--json", *more]
    train += [part for setting in SETTINGS for part in ("--set", setting)]
    return [machine.start(*train, launch=own) for machine, own in zip(machines, launch, strict=True)]


def over_nodes(port: int) -> list[tuple[str, ...]]:
    return [("-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1",
             "--master-addr", "127.0.0.1", "--master-port", str(port)) for number in range(2)]  # fmt: skip


@pytest.fixture
def machines(postgres: Any, s3: Any, tmp_path: Path) -> Callable[[str], Machine]:
    schema = "machines" + tmp_path.name.replace("-", "_")
    name = f"{postgres.name} schema={schema}"
    with Store.open(name, create=True, data=f"s3://lake/{schema}"):
        return lambda which: Machine(tmp_path / which, name)


def test_ingest_mine_train_and_evaluate_each_on_another_machine(
    machines: Callable[[str], Machine], tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    from servers import free_port  # type: ignore[import-not-found]  # of benchmarks/, loaded by the fixtures

    first, second, third, alone = map(machines, ("first", "second", "third", "alone"))
    for name in ("easy", "hard"):
        write_collection(first.folder / "raw", name)
    first.run("ingest", "raw/easy.jsonl", "raw/hard.jsonl")
    assert [row["negatives"] for row in second.run("mine", "--replace", "--per-query", "2")] == [80, 80]
    second.run("create", "uniform")

    # A run that is killed on both, after a checkpoint, goes on with what the first machine has.
    killed = training(8, over_nodes(free_port()), [first, second], "model")
    checkpoints = first.folder / "model" / "checkpoints"
    until = time.monotonic() + 200
    while not (checkpoints / "step-4").exists():
        assert all(one.poll() is None for one in killed) and time.monotonic() < until, killed[0].communicate()[1][
            -3000:
        ]
        time.sleep(0.02)
    for one in killed:
        ranks = psutil.Process(one.pid).children(recursive=True)  # torchrun's, each in a session of its own
        for process in (psutil.Process(one.pid), *ranks):
            process.kill()
        one.communicate()
    swapped = training(8, over_nodes(free_port()), [second, first], "model")
    assert "the machine of rank 1 has the checkpoint of step 4" in swapped[0].communicate(timeout=240)[1]
    swapped[1].communicate(timeout=240)
    assert (checkpoints / "step-4" / "step.json").is_file()
    theirs = second.folder / "model" / "checkpoints"
    assert not list(theirs.glob("*/trained.safetensors"))  # the first rank's alone
    shutil.rmtree(theirs, ignore_errors=True)  # as a machine that takes the place of one that is lost
    again = training(8, over_nodes(free_port()), [first, second], "model")
    first_said, second_said = map(said, again)
    (result,) = json.loads(first_said)
    assert not second_said and result["steps"] == 8
    assert not (second.folder / "model").exists()

    # As on one machine, never killed.
    (whole,) = training(8, [("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")], [alone], "model")
    assert json.loads(said(whole))[0]["run"] == result["run"]
    models = [machine.folder / "model" / "model.safetensors" for machine in (first, alone)]
    assert models[0].read_bytes() == models[1].read_bytes()
    records = [json.loads(model.with_name("training.json").read_text()) for model in models]
    assert records[0]["losses"] == records[1]["losses"]

    suite = third.folder / "suite"
    (suite / "qrels").mkdir(parents=True)
    (suite / "corpus.jsonl").write_text('{"_id": "d0", "text": "a river"}\n{"_id": "d1", "text": "a king"}\n')
    (suite / "queries.jsonl").write_text('{"_id": "q0", "text": "which river"}\n')
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\n")
    shutil.copytree(first.folder / "model", third.folder / "model")
    (scored,) = third.run("evaluate", "model", "--suite", "suite")
    assert scored["suite"] == "suite" and scored["num_documents"] == 2
    with Store.open(first.environment["MIXTURE_STORE"]) as store:
        runs = store.rows("SELECT run_id, status, result FROM runs")
        assert [(row["run_id"], row["status"]) for row in runs] == [(result["run"], "finished")]
        assert store.rows("SELECT count(*) AS n FROM run_draws")[0]["n"] == 2
        evaluated = store.rows("SELECT DISTINCT run_id FROM evaluations WHERE suite = 'suite'")
        assert evaluated == [{"run_id": result["run"]}]


def test_two_machines_that_share_the_folder(
    machines: Callable[[str], Machine], tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    from servers import free_port  # type: ignore[import-not-found]

    both = [machines("first"), machines("second")]
    write_collection(both[0].folder / "raw", "easy")
    both[0].run("ingest", "raw/easy.jsonl")
    both[0].run("create", "uniform")
    out = str(tmp_path / "shared" / "model")
    (both[1].folder / "other.toml").write_text("warmup_steps = 3\n")
    differing = [training(6, [own], [one], out, *more)[0] for own, one, more in
                 zip(over_nodes(free_port()), both, [(), ("--config", "other.toml")], strict=True)]  # fmt: skip
    assert "rank 1 has another run than the first" in differing[0].communicate(timeout=240)[1]
    differing[1].communicate(timeout=240)
    runs = training(6, over_nodes(free_port()), both, out)
    results = [said(run) for run in runs]
    assert json.loads(results[0])[0]["steps"] == 6 and not results[1]
    assert (tmp_path / "shared" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "shared" / "model" / "checkpoints").exists()
    assert "Traceback" not in "".join(results)


WITHOUT_DUCKDB = (
    "import sys; sys.modules['duckdb'] = None; import runpy; runpy.run_module('trainers', run_name='__main__')"
)


def test_a_mixture_in_a_bucket_trains_where_no_store_is_reached(
    machines: Callable[[str], Machine], tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    first, second = machines("first"), machines("second")
    for name in ("easy", "hard"):
        write_collection(first.folder / "raw", name)
    first.run("ingest", "raw/easy.jsonl", "raw/hard.jsonl")
    place = f"s3://lake/{tmp_path.name}-folder"
    first.run("create", "uniform")
    (written,) = first.run("export", "uniform", "--materialised", place)
    assert (written["folder"], written["examples"]) == (f"{place}/", 80)
    first.run("create", "easy", "--collection", "easy")
    (other,) = first.run("export", "easy", "--materialised", place)

    environment = {name: value for name, value in second.environment.items() if name != "MIXTURE_STORE"}

    def train(*more: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            WITHOUT_DUCKDB,
            place,
            "--model",
            "tiny-qwen2",
            "--steps",
            "3",
            "--json",
            *more,
        ]
        return subprocess.run(command, cwd=second.folder, env=environment, text=True, capture_output=True, timeout=200)

    several = train("--out", "model")
    assert several.returncode == 2 and "name one by its id" in several.stderr
    done = train("--out", "model", "--mix", other["mixture"], "--set", "tracker=none")
    assert done.returncode == 0, done.stderr[-3000:]
    fetched = sorted((second.folder / "cache" / "fetched").rglob("examples.arrow"))
    assert len(fetched) == 1  # of two collections the one that the mixture has
    before = fetched[0].stat().st_mtime_ns
    done = train("--out", "uniform", "--mix", written["mixture"], "--set", "tracker=none")
    assert done.returncode == 0, done.stderr[-3000:]
    assert fetched[0].stat().st_mtime_ns == before
    assert len(list((second.folder / "cache" / "fetched").rglob("examples.arrow"))) == 2

    (brought,) = second.run("import", "uniform")
    assert brought["run"] == json.loads(done.stdout)[0]["run"]
    with Store.open(first.environment["MIXTURE_STORE"]) as store:
        assert store.rows("SELECT mixture, status FROM runs") == [{"mixture": written["mixture"], "status": "finished"}]
        assert store.rows("SELECT sum(examples_drawn) > 0 AS some FROM run_draws") == [{"some": True}]
    with Store.open(first.environment["MIXTURE_STORE"]) as store:
        assert not list(store.work.glob(".writing-*"))
    gone = train("--out", "x", "--mix", "000000000000")
    assert gone.returncode == 2 and "name one by its id" in gone.stderr
