"""The read-only side of the store: one SELECT at a time, shut in.

Three walls, each enough for most of what must not happen. DuckDB: a read-only attach, no access outside the lake's data
folder, settings locked. The statement: one SELECT, whose tables, table functions and functions are checked by name on
DuckDB's own parse tree. The limits: time, memory, disk (`mixture/store/limits.py`).
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from mixture.errors import MixtureError, StoreError, UsageError, unknown_name
from mixture.store import surface
from mixture.store.limits import Limits, Watchdog, held_memory, too_big, too_slow

# What may stand in FROM beside tables. Others read files of any kind (sqlite_scan ignores DuckDB's own switch), run
# queries given as text, or clean the lake up.
TABLE_FUNCTIONS = frozenset(
    {"current_snapshot", "generate_series", "range", "repeat", "snapshots", "table_info", "unnest"}
)
# Functions that tell of the machine, keep something after the query, or hold it up.
REFUSED_FUNCTIONS = frozenset(
    {"currval", "current_setting", "getenv", "getvariable", "json_serialize_plan", "nextval", "setseed", "sleep_ms",
     "write_log"}
)  # fmt: skip
# Beside the tables of the lake, DuckDB's own catalogs can be read: their paths and settings are nobody's business.
PLACES = frozenset({("", ""), ("", "main"), ("", "lake"), ("", "temp"), ("lake", "main"), ("temp", "main")})
# Views of DuckDB's catalogs that need no schema; a name given by WITH somewhere must not let one through elsewhere.
CATALOG_PREFIXES = ("duckdb_", "pg_", "pragma_", "sqlite_")
# SQLite's words, in small letters, and DuckDB's for a text of the catalog that is none.
DAMAGED = ("disk image is malformed", "malformed database schema", "file is not a database", "unsupported file format",
           "invalid unicode (byte sequence mismatch)")  # fmt: skip
SPILL_SIZE = "8GB"
# Planning time grows fast with depth, and the parse tree is read by Python's JSON reader.
EXPRESSION_DEPTH = 250
ROWS_A_BATCH = 50_000


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def first_lines(error: BaseException) -> str:
    """DuckDB's message without the excerpt of the query, on one line."""
    lines = " ".join(line.strip() for line in str(error).split("\n\n")[0].splitlines() if line.strip())
    # What the surface itself raises with error() needs no class of DuckDB's in front.
    return lines.removeprefix("Invalid Input Error: ")


def refused(what: str, error: BaseException) -> StoreError:
    """What DuckDB raised, as a line of ours. Some of its messages about a damaged catalog are no text to Python."""
    if isinstance(error, UnicodeDecodeError) or any(sign in str(error).lower() for sign in DAMAGED):
        why = "" if isinstance(error, UnicodeDecodeError) else f" ({first_lines(error)})"
        return StoreError(f"{what}: its catalog is damaged; restore it from a copy{why}")
    return StoreError(f"{what}: {first_lines(error)}")


def unreachable(error: BaseException) -> StoreError | None:
    """What a file or a server that is gone makes DuckDB say, wherever a query was; None for any other error."""
    if isinstance(error, duckdb.IOException | duckdb.HTTPException | duckdb.ConnectionException):
        return refused("the store could not be read", error)
    return None


def is_ctrl_c(error: BaseException) -> bool:
    """DuckDB turns a Ctrl-C that comes while it works into a RuntimeError."""
    return isinstance(error, RuntimeError) and "interrupted" in str(error).lower()


