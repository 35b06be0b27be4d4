"""The search for layers that can go: exact where losses add up, never better than all sets, and how many it tries."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from mixture.errors import UsageError
from trainers.shrinking.programme import Found, Removed, num_tried, search

Loss = Callable[[Removed], float]


def additive(costs: np.ndarray, pairs: np.ndarray | None = None) -> Loss:
    """The sum of the removed layers' costs, and with `pairs` (N, N) of those of their pairs."""

    def loss(removed: Removed) -> float:
        found = 1 + float(sum(costs[list(removed)]))
        return found + float(sum(pairs[i, j] for i, j in combinations(removed, 2)) if pairs is not None else 0)

    return loss


def of_all(loss: Loss, layers: range, most: int) -> dict[int, float]:
    """The least loss of each number of removed layers, by trying all sets."""
    return {m: min(map(loss, combinations(layers, m))) for m in range(most + 1)}


def values(found: Found) -> dict[int, float]:
    return {len(removed): loss for removed, loss in found.curve}


@pytest.mark.parametrize("number, most", [(6, 3), (8, 8), (5, 1), (7, 4)])
def test_it_finds_the_best_of_all_sets_where_losses_add_up(number: int, most: int) -> None:
    for seed in range(50):
        loss = additive(np.random.default_rng(seed).normal(size=number))
        found = search(loss, range(number), most)
        assert values(found) == pytest.approx(of_all(loss, range(number), most))
        assert [len(removed) for removed in found.best.values()] == list(range(most + 1))


def test_it_is_exact_for_one_layer_and_never_better_than_all_sets_where_layers_interact() -> None:
    missed = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        loss = additive(random.normal(size=6), random.normal(size=(6, 6)))
        found, best = values(search(loss, range(6), 3)), of_all(loss, range(6), 3)
        assert found[1] == pytest.approx(best[1])
        assert all(found[m] >= best[m] - 1e-12 for m in best)
        missed += any(found[m] > best[m] + 1e-12 for m in best)
    assert missed > 20  # so that what is said above is of something


def test_two_layers_that_go_well_together_may_be_missed() -> None:
    pairs = np.zeros((3, 3))
    pairs[0, 1] = -0.7
    found = search(additive(np.array([0.5, 0.4, 0.1]), pairs), range(3), 2)
    assert (found.best[2], found.losses[1, 2]) == ((1, 2), pytest.approx(1.5))
    assert (0, 1) not in found.losses


@pytest.mark.parametrize("number, most, tried", [(6, 3, 15), (31, 12, 306), (4, 4, 10), (3, 0, 0)])
def test_it_tries_as_many_sets_as_it_says(number: int, most: int, tried: int) -> None:
    calls: list[Removed] = []

    def loss(removed: Removed) -> float:
        calls.append(removed)
        return float(sum(removed))

    found = search(loss, range(number), most)
    assert len(calls) == len(set(calls)) == len(found.losses) == 1 + tried == 1 + num_tried(number, most)
    assert calls[0] == ()
    assert all(removed == tuple(sorted(removed)) for removed in calls)


def test_layers_that_are_not_named_stay() -> None:
    found = search(lambda removed: -sum(removed), [1, 2, 4], 2)
    assert found.best == {0: (), 1: (4,), 2: (2, 4)}


def test_what_is_known_is_not_asked_for_again_and_changes_nothing() -> None:
    loss = additive(np.random.default_rng(7).normal(size=5))
    whole = search(loss, range(5), 3)
    known = dict(list(whole.losses.items())[:6])
    asked: list[Removed] = []
    again = search(lambda removed: asked.append(removed) or loss(removed), range(5), 3, known)
    assert again == whole
    assert not known.keys() & set(asked)
    assert len(asked) == len(whole.losses) - 6


def test_a_loss_that_is_not_finite_is_the_worst() -> None:
    losses = {(): 1.0, (0,): math.nan, (1,): 2.0, (0, 1): math.nan}
    found = search(losses.__getitem__, range(2), 2)
    assert found.best == {0: (), 1: (1,), 2: (0, 1)}
    assert found.losses[0,] == math.inf


@pytest.mark.parametrize("most", [-1, 4])
def test_more_than_all_cannot_be_removed(most: int) -> None:
    with pytest.raises(UsageError, match=f"{most} of 3 layers cannot be removed; allowed: 0 to 3"):
        search(lambda removed: 0.0, range(3), most)
