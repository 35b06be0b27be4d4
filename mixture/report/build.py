"""`mixture report`: the page, or one of its charts as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import vl_convert

from mixture.errors import UsageError, unknown_name
from mixture.registry import SavedMixture
from mixture.report.charts import Chart, charts
from mixture.report.facts import gather
from mixture.report.page import render
from mixture.report.palette import LIGHT, WORDS, resolved
from mixture.store import Store
from mixture.whole import new_file

CHART_FORMATS = ("png", "svg")
PICTURE_WIDTH = 760
PICTURE_SCALE = 2.0


@dataclass(frozen=True)
class Report:
    """What was written: the file, the mixture's id, what it was held against, the charts that the mixture has."""

    file: Path
    mixture: str
    against: str | None
    charts: tuple[str, ...]


def write_report(
    store: Store, mixture: SavedMixture, out: Path, *, against: SavedMixture | None = None, steps: int = 1000,
    batch_size: int = 64, chart: str | None = None, format: str = "html",
) -> Report:  # fmt: skip
    """Write a mixture's report to `out`, or with `format` png or svg the chart that is named.

    Raises `UsageError` for another format, a chart that the mixture does not have, a folder that does not exist.
    """
    if format not in ("html", *CHART_FORMATS):
        raise UsageError(f"`format` is {format!r}; allowed: html, {', '.join(CHART_FORMATS)}")
    if (chart is not None) != (format in CHART_FORMATS):
        raise UsageError(f"`chart` and `format` {' or '.join(CHART_FORMATS)} go together")
    with store.reading():
        facts = gather(store, mixture, against, steps=steps, batch_size=batch_size)
    drawn = charts(facts)
    if chart is not None and chart not in drawn:
        raise unknown_name("chart", chart, drawn)
    with new_file(out) as whole:
        whole.write_bytes(render(facts, drawn).encode() if chart is None else picture(drawn[chart], format))
    return Report(out, mixture.spec.id, facts.against.reference if facts.against else None, tuple(drawn))


def picture(chart: Chart, fmt: str) -> bytes:
    """A chart with its title and legend, in the light colours, as PNG or SVG."""
    spec = resolved(chart.spec, LIGHT) | {"width": PICTURE_WIDTH, "background": LIGHT["page"]}
    spec["padding"] = 20
    legend = " · ".join(f"{WORDS[key.role]} {key.shape}: {key.label}" for key in chart.keys)
    spec["title"] = {"text": chart.title, "subtitle": legend, "anchor": "start", "frame": "group", "offset": 14,
                     "color": LIGHT["ink"], "subtitleColor": LIGHT["muted"], "fontSize": 15, "subtitleFontSize": 12,
                     "subtitlePadding": 6}  # fmt: skip
    if fmt == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=PICTURE_SCALE, allowed_base_urls=[]))
    return str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])).encode()