class Reader:
    """A read-only connection to the lake with the views and macros of `surface`, locked. One query at a time.

    data:     the folder or prefix that stays readable: that of the lake's own files, with a slash at its end
    snapshot: of what the connection shows; None for the newest
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, data: str, memory_bytes: int, snapshot: int | None
    ) -> None:
        self.memory_bytes = memory_bytes
        self.snapshot = snapshot
        self._connection = connection
        self._tables: frozenset[str] = frozenset()
        surface.define(connection)
        for setting in (
            f"memory_limit = '{memory_bytes // 1000}KB'",
            f"max_temp_directory_size = '{SPILL_SIZE}'",
            f"max_expression_depth = {EXPRESSION_DEPTH}",
            # A name in FROM is a table, never a variable of the calling Python.
            "python_enable_replacements = false",
            # The lake's own files stay readable; SELECT is the only statement, so nothing can be written to them.
            f"allowed_directories = [{quote(data)}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")

    def close(self) -> None:
        self._connection.close()

    def sql(self, query: str, params: Sequence[Any] | dict[str, Any] | None, limits: Limits) -> pa.Table:
        """The result of one SELECT. `UsageError` for a mistake in it, `StoreError` when it passes the limits."""
        with Watchdog(self._connection.interrupt, limits) as watchdog:
            try:
                with held_memory(limits):
                    return self._run(query, params, limits)
            # What fails while rows are fetched comes as an OSError.
            except (duckdb.Error, pa.ArrowException, OSError, RuntimeError, MemoryError) as error:
                if is_ctrl_c(error) and not watchdog.expired:
                    self._settle()
                    raise KeyboardInterrupt from error
                raise self._plain(error, limits, expired=watchdog.expired) from error

    def _settle(self) -> None:
        """End a query that Ctrl-C left half done: close() would otherwise wait for its threads."""
        self._connection.interrupt()
        with contextlib.suppress(duckdb.Error):
            self._connection.execute("SELECT 1").fetchall()

    def _run(self, query: str, params: Sequence[Any] | dict[str, Any] | None, limits: Limits) -> pa.Table:
        if "\0" in query or any("\ud800" <= mark <= "\udfff" for mark in query):
            raise UsageError("the query holds characters that are no text; write it in UTF-8")
        statements = self._connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            got = ", ".join(statement.type.name for statement in statements[:5]) or "none"
            raise UsageError(f"one SELECT statement is allowed, the store is read-only here; got {got}")
        self._check(query)
        reader = self._connection.execute(statements[0], params).to_arrow_reader(ROWS_A_BATCH)
        batches, size = [], 0
        for batch in reader:
            size += batch.nbytes
            if size > limits.memory_bytes:
                self._connection.interrupt()
                raise StoreError(too_big(limits))
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema)

    def _check(self, query: str) -> None:
        """Every table and function that the query names, against what is allowed."""
        nodes = list(_nodes(self._parse(query)))
        given = {str(entry["key"]).lower() for n in nodes for entry in (n.get("cte_map") or {}).get("map", ())}
        taken = sorted(name for name in given if name.startswith(CATALOG_PREFIXES))
        if taken:
            raise UsageError(f"WITH {taken[0]} is not allowed here, DuckDB's own tables begin so; choose another name")
        for node in nodes:
            kind = node.get("type")
            if kind == "TABLE_FUNCTION":
                _check_table_function(str(node["function"].get("function_name", "?")).lower())
            elif kind == "BASE_TABLE":
                self._check_table(node, given)
            elif kind == "SHOW_REF":
                _check_show(str(node.get("table_name") or "").strip('"').lower())
            elif str(node.get("function_name", "")).lower() in REFUSED_FUNCTIONS:
                raise UsageError(f"function {node['function_name']!r} is not allowed here")

    def _parse(self, query: str) -> Any:
        # A literal: for a parameter DuckDB imports pandas, which takes longer than most queries.
        row = self._connection.execute(f"SELECT json_serialize_sql({quote(query)})").fetchone()
        try:
            tree = json.loads(row[0]) if row else {"error": True}
        except RecursionError:
            raise UsageError("this query cannot be checked: it is nested too deep") from None
        if tree.get("error"):
            raise UsageError(f"this query cannot be checked: {tree.get('error_message', 'it does not parse')}")
        return tree

    def _check_table(self, node: dict[str, Any], given: set[str]) -> None:
        name = str(node["table_name"])
        place = (str(node.get("catalog_name") or "").lower(), str(node.get("schema_name") or "").lower())
        if place not in PLACES:
            full = ".".join(part for part in (*place, name) if part)
            raise UsageError(f"{full!r} is no table of the store; SHOW TABLES lists them")
        if name.lower() in given and place == ("", ""):
            return
        if name.lower() not in self._tables:
            self._tables = self._names()
        if name.lower() in surface.MACROS:
            raise UsageError(f"{name} takes arguments: FROM {surface.MACROS[name.lower()].call}")
        if name.lower() not in self._tables:
            raise unknown_name("table", name, self._tables | surface.MACROS.keys())
        if name.lower() in surface.VIEWS and node.get("at_clause"):
            raise UsageError(f"{name} is a view of the newest snapshot; AT stands after a table (docs/sql.md says how)")

    def _names(self) -> frozenset[str]:
        found = self._connection.execute("SHOW TABLES").fetchall()
        return frozenset(str(row[0]).lower() for row in found)

    def _plain(self, error: BaseException, limits: Limits, *, expired: bool) -> MixtureError:
        """What DuckDB or Arrow raised, as one line of ours."""
        text = str(error).lower()
        if expired and "interrupt" in text:
            return StoreError(too_slow(limits))
        out_of_memory = isinstance(error, duckdb.OutOfMemoryException | MemoryError | pa.ArrowMemoryError)
        if out_of_memory or "out of memory" in text or "bad allocation" in text:
            return StoreError(too_big(limits))
        if isinstance(error, duckdb.InternalException) and "a value that is null" in text:  # DuckLake's AT reads it
            return UsageError("AT (VERSION => NULL) is no version; FROM snapshots() lists their numbers")
        if isinstance(error, duckdb.IOException | duckdb.InternalException):
            return refused("the store could not be read", error)
        # DuckDB names the nearest columns of tables, not those of subqueries and macros.
        column = re.search(r'does not have a column named "([^"]+)"$', first_lines(error))
        near = difflib.get_close_matches(column[1], self._columns(), n=3) if column else []
        return UsageError(first_lines(error) + (f"; did you mean {', '.join(map(repr, near))}?" if near else ""))

    def _columns(self) -> set[str]:
        """Names of the columns of every table, view and macro."""
        found = self._connection.execute(
            "SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
        for macro in surface.MACROS.values():
            found += self._connection.execute(f"DESCRIBE FROM {macro.example}").fetchall()
        return {str(row[0]) for row in found}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a parse tree."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _check_table_function(name: str) -> None:
    allowed = TABLE_FUNCTIONS | surface.MACROS.keys()
    if name not in allowed:
        near = str(unknown_name("table function", name, allowed)).partition("; ")[2]
        raise UsageError(f"table function {name!r} is not allowed here; {near}")


def _check_show(name: str) -> None:
    """DESCRIBE and SUMMARIZE carry a query, which is checked like any other; SHOW carries a name."""
    if name not in ("", "tables"):
        raise UsageError(f"SHOW {name!r} is not allowed here; allowed: SHOW TABLES, DESCRIBE examples")
