"""The heaviest collections on standard error while weights are learned; nothing off a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from mixture.progress import Progress, Stage, quiet

SHOWN = 10
Watch = Callable[[list[dict[str, Any]]], None]


@contextmanager
def watching(console: Console | None = None) -> Iterator[tuple[Stage, Watch | None]]:
    """Progress bars by stage, and under them a table that each step's rows of the history renew."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield quiet, None
        return
    bars = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rows: list[dict[str, Any]] = []

    def stage(title: str) -> Progress:
        task = bars.add_task(title, total=None)
        return lambda done, total, _: bars.update(task, completed=done, total=total)

    def watch(latest: list[dict[str, Any]]) -> None:
        rows[:] = latest

    with Live(console=console, get_renderable=lambda: Group(bars, weight_table(rows)), refresh_per_second=2):
        yield stage, watch


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
