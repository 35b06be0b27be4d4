"""Query results on standard output: as a table for people, or JSON, CSV, Parquet for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixture.console.width import drawn, fit, terminal_width
from mixture.errors import UsageError

FORMATS = ("table", "json", "csv", "parquet")
SHOWN_ROWS = 100
# Of so many rows a long text may take several lines.
FEW_ROWS, SEVERAL = 20, 5


def print_json(value: Any) -> None:
    """Any result as JSON; dates as ISO text, what is no finite number as null."""
    sys.stdout.write(json.dumps(_finite(value), ensure_ascii=False, indent=1, default=str) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def print_rows(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str | None = None, drop: Sequence[str] = (),
    whole: Sequence[str] = (), lines: int | None = None,
) -> None:  # fmt: skip
    """Dictionaries of equal keys as a table, or as a JSON list. On a terminal the table fits it.

    drop:  the columns that a narrow terminal can do without, the first one first
    whole: the columns that are never shortened
    lines: that a long text may take, 0 for all; default: several where there are few rows. Off a terminal nothing is
           cut
    """
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        Console().print("nothing to show" if title is None else f"{title}: nothing")
        return
    names = list(rows[0])
    numbers = {name for name in names if all(isinstance(r[name], int | float | None) for r in rows)}
    cells = [[_cell(value) for value in row.values()] for row in rows[:SHOWN_ROWS]]
    width = terminal_width()
    fitted = fit(names, cells, width, drop=drop, whole=whole)
    if lines is None:
        lines = SEVERAL if len(rows) <= FEW_ROWS else 1
    if width is None:
        print_whole(names, cells, numbers, title)
    else:
        Console(width=width).print(drawn(fitted, names, cells, numbers=numbers, lines=lines, title=title))
    if fitted.left_out:
        named, more = fitted.left_out[:3], len(fitted.left_out) - 3
        others = f" and {more} more" if more > 0 else ""
        sys.stderr.write(f"no room for {', '.join(named)}{others}; --json prints all\n")
    if len(rows) > SHOWN_ROWS:
        sys.stderr.write(f"{len(rows) - SHOWN_ROWS:,} more rows; --json prints all\n")


def one_line(text: str, most: int) -> str:
    """A text's beginning, of so many letters at most, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"


def print_whole(names: Sequence[str], cells: Sequence[Sequence[str]], numbers: set[str], title: str | None) -> None:
    """Off a terminal nothing is wrapped or cut."""
    shown = Table(title=title, title_justify="left")
    for name in names:
        shown.add_column(Text(name), justify="right" if name in numbers else "left", overflow="fold")
    for row in cells:
        shown.add_row(*map(Text, row))
    Console(width=100_000).print(shown)


def print_table(table: pa.Table, fmt: str) -> None:
    """A query's result in one of `FORMATS`."""
    if fmt not in FORMATS:
        raise UsageError(f"format {fmt!r}; allowed: {', '.join(FORMATS)}")
    table = table.rename_columns(_distinct(table.column_names))
    if fmt == "table":
        print_rows(_rows(table), as_json=False)
    elif fmt == "json":
        print_json(_rows(table))
    elif fmt == "csv":
        from pyarrow import csv

        csv.write_csv(_flat(table), sys.stdout.buffer)
    elif sys.stdout.isatty():
        raise UsageError("Parquet is binary; send it to a file: mixture sql … --format parquet > result.parquet")
    else:
        from pyarrow import parquet

        parquet.write_table(table, sys.stdout.buffer)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names made distinct (a, a_1, …), as a join of two tables needs it."""
    given: list[str] = []
    for name in names:
        fresh, number = name, 0
        while fresh in given or (number and fresh in names):
            number += 1
            fresh = f"{name}_{number}"
        given.append(fresh)
    return given


def _flat(table: pa.Table) -> pa.Table:
    """CSV has no lists: nested columns as JSON text. Columns that its writer cannot write, or with dates that it
    gets wrong, as text."""
    for place, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            texts: list[str | None] = [
                json.dumps(v, ensure_ascii=False, default=str) for v in _values(table[column.name])
            ]
        elif pa.types.is_interval(column.type) or _infinite(table[column.name]):
            texts = [None if v is None else str(v) for v in _values(table[column.name])]
        else:
            continue
        table = table.set_column(place, column.name, pa.array(texts, pa.string()))
    return table


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    columns = [_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python's values; dates that Python does not have, of years beyond 9999 or before 1 and infinity, as text."""
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        return [_value(scalar) for scalar in column]


def _infinite(column: pa.ChunkedArray) -> bool:
    dates = pa.types.is_date32(column.type) or pa.types.is_timestamp(column.type)
    return dates and any(isinstance(value, str) for value in _values(column))


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        pass
    if isinstance(scalar, pa.StructScalar):
        return {name: _value(part) for name, part in scalar.items()}
    if not isinstance(scalar, pa.Date32Scalar | pa.TimestampScalar):
        return [_value(part) for part in scalar.values]
    unit = "D" if isinstance(scalar, pa.Date32Scalar) else scalar.type.unit
    if abs(scalar.value) == np.iinfo(np.int32 if unit == "D" else np.int64).max:
        return "infinity" if scalar.value > 0 else "-infinity"
    zone = "+00:00" if getattr(scalar.type, "tz", None) else ""
    return str(np.array(scalar.value).astype(f"M8[{unit}]")).replace("T", " ") + zone


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_cell(part)}' for name, part in value.items())}}}"
    return str(value)
