"""Killed or stopped, the same command goes on and ends with the same bits. Real processes, real signals."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli import app
from mixture import Store
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import load_suite
from trainers.finetune import FinetuneSettings, finetune

SETTINGS = FinetuneSettings(
    steps=40, batch_size=4, learning_rate=2e-3, temperature=0.05, negatives=1, max_query_tokens=80,
    max_passage_tokens=24, checkpoint_every=3, tracker="none",
)  # fmt: skip
STEPS = 60  # of the runs that are asked to stop, soon after step 3
DROPOUT = replace(SETTINGS, lora_rank=4, lora_dropout=0.3, checkpoint_every=2, keep_checkpoints=2)
# In a process of its own.
TRAIN = """
from pathlib import Path
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import load_suite
from trainers.finetune import FinetuneSettings, finetune
suites = [load_suite(Path(suite))] if suite else []
data = MaterialisedMixture.open(Path(folder), mixture)
finetune(data, model, FinetuneSettings(**settings), Path(out), suites=suites, progress=lambda n, _, __: pipe.send(n))
"""
COMMAND = """
import os, sys
os.environ |= environment
sys.stderr = open(errors, "w")
from cli import app
app(arguments)
"""


@pytest.mark.parametrize(
    ("model", "settings", "kills"),
    [
        pytest.param("tiny_model", SETTINGS, 2, id="all weights"),
        pytest.param("static_model", replace(SETTINGS, learning_rate=0.03), 2, id="static"),
        pytest.param("tiny_model", DROPOUT, 10, id="LoRA, dropout", marks=pytest.mark.slow),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_bits(
    start: Callable[..., Any], mixture_data: MaterialisedMixture, tmp_path: Path, suite: Path,
    settings: FinetuneSettings, kills: int, model: str, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    settings, base = replace(settings, evaluate_every=7, keep_best=True), str(request.getfixturevalue(model))
    random = Random(kills)
    names = {"folder": str(mixture_data.folder), "mixture": mixture_data.spec.id, "model": base,
             "settings": asdict(settings), "out": str(tmp_path / "parts"), "suite": str(suite)}  # fmt: skip
    for last in sorted(random.sample(range(2, settings.steps - 8), kills)):
        received, pipe = multiprocessing.Pipe(duplex=False)
        process = start(TRAIN, names | {"pipe": pipe})
        pipe.close()
        while received.recv() < last:
            pass
        time.sleep(random.uniform(0, 0.06))  # anywhere in a step, an evaluation or a checkpoint
        process.kill()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
    seen: list[int] = []
    suites = [load_suite(suite)]
    again = {"suites": suites, "progress": lambda done, _, __: seen.append(done)}
    finetune(mixture_data, base, settings, tmp_path / "parts", **again)
    assert seen[0] > last - settings.checkpoint_every
    finetune(mixture_data, base, settings, tmp_path / "whole", suites=suites)
    _assert_equal(tmp_path / "whole", tmp_path / "parts")
    _assert_equal(tmp_path / "whole" / "best", tmp_path / "parts" / "best", records=False)


def _assert_equal(whole: Path, parts: Path, *, records: bool = True) -> None:
    one, two = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    if records:
        assert json.loads((whole / "training.json").read_text()) == json.loads((parts / "training.json").read_text())


def _command(model: Path, out: Path) -> list[str]:
    assignments = {
        name: value for name, value in asdict(SETTINGS).items() if value != getattr(FinetuneSettings(), name)
    }
    words = ["train", "--mix", "mix", "--model", str(model), "--out", str(out), "--json"]
    for name, value in (assignments | {"steps": STEPS}).items():
        words += ["--set", f"{name}={value}"]
    return words


def _wait_for(pattern: str, folder: Path) -> None:
    deadline = time.monotonic() + 300
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_asked_to_stop_it_saves_its_step_and_the_same_command_goes_on(
    start: Callable[..., Any], small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int,
) -> None:  # fmt: skip
    words = [*_command(tiny_model, tmp_path / "out"), "--store", str(small_store.work)]
    checkpoints, errors = tmp_path / "out" / "checkpoints", tmp_path / "errors"
    process = start(COMMAND, {"arguments": words, "environment": {}, "errors": str(errors)})
    _wait_for("step-3", checkpoints)
    os.kill(process.pid, number)
    process.join(300)
    (saved,) = checkpoints.glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    said = errors.read_text().splitlines()[-1]
    assert (process.exitcode, said) == (code, f"mixture: stopped at step {step}; the same command goes on")
    assert 3 <= step < STEPS
    assert small_store.rows("SELECT status FROM runs") == [{"status": "running"}]
    with pytest.raises(SystemExit) as caught:
        app(words)
    assert caught.value.code == 0
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert [row["step"] for row in record["losses"]] == list(range(1, STEPS + 1))
    assert json.loads(capsys.readouterr().out)[0]["run"] == record["run_id"]
    assert small_store.rows("SELECT status FROM runs") == [{"status": "finished"}]


def test_ranks_stop_at_the_same_step(
    start: Callable[..., Any], small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    words = [*_command(tiny_model, tmp_path / "out"), "--store", str(small_store.work)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        start(COMMAND, {"arguments": words, "errors": str(tmp_path / f"errors-{rank}"),
                        "environment": shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}})
        for rank in range(2)
    ]  # fmt: skip
    _wait_for("step-3", tmp_path / "out" / "checkpoints")
    os.kill(processes[1].pid, signal.SIGTERM)  # one of them alone
    for process in processes:
        process.join(300)
    (saved,) = (tmp_path / "out" / "checkpoints").glob("step-*")
    assert [process.exitcode for process in processes] == [143, 143]
    assert f"stopped at step {saved.name.removeprefix('step-')};" in (tmp_path / "errors-0").read_text()
    assert "stopped" not in (tmp_path / "errors-1").read_text()


def test_the_tracker_gets_the_curves(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the extra track is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(SETTINGS, steps=6, tracker="tensorboard", evaluate_every=3)
    finetune(mixture_data, str(tiny_model), settings, tmp_path / "out", suites=[load_suite(suite)])
    (folder,) = (tmp_path / "out" / "logs").iterdir()
    curves = EventAccumulator(str(folder))
    curves.Reload()
    losses = json.loads((tmp_path / "out" / "training.json").read_text())["losses"]
    assert [event.step for event in curves.Scalars("loss")] == [row["step"] for row in losses]
    assert [event.value for event in curves.Scalars("loss")] == pytest.approx([row["loss"] for row in losses])
    assert [event.step for event in curves.Scalars("ndcg@10/suite")] == [3, 6]
    for name in ("learning rate", "gradient norm", "tokens per second", "data wait, seconds"):
        assert len(curves.Scalars(name)) == 6
    assert curves.Scalars("tokens per second")[0].value > 0
    assert curves.Scalars("learning rate")[0].value == pytest.approx(2e-3)  # the first step's, not the next one's
