"""The page on a mining: counts, how scores fall with the rank beside what positives score, what filters dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixture.mining.evidence import Seen
from mixture.report.drawing import Chart, Key, Spec, along_x, finished, tooltip
from mixture.report.page import filled
from mixture.report.palette import role
from mixture.report.tables import FORMATS, Column, Table
from mixture.report.wording import count
from mixture.whole import new_file

if TYPE_CHECKING:
    from mixture.jobs.mine import MiningResult

COUNTS = ("examples", "negatives", "new", "random", "short", "known", "encoded", "reused", "answers")
# Of the positives' scores, between which the band lies.
BAND = (10, 90)
HEIGHT = 280
# Up to so many collections are all open at first.
FEW = 3


@dataclass(frozen=True)
class Mined:
    """A collection on the page: its chart and the chart's table, None where nothing was scored, and a table of each
    filter that dropped something, with the number of what it dropped."""

    name: str
    result: MiningResult
    chart: Chart | None
    ranks: Table | None
    dropped: tuple[tuple[Table, int], ...]


def write_mining_report(results: Sequence[MiningResult], out: Path, *, dry_run: bool = False) -> Path:
    """Write the page on these results to `out`; a `UsageError` where its folder does not exist. Returns `out`.

    dry_run: say that nothing was stored
    """
    miners = list(dict.fromkeys(result.miner for result in results))
    mined = [_mined(place, result, alone=len(miners) < 2) for place, result in enumerate(results)]
    page = filled(
        "mining.html",
        {one.chart.name: one.chart for one in mined if one.chart is not None},
        named="mining",
        miners=miners,
        sections=[("counts", "Counts"), *((f"collection-{place}", one.name) for place, one in enumerate(mined))],
        mined=mined,
        tables=[_counts(mined), *_filters(mined), *_scores(mined)],
        summary=_summary(results, miners, dry_run=dry_run),
        few=FEW,
    )
    with new_file(out) as whole:
        whole.write_bytes(page.encode())
    return out


def _summary(results: Sequence[MiningResult], miners: Sequence[str], *, dry_run: bool) -> str:
    if not results:
        return "Nothing was mined: every example has negatives."
    negatives, examples = (sum(getattr(r, name) for r in results) for name in ("negatives", "examples"))
    collections = len({r.collection for r in results})
    said = (f"{count(negatives, 'negative')} of {', '.join(miners)} for {count(examples, 'example')} of "
            f"{count(collections, 'collection')}.")  # fmt: skip
    return said + (" This was a dry run: nothing was stored." if dry_run else "")


def _mined(place: int, result: MiningResult, *, alone: bool) -> Mined:
    name = result.collection if alone else f"{result.collection} ({result.miner})"
    seen = result.evidence or Seen([], [], [], [])
    rows = [(rank, score, counted) for rank, (score, counted) in
            enumerate(zip(seen.scores, seen.counts, strict=True), start=1) if math.isfinite(score)]  # fmt: skip
    ranks = Table(
        f"ranks-{place}", "Mean score at each rank",
        (Column("rank", "Rank", "count"), Column("score", "Mean score", "number"),
         Column("examples", "Examples", "count")), tuple(rows),
    )  # fmt: skip
    found = [name for name, number in result.dropped.items() if number]
    dropped = tuple((_dropped(f"dropped-{place}-{n}", name, seen), result.dropped[name])
                    for n, name in enumerate(found))  # fmt: skip
    return Mined(name, result, _chart(place, name, rows, seen), ranks if rows else None, dropped)


def _positives(seen: Seen) -> tuple[float, float, float] | None:
    """Of the positives' scores the mean and the ends of the band."""
    if not seen.positives:
        return None
    low, high = np.percentile(seen.positives, BAND)
    return float(np.mean(seen.positives)), float(low), float(high)


