"""What a model scored on suites, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def score_table(results: Sequence[Mapping[str, Any]], caption: str) -> Table:
    """One row a suite and, for two or more, their unweighted mean. Scores times 100, as the field prints them.

    results: the fields of `trainers.evaluation.evaluate.SuiteResult` by name
    """
    names = list(results[0]["metrics"]) if results else []
    prompted = any(result["prompt"] for result in results)
    table = Table()
    table.add_column("suite", overflow="fold")
    for column in ("documents", "queries", *names, "seconds"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    if prompted:
        table.add_column("query prompt", overflow="ellipsis", max_width=40, no_wrap=True)
    for result in results:
        scores = [f"{100 * result['metrics'][name]:.2f}" for name in names]
        counts = [f"{result['num_documents']:,}", f"{result['num_queries']:,}"]
        # repr, because prompts hold line breaks and end in spaces that matter.
        shown = [Text(repr(result["prompt"])) if result["prompt"] else ""] if prompted else []
        table.add_row(Text(result["suite"]), *counts, *scores, f"{result['seconds']:.1f}", *shown)
    if len(results) > 1:
        means = [f"{100 * sum(r['metrics'][name] for r in results) / len(results):.2f}" for name in names]
        table.add_section()
        seconds = f"{sum(r['seconds'] for r in results):.1f}"
        table.add_row(f"mean of {len(results)} suites", "", "", *means, seconds, style="bold")
    table.caption = caption
    return table
