"""docs/extending.md, section by section: its files are written into a copy of the code, its commands run there.

A fenced block says what it is in its first line after the language:
    ```python mixture/ingest/formats/ini.py    a file of the code
    ```text notes.ini                          a file beside it, for the commands to read
    ```diff mixture/ingest/formats/__init__.py lines to add: each + line comes after the line of the file above it
    ```console                                 commands ($ …) and what they print; … stands for anything
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
CODE = ("mixture/", "trainers/", "cli.py")
BLOCK = re.compile(r"^```(?P<kind>\w+) ?(?P<path>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    kind: str
    path: str
    text: str


def _sections() -> dict[str, list[Block]]:
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    return {
        title: [Block(m["kind"], m["path"], m["text"]) for m in BLOCK.finditer(body)]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


SECTIONS = _sections()


@pytest.mark.parametrize("title", SECTIONS)
def test_a_new_one_costs_one_file_and_one_line(title: str) -> None:
    files = [block for block in SECTIONS[title] if block.path.startswith(CODE) and block.kind != "diff"]
    added = [line for block in SECTIONS[title] if block.kind == "diff" for line in block.text.splitlines()
             if line.startswith("+")]  # fmt: skip
    assert len(files) == 1
    assert len(added) == 1
    assert not (ROOT / files[0].path).exists()


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_works(title: str, tmp_path: Path) -> None:
    code, work = tmp_path / "code", tmp_path / "work"
    for part in ("mixture", "trainers", "datacards"):
        shutil.copytree(ROOT / part, code / part)
    shutil.copy(ROOT / "cli.py", code)
    work.mkdir()
    commands = 0
    for block in SECTIONS[title]:
        if block.kind == "diff":
            _add_lines(code / block.path, block.text)
        elif block.kind == "console":
            commands += _run(block.text, code, work)
        elif block.path:
            file = (code if block.path.startswith(CODE) else work) / block.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, "utf-8")
    assert commands > 0


def _add_lines(file: Path, text: str) -> None:
    """Each + line goes behind the line of the file that stands above it; that line must be in the file once."""
    lines = file.read_text("utf-8").splitlines()
    above = ""
    for line in text.splitlines():
        if line.startswith("+"):
            assert lines.count(above) == 1, f"{file.name} has the line {above!r} {lines.count(above)} times"
            lines.insert(lines.index(above) + 1, line[1:])
        above = line[1:]
    file.write_text("\n".join(lines) + "\n", "utf-8")


# Runs commands, `mixture`, `python` and `export`, in one process, so that what they load is loaded
# once; prints their answers.
RUNNER = """
import contextlib, io, json, os, runpy, sys
import cli
answers = []
for program, *arguments in json.load(sys.stdin):
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            if program == "export":
                os.environ.update([arguments[0].split("=", 1)])
            elif program == "mixture":
                cli.app(arguments)
            elif arguments[0] == "-c":
                exec(arguments[1], {})
            else:
                runpy.run_path(arguments[0])
        except SystemExit:
            pass
    out.flush()
    answers.append(out.buffer.getvalue().decode())
print(json.dumps(answers))
"""


def _run(text: str, code: Path, work: Path) -> int:
    """Run the block's commands one after the other; `mixture` is the copy of the code."""
    steps = [step.partition("\n") for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    commands = [shlex.split(step[0]) for step in steps]
    assert {command[0] for command in commands} <= {"export", "mixture", "python"}
    environment = os.environ | {"PYTHONPATH": str(code), "MIXTURE_STORE": str(work / "store"), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", RUNNER], cwd=work, env=environment, input=json.dumps(commands),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (command, _, expected), printed in zip(steps, json.loads(done.stdout.splitlines()[-1]), strict=True):
        pattern = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
        assert re.search(pattern, printed, re.DOTALL), f"$ {command}\n{printed}\n{done.stderr}"
    return len(steps)
