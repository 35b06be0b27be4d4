"""Who may import whom: the design's boundaries, read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
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


def test_one_module_knows_the_database_of_a_cluster() -> None:
    found = _breaks("mixture", {"psycopg", "mixture.store.postgres"}) + _breaks("trainers", {"psycopg"})
    assert {line.partition(" ")[0] for line in found} == {"mixture/store/postgres.py"}


@pytest.mark.parametrize("part", ["coreset", "dedup", "embeddings", "mining", "suites"])
def test_algorithms_know_no_store(part: str) -> None:
    assert _breaks(f"mixture/{part}", {"mixture.store", "mixture.registry", "mixture.jobs"}) == []


def test_trainers_do_not_know_the_command_line() -> None:
    assert _breaks("trainers", {"cli"}) == []


def test_only_the_console_knows_terminals() -> None:
    terminals = {"typer", "click", "rich", "prompt_toolkit", "mixture.console"}
    found = _breaks("mixture", terminals, allowed_under="mixture/console") + _breaks("trainers", terminals)
    # `python -m trainers` is a command itself.
    assert [line for line in found if not line.startswith("trainers/__main__.py ")] == []


def test_only_the_console_speaks_of_options() -> None:
    """Elsewhere a message names a parameter in backticks, and `console.terminal.as_options` says how a command spells
    it."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.value}"
        for part in ("mixture", "trainers")
        for file in sorted((ROOT / part).rglob("*.py"))
        if ROOT / "mixture/console" not in file.parents and file.name != "__main__.py"
        for node in _texts(ast.parse(file.read_text("utf-8")))
        if re.search(r"(^|[\s(\"'])--[a-z]", node.value)
    ]
    # What the model card tells its readers to type is no message.
    assert [line for line in found if not line.startswith("trainers/model/card.py:")] == []


def _texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Every text of a module but its docstrings."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, described) and node.body
                  and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_importing_the_data_side_loads_no_torch() -> None:
    script = "import sys, cli, mixture.jobs, mixture.registry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


def test_no_module_is_too_long_or_called_utils() -> None:
    files = [f for part in ("mixture", "trainers") for f in (ROOT / part).rglob("*.py")] + [ROOT / "cli.py"]
    assert [f.name for f in files if f.stem in ("utils", "helpers", "common")] == []
    assert [f.name for f in files if len(f.read_text("utf-8").splitlines()) > 450] == []
