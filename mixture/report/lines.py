"""The chart of the weights over the steps of a run: a line each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mixture.report.drawing import PERCENT, Chart, Key, Spec, finished, middle_cut, tooltip
from mixture.report.learning import Learning
from mixture.report.palette import SERIES, role
from mixture.report.wording import percent
from mixture.specs import WEIGHT_COLUMNS

# Lines of this many collections are coloured and labelled, those that moved most: a colour each.
LABELLED = len(SERIES)
LINES_HEIGHT = 360
LABEL_GAP = 15
# Lines nearer than this many pixels all the way look like one.
LINE_WIDTH = 2


def trajectories(learned: Learning) -> Chart:
    """A line for each weight over the steps; those that moved most are coloured and labelled at their end."""
    first, last = learned.ends()
    column = WEIGHT_COLUMNS[learned.average]
    moved = sorted(last, key=lambda n: -abs(last[n] - first.get(n, 0.0)))
    # In order of height, so that the labels stand in the order of the colours.
    labelled = sorted(moved[:LABELLED], key=lambda n: -last[n])
    tones = dict(zip(labelled, SERIES, strict=False))
    heights = [getattr(p, column) for p in learned.points]
    low, high = min(heights), max(heights)
    span = (high - low) or high
    low, high = max(0.0, low - 0.05 * span), high + 0.05 * span
    covered = _covered(learned, labelled, LINE_WIDTH * (high - low) / LINES_HEIGHT)
    rows = [
        {"step": p.step, "name": p.collection, "weight": round(getattr(p, column), 6),
         "tone": tones.get(p.collection, "context"), "dashed": p.collection in covered,
         "shown": percent(getattr(p, column))}
        # What is drawn later lies above.
        for p in sorted(learned.points, key=lambda p: (p.collection in tones, p.collection in covered, p.collection,
                                                       p.step))
    ]  # fmt: skip
    places = apart([last[n] for n in labelled], (high - low) * LABEL_GAP / LINES_HEIGHT, low)
    labels = [
        {"step": learned.num_steps, "name": middle_cut(n), "weight": place, "tone": tones[n]}
        for n, place in zip(labelled, places, strict=True)
    ]
    tips = [("name", "collection"), ("step", "step"), ("shown", "weight")]
    x = {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False},
         "axis": {"grid": False, "tickCount": 6}}  # fmt: skip
    y = {"field": "weight", "type": "quantitative", "title": None, "scale": {"domain": [low, high], "nice": False},
         "axis": {"format": PERCENT, "tickCount": 5}}  # fmt: skip
    colour = {"field": "tone", "type": "nominal", "legend": None,
              "scale": {"domain": ["context", *SERIES], "range": [role("context"), *map(role, SERIES)]}}  # fmt: skip
    chosen = {"or": [{"param": "near", "empty": False}, "datum.name === picked"]}
    dashes = {"condition": {"test": "datum.dashed", "value": [6, 3]}, "value": [1, 0]}
    strong = {"condition": {"test": chosen, "value": 3}, "value": 1.4}
    clear = {"condition": {"test": {"or": [chosen, "datum.tone !== 'context'"]}, "value": 1}, "value": 0.55}
    toned = colour | {"condition": {"test": {"and": [chosen, "datum.tone === 'context'"]}, "value": role("ink")}}
    spec: Spec = {
        "height": LINES_HEIGHT,
        "data": {"values": rows},
        "params": [{"name": "picked", "value": ""}],
        "layer": [
            {"mark": {"type": "line", "clip": False, "aria": False},
             "encoding": {"x": x, "y": y, "detail": {"field": "name"}, "color": toned, "strokeWidth": strong,
                          "opacity": clear, "strokeDash": dashes}},
            {"mark": {"type": "point", "opacity": 0, "size": 30, "aria": False},
             "params": [{"name": "near", "select": {"type": "point", "on": "pointerover", "nearest": True,
                                                    "fields": ["name"], "clear": "pointerout"}}],
             "encoding": {"x": x, "y": y, "tooltip": tooltip(tips)}},
            {"data": {"values": labels}, "mark": {"type": "text", "align": "left", "dx": 7, "fontWeight": 600},
             "encoding": {"x": x, "y": y, "text": {"field": "name"}, "color": colour}},
        ],
    }  # fmt: skip
    what = {"current": "weight", "mean": "mean of the weights since the start", "ema": "moving average of the weights"}
    return Chart(
        "trajectories", f"The {what[learned.average]} after each step",
        f"Line chart of {len(last)} weights over {learned.num_steps} steps. Most moved: {', '.join(labelled)}.",
        tuple([Key("dashes", "muted", "lies upon another line")] * bool(covered)), finished(spec), tuple(sorted(last)),
    )  # fmt: skip


def _covered(learned: Learning, labelled: Sequence[str], width: float) -> set[str]:
    """Of the labelled lines those that all the way are within `width` of one named before."""
    column = WEIGHT_COLUMNS[learned.average]
    lines: dict[str, list[float]] = {name: [] for name in labelled}
    for p in sorted(learned.points, key=lambda p: p.step):
        if p.collection in lines:
            lines[p.collection].append(getattr(p, column))
    found: set[str] = set()
    for place, name in enumerate(labelled):
        clear = [other for other in labelled[:place] if other not in found]
        if any(max(abs(a - b) for a, b in zip(lines[name], lines[other], strict=False)) < width for other in clear):
            found.add(name)
    return found


def apart(values: Sequence[float], gap: float, low: float = -math.inf) -> list[float]:
    """Places for labels of descending values: at least `gap` apart, none below `low`, as near to the values as can be.

    >>> apart([0.5, 0.5, 0.1], 0.1)
    [0.55, 0.45, 0.1]
    """
    groups: list[tuple[list[float], float]] = []
    for value in values:
        members, centre = [value], value
        # Two groups that touch become one, around the mean of its members.
        while groups and groups[-1][1] - gap * (len(groups[-1][0]) - 1) / 2 < centre + gap * (len(members) + 1) / 2:
            members = groups.pop()[0] + members
            centre = sum(members) / len(members)
        groups.append((members, centre))
    places = [centre + gap * ((len(members) - 1) / 2 - i) for members, centre in groups for i in range(len(members))]
    return [max(place, low + gap * (len(places) - 1 - i)) for i, place in enumerate(places)]
