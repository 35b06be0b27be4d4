"""Reports: of a mixture, of a mining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixture import registry
from mixture.arguments import Name
from mixture.jobs.mine import MiningResult
from mixture.registry import Mixture
from mixture.report.build import Report, write_report
from mixture.report.mining import write_mining_report
from mixture.store import Store


def report(
    store: Store, mixture: Mixture, out: Name | None = None, *, against: Mixture | None = None,
    steps: int = 1000, batch_size: int = 64, format: str = "html", chart: str | None = None,
) -> Report:  # fmt: skip
    """Write a mixture's report: one page of charts and tables that opens anywhere, or one chart as a picture.

    out:               default: report-NAME-VERSION.html in the working folder
    against:           a mixture to compare with; default: its parent
    steps, batch_size: of the training whose epochs are shown
    format:            html; with `chart`, a chart's name, png or svg
    """
    saved = registry.resolve(store, mixture)
    other = None if against is None else registry.resolve(store, against)
    name = f"{saved.name}-{saved.version}" + (f"-{chart}" if chart is not None else "")
    file = Path(f"report-{name}.{format}" if out is None else out).expanduser()
    return write_report(
        store, saved, file, against=other, steps=steps, batch_size=batch_size, chart=chart, format=format
    )


def mining_report(results: Sequence[MiningResult], file: Name, *, dry_run: bool = False) -> Path:
    """Write a page on what `mine` did: counts, scores by rank beside those of positives, and some of what each filter
    dropped, to read.

    file:    its folder must exist
    dry_run: the results are of a dry run, and the page says so

    Returns the file.
    """
    return write_mining_report(results, Path(file).expanduser(), dry_run=dry_run)
