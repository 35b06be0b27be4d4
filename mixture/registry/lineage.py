"""Where a mixture comes from: its parents, their parents, and the runs between them."""

from __future__ import annotations

import json
from typing import Any

from mixture.registry import SavedMixture
from mixture.store import Store, layout

# Generations shown; a pipeline that makes each mixture from the last one comes to thousands.
MOST_GENERATIONS = 50
BESIDE = ("name", "version", "parents", "run_id", "created_at", "note", "imported_from")


def lineage(store: Store, mixture: SavedMixture) -> dict[str, Any]:
    """A mixture as a tree of plain values: id, reference, created_at, note, imported_from, run, parents.

    `parents` are such trees; a mixture that the store does not hold has its id only. A run is run_id, kind, status,
    mixture, settings, and the `runs` it rests on. What stands in the tree already is not unfolded again, and is `seen`;
    after `MOST_GENERATIONS` the last one is `cut`.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for row in store.rows(f"SELECT mixture, {', '.join(BESIDE)} FROM mixtures ORDER BY created_at"):
        by_id.setdefault(row["mixture"], row)
    by_id[mixture.spec.id] = {name: getattr(mixture, name) for name in BESIDE}
    runs = {row["run_id"]: row for row in store.rows("SELECT run_id, kind, status, mixture, config FROM runs")}
    return _node(mixture.spec.id, by_id, runs, set(), MOST_GENERATIONS)


def _node(
    mixture: str, by_id: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]], seen: set[str], generations: int
) -> dict[str, Any]:
    saved = by_id.get(mixture)
    if saved is None:
        return {"id": mixture, "reference": None, "parents": []}
    node: dict[str, Any] = {"id": mixture, "reference": f"{saved['name']}:{saved['version']}", "seen": mixture in seen}
    if node["seen"]:
        return node | {"parents": []}
    seen.add(mixture)
    run = _run(saved["run_id"], runs, frozenset()) if saved["run_id"] else None
    parents = [*(saved["parents"] or ()), *([run["mixture"]] if run and run.get("mixture") else [])]
    parents = [p for p in dict.fromkeys(parents) if p != mixture]
    return node | {
        "created_at": saved["created_at"],
        "note": saved["note"],
        "imported_from": saved["imported_from"],
        "run": run,
        "cut": bool(parents) and generations <= 1,
        "parents": [_node(p, by_id, runs, seen, generations - 1) for p in parents] if generations > 1 else [],
    }


def _run(run: str, runs: dict[str, dict[str, Any]], above: frozenset[str]) -> dict[str, Any]:
    row = runs.get(run)
    if row is None:
        return {"run_id": run, "kind": None, "mixture": None, "runs": []}
    config = json.loads(row["config"] or "{}")
    # The reference model's folder is named by the run that trained it.
    reference = layout.run_of(str(config.get("reference") or ""))
    used = [name for name in (*(config.get("runs") or ()), reference) if name in runs and name not in above | {run}]
    return {"run_id": run, "kind": row["kind"], "status": row["status"], "mixture": row["mixture"],
            "settings": config, "runs": [_run(name, runs, above | {run}) for name in used]}  # fmt: skip
