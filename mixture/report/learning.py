"""How the weights of a mixture were learned: the run, the weights step by step, the losses that drove them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from mixture.registry.lineage import Ancestor, Run
from mixture.report.alike import Cosine, cosines
from mixture.specs import WEIGHT_COLUMNS
from mixture.store import Store

# Points of all trajectories together: a browser draws so many at once without delay.
MOST_POINTS = 2_500
FEWEST_STEPS = 20
# What stands beside what a run was asked to do: what it found out, and where it kept the reference's embeddings.
FOUND = ("at_cap", "at_floor", "drift", "facts", "forecast", "hard_for_both", "lines", "reference_embeddings",
         "repeated", "runs", "spread")  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """Means over the last quarter of the steps, each collection's examples counted alike; None where none was drawn."""

    collection: str
    proxy_loss: float | None
    reference_loss: float | None
    measurement: float | None
    num_examples: int


@dataclass(frozen=True)
class Point:
    """The weights of a collection after a step: the current one, the mean since the start, the moving average."""

    step: int
    collection: str
    weight: float
    mean_weight: float
    ema_weight: float


@dataclass(frozen=True)
class Learning:
    """A run that learned weights, of several seeds their mean.

    own:        whether it made the mixture itself; otherwise it made `made`, a mixture that this one comes from
    average:    which of the three weights the mixture has: current, mean or ema
    settings:   what the run was asked to do, folders by their last name only
    points:     at evenly chosen steps, the first and the last among them
    drift:      total variation of the weights in the last tenth of the steps, and in the tenth before; the worst seed
    at_floor, at_cap: collections that a bound held, with the number of steps
    hard_for_both: collections that gained weight though the reference is hardly ahead of the proxy there, with the
                proxy's loss over the reference's
    repeated:   collections that the reference's training (with forecast: the proxy's) went through often, and how many
                times
    forecast:   whether the losses beside the proxy's are forecasts of its own, not a reference's
    spread:     standard deviation over seeds by collection
    target:     suites' halves and held-out rows that the weights were learned towards
    lines:      what such a run says of itself
    cosines:    of what each two collections teach, where the run took them
    """

    run_id: str
    status: str
    own: bool
    made: str
    average: str
    num_steps: int
    num_seeds: int
    settings: Mapping[str, Any]
    points: tuple[Point, ...]
    losses: tuple[Loss, ...]
    drift: tuple[float, float] | None
    at_floor: Mapping[str, int]
    at_cap: Mapping[str, int]
    hard_for_both: Mapping[str, float]
    repeated: Mapping[str, float]
    forecast: bool
    spread: Mapping[str, float]
    cosines: tuple[Cosine, ...] = ()
    target: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def steps_shown(self) -> int:
        return len({point.step for point in self.points})

    def ends(self) -> tuple[dict[str, float], dict[str, float]]:
        """Weights after the first and after the last step, by collection, in the average that the mixture has."""
        steps = [point.step for point in self.points]
        column = WEIGHT_COLUMNS[self.average]
        first, last = ({p.collection: float(getattr(p, column)) for p in self.points if p.step == step}
                       for step in (min(steps), max(steps)))  # fmt: skip
        return first, last


def learning(store: Store, tree: Ancestor, weights: Mapping[str, float]) -> Learning | None:
    """The nearest run of the lineage `tree` with a history of weights: of the mixture itself, else of an ancestor."""
    found = _nearest(store, tree)
    if found is None:
        return None
    node, run, seeds = found
    own = node is tree
    points = _points(store, seeds)
    if not points:
        return None
    configs = [c for seed in seeds if (c := _config(store, seed)) is not None]
    drifts = [tuple(c["drift"]) for c in configs if c.get("drift")]
    settings = run.settings
    return Learning(
        run_id=run.run_id,
        status=run.status or "unknown",
        own=own,
        made=node.reference or node.id,
        average=_average(points, weights) if own else "current",
        num_steps=points[-1].step,
        num_seeds=len(seeds),
        settings={name: without_folder(value) for name, value in settings.items() if name not in FOUND},
        points=points,
        losses=_losses(store, seeds),
        drift=max(drifts) if drifts else None,
        at_floor=_most(configs, "at_floor"),
        at_cap=_most(configs, "at_cap"),
        hard_for_both=_most(configs, "hard_for_both"),
        repeated=_most(configs, "repeated"),
        target=tuple(next((c["target"] for c in configs if c.get("target")), ())),
        lines=tuple(dict.fromkeys(line for c in configs for line in c.get("lines", ()))),
        forecast=any(c.get("forecast") for c in configs),
        spread={name: float(s["std"]) for name, s in (settings.get("spread") or {}).items()},
        cosines=cosines(store, seeds),
    )


