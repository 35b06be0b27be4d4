"""How all charts of a report are drawn: rows by name with bars, marks or pairs of dots, one look for all.

Specifications are Vega-Lite's, as plain dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixture.report.palette import role

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
# As many digits as the marks of an axis need.
PERCENT = ".3~%"
Spec = dict[str, Any]
# A field of the rows, and what a tooltip calls it.
Tip = tuple[str, str]
# Up to so many rows have their axis below; more than so many are drawn closer together.
FEW_ROWS, MANY_ROWS = 12, 40
# Pixels for the names at the ends of lines, and for those before bars; letters that fit in. Names often differ in their
# last letters, so a long one is cut in its middle. `page.js` has other limits for a phone.
LABEL_ROOM = 220
NAME_ROOM = 240
LETTERS = 34
CUT = (f"length(datum.label) > {LETTERS} ? slice(datum.label, 0, {LETTERS // 2}) + '…' + slice(datum.label, "
       f"-{LETTERS // 2}) : datum.label")  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A line of the legend: shape is bar, tick, rule, dashes, dot or ring; `role` its colour."""

    shape: str
    role: str
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart: `title` heads it, `says` is for those who cannot see it, `pickable` are the lines to choose from."""

    name: str
    title: str
    says: str
    keys: tuple[Key, ...]
    spec: Spec
    pickable: tuple[str, ...] = ()


def by_name(rows: Sequence[dict[str, Any]], layers: Sequence[Spec], x: Spec) -> Spec:
    """A chart with a row for each name, in the order of `rows`."""
    names = len({row["name"] for row in rows})
    y = {"field": "name", "type": "nominal", "sort": None, "title": None,
         "axis": {"grid": False, "domain": False, "ticks": False, "labelPadding": 8, "labelExpr": CUT}}  # fmt: skip
    # A reader of a long chart starts at its top.
    axis = x["axis"] | ({"orient": "top"} if names > FEW_ROWS else {})
    return finished({
        "data": {"values": list(rows)},
        "height": names * (21 if names <= MANY_ROWS else 15),
        "encoding": {"y": y, "x": x | {"axis": axis}},
        "layer": list(layers),
    })  # fmt: skip


def bars(field: str, tips: Sequence[Tip]) -> Spec:
    """A bar for each row."""
    return {"mark": {"type": "bar", "color": role("accent"), "cornerRadiusEnd": 2, "height": {"band": 0.62}},
            "encoding": {"x": {"field": field, "type": "quantitative"}, "tooltip": tooltip(tips)}}  # fmt: skip


def ticks(field: str, tips: Sequence[Tip], names: int) -> Spec:
    """An upright mark in each of `names` rows that has the field."""
    return {"mark": {"type": "tick", "color": role("ink"), "thickness": 2.5, "opacity": 1,
                     "size": 18 if names <= MANY_ROWS else 12},
            "encoding": {"x": {"field": field, "type": "quantitative"}, "tooltip": tooltip(tips)}}  # fmt: skip


def pairs(rows: Sequence[dict[str, Any]], other: str, tips: Sequence[Tip]) -> list[Spec]:
    """A full dot for the chart's own field and an open one for another, joined where a row has both."""
    own = {"mark": {"type": "point", "filled": True, "color": role("accent"), "size": 75, "opacity": 1},
           "encoding": {"tooltip": tooltip(tips)}}  # fmt: skip
    # Vega warns of an axis for a field that no row has.
    if all(row[other] is None for row in rows):
        return [own]
    return [
        {"transform": [{"filter": f"isValid(datum.{other})"}],
         "mark": {"type": "rule", "color": role("context"), "strokeWidth": 2},
         "encoding": {"x2": {"field": other}, "tooltip": tooltip(tips)}},
        {"mark": {"type": "point", "filled": True, "fill": role("page"), "stroke": role("ink"), "strokeWidth": 1.6,
                  "size": 60, "opacity": 1},
         "encoding": {"x": {"field": other, "type": "quantitative"}, "tooltip": tooltip(tips)}},
        own,
    ]  # fmt: skip


def line_at(value: float, *, dashed: bool) -> Spec:
    """An upright line through all rows."""
    return {"mark": {"type": "rule", "color": role("muted"), "strokeDash": [3, 3] if dashed else [1, 0]},
            "encoding": {"y": None, "x": {"datum": value, "type": "quantitative"}}}  # fmt: skip


def along_x(field: str, title: str | None, *, share: bool = False, ticks: int = 6) -> Spec:
    """The encoding of a number from left to right; its axis reads in percent where it is a `share`."""
    form = {"format": PERCENT} if share else {}
    axis = {"tickCount": ticks, "labelOverlap": "parity", "labelSeparation": 8, **form}
    return {"field": field, "type": "quantitative", "title": title, "axis": axis}


def middle_cut(name: str) -> str:
    """What `CUT` makes of a name."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 2]}…{name[-(LETTERS // 2) :]}"


def tooltip(tips: Sequence[Tip]) -> list[Spec]:
    """What is shown of a row under the pointer: fields that hold it as text."""
    return [{"field": field, "type": "nominal", "title": title} for field, title in tips]


def finished(spec: Spec) -> Spec:
    """With what all charts share."""
    axis = {"labelColor": role("muted"), "titleColor": role("muted"), "gridColor": role("grid"),
            "domainColor": role("line"), "tickColor": role("line"), "labelFontSize": 12, "titleFontSize": 12,
            "titleFontWeight": "normal"}  # fmt: skip
    names = {"labelColor": role("ink"), "labelLimit": NAME_ROOM}
    return {
        "$schema": SCHEMA, "width": "container", "background": "transparent",
        "autosize": {"type": "fit-x", "contains": "padding"}, **spec,
        "config": {"font": FONT, "axis": axis, "axisY": names, "text": {"fontSize": 12, "limit": LABEL_ROOM},
                   "view": {"stroke": None}},
    }  # fmt: skip
