"""Which collections of a mixture hurt, by its newest ablation: what was found of each, and a chart of the effects."""

from __future__ import annotations

from dataclasses import dataclass

from mixture.report.drawing import Chart, Key, along_x, by_name, line_at, tooltip
from mixture.report.palette import role
from mixture.report.wording import minus
from mixture.store import Store


@dataclass(frozen=True)
class Ablated:
    """What an ablation found of a collection, or of several that were left out together; None where it did not ask.

    learned:    share of other rows' passages below a held-out row's own one; 1/2 is chance
    merged:     loss that merged branches have more without it, in nats
    effect:     nDCG@10 with it less nDCG@10 without it, over 0 where it is useful; low, high: its 95 % interval
    without_own: the effect on suites that are not its own
    """

    collection: str
    learned: float | None
    merged: float | None
    effect: float | None
    low: float | None
    high: float | None
    p_holm: float | None
    without_own: float | None
    says: str


@dataclass(frozen=True)
class Ablation:
    """The collections, those with an effect first, from the most harmful to the most useful."""

    model: str
    steps: int
    num_seeds: int
    rows: tuple[Ablated, ...]

    def named(self, says: str) -> list[str]:
        """The collections of which something `says` this."""
        return [row.collection for row in self.rows if says in row.says.split(", ")]


def ablation(store: Store, mixture: str) -> Ablation | None:
    """The newest ablation of a mixture; None without one."""
    rows = store.sql(
        """WITH newest AS (FROM ablations WHERE mixture = $mixture AND ablation =
               (SELECT arg_max(ablation, decided_at) FROM ablations WHERE mixture = $mixture))
           SELECT collection, any_value(model) AS model, any_value(steps) AS steps, any_value(len(seeds)) AS num_seeds,
                  max(effect) FILTER (kind = 'held out') AS learned, max(effect) FILTER (kind = 'merged') AS merged,
                  max(effect) FILTER (trained) AS effect, max(low) FILTER (trained) AS low,
                  max(high) FILTER (trained) AS high, max(p_holm) FILTER (trained) AS p_holm,
                  max(without_own) FILTER (trained) AS without_own,
                  coalesce(string_agg(says, ', ' ORDER BY kind), '') AS says
           FROM (SELECT *, kind IN ('trained', 'together') AS trained FROM newest) GROUP BY collection
           ORDER BY effect NULLS LAST, learned NULLS LAST, collection""",
        {"mixture": mixture},
    ).to_pylist()
    if not rows:
        return None
    found = tuple(Ablated(**{name: row[name] for name in Ablated.__dataclass_fields__}) for row in rows)
    return Ablation(rows[0]["model"], rows[0]["steps"], rows[0]["num_seeds"], found)


def effects(found: Ablation) -> Chart | None:
    """The effects of whole trainings as bars with their intervals; None where there was none."""
    rows = [
        {"name": row.collection, "effect": 100 * row.effect, "low": 100 * (row.low or 0), "high": 100 * (row.high or 0),
         "shown": minus(f"{100 * row.effect:+.2f}"), "says": row.says,
         "interval": minus(f"{100 * (row.low or 0):+.2f} to {100 * (row.high or 0):+.2f}")}
        for row in found.rows if row.effect is not None
    ]  # fmt: skip
    if not rows:
        return None
    tips = [("name", "collection"), ("shown", "effect"), ("interval", "95 % interval"), ("says", "found")]
    bar = {"mark": {"type": "bar", "color": role("accent"), "height": {"band": 0.62}},
           "encoding": {"x": {"field": "effect", "type": "quantitative"}, "tooltip": tooltip(tips)}}  # fmt: skip
    whisker = {"mark": {"type": "rule", "color": role("ink"), "strokeWidth": 1.6},
               "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"},
                            "tooltip": tooltip(tips)}}  # fmt: skip
    return Chart(
        "ablation", "Effect of each collection, the most harmful first",
        f"Bar chart of the effect of {len(rows)} collections; the lowest is {rows[0]['name']}.",
        (Key("bar", "accent", "nDCG@10 with it less without it"), Key("rule", "ink", "95 % interval")),
        by_name(rows, [bar, whisker, line_at(0, dashed=False)], along_x("effect", "nDCG@10 × 100")),
    )  # fmt: skip
