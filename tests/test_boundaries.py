"""Who may import whom: the design's boundaries, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL_SIDE = {"torch", "transformers", "sentence_transformers", "accelerate", "peft", "trainers", "cli"}


def _imports(file: Path) -> set[str]:
    """Top-level names of everything a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def _breaks(folder: str, forbidden: set[str], allowed_under: str = "") -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        if not (allowed_under and (ROOT / allowed_under) in file.parents)
        for name in _imports(file)
        if any(name == f or name.startswith(f + ".") for f in forbidden)
    ]


def test_the_data_side_knows_no_model() -> None:
    assert _breaks("mixture", MODEL_SIDE) == []


def test_only_the_store_knows_duckdb() -> None:
    assert _breaks("mixture", {"duckdb"}, allowed_under="mixture/store") + _breaks("trainers", {"duckdb"}) == []


@pytest.mark.parametrize("part", ["dedup", "mining", "suites"])
def test_algorithms_know_no_store(part: str) -> None:
    assert _breaks(f"mixture/{part}", {"mixture.store", "mixture.registry", "mixture.jobs"}) == []


def test_trainers_do_not_know_the_command_line() -> None:
    assert _breaks("trainers", {"cli"}) == []


def test_importing_the_data_side_loads_no_torch() -> None:
    script = "import sys, cli, mixture.jobs, mixture.registry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


def test_no_module_is_too_long_or_called_utils() -> None:
    files = [f for part in ("mixture", "trainers") for f in (ROOT / part).rglob("*.py")] + [ROOT / "cli.py"]
    assert [f.name for f in files if f.stem in ("utils", "helpers", "common")] == []
    assert [f.name for f in files if len(f.read_text("utf-8").splitlines()) > 450] == []
