"""The heaviest collections on standard error while weights are learned; off a terminal lines of progress alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mixture.console.progress import bars, lines, notes, stage_of
from mixture.progress import Stage

SHOWN = 10
Watch = Callable[[list[dict[str, Any]]], None]


@contextmanager
def watching(console: Console | None = None) -> Iterator[tuple[Stage, Watch | None]]:
    """Progress bars by stage, and under them, from the first step on, a table that each step's rows of the history
    renew."""
    console = console or Console(stderr=True)
    with notes(console):
        if not console.is_terminal:
            yield lines(console, "steps"), None
            return
        shown = bars(console, "steps")
        rows: list[dict[str, Any]] = []

        def watch(latest: list[dict[str, Any]]) -> None:
            rows[:] = latest

        def drawn() -> Group:
            return Group(shown, *([weight_table(rows)] if rows else []))

        with Live(console=console, get_renderable=drawn, refresh_per_second=2):
            yield stage_of(shown), watch


def weight_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A step's heaviest collections; `rows` are one step's rows of the history."""
    step = f"step {rows[0]['step']}, " if rows else ""
    table = Table(title=f"{step}uniform: {1 / max(1, len(rows)):.4f}", title_justify="left")
    for name in ("collection", "weight", "mean", "proxy loss", "reference"):
        table.add_column(name, justify="left" if name == "collection" else "right")
    for row in sorted(rows, key=lambda r: -r["weight"])[:SHOWN]:
        losses = ("" if row[key] is None else f"{row[key]:.4f}" for key in ("proxy_loss", "reference_loss"))
        # Text, not str: a collection called [red] is a name, not a colour.
        table.add_row(Text(row["collection"]), f"{row['weight']:.4f}", f"{row['mean_weight']:.4f}", *losses)
    if len(rows) > SHOWN:
        table.caption = f"and {len(rows) - SHOWN} more"
    return table
