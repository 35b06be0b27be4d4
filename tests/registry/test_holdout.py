"""Rows held out: a share of each component, decided by the query's text, that no new mixture has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mixture import Store, UsageError, jobs, registry
from mixture.registry.holdout import held_out, hold_out
from mixture.specs import MixtureSpec
from mixture.store.materialise import materialise


def _spec(store: Store) -> MixtureSpec:
    return registry.weighted(registry.pin(store), {"easy": 0.5, "middle": 0.3, "hard": 0.2})


def test_a_share_is_held_out_the_rest_is_the_new_mixture(small_store: Store) -> None:
    spec = _spec(small_store)
    kept, out = hold_out(small_store, spec, 0.3)
    assert [c.name for c in kept.components] == ["easy[train]", "hard[train]", "middle[train]"]
    assert [c.weight for c in kept.components] == [c.weight for c in spec.components]
    assert sorted(out) == [c.name for c in kept.components]
    data = materialise(small_store, kept)
    parts = {c.name: c for c in out.values()}
    rest = materialise(small_store, registry.weighted(parts, dict.fromkeys(parts, 1.0)))
    for name, part in data.components.items():
        own = rest.components[out[name].name]
        assert part.num_examples + own.num_examples == 40
        assert own.num_examples >= 8
        assert all(not held_out(part.example(i).query, 0.3) for i in range(part.num_examples))
        assert all(held_out(own.example(i).query, 0.3) for i in range(own.num_examples))
    assert hold_out(small_store, spec, 0.3) == (kept, out)


def test_the_share_is_kept_to_and_a_larger_one_holds_the_smaller() -> None:
    queries = [f"query number {n}" for n in range(4000)]
    small, large = ({q for q in queries if held_out(q, share)} for share in (0.05, 0.2))
    assert 150 < len(small) < 250
    assert 700 < len(large) < 900
    assert small < large
    assert held_out("Who wrote it?", 0.5) == held_out("who wrote it", 0.5)


def test_equal_queries_of_two_collections_are_on_one_side(small_store: Store, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (small_store.work.parent / "raw" / "easy.jsonl").read_text().splitlines()]
    twin = tmp_path / "twin.jsonl"
    twin.write_text("".join(json.dumps(r | {"query": r["query"].upper() + "?", "pos": ["other"]}) + "\n" for r in rows))
    jobs.ingest(small_store, [str(twin)])
    parts = registry.pin(small_store, ["easy", "twin"])
    kept, _ = hold_out(small_store, registry.weighted(parts, {"easy": 1, "twin": 1}), 0.4)
    data = materialise(small_store, kept)
    sides = [{part.example(i).query.lower().rstrip("?") for i in range(part.num_examples)}
             for part in data.components.values()]  # fmt: skip
    assert sides[0] == sides[1]
    assert 0 < len(sides[0]) < 40


def test_a_component_with_too_few_rows_stays_whole(
    small_store: Store, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    jobs.ingest(small_store, [str(write_collection(tmp_path / "raw2", "few", rows=6))])
    parts = registry.pin(small_store, ["easy", "few"])
    kept, out = hold_out(small_store, registry.weighted(parts, {"easy": 1, "few": 1}), 0.4)
    assert [c.name for c in kept.components] == ["easy[train]", "few"]
    assert list(out) == ["easy[train]"]
    with pytest.raises(
        UsageError, match=r"`holdout` is 0\.01, and no collection has 8 rows to hold out; hold out more"
    ):
        hold_out(small_store, _spec(small_store), 0.01)


def test_of_a_slice_rows_of_the_slice_are_held_out(small_store: Store) -> None:
    slices = registry.slices.by_predicate(small_store, "collection = 'easy' AND example_id < '8'")
    (part,) = registry.slices.freeze(small_store, slices).values()
    (kept,) = hold_out(small_store, registry.weighted({part.name: part}, {part.name: 1.0}), 0.5)[0].components
    assert kept.slice == f"{part.slice}, train"
    rows = small_store.rows("SELECT example_id FROM selected_examples WHERE selection = ?", [kept.selection])
    assert rows
    assert all(row["example_id"] < "8" for row in rows)


def test_a_collection_that_changed_is_refused(small_store: Store) -> None:
    spec = _spec(small_store)
    jobs.mine(small_store, ["easy"], per_query=1)
    with pytest.raises(UsageError, match="easy has changed since the mixture was made; create the mixture anew"):
        hold_out(small_store, spec, 0.3)
