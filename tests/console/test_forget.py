"""`mixture forget` as it is typed: the report, the refusal with a next step that works, the demo's whole scenario."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import app
from mixture import Store, jobs

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command: its exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            app(list(words), standalone_mode=True)
        out, errors = capsys.readouterr()
        return int(left.value.code or 0), out, errors

    return run


@pytest.fixture
def mixed(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    jobs.create(small_store, "base")
    small_store.close()
    monkeypatch.setenv("MIXTURE_STORE", str(small_store.work))
    yield small_store
    small_store.close()


def test_the_next_step_of_a_refusal_works_as_it_is_printed(mixed: Store, said: Said, tmp_path: Path) -> None:
    code, out, _ = said("forget", "easy")
    assert code == 0
    assert "40 rows of 1 collection would be forgotten; --apply does it" in out
    assert "next: mixture create NAME --from base:1 --refresh, then train again, after --apply" in out
    code, out, _ = said("forget", "easy", "--apply", "--reason", "licence", "--json")
    found = json.loads(out)
    assert (code, found["done"], found["collections"][0]["rows"], found["retrain"]) == (0, "forgotten", 40, [])
    export = ["export", "base", "--materialised", str(tmp_path / "out")]
    code, out, errors = said(*export)
    assert (code, out) == (2, "")
    (line,) = errors.splitlines()
    assert "holds 40 forgotten rows: easy (40); make it anew without them: mixture create NAME --from " in line
    words = shlex.split(line.rpartition("mixture ")[2].replace("NAME", "anew"))
    assert said(*words)[0] == 0
    assert said("export", "anew", *export[2:])[0] == 0
    for command in (["show", "base"], ["list"], ["log", "base"], ["diff", "base", "anew"]):
        code, out, _ = said(*command)
        assert code == 0 and "40" in out and "forgotten" in out, command
    assert "forgotten" not in said("show", "anew")[1]
    code, out, _ = said("forget", "--undo")
    assert (code, out.splitlines()[0]) == (0, "40 rows of 1 collection put back")
    assert "forgotten" not in said("list")[1]
    assert said("export", "base", "--materialised", str(tmp_path / "again"))[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["easy", "--dry-run", "--apply"], "--dry-run reports, --apply takes the rows out; give one of them"),
        (["--undo", "--apply"], "--undo puts back all that the newest `forget` took out; it goes alone"),
        (["--undo", "--dry-run"], "it goes alone"),
        (["easy", "--check", "m", "--apply"], "--check looks at a run; it goes with WHAT or --where alone"),
        (["easy", "--reason", "x"], "--reason goes with --apply"),
        ([], "say which rows: WHAT, a collection, a slice or a file of ids, or --where, a condition"),
        (["--check", "m"], "no run 'm'"),
    ],
)
def test_mistakes_are_said_in_options(mixed: Store, said: Said, words: list[str], message: str) -> None:
    code, _, errors = said("forget", *words)
    assert code == 2
    assert message in errors


@pytest.mark.slow
def test_the_demos_models_are_made_again_without_rows(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo, condition = tmp_path / "demo", "collection = 'nq' AND length(query) < 40"
    assert said("demo", "--folder", str(demo), "--steps", "60")[0] == 0
    monkeypatch.setenv("MIXTURE_STORE", str(demo / "store"))
    recipe = ["--model", "static", "--config", str(demo / "train.toml")]

    def rows() -> list[dict[str, Any]]:
        query = "SELECT example_id FROM examples WHERE collection = 'nq' ORDER BY ALL"
        return list(json.loads(said("sql", query, "--json")[1]))

    def checked(run: Path) -> dict[str, Any]:
        return dict(json.loads(said("forget", "--check", str(run), "--json")[1]))

    before = rows()
    found = json.loads(said("forget", "--where", condition, "--apply", "--json")[1])
    count = found["collections"][0]["rows"]
    assert count > 100
    assert {run["kind"] for run in found["runs"]} == {"reference", "tdro", "finetune"}
    code, _, errors = said("train", "--mix", "uniform", *recipe, "--out", str(tmp_path / "new"))
    assert code == 2
    step = errors.strip().splitlines()[-1].rpartition("mixture ")[2]
    assert said(*shlex.split(step.replace("NAME", "anew")))[0] == 0
    assert said("train", "--mix", "anew", *recipe, "--out", str(tmp_path / "new"))[0] == 0
    new, old = checked(tmp_path / "new"), checked(demo / "models" / "uniform")
    assert (new["steps"], new["compared"], new["rows"], new["drawn"]) == (60, 60, count, 0)
    assert new["draws"] > 3000
    assert (old["steps"], old["compared"], old["held"]) == (60, 60, count)
    assert old["drawn"] > 0
    shutil.copytree(demo / "raw" / "nq", tmp_path / "nq")  # another place: all of it is read again
    assert said("ingest", str(tmp_path / "nq"))[0] == 0
    assert len(rows()) == len(before) - count
    assert said("forget", "--undo")[0] == 0
    assert rows() == before
    assert said("train", "--mix", "uniform", *recipe, "--out", str(tmp_path / "again"))[0] == 0
    models = [folder / "model.safetensors" for folder in (tmp_path / "again", demo / "models" / "uniform")]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in models}) == 1
    assert "torch" in sys.modules
