"""The GPU benchmark, rehearsed: every step runs on a CPU, and what it writes fills the page."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEPS = ["device", "train", "tests", "peer", "tdro", "minilm", "encode", "search", "fsdp", "profile"]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "benchmarks" / "gpu.sh"), *map(str, arguments)]
    names = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(command, env=names, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, write_collection: Callable[..., Path]) -> Path:
    """What --prepare makes of two small collections."""
    folder = tmp_path_factory.mktemp("gpu")
    for name in ("agnews", "cose"):
        write_collection(folder / "real" / "raw" / name, name)
    done = _run("--prepare", folder / "data", "--real-data", folder / "real", "--examples", "40")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "data"


def test_the_rehearsal_runs_every_step_and_fills_the_page(prepared: Path, tmp_path: Path) -> None:
    assert not any(file.suffix in (".safetensors", ".bin") for file in prepared.rglob("*"))
    # The step `tests` takes most of the time: a few of its tests stand for all.
    few = "-k 'masks_padding or exact_search'"
    done = _run(tmp_path, "--data", prepared, "--shape", "tiny", PYTEST_ADDOPTS=few, OMP_NUM_THREADS="1")
    logs = {name: (tmp_path / f"{name}.log").read_text()[-1500:] for name in STEPS}
    assert done.returncode == 0, (done.stdout, done.stderr[-1500:], logs)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: step["status"] for name, step in result["steps"].items()} == dict.fromkeys(STEPS, "ok")
    for name in STEPS:
        assert json.loads((tmp_path / f"{name}.json").read_text()) == result["steps"][name]
    steps = result["steps"]
    assert steps["tests"]["passed"] >= 3
    for batch in ("digests", "agnews"):
        assert steps["train"][batch]["seconds"] > 0
        assert steps["peer"][batch]["seconds"] > 0
    work = steps["train"]["digests"]["work"]
    assert work["tokens"] == work["tokens_of_distinct_texts"]  # no text twice
    assert steps["encode"]["largest_difference"] < 1e-5
    assert steps["search"]["same_as_semantic_search"] == 1.0
    assert (steps["fsdp"]["whole"]["sharded"], steps["fsdp"]["sharded"]["sharded"]) == (False, True)
    assert steps["fsdp"]["largest_loss_difference"] < 1e-5
    assert sum(steps["profile"]["parts"].values()) == pytest.approx(1.0, abs=0.01)
    assert len(steps["profile"]["largest"]) == 5

    tables = _load("gpu_tables")
    section = tables.section(result)
    of_a_gpu = ("matrix product", "peak memory", "digests", "agnews")  # peaks, and shares of them
    empty = [line for line in section.splitlines() if tables.NOTHING in line]
    assert [line for line in empty if not any(name in line for name in of_a_gpu)] == []
    assert f"{steps['train']['digests']['seconds']:.2f} s" in section


def test_the_step_of_losses_trains_with_each(prepared: Path, tmp_path: Path) -> None:
    done = _run(tmp_path, "--data", prepared, "--shape", "tiny", "--steps", "losses", OMP_NUM_THREADS="1")
    assert done.returncode == 0, (done.stdout, done.stderr[-1500:])
    found = json.loads((tmp_path / "losses.json").read_text())["losses"]
    assert len(found) == 7
    assert all(row["seconds"] > 0 for row in found.values()), found


def test_lora_in_both_directions_and_in_four_bits(prepared: Path, tmp_path: Path) -> None:
    done = _run(tmp_path, "--data", prepared, "--shape", "tiny", "--steps", "lora", OMP_NUM_THREADS="1")
    assert done.returncode == 0, (tmp_path / "lora.log").read_text()[-1500:]
    found = json.loads((tmp_path / "lora.json").read_text())
    assert found["plain"]["losses"] != found["bidirectional"]["losses"]
    if importlib.util.find_spec("bitsandbytes") is None:
        assert "needs the package bitsandbytes" in found["four_bit"]["why"]
    else:
        assert found["four_bit"]["weights_gib"] < found["plain"]["weights_gib"]


def test_the_page_shows_what_the_result_has() -> None:
    tables = _load("gpu_tables")
    page = tables.PAGE.read_text("utf-8")
    assert tables.filled(page, tables.recorded()) == page  # else: python benchmarks/gpu_tables.py


@pytest.mark.slow
def test_a_step_that_fails_leaves_the_others_and_what_it_had(prepared: Path, tmp_path: Path) -> None:
    few = {"PYTEST_ADDOPTS": "-k no_test_is_called_so"}
    done = _run(tmp_path, "--data", prepared, "--shape", "tiny", "--steps", "tests", "search", **few)
    result = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert done.returncode == 1
    assert (result["tests"]["status"], result["search"]["status"]) == ("failed", "ok")
    assert result["tests"]["returned"] == 5  # pytest's for: nothing ran
    assert "0 passed" in (tmp_path / "tests.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OUT"], "name OUT and --data FOLDER"),
        (["OUT", "--data", "nowhere"], "nowhere was not made by --prepare"),
        (["OUT", "--data", "DATA", "--steps", "trian"], "no step 'trian'; there are: device, train"),
    ],
)
def test_mistakes_are_said_plainly(prepared: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    words: dict[str, Any] = {"OUT": tmp_path, "DATA": prepared}
    done = _run(*(words.get(word, word) for word in arguments))
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
