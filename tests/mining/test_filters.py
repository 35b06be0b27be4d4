import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.mining import MiningPool, MiningSettings
from mixture.mining.filters import Candidates, filters_of
from mixture.mining.filters.max_ratio import MaxRatio, allowed_score
from mixture.mining.miners import top_k
from mixture.mining.negatives import NegativeTable, random_passages
from mixture.rows import NEGATIVES

TEXTS = {"p1": "Paris", "p2": "London", "p3": "Rome", "p4": "Berlin", "p5": "paris!", "p6": "Madrid"}


def pool(queries, positives, texts=None):
    texts = texts or TEXTS
    return MiningPool.build(
        [f"e{row}" for row in range(len(queries))], queries, positives, list(texts), list(texts.values())
    )


def choose(made, example, ranked, positive=1.0, **settings):
    """Negatives of one example from (passage id, score) pairs, as (passage id, rank, score, miner)."""
    number = {passage: place for place, passage in enumerate(made.passage_ids)}
    table = NegativeTable(made, MiningSettings(**settings), "test")
    names = np.array([number[passage] for passage, _ in ranked], dtype=np.int64)
    table.add(example, Candidates(names, np.array([score for _, score in ranked], dtype=np.float32), positive))
    made_table = table.table()
    assert made_table.schema == NEGATIVES
    return [tuple(row.values())[1:] for row in made_table.to_pylist()]


def test_equal_passages_are_one_with_the_smallest_id():
    made = pool(["Capital of France?"], [["p5"]])
    assert made.passage_ids == ["p1", "p2", "p3", "p4", "p6"]
    assert made.positives[0].tolist() == [0]  # p5 says what p1 says


def test_positives_and_their_equals_are_blocked():
    made = pool(["Capital of France?"], [["p5"]])
    found = choose(made, 0, [("p1", 0.9), ("p2", 0.5), ("p3", 0.4)], per_query=2)
    assert [row[0] for row in found] == ["p2", "p3"]


def test_positives_of_an_equal_query_are_blocked():
    made = pool(["A capital?", "a  CAPITAL", "A city?"], [["p1"], ["p2"], ["p3"]])
    ranked = [("p1", 0.9), ("p2", 0.8), ("p3", 0.7), ("p4", 0.6)]
    assert [row[0] for row in choose(made, 0, ranked, per_query=2)] == ["p3", "p4"]
    assert [row[0] for row in choose(made, 1, ranked, per_query=2)] == ["p3", "p4"]
    assert [row[0] for row in choose(made, 2, ranked, per_query=2)] == ["p1", "p2"]


def test_candidates_that_score_like_the_positive_are_dropped_for_good():
    """p2 is above 0.95 * 0.8: neither a negative nor a random one later."""
    made = pool(["Capital of France?"], [["p1"]])
    ranked = [("p2", 0.77), ("p3", 0.75), ("p4", 0.5)]
    found = choose(made, 0, ranked, positive=0.8, per_query=5, filters=(MaxRatio(0.95),))
    assert found[:2] == [("p3", 1, 0.75, "test"), ("p4", 2, 0.5, "test")]
    assert found[2:] == [("p6", 3, None, "random")]
    kept = choose(made, 0, ranked, positive=0.8, per_query=5)
    assert [row[0] for row in kept] == ["p2", "p3", "p4", "p6"]


def test_an_example_without_positives_drops_nothing():
    made = pool(["Capital of France?"], [[]])
    assert choose(made, 0, [("p2", 0.9)], positive=float("inf"), per_query=1, filters=(MaxRatio(0.95),))[0][0] == "p2"


def test_allowed_score_lies_below_the_positive_on_both_sides_of_zero():
    assert allowed_score(0.8, 0.95) == pytest.approx(0.76)
    assert allowed_score(-0.8, 0.95) == pytest.approx(-0.84)


def test_ranks_continue_into_the_random_ones():
    made = pool(["Capital of France?"], [["p1"]])
    found = choose(made, 0, [("p2", 0.5)], per_query=3)
    assert [row[1] for row in found] == [1, 2, 3]
    assert [row[3] for row in found] == ["test", "random", "random"]
    assert [row[2] for row in found] == [0.5, None, None]
    assert len({row[0] for row in found}) == 3


