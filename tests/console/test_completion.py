"""Tab after a command: what the shell asks of the program, and what it is offered."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer.main

from cli import app
from mixture import Store, jobs
from mixture.store.write import insert_rows

Offered = Callable[..., list[str]]


@pytest.fixture
def offered(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> Offered:
    """`offered(*words)`: the completions of the last word."""
    jobs.create(small_store, "uniform")
    jobs.create(small_store, "uniform", collections=["easy"])
    jobs.create(small_store, "prop", weights="proportional", collections=["easy", "hard"])
    jobs.tag(small_store, "prop", "production")
    small_store.close()
    monkeypatch.setenv("MIXTURE_STORE", str(small_store.work))
    command = typer.main.get_command(app)
    # Typer has click within it, or beside it in older versions.
    home = importlib.import_module(type(command).__mro__[-3].__module__.rpartition(".")[0] + ".shell_completion")
    shell = home.get_completion_class("bash")(command, {}, "mixture", "_MIXTURE_COMPLETE")

    def run(*words: str) -> list[str]:
        return [str(found.value) for found in shell.get_completions(list(words[:-1]), words[-1])]

    return run


CASES: list[tuple[list[str], list[str]]] = [
    (["show", ""], ["production", "prop", "uniform"]),
    (["show", "prop"], ["prop", "prop:1"]),
    (["diff", "prop", "uniform:"], ["uniform:1", "uniform:2"]),
    (["verify", "prod"], ["production"]),
    (["export", "un"], ["uniform"]),
    (["report", "prop", "--against", "un"], ["uniform"]),
    (["select", "pr"], ["production", "prop"]),
    (["create", "x", "--from", "un"], ["uniform"]),
    (["create", "x", "--collection", "e"], ["easy"]),
    (["train", "--mix", "prod"], ["production"]),
    (["learn-weights", "--mix", "un"], ["uniform"]),
    (["dedup", ""], ["easy", "hard", "middle"]),
    (["dedup", "easy", "h"], ["hard"]),
    (["decontaminate", "m"], ["middle"]),
    (["mine", "x"], []),
    (["cards", "msm"], ["msmarco"]),
    (["sho"], ["show"]),
]


def test_names_that_fit_are_offered(offered: Offered) -> None:
    for words, names in CASES:
        assert (words, sorted(offered(*words))) == (words, sorted(names))


def test_the_store_is_the_one_that_the_line_names(offered: Offered, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other", create=True) as store:
        insert_rows(store, "collections", [{"collection": "elsewhere", "added_at": datetime.now(UTC)}])
    other = str(tmp_path / "other")
    assert offered("--store", other, "dedup", "") == ["elsewhere"]
    assert offered("dedup", "--store", other, "") == ["elsewhere"]


def test_trouble_offers_nothing_and_says_nothing(
    offered: Offered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "catalog.sqlite").write_bytes(b"no database" * 100)
    for store in ("no/store", "s3://nowhere", str(broken), str(tmp_path / "file\0")):
        assert offered("--store", store, "show", "") == []
    assert not Path("no/store").exists()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_shell_gets_the_names(offered: Offered) -> None:
    asked = {"_MIXTURE_COMPLETE": "complete_bash", "COMP_WORDS": "mixture show un", "COMP_CWORD": "2"}
    script = "import sys; sys.argv = ['mixture']; from cli import app; app(prog_name='mixture')"
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("uniform", "")
