"""What the code of commit 8cf9e61 made goes on with the bits that the old code gives: a store, a killed training, a
killed learn-weights, a materialised folder. `old/make.py` made them; it says what they are, and wrote down what the old
code makes of them.

Ids, digests, drawn rows and what was there before a kill are compared exactly, everywhere. What is trained after it is
compared within `CLOSE`; and to the last bit where `bits.machine` finds that this machine computes like that of the
fixtures, else those tests are skipped and say why.
"""

from __future__ import annotations

import json
import multiprocessing
import runpy
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mixture import Store

OLD = Path(__file__).resolve().parent / "old"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text("utf-8"))
RESULTS: dict[str, Any] = EXPECTED["results"]
BITS: dict[str, Any] = runpy.run_path(str(OLD / "bits.py"))
# What a trained weight may differ by. Between processors it was less than a tenth of it; training moves them by 1e-2.
CLOSE = 1e-5
# `python -m` in a process of its own, forked from one that has imported most. It notes what it renames, since a
# checkpoint is written beside its place and then renamed.
COMMAND = """
import os, runpy, sys
os.chdir(folder)
for number, name in ((1, "printed"), (2, "said")):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
renamed = open("renamed", "w", buffering=1)
sys.addaudithook(lambda event, given: event == "os.rename" and renamed.write(os.fsdecode(given[1]) + chr(10)))
sys.argv = command
runpy.run_module(command[0], run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Ran:
    """A command that was run to its end: where, what it printed, and the checkpoints that it wrote."""

    folder: Path
    printed: Any
    checkpoints: list[str]

    def record(self, out: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / out / "training.json").read_text("utf-8")))

    def sql(self, query: str) -> list[dict[str, Any]]:
        return _sql(self.folder, query)[0]


def _unpack(folder: Path) -> Path:
    with tarfile.open(OLD / "old.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        archive.extractall(folder)
    return folder


def _sql(folder: Path, *queries: str) -> list[list[dict[str, Any]]]:
    with Store.open(folder / "store") as store:
        return [store.sql(query).to_pylist() for query in queries]


def _run(folder: Path, name: str) -> Ran:
    """The same command as then, to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainers.__main__"])
    process = context.Process(target=exec, args=(COMMAND, {"folder": folder, "command": EXPECTED["commands"][name]}))
    process.start()
    process.join(300)
    process.kill()
    assert process.exitcode == 0, (folder / "said").read_text("utf-8")[-2000:]
    renamed = [Path(line).name for line in (folder / "renamed").read_text("utf-8").splitlines()]
    printed = json.loads((folder / "printed").read_text("utf-8"))
    return Ran(folder, printed, [name for name in renamed if name.startswith("step-")])


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    pytest.importorskip("pytrec_eval", reason="the extra eval is not installed")
    return _run(_unpack(tmp_path_factory.mktemp("train")), "train")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return _run(_unpack(tmp_path_factory.mktemp("learn")), "learn")