def without_folder(value: Any) -> Any:
    """A setting to be shown: of an absolute path only the last name, since a report is passed on."""
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def _nearest(
    store: Store, tree: Ancestor
) -> tuple[Ancestor, Run, list[str]] | None:  # fmt: skip
    """Breadth first: the node whose run has a history, that run, and the runs of its seeds."""
    waiting = [tree]
    while waiting:
        node = waiting.pop(0)
        run = node.run
        if run is not None and run.kind is not None:
            seeds = [str(seed) for seed in run.settings.get("runs") or [run.run_id]]
            query = "SELECT 1 FROM weight_history WHERE list_contains($runs, run_id) LIMIT 1"
            if store.sql(query, {"runs": seeds}).num_rows:
                return node, run, seeds
        waiting += node.parents
    return None


def _config(store: Store, run: str) -> dict[str, Any] | None:
    rows = store.sql("SELECT config FROM runs WHERE run_id = $run", {"run": run}).to_pylist()
    return dict(json.loads(rows[0]["config"] or "{}")) if rows else None


def _points(store: Store, runs: Sequence[str]) -> tuple[Point, ...]:
    row = store.sql(
        """SELECT coalesce(list(DISTINCT step ORDER BY step), []) AS steps, count(DISTINCT collection) AS collections
           FROM weight_history WHERE list_contains($runs, run_id)""",
        {"runs": list(runs)},
    ).to_pylist()[0]
    if not row["steps"]:
        return ()
    chosen = thin(row["steps"], max(FEWEST_STEPS, MOST_POINTS // row["collections"]))
    rows = store.sql(
        """SELECT step, collection, avg(weight) AS weight, avg(mean_weight) AS mean_weight,
                  avg(ema_weight) AS ema_weight
           FROM weight_history WHERE list_contains($runs, run_id) AND list_contains($steps, step)
           GROUP BY step, collection ORDER BY step, collection""",
        {"runs": list(runs), "steps": chosen},
    )
    return tuple(Point(**point) for point in rows.to_pylist())


def thin(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, evenly spaced, the first and the last always among them.

    >>> thin(range(1, 11), 4)
    [1, 4, 7, 10]
    """
    if len(steps) <= most:
        return list(steps)
    places = (round(i * (len(steps) - 1) / (most - 1)) for i in range(most))
    return [steps[place] for place in places]


def _losses(store: Store, runs: Sequence[str]) -> tuple[Loss, ...]:
    rows = store.sql(
        """WITH known AS (
               SELECT collection, num_examples, step > 0.75 * max(step) OVER () AS late,
                      CASE WHEN isfinite(proxy_loss) THEN proxy_loss END AS proxy_loss,
                      CASE WHEN isfinite(reference_loss) THEN reference_loss END AS reference_loss,
                      CASE WHEN isfinite(measurement) THEN measurement END AS measurement
               FROM weight_history WHERE list_contains($runs, run_id))
           SELECT collection,
                  sum(proxy_loss * num_examples) / sum(num_examples) FILTER (proxy_loss IS NOT NULL) AS proxy_loss,
                  sum(reference_loss * num_examples) / sum(num_examples) FILTER (reference_loss IS NOT NULL)
                      AS reference_loss,
                  sum(measurement * num_examples) / sum(num_examples) FILTER (measurement IS NOT NULL) AS measurement,
                  sum(num_examples)::BIGINT AS num_examples
           FROM known WHERE late GROUP BY collection ORDER BY measurement DESC NULLS LAST, collection""",
        {"runs": list(runs)},
    )
    return tuple(Loss(**{k: _number(v) for k, v in row.items()}) for row in rows.to_pylist())


def _number(value: Any) -> Any:
    """A division by no examples is not a number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _average(points: Sequence[Point], weights: Mapping[str, float]) -> str:
    """Which of the averages at the last step is nearest to the mixture's weights."""
    last = [p for p in points if p.step == points[-1].step]
    return min(
        WEIGHT_COLUMNS,
        key=lambda a: math.fsum(abs(getattr(p, WEIGHT_COLUMNS[a]) - weights.get(p.collection, 0.0)) for p in last),
    )


def _most(configs: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Over seeds the largest number of each collection."""
    found: dict[str, Any] = {}
    for config in configs:
        for name, number in (config.get(key) or {}).items():
            found[name] = max(number, found.get(name, 0))
    return found
