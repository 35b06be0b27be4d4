"""Which rows a training holds out, and what is left of a mixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixture import Store, jobs, registry
from mixture.errors import UsageError
from mixture.holdout import FEWEST, held_out, hold_out
from mixture.materialised import MaterialisedMixture
from mixture.registry import holdout as of_learning
from mixture.sampling import BatchPlan
from mixture.store.materialise import materialise
from mixture.suites.halves import half_of

# Of easy that are 7 rows, of middle 8.
SHARE = 0.28
TEXTS = [f"question {i} of the day" for i in range(4000)]


@pytest.fixture
def data(small_store: Store) -> MaterialisedMixture:
    return materialise(small_store, registry.weighted(registry.pin(small_store), {"easy": 2, "middle": 1, "hard": 0}))


def test_the_query_decides_up_to_case_and_punctuation() -> None:
    out = held_out(TEXTS, 0.1)
    assert abs(out.mean() - 0.1) < 0.02
    assert held_out([f"  {text.upper()}?!" for text in TEXTS], 0.1).tolist() == out.tolist()
    assert not (out & ~held_out(TEXTS, 0.2)).any()  # a larger share holds out the same and more
    assert not held_out(TEXTS, 0).any()


def test_the_hash_has_nothing_to_do_with_halves_and_with_what_learning_holds_out() -> None:
    out = held_out(TEXTS, 0.1)
    learned = np.array([of_learning.held_out(text, 0.1) for text in TEXTS])
    half = np.array([half_of(text) == "learn" for text in TEXTS])
    assert out[learned].mean() == pytest.approx(0.1, abs=0.05)
    assert out[half].mean() == pytest.approx(out[~half].mean(), abs=0.03)


def test_both_sides_together_are_the_component(data: MaterialisedMixture) -> None:
    kept, out = hold_out(data, 0.4)
    assert set(out) == {"easy", "middle"}  # nothing is drawn of hard, so nothing is held out of it
    assert kept.spec is data.spec and kept.components["hard"] is data.components["hard"]
    for name, rows in out.items():
        whole, rest = data.components[name], kept.components[name]
        chosen = held_out(whole.queries(), 0.4)
        assert rows.num_examples == chosen.sum() >= FEWEST
        for part, places in ((rows, np.flatnonzero(chosen)), (rest, np.flatnonzero(~chosen))):
            wanted = [whole.example(int(place)) for place in places]
            assert [part.example(row) for row in range(part.num_examples)] == wanted
            assert part.queries().to_pylist() == [one.query for one in wanted]
            assert part.example_ids().to_pylist() == [one.example_id for one in wanted]
            assert [tuple(ids) for ids in part.positives()] == [one.positives for one in wanted]
            assert part.num_with_negatives() == len(wanted)
            assert part.without_candidates() == 0
            assert list(part.texts())[: len(wanted)] == [one.query for one in wanted]
        assert rest.num_passages == whole.num_passages
        inner = np.arange(rest.num_examples) % 2 == 0  # a part of a part
        assert rest.only(inner).example(1) == rest.example(2)


def test_a_component_with_too_few_rows_stays_whole(data: MaterialisedMixture) -> None:
    counts = {name: int(held_out(data.components[name].queries(), SHARE).sum()) for name in ("easy", "middle")}
    enough = {name for name, count in counts.items() if count >= FEWEST}
    assert len(enough) == 1
    kept, out = hold_out(data, SHARE)
    assert set(out) == enough
    assert all(kept.components[name] is data.components[name] for name in counts.keys() - enough)
    with pytest.raises(UsageError, match=r"`holdout` is 0.01, and no collection has 8 rows to hold out"):
        hold_out(data, 0.01)
    assert hold_out(data, 0) == (data, {})
    for share in (-1, 0.9, 1, float("nan")):
        with pytest.raises(UsageError, match=r"`holdout` is .*; allowed: 0 to 0.5"):
            hold_out(data, share)


def test_exported_batches_are_those_of_the_rows_that_are_left(
    small_store: Store, data: MaterialisedMixture, tmp_path: Path
) -> None:
    saved = registry.save(small_store, data.spec, "mix")
    jobs.export(small_store, saved, out=tmp_path / "b.parquet", batches=30, batch_size=8, holdout=0.4)
    kept, out = hold_out(data, 0.4)
    plan = BatchPlan(kept.spec.weights, kept.sizes, 8, 42, positives=kept.positives())
    wanted = [kept.components[name].example(int(row)).example_id
              for name, rows in map(plan.batch, range(30)) for row in rows]  # fmt: skip
    drawn = pq.read_table(tmp_path / "b.parquet")["example_id"].to_pylist()
    assert drawn == wanted
    assert not set(drawn) & {id for part in out.values() for id in part.example_ids().to_pylist()}
