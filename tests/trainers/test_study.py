"""The study of benchmarks/study: its recipe is checked, its cells are done once by any number of processes, a kill and
another recipe cost only what they must, and docs/study.md says what its results say."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixture import UsageError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
[data]
collections = ["easy", "middle", "hard"]
[students.small]
model = "{model}"
steps = 4
seeds = 2
settings = {{ batch_size = 8, negatives = 2, temperature = 0.05, learning_rate = {rate}, checkpoint_every = 2 }}
[mixtures.uniform]
create = "uniform"
[mixtures.tdro-relative]
learn = {{ proxy = "small", algorithm = "tdro" }}
[mixtures.top]
select = {{ of = "tdro-relative", top = 60 }}
[mixtures.uniform-x2]
longer = {{ of = "uniform", times = 2 }}
[mixtures.phases]
phases = ["uniform", "top"]
[mixtures.soup]
soup = ["uniform", "uniform"]
[mixtures.other-seed]
learn = {{ proxy = "small", algorithm = "tdro", seed = 1 }}
trained = false
"""


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import study
    import study.cells
    import study.recipe
    import study.scores
    import study.tables
    import study.worker

    yield study


@pytest.fixture
def data(tmp_path: Path, write_collection: Callable[..., Path], static_model: Path) -> Path:
    """Three collections, two suites of other rows, and a recipe."""
    for name, hard in (("easy", 0), ("middle", 3), ("hard", 6)):
        write_collection(tmp_path / "data" / "raw" / name, name, hard=hard)
    for name in ("first", "second"):
        lines = write_collection(tmp_path / "other", name, seed=1).read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        suite = tmp_path / "data" / "eval" / name
        (suite / "qrels").mkdir(parents=True)
        (suite / "queries.jsonl").write_text(_lines("q", [row["query"] for row in rows]))
        (suite / "corpus.jsonl").write_text(_lines("d", [row["pos"][0] for row in rows]))
        pairs = "".join(f"q{n}\td{n}\t1\n" for n in range(len(rows)))
        (suite / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{pairs}")
    (tmp_path / "small.toml").write_text(RECIPE.format(model=static_model, rate=0.05))
    return tmp_path


def _lines(mark: str, texts: list[str]) -> str:
    return "".join(json.dumps({"_id": f"{mark}{n}", "text": text}) + "\n" for n, text in enumerate(texts))


def _command(data: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / "study"), "--recipe", str(data / "small.toml"), "--data",
            str(data / "data"), "--work", str(data / "work"), *more]  # fmt: skip