@pytest.fixture(scope="module")
def from_folder(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return _run(_unpack(tmp_path_factory.mktemp("folder")), "folder")


def _without_forgotten(answer: Any) -> Any:
    """What mixtures hold of forgotten rows is said since; of these stores it is nothing."""
    if isinstance(answer, list):
        return [_without_forgotten(one) for one in answer]
    if not isinstance(answer, dict):
        return answer
    assert not answer.get("forgotten")
    return {name: _without_forgotten(value) for name, value in answer.items() if name != "forgotten"}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`ask(folder, words)`: what `python -m cli words` prints about the folder's store, but for what passes."""

    def asked(folder: Path, words: list[str]) -> Any:
        monkeypatch.setattr(sys, "argv", ["mixture", "--store", str(folder / "store"), *words, "--json"])
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("cli", run_name="__main__")
        printed = capsys.readouterr()
        assert caught.value.code == 0, printed.err
        return BITS["lasting"](_without_forgotten(json.loads(printed.out)))

    return asked


@pytest.mark.parametrize("name", EXPECTED["asked"])
def test_commands_say_of_the_old_store_what_the_old_code_said(old: Path, ask: Callable[..., Any], name: str) -> None:
    asked = EXPECTED["asked"][name]
    assert ask(old, asked["words"]) == asked["answer"]


def test_sql_gives_the_same_numbers(old: Path) -> None:
    """Views may have further columns since."""
    for found, wanted in zip(_sql(old, *EXPECTED["sql"]), EXPECTED["sql"].values(), strict=True):
        names = wanted[0] if wanted else ()
        assert [{name: row[name] for name in names} for row in found] == wanted


def test_the_old_store_is_written_to_as_before(
    ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that it knows change nothing; what was removed comes back from an older version; new mixtures pin it."""
    monkeypatch.chdir(_unpack(tmp_path))
    for asked in EXPECTED["written"]:
        answer = ask(tmp_path, asked["words"])
        if asked["words"][0] == "ingest":  # how each file was read came later
            answer = [{key: row[key] for key in row if key not in ("read", "notes")} for row in answer]
        if asked["words"] == ["dedup", "--undo"]:  # an undo called what it put back removed, below 0
            answer = [{**row, "removed": -row["put_back"]} for row in answer]
            answer = [{name: value for name, value in row.items() if name != "put_back"} for row in answer]
        assert answer == asked["answer"], asked["words"]


def test_a_training_would_draw_the_same_rows(old: Path, ask: Callable[..., Any], tmp_path: Path) -> None:
    *words, name = EXPECTED["batches"]["words"]
    ask(old, [*words, str(tmp_path / name)])
    lines = (tmp_path / name).read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == EXPECTED["batches"]["rows"]


def test_a_materialised_folder_is_written_to_the_same_bytes(old: Path, ask: Callable[..., Any], tmp_path: Path) -> None:
    ask(old, ["export", "tilted", "--materialised", str(tmp_path / "new")])

    def files(folder: Path) -> dict[str, bytes]:
        found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if not name.startswith("models")}

    assert files(tmp_path / "new") == files(old / "folder")


def _as_before(printed: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was printed then, of what is printed now: results have more keys today."""
    return [{key: now[key] for key in then} for now, then in zip(printed, wanted, strict=True)]


def test_a_killed_training_goes_on_from_its_checkpoint(trained: Ran) -> None:
    wanted = RESULTS["train"]
    assert _as_before(trained.printed, wanted["printed"]) == wanted["printed"]
    assert trained.checkpoints == ["step-6", "step-8"]  # the kill came in step 6, after the checkpoint of step 4
    record = trained.record("half")
    _compare_records(record, wanted["record"], before=4)
    _compare_models(trained.folder, "half", "train")
    assert trained.sql("SELECT run_id, kind, status, mixture FROM runs ORDER BY kind, status") == wanted["runs"]


def test_killed_learn_weights_goes_on_from_its_checkpoint(learned: Ran) -> None:
    wanted = RESULTS["learn"]
    for key in ("reference", "run_id", "parents", "note", "also"):
        assert learned.printed[key] == wanted["printed"][key]
    assert learned.checkpoints == ["step-6", "step-8"]  # after that of step 3; the reference was finished
    assert BITS["embedded"](learned.folder / "store") == wanted["embedded"]  # it found those of the killed run
    history = learned.sql("SELECT * FROM weight_history ORDER BY step, collection")
    for row, other in zip(history, wanted["history"], strict=True):
        assert row == (other if row["step"] <= 3 else _nearly(other))
    assert learned.sql("SELECT run_id, kind, status, mixture FROM runs ORDER BY kind, status") == wanted["runs"]


def test_a_materialised_folder_trains_as_before(from_folder: Ran) -> None:
    wanted = RESULTS["folder"]
    assert _as_before(from_folder.printed, wanted["printed"]) == wanted["printed"]
    _compare_records(from_folder.record("trained"), wanted["record"], before=0)
    _compare_models(from_folder.folder, "trained", "folder")


def _compare_records(record: dict[str, Any], wanted: dict[str, Any], before: int) -> None:
    """Exactly what was there before the kill, and what no machine changes; the losses after it nearly."""
    assert [record[key] for key in ("run_id", "final_step", "drawn")] == [
        wanted[key] for key in ("run_id", "final_step", "drawn")
    ]
    for key in ("losses", "evaluations"):
        first, others = ([row for row in rows[key] if row["step"] <= before] for rows in (record, wanted))
        assert first == others
    for row, other in zip(record["losses"], wanted["losses"], strict=True):
        assert row == _nearly(other)


def _nearly(row: dict[str, Any]) -> dict[str, Any]:
    return {key: pytest.approx(value, rel=5e-5) if isinstance(value, float) else value for key, value in row.items()}


def _compare_models(folder: Path, out: str, name: str) -> None:
    from safetensors.torch import load_file
    from torch.testing import assert_close

    wanted = load_file(folder / "expected" / f"{name}.safetensors")
    assert_close(load_file(folder / out / "model.safetensors"), wanted, atol=CLOSE, rtol=0)


@pytest.fixture(scope="module")
def digest() -> Callable[[Path], str]:
    """The digest of a file's tensors; the test is skipped on a machine that cannot give the old bits."""
    here, there = BITS["machine"](), EXPECTED["machine"]
    other = [f"{key} {here[key]}, not {there[key]}" for key in there if here[key] != there[key]]
    if other:
        pytest.skip(f"not the machine of the fixtures: {'; '.join(other)}")
    return BITS["digest"]


def test_the_training_ends_with_the_old_bits(trained: Ran, digest: Callable[[Path], str]) -> None:
    wanted, record = RESULTS["train"], trained.record("half")
    kept = {key: record[key] for key in wanted["record"]}
    kept["evaluations"] = _as_before(record["evaluations"], wanted["record"]["evaluations"])
    assert kept == wanted["record"]
    assert digest(trained.folder / "half" / "model.safetensors") == wanted["model"]
    assert digest(trained.folder / "half" / "best" / "model.safetensors") == wanted["best"]


def test_learn_weights_ends_with_the_old_bits(learned: Ran, digest: Callable[[Path], str]) -> None:
    wanted, run = RESULTS["learn"], learned.printed["run_id"]
    assert learned.printed | wanted["printed"] == learned.printed
    assert learned.sql("SELECT * FROM weight_history ORDER BY step, collection") == wanted["history"]
    assert learned.sql(EXPECTED["learned"]) == wanted["mixtures"]
    assert digest(learned.folder / "store" / "runs" / run / "step-8" / "trained.safetensors") == wanted["proxy"]


def test_the_folder_trains_to_the_old_bits(from_folder: Ran, digest: Callable[[Path], str]) -> None:
    wanted, record = RESULTS["folder"], from_folder.record("trained")
    assert {key: record[key] for key in wanted["record"]} == wanted["record"]
    assert digest(from_folder.folder / "trained" / "model.safetensors") == wanted["model"]
