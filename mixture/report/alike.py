"""Which collections teach alike: cosines of what each of them changes in a model, as a square of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mixture.report.drawing import CUT, Chart, Key, Spec, finished, tooltip
from mixture.report.palette import role
from mixture.report.wording import minus
from mixture.store import Store

# Beyond this many cells are too small to be read.
MOST = 60
CELL = 21


@dataclass(frozen=True)
class Cosine:
    """Of two collections, −1 to 1; None where a length is not known."""

    collection: str
    other: str
    value: float | None


def cosines(store: Store, runs: Sequence[str]) -> tuple[Cosine, ...]:
    """Of each two collections, the mean over the runs; none where no run took products."""
    rows = store.sql(
        """SELECT collection, other, avg(product) AS product FROM collection_products
           WHERE list_contains($runs, run_id) GROUP BY collection, other ORDER BY collection, other""",
        {"runs": list(runs)},
    ).to_pylist()
    squares = {row["collection"]: row["product"] for row in rows if row["collection"] == row["other"]}

    def cosine(one: str, other: str, product: float) -> float | None:
        # The squares are estimates, and may be 0 or less.
        if not (squares[one] > 0 and squares[other] > 0):
            return None
        return max(-1.0, min(1.0, product / math.sqrt(squares[one] * squares[other])))

    return tuple(Cosine(r["collection"], r["other"], cosine(r["collection"], r["other"], r["product"])) for r in rows)


def alike(found: Sequence[Cosine]) -> Chart | None:
    """A cell for each two collections, the fuller the more alike they are."""
    names = sorted({c.collection for c in found})
    known = [c for c in found if c.value is not None and c.collection < c.other]
    if not 2 <= len(names) <= MOST or not known:
        return None
    rows = [
        {"name": c.collection, "other": c.other, "cosine": c.value, "against": c.value < 0, "strength": abs(c.value),
         "shown": minus(f"{c.value:.2f}")}
        for c in found if c.value is not None and c.collection != c.other
    ]  # fmt: skip
    top = max(known, key=lambda c: c.value or 0.0)
    axis = {"grid": False, "domain": False, "ticks": False, "labelExpr": CUT}
    place = {"type": "nominal", "sort": None, "title": None, "scale": {"domain": names}}
    spec: Spec = {
        "data": {"values": rows},
        "height": len(names) * CELL,
        "mark": {"type": "rect"},
        "encoding": {
            "y": {"field": "name", "axis": axis, **place},
            "x": {"field": "other", "axis": axis | {"labelAngle": -60, "orient": "top", "labelLimit": 120}, **place},
            "color": {"condition": {"test": "datum.against", "value": role("warn")}, "value": role("accent")},
            "opacity": {"field": "strength", "type": "quantitative", "legend": None, "scale": {"domain": [0, 1]}},
            "tooltip": tooltip([("name", "collection"), ("other", "and"), ("shown", "cosine")]),
        },
    }
    against = any(row["against"] for row in rows)
    keys = (Key("bar", "accent", "teaches alike"), *[Key("bar", "warn", "undoes what the other teaches")] * against)
    says = f"Square of {len(names)} collections; most alike are {top.collection} and {top.other}, {top.value:.2f}."
    return Chart("alike", "Which collections teach alike", says, keys, finished(spec))
