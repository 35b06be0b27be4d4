"""`docs/sentence-transformers.md` is one notebook, run as `docs/python.md` is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.test_docs_python import CELL, _run, _same, _working_in
from trainers.model.tiny import build_tiny

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sentence-transformers.md"


def test_the_page_prints_what_it_shows(tmp_path: Path) -> None:
    # The page's model comes from the hub; a folder of its name goes first.
    build_tiny(
        ["what is the capital of the north"] * 9, tmp_path / "all-MiniLM-L6-v2", seed=1, vocabulary=300, hidden=32
    )
    names: dict[str, Any] = {}
    with _working_in(tmp_path):
        for cell in CELL.finditer(PAGE.read_text("utf-8")):
            printed = _run(cell["code"], names)
            assert _same(cell["answer"] or "", printed), f"{cell['code']}\n{printed}"
        names["store"].close()
