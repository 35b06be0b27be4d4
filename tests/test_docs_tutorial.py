"""`docs/tutorial.ipynb` and the README's five minutes: the notebook's cells and the page's commands run, as a reader
would run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
# What a notebook shows below a cell is its last line's value; here a check of what the reader is told.
CHECKS = """
assert after.metrics["ndcg@10"] > before.metrics["ndcg@10"] + 0.1, (before.metrics, after.metrics)
assert report.file.is_file() and "scores" in report.charts
assert answers[int(similar.argmax())] == "The payroll tool writes a spreadsheet: choose Share, then Download."
assert runs == [{"kind": "finetune", "status": "finished"}] and len(scores) == 4
"""


def _cells() -> list[str]:
    body = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (body["nbformat"], body["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in body["cells"]}) == len(body["cells"])
    return ["".join(cell["source"]) for cell in body["cells"] if cell["cell_type"] == "code"]


def _run(*arguments: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join([*_cells(), CHECKS]), "utf-8")
    assert "nDCG@10" in _run(str(script), folder=tmp_path)


def _commands(title: str) -> list[list[str]]:
    """The commands of a section of the README."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = re.split(r"^## ", text.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    # A command may go on behind a backslash.
    lines = section.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("    mixture ")]


def test_the_five_minutes_of_the_readme(tmp_path: Path) -> None:
    files = next(cell for cell in _cells() if '"helpdesk.csv"' in cell and "csv.writer" in cell)
    suite = next(cell for cell in _cells() if '"qrels"' in cell)
    (tmp_path / "files.py").write_text(f"{files}\n\n{suite}", "utf-8")
    _run("files.py", folder=tmp_path)
    commands = _commands("Your own data in five minutes")
    assert [command[0] for command in commands] == [
        "ingest", "ingest", "status", "dedup", "decontaminate", "mine", "create", "train", "evaluate", "evaluate",
        "report",
    ]  # fmt: skip
    for command in commands:
        _run("-m", "cli", *command, folder=tmp_path)

    def rows(query: str) -> Any:
        return json.loads(_run("-m", "cli", "sql", query, "--format", "json", folder=tmp_path))

    assert rows("SELECT collection, num_examples, num_negatives > 0 AS negatives FROM collection_facts ORDER BY 1") == [
        {"collection": "faq", "num_examples": 20, "negatives": True},
        {"collection": "helpdesk", "num_examples": 39, "negatives": True},
    ]
    found = rows("SELECT mixture, value FROM evaluations WHERE metric = 'ndcg@10' AND step IS NULL")
    scores = {row["mixture"] is not None: row["value"] for row in found}
    assert scores[True] > scores[False] + 0.1
    assert "nDCG@10" in (tmp_path / "report-support-1.html").read_text("utf-8")


@pytest.mark.parametrize("name", ["helpdesk.csv", "faq.jsonl"])
def test_the_readme_shows_the_files_as_they_are(tmp_path: Path, name: str) -> None:
    files = next(cell for cell in _cells() if "csv.writer" in cell)
    (tmp_path / "files.py").write_text(files, "utf-8")
    _run("files.py", folder=tmp_path)
    lines = (tmp_path / name).read_text("utf-8").splitlines()
    assert f"    {lines[0]}\n" in (ROOT / "README.md").read_text("utf-8")
