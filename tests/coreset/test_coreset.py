"""A coreset is what its objective says: held against linear programs, assignments, and all subsets there are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from mixture.coreset import Costs, choose, score_gradients
from mixture.coreset.choose import ALL, EXACT, GREEDY, PAIRS, ROUNDED, quotas, random_rows
from mixture.coreset.exchange import exchanged
from mixture.coreset.greedy import served
from mixture.coreset.pairs import cheapest, demands, one_by_one
from mixture.coreset.transport import transport
from mixture.errors import UsageError

# Worked by hand: distances of five rows to four target rows, and what each would teach.
WORKED = np.array([[0.1, 0.9, 0.6, 0.8], [0.7, 0.2, 0.5, 0.9], [0.8, 0.6, 0.1, 0.3], [0.3, 0.4, 0.9, 0.5],
                   [0.6, 0.7, 0.4, 0.2]])  # fmt: skip
TEACHES = np.array([0.2, 1, 0.4, 0.6, 0.1])


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def matrix(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns)).astype(np.float32)


def by_linprog(costs: np.ndarray, *, rows_uniform: bool = True) -> float:
    n, v = costs.shape
    columns = np.kron(np.ones((1, n)), np.eye(v))
    sides, sums = [columns], [np.full(v, 1 / v)]
    if rows_uniform:
        sides.append(np.kron(np.eye(n), np.ones((1, v))))
        sums.append(np.full(n, 1 / n))
    found = linprog(costs.ravel().astype(np.float64), A_eq=np.vstack(sides), b_eq=np.concatenate(sums))
    return float(found.fun)


def best_of_all(costs: np.ndarray, n: int) -> float:
    return min(transport(costs[list(rows)]).value for rows in itertools.combinations(range(len(costs)), n))


@pytest.mark.parametrize(("n", "v"), [(3, 5), (5, 3), (4, 4), (1, 6)])
def test_the_transport_is_that_of_a_linear_program_and_its_prices_prove_it(n: int, v: int) -> None:
    costs = matrix(n, n, v).astype(np.float64)
    found = transport(costs)
    assert found.value == pytest.approx(by_linprog(costs), abs=1e-9)
    assert (found.row_prices[:, None] + found.target_prices <= costs + 1e-9).all()
    assert found.row_prices.mean() + found.target_prices.mean() == pytest.approx(found.value, abs=1e-9)
    import ot

    assert found.value == pytest.approx(ot.emd2(np.full(n, 1 / n), np.full(v, 1 / v), costs), abs=1e-12)


def test_with_as_many_rows_as_target_rows_the_transport_is_an_assignment() -> None:
    costs = matrix(7, 9, 9)
    rows, columns = linear_sum_assignment(costs)
    assert transport(costs).value == pytest.approx(costs[rows, columns].mean(), abs=1e-7)
    assert transport(WORKED[:4]).value == pytest.approx(0.225)


def test_the_worked_numbers() -> None:
    taught = choose(Costs.of(WORKED - 0.3 * TEACHES[:, None]), 2)
    assert taught.rows.tolist() == [1, 2]
    assert taught.transport == pytest.approx(0.115, abs=1e-6)
    plain = choose(Costs.of(WORKED), 2)
    assert plain.rows.tolist() == [2, 3]
    assert plain.transport == pytest.approx(0.275, abs=1e-6)
    for rows, value, relaxed in (([0, 1], 0.22, 0.185), ([0, 2], 0.26, 0.17)):
        taught_rows = (WORKED - 0.3 * TEACHES[:, None])[rows]
        assert transport(taught_rows).value == pytest.approx(value)
        assert taught_rows.min(axis=0).mean() == pytest.approx(relaxed)
        assert taught_rows.min(axis=0).mean() == pytest.approx(by_linprog(taught_rows, rows_uniform=False))


@given(seed=st.integers(0, 10_000), v=st.integers(4, 7))
def test_few_rows_are_never_better_than_the_best_and_no_exchange_helps_them(seed: int, v: int) -> None:
    costs = matrix(seed, 8, v)
    found = choose(Costs.of(costs), 3, cut=8, solve=10_000)
    assert found.method == GREEDY
    assert best_of_all(costs, 3) - 1e-9 <= found.transport <= found.greedy + 1e-12
    for place, row in itertools.product(range(3), set(range(8)) - set(found.rows.tolist())):
        other = found.rows.copy()
        other[place] = row
        assert transport(costs[other]).value >= found.transport - 1e-9


@given(seed=st.integers(0, 10_000))
def test_greedy_gains_at_least_the_share_that_is_known(seed: int) -> None:
    costs = matrix(seed, 8, 6).astype(np.float64)
    relaxed = {rows: costs[list(rows)].min(axis=0).mean() for rows in itertools.combinations(range(8), 3)}
    first = costs.mean(axis=1).min()  # what one row alone reaches; gains count from the worst that there is
    worst = costs.max()
    taken = served(Costs.of(costs), 3)
    assert len(set(taken.tolist())) == 3
    found = costs[taken].min(axis=0).mean()
    assert worst - found >= (1 - 1 / np.e) * (worst - min(relaxed.values()))
    assert found <= first


def test_lazy_greedy_is_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixture.coreset.greedy.AT_ONCE", 3)  # so that bounds are used
    costs = matrix(3, 200, 60)
    best, taken = np.full(60, np.inf), []
    for _ in range(12):
        gains = [
            -np.inf if row in taken else -np.minimum(best, costs[row]).mean(dtype=np.float64) for row in range(200)
        ]
        taken.append(int(np.argmax(gains)))
        best = np.minimum(best, costs[taken[-1]])
    found = served(Costs.of(costs), 12).tolist()
    used = set(costs[taken].argmin(axis=0).tolist())
    assert [row for place, row in enumerate(taken) if place in used] == [row for row in found if row in taken]
    assert len(found) == 12


def test_a_row_that_serves_nothing_gives_its_place_to_another() -> None:
    """Rows 0, 3 and 1 are taken; then row 0 is nearest to no target row, and row 2 takes its place. Row 2 then serves
    the second target row, and row 4 the first, in place of row 1."""
    costs = np.array([[0.5, 0.5, 0.5, 0.5, 0.5], [0.1, 0.45, 0.9, 0.9, 0.9], [0.9, 0.1, 0.9, 0.9, 0.9],
                      [0.9, 0.9, 0.3, 0.3, 0.3], [0.09, 0.9, 0.9, 0.9, 0.9]])  # fmt: skip
    assert served(Costs.of(costs), 2).tolist() == [0, 3]
    assert served(Costs.of(costs), 3).tolist() == [3, 1, 2]
    found = served(Costs.of(costs), 4)
    assert costs[found].min(axis=0).tolist() == [0.09, 0.1, 0.3, 0.3, 0.3]
    assert len(set(found.tolist())) == 4


@pytest.mark.parametrize(("v", "n"), [(2, 4), (3, 3), (4, 4), (1, 5), (3, 6)])
def test_many_rows_are_the_best_of_all_subsets(v: int, n: int) -> None:
    for seed in range(20):
        costs = matrix(seed, 8, v)
        found = choose(Costs.of(costs), n)
        assert found.method == EXACT
        assert found.transport == pytest.approx(best_of_all(costs, n), abs=1e-6)


@pytest.mark.parametrize(("v", "n"), [(3, 4), (2, 3), (3, 5), (4, 6)])
def test_what_rounding_lost_is_mended_by_exchanges(v: int, n: int) -> None:
    """No multiple of target rows: no one exchange can make the choice better, and it is mostly the best of all."""
    best = 0
    for seed in range(20):
        costs = matrix(seed, 8, v)
        found = choose(Costs.of(costs), n, cut=8, solve=10_000)
        assert found.method == ROUNDED
        assert found.transport <= found.greedy + 1e-12
        least = best_of_all(costs, n)
        assert found.transport >= least - 1e-6
        best += found.transport <= least + 1e-6
    assert best >= 15


@pytest.mark.parametrize("copies", [2, 20])
def test_equal_rows_end(copies: int) -> None:
    """Numbers of a large block and of a small one differ in the last bit, which is no gain."""
    generator = np.random.default_rng(3)
    rows = np.repeat(unit(generator.standard_normal((1000 // copies, 64))), copies, axis=0)
    target = unit(generator.standard_normal((300, 64)))
    for n in (40, 200, 290):
        found = served(Costs(rows, target), n)
        assert len(set(found.tolist())) == n


def test_rows_that_the_prices_ask_for_come_into_the_pool() -> None:
    """All target rows are nearest to the same few rows, so the first pool lacks rows that the best choice needs."""
    generator = np.random.default_rng(5)
    costs = (np.linspace(0, 1, 300)[:, None] + 0.01 * generator.random((300, 6))).astype(np.float32)
    wanted = np.full(6, 20)
    found = cheapest(Costs.of(costs), wanted)
    assert found is not None
    assert found.tolist() == list(range(120))
    far = costs.copy()
    far[:, 0] = costs[:, 0] + np.where(np.arange(300) < 150, 5, 0)  # one target row likes none of the cheap ones
    found = cheapest(Costs.of(far), wanted)
    rows, columns = linear_sum_assignment(np.repeat(far, 20, axis=1))
    assert found is not None
    value = transport(far[found]).value
    assert value == pytest.approx(np.repeat(far, 20, axis=1)[rows, columns].mean(), abs=1e-6)


def test_pairs_are_near_the_best_and_serve_what_is_wanted() -> None:
    costs = matrix(11, 400, 7)
    wanted = demands(100, 7, 1)
    assert wanted.sum() == 100 and set(wanted.tolist()) == {14, 15}
    rows = one_by_one(Costs.of(costs), wanted)
    assert len(set(rows.tolist())) == 100
    best = cheapest(Costs.of(costs), wanted)
    assert best is not None
    assert transport(costs[best]).value <= transport(costs[rows]).value <= 1.1 * transport(costs[best]).value
    assert choose(Costs.of(costs), 100, most_cells=10).method == PAIRS


def test_pairs_end_where_nearly_all_rows_are_wanted() -> None:
    assert len(set(one_by_one(Costs.of(matrix(2, 50, 3)), demands(49, 3, 0)).tolist())) == 49


@pytest.mark.parametrize("n", [3, 12])
def test_what_must_not_matter_does_not(n: int) -> None:
    costs = matrix(4, 40, 6)
    rows = choose(Costs.of(costs), n, cut=40, solve=10_000).rows.tolist()
    order, columns = np.random.default_rng(0).permutation(40), np.random.default_rng(1).permutation(6)
    assert sorted(order[choose(Costs.of(costs[order]), n, cut=40, solve=10_000).rows].tolist()) == rows
    assert choose(Costs.of(costs[:, columns]), n, cut=40, solve=10_000).rows.tolist() == rows
    assert choose(Costs.of(3 * costs + 2), n, cut=40, solve=10_000).rows.tolist() == rows
    assert choose(Costs.of(np.repeat(costs, 2, axis=1)), n, cut=40, solve=10_000).rows.tolist() == rows


def test_all_rows_are_all_rows() -> None:
    found = choose(Costs.of(WORKED), 5)
    assert (found.rows.tolist(), found.method) == ([0, 1, 2, 3, 4], ALL)
    assert found.nearest.tolist() == [0, 1, 2, 0, 3]
    assert found.cost == pytest.approx([0.1, 0.2, 0.1, 0.3, 0.2])


@pytest.mark.parametrize("n", [0, 6])
def test_more_rows_than_there_are_is_an_error(n: int) -> None:
    with pytest.raises(UsageError, match=r"`budget` is . of 5 rows; allowed: 1 to 5"):
        choose(Costs.of(WORKED), n)


def test_the_choice_lies_in_the_cluster_of_the_target() -> None:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((3, 32)) * 2
    of = np.repeat([0, 1, 2], 1000)
    rows = unit(centres[of] + generator.standard_normal((3000, 32)))
    target = unit(centres[1] + generator.standard_normal((200, 32)))
    for n in (50, 400):  # fewer and more than target rows
        found = choose(Costs(rows, target), n)
        assert (of[found.rows] == 1).mean() >= 0.95


def test_costs_are_distances_in_parts_of_the_greatest_less_what_is_taught() -> None:
    generator = np.random.default_rng(0)
    rows, target = unit(generator.standard_normal((50, 8))), unit(generator.standard_normal((9, 8)))
    distances = np.linalg.norm(rows[:, None] - target[None], axis=2) / 2
    costs = Costs(rows, target)
    assert np.concatenate([block for _, block in costs.blocks()]) == pytest.approx(distances, abs=1e-6)
    teaches = generator.random(50)
    assert Costs(rows, target, teaches, weight=0.3).rows(np.array([4, 2])) == pytest.approx(
        distances[[4, 2]] - 0.3 * teaches[[4, 2], None], abs=1e-6
    )
    # One transport holds both sides of the objective.
    chosen = np.array([1, 5, 7])
    both = transport(Costs(rows, target, teaches, weight=0.3).rows(chosen)).value
    assert both == pytest.approx(transport(distances[chosen]).value - 0.3 * teaches[chosen].mean(), abs=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows, target = unit(generator.standard_normal((500, 8))), unit(generator.standard_normal((40, 8)))
    whole = [choose(Costs(rows, target), n).rows.tolist() for n in (20, 90)]
    pairs = one_by_one(Costs(rows, target), demands(90, 40, 0)).tolist()
    monkeypatch.setattr("mixture.coreset.costs.CELLS", 700)
    assert [choose(Costs(rows, target), n).rows.tolist() for n in (20, 90)] == whole
    assert one_by_one(Costs(rows, target), demands(90, 40, 0)).tolist() == pairs


def test_wrong_pairs_would_teach_most_and_are_not_preferred_without_them() -> None:
    """Of 400 pairs every fourth has another's positive. λ picks them; without it they are no likelier than chance."""
    generator = np.random.default_rng(0)
    topics = generator.standard_normal((400, 24))
    queries, positives = (unit(topics + 0.3 * generator.standard_normal((400, 24))) for _ in range(2))
    wrong = np.arange(400) % 4 == 0
    positives[wrong] = np.roll(positives[wrong], 1, axis=0)
    teaches = score_gradients(queries, positives)
    assert ((teaches >= 0) & (teaches <= 1)).all()
    assert teaches[wrong].mean() > 0.8 > 0.3 > teaches[~wrong].mean()
    rows = np.concatenate([queries, positives], axis=1)
    right = topics[~wrong][generator.permutation(300)[:100]]
    target = np.concatenate([unit(right + 0.3 * generator.standard_normal((100, 24))) for _ in range(2)], axis=1)
    share = {weight: wrong[choose(Costs(rows, target, teaches, weight=weight), 100).rows].mean() for weight in (0, 1.0)}
    assert share[0] < 0.05
    assert share[1.0] > 0.5


