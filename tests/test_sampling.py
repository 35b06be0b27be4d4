"""BatchPlan: purity, proportions, epochs, equal positives."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture import sampling
from mixture.errors import UsageError
from mixture.sampling import BatchPlan, draw_passages

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
SIZES = {"a": 1000, "b": 77, "c": 5}


def test_a_batch_is_a_function_of_its_step() -> None:
    forward, backward = BatchPlan(WEIGHTS, SIZES, 16, 7), BatchPlan(WEIGHTS, SIZES, 16, 7)
    batches = {step: forward.batch(step) for step in range(3000)}
    for step in (2999, 2500, 1023, 1024, 10, 0):
        name, rows = backward.batch(step)
        assert name == batches[step][0]
        np.testing.assert_array_equal(rows, batches[step][1])


def test_the_order_of_names_and_the_process_do_not_matter() -> None:
    plan = BatchPlan(WEIGHTS, SIZES, 8, 1)
    turned = BatchPlan(dict(reversed(WEIGHTS.items())), dict(reversed(SIZES.items())), 8, 1)
    wanted = [(n, r.tolist()) for n, r in map(plan.batch, range(50))]
    assert [(n, r.tolist()) for n, r in map(turned.batch, range(50))] == wanted
    script = (
        "from mixture.sampling import BatchPlan\n"
        f"p = BatchPlan({WEIGHTS!r}, {SIZES!r}, 8, 1)\n"
        "print([(n, r.tolist()) for n, r in map(p.batch, range(50))])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(wanted)


def test_the_seed_matters() -> None:
    one, two = BatchPlan(WEIGHTS, SIZES, 8, 1), BatchPlan(WEIGHTS, SIZES, 8, 2)
    assert [one.batch(s)[0] for s in range(50)] != [two.batch(s)[0] for s in range(50)]
    assert not np.array_equal(one._stream("a", 0, 100), two._stream("a", 0, 100))


def test_collections_come_by_weight() -> None:
    plan = BatchPlan(WEIGHTS, SIZES, 4, 3)
    counts = Counter(plan.batch(step)[0] for step in range(20_000))
    for name, weight in WEIGHTS.items():
        spread = (weight * (1 - weight) / 20_000) ** 0.5
        assert abs(counts[name] / 20_000 - weight) < 4 * spread


def test_a_weight_of_zero_is_never_drawn() -> None:
    plan = BatchPlan({"a": 0.0, "b": 1.0, "c": 0.0}, {"a": 5, "b": 5, "c": 0}, 2, 0)
    assert {plan.batch(step)[0] for step in range(2000)} == {"b"}


def test_each_epoch_is_a_fresh_permutation() -> None:
    plan = BatchPlan({"a": 1.0}, {"a": 100}, 16, 5)
    stream = np.concatenate([plan.batch(step)[1] for step in range(25)])
    epochs = [stream[start : start + 100].tolist() for start in range(0, 400, 100)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_that_spans_two_epochs_is_full() -> None:
    sizes = {"a": 1000, "b": 333, "c": 64, "d": 5_000_000}
    plan = BatchPlan({"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}, sizes, 32, seed=1)
    assert len(set(plan.batch(76)[1].tolist())) == 32


@st.composite
def _sizes_and_batches(draw: st.DrawFn) -> tuple[int, int]:
    """Any, and those where a batch and an epoch are nearly as long, or an epoch and two batches."""
    batch_size = draw(st.integers(1, 40))
    near = [batch_size - 1, batch_size, batch_size + 1, 2 * batch_size - 1, 2 * batch_size, 2 * batch_size + 1]
    return max(1, draw(st.one_of(st.sampled_from(near), st.integers(1, 300)))), batch_size


def _full_batches(size: int, batch_size: int, seed: int, positives: list[list[int]] | None, steps: int) -> None:
    """Batches are full and without repeats, epochs have every row once, and a batch does not depend on those before."""

    def plan() -> BatchPlan:
        return BatchPlan({"a": 1.0}, {"a": size}, batch_size, seed, positives=positives and {"a": positives})

    whole = plan()
    batches = [whole.batch(step)[1] for step in range(steps)]
    for rows in batches:
        assert len(rows) == len(set(rows.tolist())) == min(batch_size, size)
        ids = [p for row in rows for p in set(positives[row])] if positives else []
        assert len(ids) == len(set(ids))
    stream = np.concatenate(batches)
    epochs = stream[: len(stream) // size * size].reshape(-1, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    for step in (steps - 1, steps // 2, 1):
        np.testing.assert_array_equal(plan().batch(step)[1], batches[step])


@settings(deadline=None, max_examples=200)
@given(_sizes_and_batches(), st.integers(0, 9), st.booleans())
def test_no_row_comes_twice_in_a_batch_and_each_once_an_epoch(
    sizes: tuple[int, int], seed: int, with_positives: bool
) -> None:
    """20,000 steps in all. A row without positives counts as itself."""
    size, batch_size = sizes
    positives = [[row] if row % 3 else [] for row in range(size)]
    _full_batches(size, batch_size, seed, positives if with_positives else None, 100)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(3, 9), st.integers(0, 29), st.integers(0, 9))
def test_batches_are_full_where_positives_of_fewer_rows_than_an_epoch_has_batches_are_shared(
    batch_size: int, per_epoch: int, more: int, seed: int
) -> None:
    size = per_epoch * batch_size + more % batch_size
    _full_batches(size, batch_size, seed, [[row // (per_epoch - 1)] for row in range(size)], 50)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", [5, 32, 33, 60, 63, 64, 1000, 1001])
def test_a_late_step_computes_as_few_orders_as_an_early_one(
    size: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def counted(*key: int | str) -> np.random.Generator:
        computed.extend([1] if "order" in key else [])
        return generator(*key)

    generator = sampling.generator
    monkeypatch.setattr(sampling, "generator", counted)
    positives = {"a": [[row // 2] for row in range(size)]} if shared else None
    for step in range(100_000, 100_040):
        plan = BatchPlan({"a": 1.0}, {"a": size}, 32, 0, positives=positives)
        plan.batch(step)
        assert 1 <= len(computed) <= 4  # two epochs, and for each that before it
        computed.clear()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=200), st.integers(1, 40), st.integers(0, 9))
def test_no_batch_holds_a_positive_twice(labels: list[int], batch_size: int, seed: int) -> None:
    positives = {"a": [[label, 1000 + row] for row, label in enumerate(labels)]}
    plan = BatchPlan({"a": 1.0}, {"a": len(labels)}, batch_size, seed, positives=positives)
    for step in range(12):
        rows = plan.batch(step)[1]
        drawn = [label for row in rows for label in positives["a"][row]]
        assert 1 <= len(rows) <= batch_size
        assert len(set(drawn)) == len(drawn)


def test_keeping_positives_apart_costs_few_rows() -> None:
    """Five questions a passage, as in SQuAD, cost none; three positives a row, each of six rows, next to none."""
    _full_batches(1000, 32, 0, [[row // 5] for row in range(1000)], 10 * 1000 // 32)
    random = np.random.default_rng(0)
    positives = {"a": [random.integers(0, 300, 3).tolist() for _ in range(640)]}
    plan = BatchPlan({"a": 1.0}, {"a": 640}, 32, 0, positives=positives)
    seen = np.concatenate([plan.batch(step)[1] for step in range(10 * 640 // 32)])
    assert len(seen) >= 0.999 * 6400
    assert np.bincount(seen, minlength=640).max() == 10


def test_a_positive_of_most_rows_shortens_batches_only_by_its_own() -> None:
    positives = {"a": [[0] if row < 500 else [row] for row in range(1000)]}
    plan = BatchPlan({"a": 1.0}, {"a": 1000}, 20, 0, positives=positives)
    rows = [plan.batch(step)[1] for step in range(50)]
    assert all(sum(r < 500) <= 1 for r in rows)
    assert len({int(r) for batch in rows for r in batch if r >= 500}) > 450


def test_mixed_batches_draw_collections_uniformly_whatever_the_weights() -> None:
    plan = BatchPlan(WEIGHTS, SIZES, 50, 3)
    groups = np.concatenate([plan.mixed(step)[0] for step in range(200)])
    shares = np.bincount(groups) / len(groups)
    assert np.abs(shares - 1 / 3).max() < 0.02
    # Within a collection the rows of successive batches are one stream of permutations.
    rows = np.concatenate([r[g == 1] for g, r in (plan.mixed(step) for step in range(10))])
    assert sorted(rows[:77].tolist()) == list(range(77))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 3), st.integers(0, 9))
def test_a_mixed_batch_repeats_a_row_only_after_all_others(size: int, batch_size: int, groups: int, seed: int) -> None:
    names = "abc"[:groups]
    weights, sizes = dict.fromkeys(names, 1 / groups), dict.fromkeys(names, size)
    plan = BatchPlan(weights, sizes, batch_size, seed)
    drawn = []
    for step in range(30):
        which, rows = plan.mixed(step)
        drawn.append(rows[which == 0])
        times = [np.bincount(rows[which == group], minlength=size) for group in range(groups)]
        assert all(t.max() - t.min() <= 1 for t in times)
    if max(map(len, drawn)) <= size // 3 + 1:
        stream = np.concatenate(drawn)
        epochs = stream[: len(stream) // size * size].reshape(-1, size)
        assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    np.testing.assert_array_equal(BatchPlan(weights, sizes, batch_size, seed).mixed(29)[1], rows)


@pytest.mark.parametrize(
    ("weights", "sizes", "batch_size", "message"),
    [
        ({"a": 1.0}, {"b": 1}, 1, "differ in: a, b"),
        ({"a": 0.5}, {"a": 1}, 1, "sum to 1"),
        ({"a": 1.0}, {"a": 0}, 1, "without rows: a"),
        ({"a": 1.0}, {"a": 1}, 0, "batch size is 0"),
    ],
)
def test_wrong_plans_are_refused(weights: dict, sizes: dict, batch_size: int, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=message):
        BatchPlan(weights, sizes, batch_size, 0)
    with pytest.raises(UsageError, match="step is -1"):
        BatchPlan({"a": 1.0}, {"a": 1}, 1, 0).batch(-1)


def test_passages_are_drawn_without_repetition_while_they_last() -> None:
    many, few, none = draw_passages([list(range(100)), [7, 8], []], 5, (1, "negative", 3))
    assert len(set(many)) == 5
    assert sorted(few) in ([7, 7, 7, 8, 8], [7, 7, 8, 8, 8])
    assert none == []
    assert draw_passages([list(range(100))], 5, (1, "negative", 3))[0] == many
    assert draw_passages([list(range(100))], 5, (1, "negative", 4))[0] != many


def test_mixed_batches_are_functions_of_their_step_too() -> None:
    forward = BatchPlan(WEIGHTS, SIZES, 7, 3)  # 7: steps begin anywhere in Philox's blocks of four
    batches = [forward.mixed(step) for step in range(40)]
    for step in (39, 3, 17, 0):
        for fresh in (BatchPlan(WEIGHTS, SIZES, 7, 3).mixed(step), forward.mixed(step)):
            np.testing.assert_array_equal(fresh[0], batches[step][0])
            np.testing.assert_array_equal(fresh[1], batches[step][1])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 9))
def test_collections_share_each_batch_by_weight(parts: list[int], batch_size: int, seed: int) -> None:
    if not sum(parts):
        return
    weights = {f"c{n}": part / sum(parts) for n, part in enumerate(parts)}
    plan = BatchPlan(weights, dict.fromkeys(weights, 200), batch_size, seed)
    counts = np.array([np.bincount(plan.shared(step)[0], minlength=len(parts)) for step in range(60)])
    wanted = np.array(list(weights.values())) * batch_size
    assert (counts.sum(axis=1) == batch_size).all()
    assert (np.abs(counts - wanted) < 1 + 1e-9).all()
    # Of 60 steps each share is a mean; a count is one of two neighbours, so it spreads by half at most.
    assert (np.abs(counts.mean(axis=0) - wanted) < 4 * 0.5 / 60**0.5).all()


def test_shared_batches_go_through_a_collection_and_are_functions_of_their_step() -> None:
    forward = BatchPlan(WEIGHTS, SIZES, 30, 3)
    batches = [forward.shared(step) for step in range(40)]
    rows = np.concatenate([rows[groups == 1] for groups, rows in batches])
    assert sorted(rows[:77].tolist()) == list(range(77)) == sorted(rows[77:154].tolist())
    assert rows[:77].tolist() != rows[77:154].tolist()
    for step in (39, 3, 17, 0):
        for fresh in (BatchPlan(WEIGHTS, SIZES, 30, 3).shared(step), forward.shared(step)):
            np.testing.assert_array_equal(fresh[0], batches[step][0])
            np.testing.assert_array_equal(fresh[1], batches[step][1])
    assert batches[3][1].tolist() != BatchPlan(WEIGHTS, SIZES, 30, 4).shared(3)[1].tolist()
    assert forward.shared(100_000)[0].tolist() == BatchPlan(WEIGHTS, SIZES, 30, 3).shared(100_000)[0].tolist()
    with pytest.raises(UsageError, match="step is -1"):
        forward.shared(-1)


def test_a_collection_may_have_batches_of_its_own_size() -> None:
    plan, usual = (BatchPlan(WEIGHTS, SIZES, 16, 7, batch_sizes=sizes) for sizes in ({"a": 4, "c": 9}, None))
    drawn = [plan.batch(step) for step in range(300)]
    assert {(name, len(rows)) for name, rows in drawn} == {("a", 4), ("b", 16), ("c", 5)}
    assert [name for name, _ in drawn] == [usual.batch(step)[0] for step in range(300)]
    rows = np.concatenate([rows for name, rows in drawn if name == "a"])
    assert len(rows) == len(set(rows.tolist()))
    for (name, rows), step in zip(drawn, range(300), strict=True):
        if name == "b":
            np.testing.assert_array_equal(rows, usual.batch(step)[1])


def test_plans_over_odd_input_are_refused() -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        BatchPlan({"a": float("nan"), "b": 0.5}, {"a": 1, "b": 1}, 1, 0)
    with pytest.raises(UsageError, match="positives are not given for every row of: a"):
        BatchPlan({"a": 1.0}, {"a": 2}, 1, 0, positives={"a": [[1]]})
    with pytest.raises(UsageError, match="without rows: b"):
        BatchPlan({"a": 1.0, "b": 0.0}, {"a": 2, "b": 0}, 1, 0).mixed(0)
