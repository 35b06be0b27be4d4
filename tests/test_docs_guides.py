"""Each page of `docs/guides` is one job: its commands run in order, in one folder, and print what the page shows.

In a `console` block a line that begins with `$ ` is a command, and the lines below it are its standard output. … stands
for anything in a line, a line … for any lines. A block of another kind is a file where its first line is a comment that
names one. `bash` blocks are not run. `python -m tests.test_docs_guides --write PAGE …` writes what commands print where
the page shows something else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "guides").glob("*.md"))
BLOCK = re.compile(r"```(?P<kind>\w+)\n(?P<body>.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ (?P<command>(?:[^\n]*\\\n)*[^\n]*)\n(?P<shown>(?:(?!\$ )[^\n]*\n)*)", re.MULTILINE)
FILE = re.compile(r"# (?P<name>[\w./-]+\.\w+)$", re.MULTILINE)
SLOW = ["eight-gpus"]  # all 25 collections, and two ranks
PROGRAMS = {"mixture": "-m mixture", "python": "", "torchrun": "-m torch.distributed.run"}


def _same(shown: str, printed: str) -> bool:
    lines = (
        r"(?:[^\n]*\n)*?" if line.strip() == "…" else r"[^\n]*".join(map(re.escape, line.rstrip().split("…"))) + r"\n"
        for line in shown.splitlines()
    )
    return re.fullmatch("".join(lines), printed) is not None


def _runner(folder: Path) -> Callable[[str], str]:
    """Runs a command in `folder` and gives its standard output."""
    programs, work = folder / "bin", folder / "work"
    programs.mkdir()
    work.mkdir()
    for name, arguments in PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', "utf-8")
        (programs / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIXTURE_")}
    environment |= {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
    }

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=work, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())

    return run


def _answered(text: str, folder: Path) -> Iterator[tuple[re.Match[str], str, str, str]]:
    """The commands of a page, run in order: the block, the command, what the page shows, what was printed."""
    run = _runner(folder)
    for block in BLOCK.finditer(text):
        if block["kind"] == "console":
            for part in COMMAND.finditer(block["body"]):
                yield block, part["command"], part["shown"], run(part["command"])
        elif block["kind"] != "bash" and (file := FILE.match(block["body"])):
            (folder / "work" / file["name"]).write_text(block["body"], "utf-8")


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in PAGES]
)
def test_the_commands_of_a_guide_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    answers = list(_answered(page.read_text("utf-8"), tmp_path))
    assert len(answers) > 5
    for _, command, shown, printed in answers:
        assert _same(shown, printed), f"{command}\n--- the page shows\n{shown}--- printed\n{printed}"


def test_there_are_five_guides() -> None:
    assert len(PAGES) == 5


def test_what_is_shown_must_be_what_was_printed() -> None:
    printed = "3 rows of a\n┃ 0.25 ┃\n┃ 0.75 ┃\nrun 4ab1 ended\n"
    for shown in (printed, "3 rows of a\n…\n", "…\nrun … ended\n", "3 rows of a\n┃ 0.25 ┃\n…\n┃ 0.75 ┃\nrun …\n"):
        assert _same(shown, printed)
    for shown in ("", "3 rows of a\n", "4 rows of a\n…\n", "…\nrun … end\n", "3 … ended\n", "run 4ab1 ended\n…\n"):
        assert not _same(shown, printed)


def write(page: Path) -> None:
    text = page.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        answers = list(_answered(text, Path(folder)))

    def answered(block: re.Match[str]) -> str:
        parts = [(command, shown, printed) for at, command, shown, printed in answers if at.start() == block.start()]
        if not parts:
            return block[0]
        lines = (f"$ {command}\n{shown if _same(shown, printed) else printed}" for command, shown, printed in parts)
        return f"```console\n{''.join(lines)}```"

    page.write_text(BLOCK.sub(answered, text), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--write"]:
        sys.exit("python -m tests.test_docs_guides --write PAGE …")
    for name in sys.argv[2:]:
        write(Path(name))