def test_exchanges_stop_after_so_many_transports() -> None:
    costs = matrix(9, 60, 20)
    start = random_rows(60, 5, 0)
    few = exchanged(Costs.of(costs), start, solve=3, cut=60)
    many = exchanged(Costs.of(costs), start, solve=10_000, cut=60)
    assert few.solved == 3
    assert many.value < few.value <= few.before == pytest.approx(transport(costs[start]).value)
    assert many.exchanges > few.exchanges


@given(
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-3),
    sizes=st.lists(st.integers(1, 40), min_size=6, max_size=6), share=st.floats(0.01, 1),
)  # fmt: skip
def test_quotas_sum_to_the_budget_and_no_collection_gives_more_than_it_has(
    weights: list[float], sizes: list[int], share: float
) -> None:
    named = {f"c{i}": w for i, w in enumerate(weights)}
    held = {f"c{i}": size for i, size in enumerate(sizes)}
    drawn = sum(held[name] for name, weight in named.items() if weight > 0)
    n = max(1, int(share * drawn))
    found = quotas(named, held, n)
    assert sum(found.values()) == n
    assert all(0 <= found[name] <= held[name] for name in named)
    assert all(not found[name] for name, weight in named.items() if not weight)
    whole = sum(named.values())
    if all(n * w / whole < held[name] for name, w in named.items()):
        assert all(abs(found[name] - n * w / whole) < 1 for name, w in named.items())
    with pytest.raises(UsageError, match="allowed: 1 to"):
        quotas(named, held, drawn + 1)


def test_arrays_that_do_not_fit_are_refused() -> None:
    rows: Any = np.zeros((3, 4), np.float32)
    with pytest.raises(UsageError, match="rows of one width"):
        Costs(rows, np.zeros((2, 5), np.float32))
    with pytest.raises(UsageError, match="`weight` is -1"):
        Costs(rows, rows, weight=-1)
    with pytest.raises(UsageError, match="no gradients of 3 candidates"):
        Costs(rows, rows, weight=0.5)
