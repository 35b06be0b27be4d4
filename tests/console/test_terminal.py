"""How the command says what the library says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

import cli
from mixture.console.terminal import as_options

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        ("select", "`top` is 120; allowed: above 0", "--top is 120; allowed: above 0"),
        ("ingest", "give one in `name`, or a `format`", "give one in --name, or a --format"),
        ("train", "shard with `fsdp=true`", "shard with --set fsdp=true"),
        ("train", "lower `learning_rate`; `steps=3` is few", "lower --learning-rate; --steps 3 is few"),
        ("tag", "`ref` means nothing", "REF means nothing"),
        ("list", "run `create` again, `fsdp=true`", "run `create` again, `fsdp=true`"),
    ],
)
def test_parameters_are_spelt_as_the_options_of_the_command(command: str, message: str, said: str) -> None:
    assert as_options(message, COMMANDS[command]) == said
    assert as_options(message, None) == message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["nowhere", "--model", "m", "--out", "o"],
            "nowhere holds no materialised mixture; `mixture export` writes one",
        ),
        (["nowhere", "--model", "m", "--out", "o", "--set", "stepps=3"], "no setting 'stepps'; did you mean 'steps'?"),
        (["nowhere"], "Missing option '--model'."),
    ],
)
def test_training_on_a_folder_says_mistakes_plainly(arguments: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "trainers", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"mixture: {said}\n")
