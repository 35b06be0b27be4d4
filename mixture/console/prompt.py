"""`mixture sql` on a terminal: a prompt for queries, with completion and history."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from mixture.console.output import print_table
from mixture.errors import MixtureError, UsageError, unknown_name
from mixture.store import Store
from mixture.store.limits import Limits
from mixture.store.surface import MACROS

KEYWORDS = (
    "ALL", "AND", "AS", "ASC", "AT", "BETWEEN", "BY", "CASE", "COUNT", "DESC", "DESCRIBE", "DISTINCT", "ELSE", "END",
    "EXISTS", "FROM", "GROUP", "HAVING", "ILIKE", "IN", "IS", "JOIN", "LEFT", "LIKE", "LIMIT", "NOT", "NULL", "ON",
    "OR", "ORDER", "QUALIFY", "SELECT", "SHOW TABLES", "SUM", "SUMMARIZE", "THEN", "UNION", "USING", "VERSION", "WHEN",
    "WHERE", "WITH",
)  # fmt: skip
COMMANDS = {"\\d": "list tables, views and macros; \\d NAME lists columns", "\\q": "leave"}
# Words that people type: as commands, with a semicolon or without.
LEAVING, ASKING = ("exit", "quit", "\\q"), ("help", "?", "\\?", "\\h")
HELP = """One SELECT at a time, ended by a semicolon; it may have several lines. For instance:
  FROM collection_facts;
  SELECT query, positives FROM pairs WHERE collection = 'nq' LIMIT 5;
  FROM mixture('tdro');
\\d       lists tables, views and macros; \\d NAME lists the columns of one
exit     leaves, as quit, \\q and Ctrl-D do
Tab completes names. Ctrl-C stops a query.
"""
READS = re.compile(r"\b(?:from|join|describe|summarize)\s+([a-z_]\w*)", re.IGNORECASE)
AFTER_FROM = re.compile(r"\b(?:from|join|describe|summarize)\s+\w*$", re.IGNORECASE)


class Names:
    """What the store holds, by name. Columns are looked up once for each table, when first needed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._columns: dict[str, list[str]] = {}
        self.tables = self._column("SHOW TABLES", "name")
        saved = """SELECT name || ':' || version AS name FROM mixtures UNION SELECT name FROM mixtures
                   UNION SELECT tag FROM mixture_tags ORDER BY ALL"""
        self.mixtures = self._column(saved, "name")
        self.collections = self._column("SELECT collection FROM collections ORDER BY ALL", "collection")

    def columns(self, table: str) -> list[str]:
        """Columns of a table, view or macro; none for a name that is none of these."""
        table = table.lower()
        if table not in self._columns:
            known = table in self.tables or table in MACROS
            self._columns[table] = self.described(table)["column_name"].to_pylist() if known else []
        return self._columns[table]

    def described(self, table: str) -> pa.Table:
        """Column names and types. An unknown name is a `UsageError`."""
        table = table.lower()
        if table not in MACROS and table not in self.tables:
            raise unknown_name("table", table, [*self.tables, *MACROS])
        source = MACROS[table].example if table in MACROS else table
        return self._store.sql(f"DESCRIBE FROM {source}").select(["column_name", "column_type"])

    def overview(self) -> pa.Table:
        """Everything that can stand in FROM."""
        return pa.table({"name": sorted([*self.tables, *(macro.call for macro in MACROS.values())])})

    def _column(self, query: str, name: str) -> list[str]:
        return [str(value) for value in self._store.sql(query)[name].to_pylist()]


class SqlCompleter(Completer):
    """Names where they can stand: tables after FROM, mixtures and collections inside quotes, columns of the tables
    that the query names everywhere else, keywords after those."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        if before.count("'") % 2:
            begun = before.rpartition("'")[2]
            fitting = [*self.names.mixtures, *self.names.collections]
        elif before.startswith("\\"):
            begun = before if " " not in before else before.rpartition(" ")[2]
            fitting = list(COMMANDS) if " " not in before else [*self.names.tables, *MACROS]
        else:
            begun = re.findall(r"\w*$", before)[0]
            fitting = self._words(document, before) if begun or before.endswith((" ", ".")) else []
        for word in dict.fromkeys(fitting):
            if word.lower().startswith(begun.lower()):
                yield Completion(word, start_position=-len(begun))

    def _words(self, document: Document, before: str) -> list[str]:
        sources = [*self.names.tables, *(f"{name}(" for name in MACROS)]
        if AFTER_FROM.search(before):
            return sources
        columns = [name for table in READS.findall(document.text) for name in self.names.columns(table)]
        if re.search(r"\.\w*$", before):
            return columns
        return [*columns, *KEYWORDS, *sources]


def run_prompt(store: Store, *, limits: Limits, fmt: str) -> None:
    """Read queries until `\\q` or Ctrl-D, printing each result in `fmt`. A query ends with a semicolon.

    A mistake is printed and does not end the prompt; Ctrl-C clears the line, or stops the running query.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # here Ctrl-C ends a query, not the command
    names = Names(store)
    session: PromptSession[str] = PromptSession(
        "mixture> ",
        multiline=True,
        prompt_continuation="    ...> ",
        completer=SqlCompleter(names),
        complete_while_typing=False,
        history=_history(),
        key_bindings=_bindings(),
        lexer=PygmentsLexer(SqlLexer),
    )
    sys.stderr.write(
        "One SELECT at a time, ended by ';'. \\d lists what there is, help helps, exit leaves, Tab completes.\n"
    )
    while True:
        try:
            line = session.prompt().strip()
            word = _word(line)
            if word in LEAVING:
                return
            if word in ASKING:
                sys.stderr.write(HELP)
            elif line:
                print_table(_answer(line, store, names, limits), fmt)
        except EOFError:
            return
        except KeyboardInterrupt:
            sys.stderr.write("stopped\n")
        except MixtureError as error:
            sys.stderr.write(f"mixture: {error}\n")


def _answer(line: str, store: Store, names: Names, limits: Limits) -> pa.Table:
    command, *arguments = line.split() if line.startswith("\\") else [""]
    if not command:
        return store.sql(line, limits=limits)
    if command == "\\d" and len(arguments) <= 1:
        return names.described(arguments[0].rstrip(";")) if arguments else names.overview()
    raise UsageError(f"'{line}' is no command; there are: " + "; ".join(f"{k} ({v})" for k, v in COMMANDS.items()))


def _word(line: str) -> str:
    return line.rstrip("; ").lower()


def _bindings() -> KeyBindings:
    """Enter ends a query after a semicolon, a command always; else it begins a new line."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if not text or text.endswith(";") or text.startswith("\\") or _word(text) in (*LEAVING, *ASKING):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """A file in the user's state folder; where that cannot be written, for this prompt only."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mixture"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sql_history").touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(folder / "sql_history")
