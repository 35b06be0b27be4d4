"""Every `mixture …` in the docs is a command that there is, with options that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:^ *(?:\$ )?|`|-m )mixture ((?:[^`\n]|(?<=\\)\n)+)", re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """The words after `mixture`, without comments and what stands in quotes."""
    for found in COMMAND.finditer(re.sub(r"(`[^`\n]*)\n([^`\n]*`)", r"\1 \2", text)):  # a span over two lines
        words = re.sub(r"""(['"]).*?\1|\s#.*""", "", found[1].replace("\\\n", " ")).split()
        if words and re.fullmatch(r"--?[a-z-]+|[a-z-]+", words[0]):
            yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_the_docs_exists_with_its_options(page: Path) -> None:
    group = get_command(app)
    known = {name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
             for name, command in group.commands.items()}  # type: ignore[attr-defined]  # fmt: skip
    general = {o for p in group.params for o in p.opts}
    for words in commands(page.read_text("utf-8")):
        name = next((word for word in words if word in known), "")  # what stands before it is general
        options = {word.strip("[],.:;)").partition("=")[0] for word in words if word.startswith(("-", "[-"))}
        assert words[0] in {*known, "help"} or words[0] in general, words
        assert options <= general | known.get(name, set()), words


def test_commands_are_found_in_blocks_tables_and_text() -> None:
    text = "    $ mixture ingest a.csv --columns \\\n        query=q   # --no\n"
    text += "| x | `mixture dedup\n--undo` |\n```\nmixture list\n"
    assert list(commands(text)) == [["ingest", "a.csv", "--columns", "query=q"], ["dedup", "--undo"], ["list"]]
