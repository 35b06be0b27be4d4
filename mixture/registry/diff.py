"""What differs between two mixtures: weights, contents, prompts, and how each was made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mixture.registry.names import Mixture, PinnedFacts, SavedMixture, pinned_facts, resolve
from mixture.specs import Component
from mixture.store import Store, forgotten

SIDES = [
    (f"{name}_{side}", kind)
    for name, kind in (("weight", pa.float64()), ("loss_weight", pa.float64()), ("examples", pa.int64()),
                       ("digest", pa.string()), ("rule", pa.string()))
    for side in "ab"
]  # fmt: skip
COMPONENTS = pa.schema(
    [("collection", pa.string()), ("change", pa.string()), *SIDES[:2], ("difference", pa.float64()), *SIDES[2:8],
     ("slice_of", pa.string()), *SIDES[8:]]
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Two saved mixtures side by side.

    distance:   total variation between the weights, 0 to 1: the share of the draws that goes elsewhere
    rows:       one a collection or slice, the largest change of weight first. `change` is what changed: added,
                dropped, examples (other ones are in the slice), content, weight, loss weight; empty where nothing did
    prompts:    the collections whose prompts differ, where both are known: collection, a, b
    settings:   where a run made each of them, what both runs were asked and differs: setting, a, b
    forgotten:  how many forgotten rows each of them holds that holds any, by its reference
    """

    a: SavedMixture
    b: SavedMixture
    distance: float
    rows: tuple[dict[str, Any], ...]
    prompts: tuple[dict[str, Any], ...]
    settings: tuple[dict[str, Any], ...]
    forgotten: dict[str, int] = field(default_factory=dict)

    @property
    def components(self) -> pa.Table:
        """`rows` as a table."""
        return pa.Table.from_pylist(list(self.rows), COMPONENTS)

    @property
    def equal(self) -> bool:
        """Whether they are the same mixture, by id."""
        return self.a.spec.id == self.b.spec.id

    def lines(self) -> list[str]:
        """What differs beside the weights, a line each."""
        held = [f"{name} holds {count:,} forgotten row{'s' * (count != 1)}: nothing trains on it any more"
                for name, count in self.forgotten.items()]  # fmt: skip
        if self.equal:
            return ["the two are the same mixture", *held]
        result = [f"{self.distance:.2%} of the draws go to another collection", *held]
        result += [f"prompts of {p['collection']}: {_joined(p['a'])} -> {_joined(p['b'])}" for p in self.prompts]
        learned = [(side.reference, side.run_id) for side in (self.a, self.b) if side.run_id is not None]
        if len(learned) == 1:
            result.append(f"only {learned[0][0]} was made by a run, {learned[0][1]}")
        return result + [f"run, {s['setting']}: {s['a']} -> {s['b']}" for s in self.settings]

    def to_dict(self) -> dict[str, Any]:
        """As plain values: what `mixture diff --json` prints."""
        return {"a": _head(self.a), "b": _head(self.b), "equal": self.equal, "distance": self.distance,
                "components": list(self.rows), "prompts": list(self.prompts),
                "run": list(self.settings), "forgotten": self.forgotten}  # fmt: skip


def diff(store: Store, a: Mixture, b: Mixture) -> Difference:
    """What differs between two mixtures: weights, contents, prompts, and how each was made."""
    a, b = resolve(store, a), resolve(store, b)
    with store.reading():
        facts = pinned_facts(store, a.spec), pinned_facts(store, b.spec)
        settings = _settings(_run(store, a), _run(store, b))
        held = {one.reference: sum(forgotten.held_by(store, one.spec.components).values()) for one in (a, b)}
    rows = _components(a, b, *facts)
    distance = math.fsum(abs(row["difference"]) for row in rows) / 2
    return Difference(a, b, distance, tuple(rows), tuple(_prompts(*facts)), tuple(settings),
                      {name: count for name, count in held.items() if count})  # fmt: skip


def _head(mixture: SavedMixture) -> dict[str, Any]:
    return {"reference": mixture.reference, "id": mixture.spec.id, "note": mixture.note, "run_id": mixture.run_id,
            "parents": list(mixture.parents)}  # fmt: skip


def _components(
    a: SavedMixture, b: SavedMixture, facts_a: Mapping[str, PinnedFacts], facts_b: Mapping[str, PinnedFacts]
) -> list[dict[str, Any]]:
    # A collection can be called as a slice of another one is.
    ours, theirs = ({(c.name, c.slice or ""): c for c in m.spec.components} for m in (a, b))
    rows = []
    for key in sorted(ours | theirs):
        name, x, y = key[0], ours.get(key), theirs.get(key)
        rows.append({
            "collection": name,
            "change": ", ".join(_changes(x, y)),
            "weight_a": x.weight if x else None,
            "weight_b": y.weight if y else None,
            "difference": (y.weight if y else 0.0) - (x.weight if x else 0.0),
            "loss_weight_a": x.loss_weight if x else None,
            "loss_weight_b": y.loss_weight if y else None,
            "examples_a": facts_a[name].num_examples if x else None,
            "examples_b": facts_b[name].num_examples if y else None,
            "digest_a": x.digest[:12] if x else None,
            "digest_b": y.digest[:12] if y else None,
            "slice_of": next((c.collection for c in (x, y) if c and c.slice), None),
            "rule_a": facts_a[name].rule if x else None,
            "rule_b": facts_b[name].rule if y else None,
        })  # fmt: skip
    return sorted(rows, key=lambda row: (-abs(row["difference"]), row["collection"]))


def _changes(a: Component | None, b: Component | None) -> list[str]:
    if a is None or b is None:
        return ["added" if a is None else "dropped"]
    parts = (("examples", a.selection != b.selection), ("content", a.digest != b.digest),
             ("miners", a.miners != b.miners),
             ("weight", a.weight != b.weight), ("loss weight", a.loss_weight != b.loss_weight))  # fmt: skip
    return [name for name, changed in parts if changed]


def _prompts(a: Mapping[str, PinnedFacts], b: Mapping[str, PinnedFacts]) -> list[dict[str, Any]]:
    rows = []
    for name in sorted(a.keys() & b.keys()):
        old, new = a[name].prompts, b[name].prompts
        if old is not None and new is not None and old != new:
            rows.append({"collection": name, "a": list(old), "b": list(new)})
    return rows


def _run(store: Store, mixture: SavedMixture) -> dict[str, Any]:
    """What the run that made a mixture was asked to do; empty without one."""
    query = "SELECT kind, mixture, config FROM runs WHERE run_id = ?"
    rows = store.rows(query, [mixture.run_id]) if mixture.run_id is not None else []
    if not rows:
        return {}
    return {"kind": rows[0]["kind"], "mixture": rows[0]["mixture"], **json.loads(rows[0]["config"] or "{}")}


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"setting": name, "a": a[name], "b": b[name]} for name in sorted(a.keys() & b.keys()) if a[name] != b[name]]


def _joined(prompts: list[str]) -> str:
    return " | ".join(prompts) or "none"
