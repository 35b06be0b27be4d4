"""`docs/python.md` is one notebook: its cells run one after the other, and each prints what the page shows.

A cell prints what its last line is, as a notebook does. … in an answer stands for anything.
`python -m tests.test_docs_python --write` brings the answers up to date; it leaves those with … as they are.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pprint
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
CELL = re.compile(r"```python\n(?P<code>.*?)```(\n\n```text\n(?P<answer>.*?)```)?", re.DOTALL)


def _run(code: str, names: dict[str, Any]) -> str:
    """What a cell prints, and its last line's value."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
        if value is not None:
            print(value if hasattr(value, "schema") else pprint.pformat(value, width=110, sort_dicts=False))
    return printed.getvalue()


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _same(answer: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in answer.split("…"))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def test_the_page_prints_what_it_shows(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    with _working_in(tmp_path):
        for cell in CELL.finditer(PAGE.read_text("utf-8")):
            printed = _run(cell["code"], names)
            assert _same(cell["answer"] or "", printed), f"{cell['code']}\n{printed}"


@pytest.mark.parametrize("name", ["ingest", "dedup", "decontaminate", "mine", "create", "select", "diff", "log", "tag",
                                  "verify", "gc", "report", "export", "import_", "undo", "status", "remove",
                                  "rename"])  # fmt: skip
def test_every_job_is_on_the_page(name: str) -> None:
    from mixture import jobs

    assert f"jobs.{name}" in PAGE.read_text("utf-8")
    assert callable(getattr(jobs, name))


def write() -> None:
    names: dict[str, Any] = {}

    def answered(cell: re.Match[str]) -> str:
        printed = _run(cell["code"], names)
        if "…" in (cell["answer"] or ""):
            return cell[0]
        return f"```python\n{cell['code']}```" + (f"\n\n```text\n{printed}```" if printed else "")

    with tempfile.TemporaryDirectory() as folder, _working_in(Path(folder)):
        text = CELL.sub(answered, PAGE.read_text("utf-8"))
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python -m tests.test_docs_python --write")
    write()