def _run(data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(_command(data, *more), env=environment, capture_output=True, text=True, cwd=data)


def _results(data: Path) -> dict[str, Any]:
    files = (data / "work" / "cells").rglob("*.json")
    return {found["cell"]: found for found in (json.loads(file.read_text("utf-8")) for file in files)}


def test_two_processes_do_each_cell_once_and_a_training_gives_the_same_numbers_again(data: Path) -> None:
    done = _run(data, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    names = [line.split(": ")[1].split(",")[0] for line in done.stderr.splitlines() if " of 18: " in line]
    assert sorted(names) == sorted(_results(data)) and len(names) == 18
    result = json.loads((data / "work" / "study.json").read_text("utf-8"))
    rows = result["students"]["small"]["rows"]
    assert set(rows) == {"uniform", "tdro-relative", "top", "uniform-x2", "phases", "soup"}
    assert rows["uniform"]["uniform"]["difference"] == 0 and rows["top"]["dropped"] == 0.667
    assert set(result["weights"]) == {"uniform", "tdro-relative", "top", "other-seed"}
    assert "| uniform-x2 |" in done.stdout
    same = _run(data, "--again", "train small tdro-relative 1")
    assert same.returncode == 0 and "the same numbers" in same.stdout
    # Another learning rate is another training, for the student and for its proxy; the data is what it was.
    text = (data / "small.toml").read_text().replace("learning_rate = 0.05", "learning_rate = 0.02")
    (data / "small.toml").write_text(text)
    left = _run(data, "--list").stdout.splitlines()
    assert [line for line in left if line.startswith("done")] == [
        "done prepare", "done start small", "done mixture uniform",
    ]  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_kill_the_same_command_goes_on(data: Path, how: signal.Signals) -> None:
    killed = subprocess.Popen(_command(data, "--worker"), env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=data,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert killed.stderr is not None
    for line in killed.stderr:
        if "train small uniform 0" in line:
            break
    killed.send_signal(how)
    assert killed.wait() != 0
    before = {name: found["seconds"] for name, found in _results(data).items()}
    assert "train small uniform 0" in before and "train small soup 1" not in before
    done = _run(data, "--jobs", "1", "--mixture", "uniform")
    assert done.returncode == 0, done.stderr
    after = {name: found["seconds"] for name, found in _results(data).items()}
    assert before.items() <= after.items() and "train small uniform 1" in after


def _hold(file: Path, held: Any, release: Any) -> None:
    import filelock

    with filelock.FileLock(file):
        held.set()
        release.wait()


def test_a_cell_that_another_process_works_on_is_left_to_it(study: Any, tmp_path: Path) -> None:
    done: list[str] = []

    def cell(name: str, *needs: str) -> Any:
        return study.cells.Cell(name, needs, {"name": name}, lambda: {"did": done.append(name)})

    recipe = study.recipe.Recipe("none", study.recipe.Data(()), {}, {})
    one = study.cells.Study(recipe, tmp_path, tmp_path / "work")
    one.cells = {each.name: each for each in (cell("first"), cell("second", "first"), cell("third"))}
    (tmp_path / "work" / "locks").mkdir(parents=True)
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(tmp_path / "work" / "locks" / "first.lock", held, release))
    other.start()
    held.wait()
    left = [one.cells[name] for name in ("first", "second", "third")]
    assert [study.worker._tried(one, each, 1, 1, set()) for each in left] == [False, False, True]
    assert done == ["third"]
    release.set()
    other.join()
    study.worker.work(one, left)
    assert done == ["third", "first", "second"]


def test_a_cell_that_fails_costs_only_what_needs_it(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> dict[str, Any]:
        raise UsageError("no such thing")

    made = [("first", (), fail), ("second", ("first",), dict), ("third", ("second",), dict), ("other", (), dict)]
    one = study.cells.Study(study.recipe.Recipe("none", study.recipe.Data(()), {}, {}), tmp_path, tmp_path)
    one.cells = {name: study.cells.Cell(name, needs, {}, work) for name, needs, work in made}
    assert study.worker.work(one, list(one.cells.values())) == 1
    assert [name for name in one.cells if one.result(name)] == ["other"]
    assert "first: error: no such thing" in capsys.readouterr().err


def test_the_recipes_that_come_with_it_are_whole(study: Any) -> None:
    for name in ("full", "quick"):
        recipe = study.recipe.read(ROOT / "benchmarks" / "study" / f"{name}.toml")
        made = study.cells.Study(recipe, Path("none"), Path("none")).cells
        assert all(need in made for cell in made.values() for need in cell.needs)
        order = list(made)
        assert all(order.index(need) < order.index(cell.name) for cell in made.values() for need in cell.needs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("tdro-relative\", top", "tdro-relatve\", top"), "mixture before top"),
        (("proxy = \"small\", algorithm = \"tdro\" }}", "proxy = \"smal\", algorithm = \"tdro\" }}"), "smal"),
        (("steps = 4", "stesp = 4"), "stesp"),
        (("create = \"uniform\"", "crate = \"uniform\""), "crate"),
        (("steps = 4\n", ""), "students.small needs: steps"),
        (("seeds = 2", "seeds = 1"), "at least 2"),
        (("trained = false", "select = { of = \"uniform\" }"), "needs one of"),
    ],
)  # fmt: skip
def test_a_typo_in_a_recipe_is_an_error(study: Any, tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = RECIPE.format(model="static", rate=0.1)
    old, new = (part.replace("}}", "}") for part in change)
    assert old in text
    (tmp_path / "r.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        study.recipe.read(tmp_path / "r.toml")


def test_left_out_scores_are_of_the_models_that_did_not_look(study: Any) -> None:
    a = [{"x": {"q": 0.1}, "y": {"q": 0.2}}]
    b = [{"x": {"q": 0.3}, "y": {"q": 0.4}}]
    # a looked at x: left out are y of a, and x of b
    assert study.scores.stitched(b, a, {"x"}) == [{"x": {"q": 0.3}, "y": {"q": 0.2}}]
    assert study.scores.mean_over_families([{"xquad-en": {"q": 0.0}, "xquad-de": {"q": 0.5}, "nq": {"q": 1.0}}]) == 62.5


def test_the_pages_show_what_the_results_have(study: Any) -> None:
    pages = [page.read_text("utf-8") for page in study.tables.PAGES]
    for page in pages:
        assert study.tables.filled(page) == page  # else: python benchmarks/study --tables --record
    assert all(any(f"<!-- study: {name} -->" in page for page in pages) for name in study.tables.SECTIONS)
