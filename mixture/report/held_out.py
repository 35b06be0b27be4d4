"""The loss on rows that the newest training on a mixture held out: a chart of both its ends."""

from __future__ import annotations

from dataclasses import dataclass

from mixture.report.drawing import Chart, Key, along_x, by_name, pairs
from mixture.store import Store

# A loss that is above its lowest by this share of it has risen.
RISEN = 0.05


@dataclass(frozen=True)
class Loss:
    """Mean losses of a component, in nats: before training, after the last step, and the lowest, at the step `best`."""

    collection: str
    num_examples: int
    first: float
    last: float
    lowest: float
    best: int

    @property
    def has_risen(self) -> bool:
        return self.last > (1 + RISEN) * self.lowest


@dataclass(frozen=True)
class HeldOut:
    """The training, how many steps it had, and a row for each component."""

    run_id: str
    steps: int
    rows: tuple[Loss, ...]


def held_out(store: Store, mixture: str) -> HeldOut | None:
    """The held-out losses of the newest training on a mixture; None where none held rows out."""
    rows = store.sql(
        """WITH found AS (FROM evaluations WHERE mixture = $mixture AND metric = 'holdout_loss' AND step IS NOT NULL),
           newest AS (FROM found WHERE run_id = (SELECT arg_max(run_id, evaluated_at) FROM found))
           SELECT run_id, max(step) AS steps, regexp_replace(suite, '/held out$', '') AS collection,
                  any_value(num_queries) AS num_examples, arg_min(value, step) AS first, arg_max(value, step) AS last,
                  min(value) AS lowest, min(step) FILTER (value = low) AS best
           FROM (SELECT *, min(value) OVER (PARTITION BY suite) AS low FROM newest)
           GROUP BY run_id, suite ORDER BY last DESC, collection""",
        {"mixture": mixture},
    ).to_pylist()
    if not rows:
        return None
    found = tuple(Loss(**{name: row[name] for name in Loss.__dataclass_fields__}) for row in rows)
    return HeldOut(rows[0]["run_id"], rows[0]["steps"], found)


def ends(found: HeldOut) -> Chart:
    """The loss after the last step, joined to the one before training."""
    rows = [{"name": row.collection, "last": row.last, "first": row.first, "shown": f"{row.last:.3g}",
             "shown_first": f"{row.first:.3g}", "lowest": f"{row.lowest:.3g}, step {row.best:,}"}
            for row in found.rows]  # fmt: skip
    tips = [("name", "collection"), ("shown", "after"), ("shown_first", "before"), ("lowest", "lowest")]
    keys = (Key("dot", "accent", f"after {found.steps:,} steps"), Key("ring", "ink", "before training"))
    says = f"Dot plot of the loss of {len(rows)} collections; {rows[0]['name']} has the highest after training."
    return Chart("held_out", "Loss on held-out rows", says, keys,
                 by_name(rows, pairs(rows, "first", tips), along_x("last", "mean loss, nats", ticks=5)))  # fmt: skip
