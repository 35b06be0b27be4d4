"""Where a mixture comes from: its parents, their parents, and the runs between them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mixture.registry.names import Mixture, resolve
from mixture.store import Store, forgotten, layout

# Generations shown; a pipeline that makes each mixture from the last one comes to thousands.
MOST_GENERATIONS = 50
COLUMNS = ("name", "version", "parents", "run_id", "created_at", "note", "imported_from")


@dataclass(frozen=True)
class Run:
    """A run and the runs that it rests on; of one that the store does not hold, the id alone."""

    run_id: str
    kind: str | None = None
    status: str | None = None
    mixture: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Ancestor:
    """A mixture, how it was made, and its parents; of one that the store does not hold, the id alone.

    seen: it stands in the tree already, and is not unfolded again
    cut:  it has parents, but `MOST_GENERATIONS` stand above it
    forgotten: how many forgotten rows it holds
    """

    id: str
    reference: str | None = None
    created_at: datetime | None = None
    note: str | None = None
    imported_from: str | None = None
    run: Run | None = None
    seen: bool = False
    cut: bool = False
    parents: tuple[Ancestor, ...] = ()
    forgotten: int = 0


def log(store: Store, mixture: Mixture) -> Ancestor:
    """Where a mixture comes from: the tree of its parents, and of the runs between them."""
    saved = resolve(store, mixture)
    by_id: dict[str, dict[str, Any]] = {}
    with store.reading():
        for row in store.rows(f"SELECT mixture, {', '.join(COLUMNS)} FROM mixtures ORDER BY created_at"):
            by_id.setdefault(row["mixture"], row)
        runs = {row["run_id"]: row for row in store.rows("SELECT run_id, kind, status, mixture, config FROM runs")}
        gone = forgotten.by_mixture(store)
    by_id[saved.spec.id] = {name: getattr(saved, name) for name in COLUMNS}
    for id, count in gone.items():
        if id in by_id:
            by_id[id] |= {"forgotten": count}
    return _ancestor(saved.spec.id, by_id, runs, set(), MOST_GENERATIONS)


def _ancestor(
    mixture: str, by_id: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]], seen: set[str], generations: int
) -> Ancestor:
    saved = by_id.get(mixture)
    if saved is None:
        return Ancestor(mixture)
    reference = f"{saved['name']}:{saved['version']}"
    if mixture in seen:
        return Ancestor(mixture, reference, seen=True)
    seen.add(mixture)
    run = _run(saved["run_id"], runs, frozenset()) if saved["run_id"] else None
    parents = [*(saved["parents"] or ()), *([run.mixture] if run and run.mixture else [])]
    parents = [p for p in dict.fromkeys(parents) if p != mixture]
    cut = bool(parents) and generations <= 1
    above = () if cut else tuple(_ancestor(p, by_id, runs, seen, generations - 1) for p in parents)
    return Ancestor(mixture, reference, saved["created_at"], saved["note"], saved["imported_from"], run, cut=cut,
                    parents=above, forgotten=saved.get("forgotten", 0))  # fmt: skip


def _run(run: str, runs: dict[str, dict[str, Any]], above: frozenset[str]) -> Run:
    row = runs.get(run)
    if row is None:
        return Run(run)
    config = json.loads(row["config"] or "{}")
    # The reference model's folder is named by the run that trained it.
    reference = layout.run_of(str(config.get("reference") or ""))
    used = [name for name in (*(config.get("runs") or ()), reference) if name in runs and name not in above | {run}]
    rests_on = tuple(_run(name, runs, above | {run}) for name in used)
    return Run(run, row["kind"], row["status"], row["mixture"], config, rests_on)
