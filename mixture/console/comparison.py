"""Several models on several suites as tables, with what got worse under them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixture.console.output import one_line, print_json

# Letters of a query's text, and the least that a suite's name keeps.
TEXT, NAME = 60, 16


def show_comparison(
    summary: Mapping[str, Any], tables: Mapping[str, Sequence[Sequence[str]]], note: str,
    console: Console | None = None, *, as_json: bool = False,
) -> None:  # fmt: skip
    """A table for each metric, models side by side; under it where models are surely worse than the baseline, and on
    which queries. Models that do not fit the terminal have a table of their own, beside the baseline.

    summary: `trainers.evaluation.summary.Summary.as_json`; as_json prints it whole
    tables, note: of `trainers.evaluation.exports`
    """
    if as_json:
        print_json(summary)
        return
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    names = short_names(summary["models"])
    for metric, lines in tables.items():
        for table in _fitting(metric, names, lines, summary["models"].index(summary["baseline"]), console.width):
            console.print(table)
        found = [one for one in summary["regressions"] if one["metric"] == metric]
        for one in found:
            console.print(Text(_said(one, dict(zip(summary["models"], names, strict=True)))))
            if one["kind"] == "suite":  # a group's queries are those of its suites
                for lost in one["queries"]:
                    scores = f"{100 * lost['before']:6.2f} → {100 * lost['after']:6.2f}"
                    console.print(Text(f"  {scores}  {one_line(lost['text'] or lost['query'], TEXT)}"))
    if note:
        console.print(Text(note))


def short_names(names: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell all of them apart.

    >>> short_names(["runs/uniform/model", "runs/tdro/model", "all-MiniLM-L6-v2"])
    ['uniform/model', 'tdro/model', 'all-MiniLM-L6-v2']
    """
    parts = [name.rstrip("/").split("/") for name in names]
    for count in range(1, max(map(len, parts), default=1)):
        ends = ["/".join(part[-count:]) for part in parts]
        if len(set(ends)) == len(names):
            return ends
    return list(names)


def _said(regression: Mapping[str, Any], names: Mapping[str, str]) -> str:
    kind, p = regression["kind"], regression["p_holm"]
    where = {"suite": regression["name"], "all": "the mean of all suites"}.get(kind, f"{kind} {regression['name']}")
    digits = f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
    return f"{names[regression['model']]} got worse on {where}: {100 * regression['difference']:+.2f} ({digits})"


def _fitting(metric: str, names: Sequence[str], lines: Sequence[Sequence[str]], base: int, width: int) -> list[Table]:
    """Tables no wider than the terminal, where a model's column fits beside the baseline's."""
    wide = [max(cell_len(name), *(cell_len(line[place + 1]) for line in lines)) + 3 for place, name in enumerate(names)]
    first = min(NAME, max(cell_len(line[0]) for line in lines))
    tables: list[list[int]] = []
    for place in [place for place in range(len(names)) if place != base] or [base]:
        if not tables or first + 4 + sum(wide[column] for column in {*tables[-1], place}) > width:
            tables.append([base])
        tables[-1] += [place] * (place != base)
    return [_drawn(metric, names, lines, sorted(columns)) for columns in tables]


def _drawn(metric: str, names: Sequence[str], lines: Sequence[Sequence[str]], columns: Sequence[int]) -> Table:
    table = Table(title=metric, title_justify="left")
    table.add_column("suite", overflow="fold")
    for column in columns:
        table.add_column(Text(names[column]), justify="right", no_wrap=True)
    for line in lines:
        table.add_row(Text(line[0]), *(Text(line[column + 1]) for column in columns))
    return table
