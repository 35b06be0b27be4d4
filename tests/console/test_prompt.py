"""`mixture sql` on a terminal, through prompt_toolkit's own input pipe."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from mixture import Store
from mixture.console.prompt import HELP, Names, SqlCompleter, run_prompt
from mixture.store.limits import Limits
from mixture.store.write import insert_rows

Typed = Callable[..., tuple[str, str]]
SLOW = "SELECT sum(i) FROM range(100000000000) t(i) WHERE sin(i) = 2;\r"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as lake:
        times = "2026-01-01 00:00:00+00"
        lake.transaction(
            lambda c: [
                c.execute(f"INSERT INTO collections (collection, added_at) VALUES ('forum', '{times}')"),
                c.execute(f"""INSERT INTO mixtures (mixture, name, version, spec, created_at)
                              VALUES ('aaaa11112222', 'tdro', 1, '{{}}', '{times}')"""),
                c.execute(f"INSERT INTO mixture_tags VALUES ('tested', 'aaaa11112222', '{times}')"),
            ]
        )
        insert_rows(lake, "test_queries", [{"suite": "s", "query_id": str(i), "query": f"q{i}"} for i in range(3)])
        yield lake


@pytest.fixture
def typed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """`typed(text, ...)`: the prompt's standard output and error after these keys and Ctrl-D."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*keys: str, limits: Limits | None = None) -> tuple[str, str]:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text("".join(keys) + "\x04")
            run_prompt(store, limits=limits or Limits(seconds=20), fmt="json")
        out, err = capsys.readouterr()
        return out, err

    return run


@pytest.fixture
def complete(store: Store) -> Callable[[str], list[str]]:
    """`complete(text)`: the words offered at the end of the text, or at the mark `|`."""
    completer = SqlCompleter(Names(store))

    def run(text: str) -> list[str]:
        place = text.find("|") if "|" in text else len(text)
        document = Document(text.replace("|", ""), place)
        return [found.text for found in completer.get_completions(document, CompleteEvent(completion_requested=True))]

    return run


def test_a_query_runs_at_its_semicolon_and_may_have_several_lines(typed: Typed) -> None:
    out, _ = typed("SELECT count(*) AS n\r", "FROM test_queries\r", ";\r", "SELECT 7 AS m;\r")
    assert json.loads("[" + out.replace("]\n[", "],[") + "]") == [[{"n": 3}], [{"m": 7}]]


def test_a_mistake_is_one_line_and_does_not_end_the_prompt(typed: Typed) -> None:
    out, err = typed("FROM tets_queries;\r", "DROP TABLE test_queries;\r", "\\d nothing\r", "\\x\r", "SELECT 1 AS n;\r")
    mistakes = [line for line in err.splitlines() if line.startswith("mixture: ")]
    assert [said in line for said, line in zip(
        ("did you mean 'test_queries'", "read-only", "no table 'nothing'", "is no command"), mistakes, strict=True)
    ] == [True] * 4  # fmt: skip
    assert json.loads(out) == [{"n": 1}]


def test_d_lists_tables_views_macros_and_columns(typed: Typed) -> None:
    out, _ = typed("\\d\r")
    names = {row["name"] for row in json.loads(out)}
    assert {"examples", "collection_facts", "mixture(ref)", "epochs(ref, steps, batch_size)"} <= names
    for table, column in (("test_queries", "suite"), ("collection_facts", "num_passages"), ("epochs", "repeats")):
        out, _ = typed(f"\\d {table}\r")
        assert column in {row["column_name"] for row in json.loads(out)}


def test_q_leaves_and_what_follows_is_not_read(typed: Typed) -> None:
    assert typed("\\q\r", "SELECT 1;\r")[0] == ""


@pytest.mark.parametrize("word", ["exit", "quit", "EXIT", "exit;", "\\q;", " quit "])
def test_words_that_people_type_leave_too(typed: Typed, word: str) -> None:
    assert typed(f"{word}\r", "SELECT 1;\r")[0] == ""


@pytest.mark.parametrize("word", ["help", "?", "help;", "\\?", "\\h"])
def test_help_says_what_to_type_and_its_examples_run(typed: Typed, word: str) -> None:
    out, err = typed(f"{word}\r", "SELECT 2 AS b;\r")
    assert json.loads(out) == [{"b": 2}]
    shown = [line.strip() for line in HELP.splitlines() if line.endswith(";")]
    assert len(shown) == 3
    assert all(line in err for line in shown)
    _, err = typed(*(f"{line}\r" for line in shown))
    assert "mixture:" not in err


def test_a_wrong_command_is_shown_as_it_was_typed(typed: Typed) -> None:
    _, err = typed("\\q x\r")
    assert "mixture: '\\q x' is no command" in err


def test_ctrl_c_clears_the_line(typed: Typed) -> None:
    out, err = typed("SELECT 1 AS a\x03", "SELECT 2 AS b;\r")
    assert json.loads(out) == [{"b": 2}]
    assert "stopped" in err


def test_ctrl_c_stops_a_running_query_and_the_prompt_goes_on(typed: Typed, tmp_path: Path) -> None:
    history = tmp_path / "state" / "mixture" / "sql_history"

    def stop() -> None:
        while not (history.exists() and "sin(i)" in history.read_text("utf-8")):
            time.sleep(0.05)
        time.sleep(0.5)  # the line was taken: the query runs
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Thread(target=stop)
    timer.start()
    out, err = typed(SLOW, "SELECT 3 AS n;\r", limits=Limits(seconds=50))
    timer.join()
    assert json.loads(out) == [{"n": 3}]
    assert "stopped" in err
    assert "mixture:" not in err


def test_a_query_past_its_time_does_not_end_the_prompt(typed: Typed) -> None:
    out, err = typed(
        "SELECT sum(i) FROM range(100000000000) t(i) WHERE sin(i) = 2;\r",
        "SELECT 3 AS n;\r",
        limits=Limits(seconds=0.5),
    )
    assert json.loads(out) == [{"n": 3}]
    assert "stopped after 0.5 s" in err


def test_queries_are_remembered_for_the_next_time(typed: Typed, tmp_path: Path) -> None:
    first, _ = typed("SELECT 1 AS n;\r")
    assert "SELECT 1 AS n;" in (tmp_path / "state" / "mixture" / "sql_history").read_text("utf-8")
    again, _ = typed("\x1b[A\r")  # the arrow up
    assert json.loads(again) == json.loads(first)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("SELECT * FROM test_q", ["test_queries"]),
        ("from collection_", ["collection_changes", "collection_facts", "collection_languages", "collection_products"]),
        ("FROM mixtu", ["mixture_tags", "mixture_weights", "mixtures", "mixture("]),
        ("FROM mixture('td", ["tdro", "tdro:1"]),
        ("FROM mixture('te", ["tested"]),
        ("FROM examples WHERE collection = 'fo", ["forum"]),
        ("SELECT sui| FROM test_queries", ["suite"]),
        ("SELECT q.quer| FROM test_queries q", ["query_id", "query"]),
        ("SELECT sui| FROM examples", []),
        ("SELECT repea| FROM epochs('tdro', 1, 1)", ["repeats"]),
        ("SELECT simhash FROM test_queries WHE", ["WHEN", "WHERE"]),
        ("\\", ["\\d", "\\q"]),
        ("\\d rej", ["rejects"]),
        ("FROM nowhere WHERE zz", []),
    ],
)
def test_completion(complete: Callable[[str], list[str]], text: str, offered: list[str]) -> None:
    assert sorted(complete(text)) == sorted(offered)
