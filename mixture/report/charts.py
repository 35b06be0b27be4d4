"""Charts of a report, as Vega-Lite specifications: facts in, plain dictionaries out.

One way of drawing runs through them: a bar or a full dot is the mixture at hand, an upright mark or an open dot is what
it is held against. The data of a chart are its own short rows; names are values in them and never part of the
specification, so that no name is read as an expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from mixture.report.ablation import effects
from mixture.report.alike import alike
from mixture.report.drawing import (
    Chart,
    Key,
    Spec,
    along_x,
    bars,
    by_name,
    line_at,
    pairs,
    ticks,
    tooltip,
)
from mixture.report.facts import Facts
from mixture.report.held_out import ends
from mixture.report.learning import Learning
from mixture.report.lines import trajectories
from mixture.report.palette import role
from mixture.report.scores import Evaluation
from mixture.report.wording import metric_name, minus, percent

# Values of a dimension in a chart; the table has all.
MOST_BARS = 14
# Where the largest is this many times the smallest, short bars and left dots are all one at 0: the axis is logarithmic.
WIDE = 1_000


DIMENSIONS = {"language": "Language", "category": "Category", "license": "Licence"}


def charts(facts: Facts) -> dict[str, Chart]:
    """All charts that the facts allow, by name, in the order of the page."""
    makers: list[Callable[[], Chart | None]] = [partial(weights, facts)]
    if facts.learning is not None:
        makers += [partial(trajectories, facts.learning)] * (facts.learning.steps_shown > 1)
        if not facts.learning.target:
            makers += [partial(make, facts.learning) for make in (losses, measurements)]
        makers.append(partial(alike, facts.learning.cosines))
    if facts.ablation is not None:
        makers.append(partial(effects, facts.ablation))
    makers += [partial(composition, facts, name, title) for name, title in DIMENSIONS.items()]
    makers += [partial(epochs, facts), partial(removed, facts)]
    if facts.held_out is not None:
        makers.append(partial(ends, facts.held_out))
    if facts.evaluation is not None:
        makers.append(partial(scores, facts, facts.evaluation))
    found = (make() for make in makers)
    return {chart.name: chart for chart in found if chart is not None}


def weights(facts: Facts) -> Chart:
    """Weights as bars, the other mixture as marks, an equal share as a line."""
    parts, equal = facts.components, 1 / len(facts.present)
    other = facts.against.reference if facts.against else None
    rows = [
        {"name": c.collection, "weight": c.weight, "against": c.against, "equal": equal,
         "shown": "left out" if c.weight is None else percent(c.weight),
         "shown_against": "–" if c.against is None else percent(c.against),
         "times": "–" if c.weight is None else f"{c.weight / equal:.2f} × equal"}
        for c in parts
    ]  # fmt: skip
    tips = [("name", "collection"), ("shown", facts.mixture.reference), ("times", "that is")]
    keys = [Key("bar", "accent", facts.mixture.reference)]
    layers = [bars("weight", tips)]
    if other:
        tips.insert(2, ("shown_against", other))
        keys.append(Key("tick", "ink", other))
        layers.append(ticks("against", tips, len(rows)))
    if any(c.against is None or abs(c.against - equal) > 1e-12 for c in parts):
        keys.append(Key("rule", "muted", f"equal share, {percent(equal)}"))
        layers.append(line_at(equal, dashed=True))
    top = facts.present[0]
    return Chart(
        "weights", "Weight of each collection",
        f"Bar chart of {len(facts.present)} weights. The heaviest is {top.collection} with {percent(top.weight or 0)}.",
        tuple(keys), by_name(rows, layers, along_x("weight", "share of the draws", share=True)),
    )  # fmt: skip


def losses(learned: Learning) -> Chart | None:
    """Proxy and reference loss (or forecast) of each collection, joined by a line: the gap is what is left to learn."""
    other = "forecast" if learned.forecast else "reference"
    rows = [{"name": r.collection, "proxy": r.proxy_loss, "reference": r.reference_loss,
             "shown": f"{r.proxy_loss:.3g}",
             "shown_reference": "–" if r.reference_loss is None else f"{r.reference_loss:.3g}"}
            for r in learned.losses if r.proxy_loss is not None]  # fmt: skip
    if not rows:
        return None
    has_reference = any(row["reference"] is not None for row in rows)
    tips = [("name", "collection"), ("shown", "proxy"), ("shown_reference", other)]
    named = other if learned.forecast else "reference model"
    keys = (Key("dot", "accent", "proxy model"), *[Key("ring", "ink", named)] * has_reference)
    x = along_x("proxy", "mean loss, last quarter", ticks=5)
    values = [v for r in learned.losses for v in (r.proxy_loss, r.reference_loss) if v is not None]
    spec = by_name(rows, pairs(rows, "reference", tips), _wide(x, values))
    says = f"Dot plot of the losses of {len(rows)} collections."
    return Chart("losses", f"Loss of proxy and {other}", says, keys, spec)


def _marks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis, powers of ten alone where there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [mark * 10.0**power for power in decades for mark in ((1, 2, 5) if len(decades) < 5 else (1,))]
    return [mark for mark in marks if low <= mark <= high]


def _wide(x: Spec, values: Sequence[float]) -> Spec:
    """The encoding with a logarithmic axis where the values are positive and of unlike sizes."""
    low, high = min(values), max(values)
    if low <= 0 or high < WIDE * low:
        return x
    marks = _marks(low / 2, high * 2)
    return x | {"title": f"{x['title']}, logarithmic", "axis": x["axis"] | {"values": marks, "format": "~g"},
                "scale": {"type": "log", "domain": [low / 2, high * 2], "nice": False}}  # fmt: skip


def measurements(learned: Learning) -> Chart | None:
    """The number that drives each weight, as bars."""
    rows = [{"name": r.collection, "measurement": r.measurement, "shown": f"{r.measurement:.3g}"}
            for r in learned.losses if r.measurement is not None]  # fmt: skip
    if not rows:
        return None
    title = f"Measurement ({learned.settings.get('measurement') or learned.settings.get('algorithm') or 'unnamed'})"
    tips = [("name", "collection"), ("shown", "measurement")]
    spec = by_name(rows, [bars("measurement", tips)], along_x("measurement", "mean, last quarter", ticks=5))
    says = f"Bar chart of the measurement of {len(rows)} collections; the largest is {rows[0]['name']}."
    return Chart("measurements", title, says, (), spec)


def composition(facts: Facts, dimension: str, title: str) -> Chart | None:
    """Share of the draws as bars, share of the examples as marks, for each value of a dimension."""
    parts = [part for part in facts.composition if part.dimension == dimension]
    if {part.value for part in parts} <= {"unknown"}:
        return None
    total = sum(part.num_examples or 0 for part in parts)
    sums = [(part.value, part.weight, (part.num_examples or 0) / total if total else None) for part in parts]
    if len(sums) > MOST_BARS:
        rest = sums[MOST_BARS - 1 :]
        others = (f"{len(rest)} others", sum(r[1] for r in rest), sum(r[2] or 0.0 for r in rest) if total else None)
        sums = [*sums[: MOST_BARS - 1], others]
    rows = [{"name": value, "weight": weight, "examples": share, "shown": percent(weight),
             "shown_examples": "–" if share is None else percent(share)} for value, weight, share in sums]  # fmt: skip
    tips = [("name", title.lower()), ("shown", "of the draws"), ("shown_examples", "of the examples")]
    layers = [bars("weight", tips), *[ticks("examples", tips, len(rows))] * bool(total)]
    keys = (Key("bar", "accent", "share of the draws"), *[Key("tick", "ink", "share of the examples")] * bool(total))
    says = (
        f"Bar chart of {len(parts)} shares; {parts[0].value} has the largest, {percent(parts[0].weight)} of the draws."
    )
    return Chart(dimension, title, says, keys, by_name(rows, layers, along_x("weight", None, share=True, ticks=4)))


def epochs(facts: Facts) -> Chart | None:
    """Epochs on a logarithmic axis; what is right of 1 is repeated."""
    rows: list[Spec] = [
        {"name": r.collection, "epochs": r.epochs, "repeated": r.epochs > 1, "one": 1, "shown": f"{r.epochs:.3g}",
         "drawn": f"{r.expected_examples:,.0f} of {r.num_examples:,}"}
        for r in facts.epochs if r.epochs
    ]  # fmt: skip
    if not rows:
        return None
    tips = [("name", "collection"), ("shown", "epochs"), ("drawn", "drawn of its examples")]
    colour = {"condition": {"test": "datum.repeated", "value": role("warn")}, "value": role("accent")}
    low = min(0.8, *(row["epochs"] / 1.3 for row in rows))
    high = max(1.3, *(row["epochs"] * 1.3 for row in rows))
    x = along_x("epochs", "epochs") | {"scale": {"type": "log", "domain": [low, high], "nice": False}}
    x["axis"] |= {"values": _marks(low, high), "format": ",~r"}
    layers: list[Spec] = [
        {"mark": {"type": "rule", "strokeWidth": 2},
         "encoding": {"x2": {"field": "one"}, "color": colour, "tooltip": tooltip(tips)}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
         "encoding": {"color": colour, "tooltip": tooltip(tips)}},
        line_at(1, dashed=False),
    ]  # fmt: skip
    repeated = sum(row["repeated"] for row in rows)
    keys = (*[Key("dot", "warn", "seen more than once")] * (repeated > 0),
            *[Key("dot", "accent", "at most once")] * (repeated < len(rows)))  # fmt: skip
    return Chart("epochs", f"Epochs in {facts.steps:,} steps of {facts.batch_size:,}",
                 f"Dot plot of the epochs of {len(rows)} collections; {repeated} are seen more than once.", keys,
                 by_name(rows, layers, x))  # fmt: skip


KINDS = (("repeated", "exact repeats", "context"), ("duplicates", "near-duplicates", "accent"),
         ("tests", "test data", "warn"), ("rejected", "rejected", "series-3"))  # fmt: skip


def removed(facts: Facts) -> Chart | None:
    """What share of the rows read was left out, by kind, where any was."""
    hit = sorted((r for r in facts.taken_out if r.total and r.rows_read), key=lambda r: -r.total / r.rows_read)
    if not hit:
        return None
    used = [kind for kind in KINDS if any(getattr(r, kind[0]) for r in hit)]
    rows = [
        {"name": r.collection, "kind": title, "order": place, "share": getattr(r, name) / r.rows_read,
         "shown": f"{getattr(r, name):,} of {r.rows_read:,} ({percent(getattr(r, name) / r.rows_read)})"}
        for r in hit for place, (name, title, _) in enumerate(used) if getattr(r, name)
    ]  # fmt: skip
    scale = {"domain": [title for _, title, _ in used], "range": [role(tone) for *_, tone in used]}
    tips = [("name", "collection"), ("kind", "what"), ("shown", "rows")]
    layer = {
        "mark": {"type": "bar", "height": {"band": 0.62}},
        "encoding": {"color": {"field": "kind", "type": "nominal", "legend": None, "scale": scale},
                     "order": {"field": "order", "type": "quantitative"}, "tooltip": tooltip(tips)},
    }  # fmt: skip
    worst = f"{hit[0].collection} lost most, {percent(hit[0].total / hit[0].rows_read)}"
    return Chart(
        "removed", "Share of the rows read that was left out",
        f"Stacked bar chart of {len(hit)} collections; {worst}.",
        tuple(Key("bar", tone, title) for _, title, tone in used),
        by_name(rows, [layer], along_x("share", None, share=True)),
    )  # fmt: skip


def scores(facts: Facts, found: Evaluation) -> Chart | None:
    """The first metric by suite: this mixture's model, joined to the other's."""
    metric = found.metrics[0]
    several = len({s.corpus for s in found.of(metric)}) > 1
    rows = [
        {"name": f"{s.suite} ({s.corpus})" if several else s.suite, "value": 100 * s.value,
         "against": None if s.against is None else 100 * s.against, "shown": f"{100 * s.value:.1f}",
         "shown_against": "–" if s.against is None else f"{100 * s.against:.1f}",
         "moved": -200.0 if s.against is None else s.value - s.against,
         "shown_moved": "–" if s.against is None else minus(f"{100 * (s.value - s.against):+.1f}")}
        for s in found.of(metric)
    ]  # fmt: skip
    rows.sort(key=lambda row: (-float(row["moved"] or 0.0), str(row["name"])))
    paired = facts.against is not None and any(row["against"] is not None for row in rows)
    tips = [("name", "suite"), ("shown", facts.mixture.reference)]
    keys = [Key("dot", "accent", facts.mixture.reference)]
    if paired and facts.against is not None:
        tips += [("shown_against", facts.against.reference), ("shown_moved", "difference")]
        keys.append(Key("ring", "ink", facts.against.reference))
    title = metric_name(metric) + (", the largest gain first" if paired else "")
    spec = by_name(rows, pairs(rows, "against", tips), along_x("value", f"{metric_name(metric)} × 100"))
    return Chart("scores", title, f"Dot plot of {metric_name(metric)} on {len(rows)} suites.", tuple(keys), spec)