def test_as_many_as_there_are():
    made = pool(["Capital of France?"], [["p1"]])
    assert sorted(row[0] for row in choose(made, 0, [], per_query=50)) == ["p2", "p3", "p4", "p6"]
    lonely = pool(["Capital of France?"], [["p1"]], {"p1": "Paris"})
    assert choose(lonely, 0, []) == []


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=60), st.integers(0, 70), st.integers(0, 5))
def test_random_passages(num, excluded, wanted, seed):
    excluded = {number for number in excluded if number < num}
    drawn = random_passages("e", num, excluded, wanted, seed)
    assert len(drawn) == len(set(drawn)) == min(wanted, num - len(excluded))
    assert not excluded & set(drawn) and all(0 <= number < num for number in drawn)
    assert drawn == random_passages("e", num, excluded, wanted, seed)


def test_random_passages_differ_by_example_and_seed_and_cover_all():
    first = random_passages("a", 10**6, set(), 5, 1)
    assert first == PINNED
    assert first != random_passages("b", 10**6, set(), 5, 1)
    assert first != random_passages("a", 10**6, set(), 5, 2)
    counts = np.bincount([random_passages(str(row), 10, {3}, 1, 0)[0] for row in range(1800)], minlength=10)
    assert counts[3] == 0
    assert all(140 < count < 260 for count in np.delete(counts, 3))


PINNED = [189804, 800417, 718765, 80100, 208246]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 35))
def test_top_k_is_a_stable_sort(numbers, k):
    scores = np.array(numbers, dtype=np.float32)
    assert top_k(scores, k).tolist() == sorted(range(len(numbers)), key=lambda place: (-numbers[place], place))[:k]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": [["p9"]]}, "'e0': its positive 'p9' is not among"),
        ({"queries": ["a", "b"]}, "equally many"),
        ({"passages": ["x"]}, "equally many"),
        ({"passage_ids": ["p1", "p1"]}, "'p1' occurs more than once"),
        ({"example_ids": ["e", "e"], "queries": ["a", "b"], "positives": [["p1"], ["p1"]]}, "example ids are repeated"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    arguments = {
        "example_ids": ["e0"],
        "queries": ["a"],
        "positives": [["p1"]],
        "passage_ids": ["p1", "p2"],
        "passages": ["x", "y"],
    }
    with pytest.raises(UsageError, match=message):
        MiningPool.build(**arguments | change)


@pytest.mark.parametrize("wrong", [{"per_query": 0}, {"depth": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(UsageError, match="is 0; allowed: 1 or more"):
        MiningSettings(**wrong)


def test_every_filter_must_keep_a_candidate_and_what_one_drops_does_not_come_back_at_random():
    made = pool(["Capital of France?"], [["p1"]])
    ranked = [("p2", 0.9), ("p3", 0.8), ("p4", 0.7)]

    def short(pool, example, candidates):
        return np.array([len(pool.passages[number]) < 6 for number in candidates.passages])

    found = choose(made, 0, ranked, per_query=4, filters=(MaxRatio(0.75), short))
    assert found == [("p6", 1, None, "random")]  # p2 and p3 score too high, p4 is too long
    assert [row[0] for row in choose(made, 0, ranked, per_query=4, filters=(short,))] == ["p3", "p6"]
    assert [row[0] for row in choose(made, 0, ranked, per_query=4, filters=(MaxRatio(0.75),))] == ["p4", "p6"]


def test_filters_are_named_and_their_values_checked():
    assert filters_of({"max_ratio": 0.9}) == (MaxRatio(0.9),)
    assert filters_of({"max_ratio": None}) == ()
    with pytest.raises(UsageError, match="`filters` is 'max_ration'; allowed: max_ratio"):
        filters_of({"max_ration": None})
    for wrong in (0.0, float("nan"), "much", True):
        with pytest.raises(UsageError, match=r"`max_ratio` is .*allowed: numbers above 0"):
            filters_of({"max_ratio": wrong})
