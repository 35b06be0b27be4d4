"""Help that names what stands in a dictionary, which is loaded for the help alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mixture.console.late_help import LateHelp


def test_names_of_a_dictionary_stand_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=LateHelp)
    def run(
        kind: Annotated[str, typer.Option("--kind", help="{kitchen.soups.SOUPS} [leek]")] = "leek",
        plain: Annotated[str | None, typer.Option("--plain")] = None,
    ) -> None: ...

    assert CliRunner().invoke(app, []).exit_code == 0  # nothing is loaded for work
    monkeypatch.setitem(sys.modules, "kitchen.soups", SimpleNamespace(SOUPS={"leek": 1, "pea": 2}))
    assert "leek, pea [leek]" in CliRunner().invoke(app, ["--help"]).output


def test_learn_weights_lists_the_learners(capsys: pytest.CaptureFixture[str]) -> None:
    from cli import app
    from trainers.learning.learners import LEARNERS

    with pytest.raises(SystemExit):
        app(["learn-weights", "--help"])
    assert ", ".join(LEARNERS) in " ".join(capsys.readouterr().out.split())