def _chart(place: int, name: str, ranks: Sequence[tuple[int, float, int]], seen: Seen) -> Chart | None:
    """The candidates' mean score as a line, the positives' scores as a band and their mean as dashes.

    Not drawn are ranks that fewer than half of the examples reach: the mean of these few jumps.
    """
    if not ranks:
        return None
    most = max(counted for *_, counted in ranks)
    ranks = [row for row in ranks if 2 * row[2] >= most]
    shown = FORMATS["number"]
    rows = [{"rank": rank, "score": score, "shown": shown(score), "title": f"rank {rank}",
             "shown_examples": f"{counted:,}"} for rank, score, counted in ranks]  # fmt: skip
    x = along_x("rank", "rank among the candidates")
    x["scale"] = {"domain": [0, max(10, ranks[-1][0])], "nice": False}
    y = {"field": "score", "type": "quantitative", "title": "score", "scale": {"zero": False}, "axis": {"tickCount": 5}}
    layers: list[Spec] = []
    keys = [Key("dot", "accent", "candidates, mean at each rank")]
    says = f"Line chart of the mean score of {name} from rank 1, {rows[0]['shown']}, to {ranks[-1][0]}, "
    says += str(rows[-1]["shown"])
    if positives := _positives(seen):
        mean, low, high = positives
        told = {"title": "lowest-scored positives", "mean": mean, "low": low, "high": high, "shown": shown(mean),
                "shown_band": f"{shown(low)} to {shown(high)}"}  # fmt: skip
        tips = tooltip([("title", "what"), ("shown", "mean"), ("shown_band", f"{BAND[0]}–{BAND[1]} %")])
        layers = [
            {"data": {"values": [told]},
             "mark": {"type": "rect", "fill": role("context"), "fillOpacity": 0.25, "stroke": role("context")},
             "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}, "tooltip": tips}},
            {"data": {"values": [told]},
             "mark": {"type": "rule", "color": role("ink"), "strokeDash": [6, 4], "strokeWidth": 2},
             "encoding": {"y": y | {"field": "mean"}, "tooltip": tips}},
        ]  # fmt: skip
        keys += [Key("dashes", "ink", "each example's lowest-scored positive, mean"),
                 Key("bar", "context", f"{BAND[0]}–{BAND[1]} % of these")]  # fmt: skip
        says += f"; the positives' mean is {told['shown']}"
    tips = tooltip([("title", "rank"), ("shown", "mean score"), ("shown_examples", "examples")])
    layers += [
        {"mark": {"type": "line", "color": role("accent"), "strokeWidth": 2, "aria": False},
         "encoding": {"x": x, "y": y}},
        {"mark": {"type": "point", "filled": True, "color": role("accent"), "size": 22, "opacity": 1, "aria": False},
         "params": [{"name": "near", "select": {"type": "point", "on": "pointerover", "nearest": True,
                                                "clear": "pointerout"}}],
         "encoding": {"x": x, "y": y, "tooltip": tips}},
    ]  # fmt: skip
    spec = finished({"height": HEIGHT, "data": {"values": rows}, "layer": layers})
    return Chart(f"ranks-{place}", "Score by rank", says + ".", tuple(keys), spec)


def _dropped(table: str, name: str, seen: Seen) -> Table:
    columns = (Column("query", "Query", "passage"), Column("positive", "Known answer", "passage"),
               Column("candidate", "Candidate", "passage"), Column("rank", "Rank", "count"),
               Column("score", "Score", "number"), Column("positive_score", "Positive's score", "number"))  # fmt: skip
    rows = ((d.query, d.positive or None, d.candidate, d.rank, d.score, d.positive_score)
            for d in seen.dropped if d.filter == name)  # fmt: skip
    return Table(table, name, columns, tuple(rows))


def _counts(mined: Sequence[Mined]) -> Table:
    columns = (Column("collection", "Collection"), *(Column(name, name.capitalize(), "count") for name in COUNTS))
    rows = ((one.name, *(getattr(one.result, name) for name in COUNTS)) for one in mined)
    return Table("counts", "What was mined", columns, tuple(rows))


def _filters(mined: Sequence[Mined]) -> list[Table]:
    """Where there was a filter, what each dropped."""
    names = list(dict.fromkeys(name for one in mined for name in one.result.dropped))
    if not names:
        return []
    columns = (Column("collection", "Collection"), *(Column(name, name, "count") for name in names))
    rows = ((one.name, *(one.result.dropped.get(name) for name in names)) for one in mined)
    return [Table("filters", "Candidates that each filter dropped", columns, tuple(rows))]


def _scores(mined: Sequence[Mined]) -> list[Table]:
    """Where something was scored, the positives beside the first candidates."""
    columns = (Column("collection", "Collection"), Column("first", "First candidates, mean", "number"),
               Column("positives", "Positives, mean", "number"), Column("low", f"{BAND[0]}\u00a0%", "number"),
               Column("high", f"{BAND[1]}\u00a0%", "number"), Column("examples", "Positives", "count"))  # fmt: skip
    rows: list[tuple[Any, ...]] = []
    for one in mined:
        seen = one.result.evidence
        if seen is not None and (one.ranks is not None or seen.positives):
            first = one.ranks.rows[0][1] if one.ranks is not None else None
            rows.append((one.name, first, *(_positives(seen) or (None,) * 3), len(seen.positives)))
    return [Table("scores", "Scores of candidates and of each example's lowest-scored positive", columns,
                  tuple(rows))] * bool(rows)  # fmt: skip
