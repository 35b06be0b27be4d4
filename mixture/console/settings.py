"""The settings of a training as a table."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixture.console.output import print_json


def show_settings(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """setting, value, default and what it does, a row each; values that are not the default stand out."""
    if as_json:
        print_json(rows)
        return
    table = Table(title="--set NAME=VALUE changes a setting", title_justify="left")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold", max_width=16)
    table.add_column("default", overflow="fold", max_width=10)
    table.add_column("does", overflow="fold")
    for row in rows:
        changed = row["value"] != row["default"]
        default = written(row["default"]) if changed else ""
        # Text, not str: [] is a value, not markup.
        table.add_row(Text(row["setting"]), Text(written(row["value"]), style="bold" if changed else ""),
                      Text(default), Text(row["does"]))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def written(value: Any) -> str:
    """A value as --set takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
