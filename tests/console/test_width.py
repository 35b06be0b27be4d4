"""Tables on a terminal of any width: nothing passes it, and what one copies is whole."""

from __future__ import annotations

import os
import pty
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cli import app
from mixture import Store, jobs
from mixture.console.output import SHOWN_ROWS
from mixture.console.width import LEAST, SHORT, drawn, fit, shortened

LONG = "stackexchange_duplicates_title-body"
Shown = Callable[..., str]


@pytest.fixture
def shown(tmp_path: Path, write_collection: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Shown:
    """`shown(width, *arguments)`: what a command prints on a terminal of that width, on a store with long names."""
    for name in (LONG, "easy", "a_collection_of_many_words"):
        write_collection(tmp_path / "raw", name)
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(file) for file in sorted((tmp_path / "raw").glob("*"))])
        jobs.create(store, "uniform")
        jobs.create(store, "by_size_and_for_long", weights="proportional")
        jobs.select(store, "uniform", "top", top=70)
        jobs.tag(store, "top", "production")
    monkeypatch.setenv("MIXTURE_STORE", str(tmp_path / "store"))

    def run(width: int, *arguments: str) -> str:
        ours, theirs = pty.openpty()
        parts: list[bytes] = []

        def read() -> None:
            try:
                while part := os.read(ours, 65536):
                    parts.append(part)
            except OSError:  # the other end is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        monkeypatch.setenv("COLUMNS", str(width))
        with monkeypatch.context() as patched, open(theirs, "w", encoding="utf-8") as terminal:  # noqa: PTH123
            patched.setattr(sys, "stdout", terminal)
            with pytest.raises(SystemExit) as caught:
                app(list(arguments))
            assert not caught.value.code
        reader.join()
        os.close(ours)
        return re.sub(r"\x1b\[[0-9;]*m", "", b"".join(parts).decode()).replace("\r\n", "\n")

    return run


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_table_fits_and_breaks_no_id(
    shown: Shown, width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(tmp_path / "store") as store:
        mixtures = store.rows("SELECT mixture, name || ':' || version AS reference FROM mixtures")
    for command in (["list"], ["show", "uniform"], ["diff", "uniform", "top"], ["cards"], ["cards", "nq"],
                    ["sql", "FROM mixtures"], ["sql", "FROM examples"], ["sql", "SHOW TABLES"],
                    ["sql", "FROM collection_facts"]):  # fmt: skip
        printed = shown(width, *command)
        assert max(map(len, printed.splitlines())) <= width, command
        if command[0] == "list" or command[-1] == "FROM mixtures":
            for row in mixtures:
                assert re.search(rf"│ {row['mixture']} +│", printed)
        if command[0] == "list":
            assert all(row["reference"] in printed for row in mixtures)
            assert sum(line.startswith("│") for line in printed.splitlines()) == len(mixtures)  # a row is a line
    left_out = [line for line in capsys.readouterr().err.splitlines() if line.startswith("no room for")]
    assert len(left_out) >= 3


def test_off_a_terminal_nothing_is_cut(shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["list"])
    out, err = capsys.readouterr()
    assert "parents" in out
    assert err == ""
    with pytest.raises(SystemExit):
        app(["sql", f"SELECT '{LONG}' || repeat('x', 500) AS long"])
    assert LONG + "x" * 500 in capsys.readouterr().out


def test_lists_keep_their_brackets_and_many_rows_are_counted(shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(80, "sql", "SELECT ['a'] AS one, {'id': 7, 'of': ['b', NULL]} AS nested, []::INT[] AS none")
    assert re.search(r"│ \[a\] +│ \{id: 7, of: \[b, \]\} +│ \[\] +│", printed)
    printed = shown(80, "sql", f"FROM range({SHOWN_ROWS + 1234})")
    assert f"│ {SHOWN_ROWS - 1} " in printed.replace("│    ", "│ ")
    assert capsys.readouterr().err == "1,234 more rows; --json prints all\n"


TEXTS = st.text("ab cdé漢_\n", max_size=50)
TABLES = st.integers(1, 9).flatmap(lambda n: st.tuples(
    st.lists(st.text("abc_", min_size=1, max_size=20), min_size=n, max_size=n, unique=True),
    st.lists(st.lists(TEXTS, min_size=n, max_size=n), max_size=4),
))  # fmt: skip


@given(TABLES, st.integers(30, 150), st.integers(1, 4))
def test_any_table_fits_any_width(table: tuple[list[str], list[list[str]]], width: int, lines: int) -> None:
    names, cells = table
    fitted = fit(names, cells, width)
    assert [*fitted.widths, *fitted.left_out]
    assert sorted([*fitted.widths, *fitted.left_out]) == sorted(names)
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as printed:
        console.print(drawn(fitted, names, cells, numbers=set(), lines=lines))
    assert all(cell_len(line) <= width for line in printed.get().splitlines())
    for place, name in enumerate(names):
        column = [row[place] for row in cells]
        if name in fitted.widths and len(fitted.widths) > 1 and all(cell_len(text) <= SHORT for text in column):
            assert all(cell_len(text) <= fitted.widths[name] for text in column)


def test_a_table_that_has_room_is_as_wide_as_its_cells() -> None:
    assert fit(["a", "name"], [["12345", "x"]], 80).widths == {"a": 5, "name": 4}
    assert fit(["a", "b"], [["x" * 60, "y" * 30]], 80).widths == {"a": 43, "b": 30}
    narrow = fit(["a", "b", "c", "empty"], [["x" * 60, "y" * 30, "z" * SHORT, ""]], 40, drop=("b",))
    assert (narrow.widths, narrow.left_out) == ({"a": 17, "c": SHORT}, ("b", "empty"))
    assert fit(["a", "b"], [["x" * 99, "y" * 99]], 20).widths == {"a": 16}
    assert LEAST <= SHORT


def test_a_long_text_is_cut_where_least_is_lost() -> None:
    assert shortened(LONG, 20) == "stackexch…title-body"
    assert shortened("what is\na vector", 40) == "what is a vector"
    assert shortened("one two three four five six", 9, lines=3) == "one two three four…"
    assert shortened("short", 5) == "short"
