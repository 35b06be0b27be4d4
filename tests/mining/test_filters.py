from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.mining import MiningPool, MiningSettings
from mixture.mining.filters import Candidates, filters_of
from mixture.mining.filters.max_ratio import MaxRatio, allowed_score
from mixture.mining.filters.near_copies import Containing, NearCopies
from mixture.mining.filters.scores import Margin, MaxScore, MinScore
from mixture.mining.miners import Miner, rescored, top_k
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
    found = Candidates(names, np.array([score for _, score in ranked], dtype=np.float32), positive)
    table.add(example, table.possible(example, found))
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
    found = choose(made, 0, ranked, positive=0.8, per_query=5, filters={"max_ratio": MaxRatio(0.95)})
    assert found[:2] == [("p3", 1, 0.75, "test"), ("p4", 2, 0.5, "test")]
    assert found[2:] == [("p6", 3, None, "random")]
    kept = choose(made, 0, ranked, positive=0.8, per_query=5)
    assert [row[0] for row in kept] == ["p2", "p3", "p4", "p6"]


def test_an_example_without_positives_drops_nothing():
    made = pool(["Capital of France?"], [[]])
    assert (
        choose(made, 0, [("p2", 0.9)], positive=float("inf"), per_query=1, filters={"max_ratio": MaxRatio(0.95)})[0][0]
        == "p2"
    )


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

    found = choose(made, 0, ranked, per_query=4, filters={"max_ratio": MaxRatio(0.75), "short": short})
    assert found == [("p6", 1, None, "random")]  # p2 and p3 score too high, p4 is too long
    assert [row[0] for row in choose(made, 0, ranked, per_query=4, filters={"short": short})] == ["p3", "p6"]
    assert [row[0] for row in choose(made, 0, ranked, per_query=4, filters={"max_ratio": MaxRatio(0.75)})] == [
        "p4",
        "p6",
    ]


def test_filters_are_named_and_their_values_checked():
    assert filters_of({"max_ratio": 0.9}) == {"max_ratio": MaxRatio(0.9)}
    assert filters_of({"max_ratio": None}) == {}
    with pytest.raises(UsageError, match="`filters` is 'max_ration'; allowed: max_ratio"):
        filters_of({"max_ration": None})
    for wrong in (0.0, float("nan"), "much", True):
        with pytest.raises(UsageError, match=r"`max_ratio` is .*allowed: numbers above 0"):
            filters_of({"max_ratio": wrong})


@pytest.mark.parametrize(("name", "kept"), [
    ({"margin": Margin(0.15)}, ["p3", "p4"]), ({"min_score": MinScore(0.6)}, ["p2", "p3"]),
    ({"max_score": MaxScore(0.6)}, ["p3", "p4"]), ({"margin": Margin(-0.5)}, ["p2", "p3", "p4"]),
])  # fmt: skip
def test_filters_by_score(name, kept):
    made = pool(["Capital of France?"], [["p1"]])
    ranked = [("p2", 0.75), ("p3", 0.6), ("p4", 0.5)]
    found = choose(made, 0, ranked, positive=0.8, per_query=3, filters=name, fill_random=False)
    assert [row[0] for row in found] == kept


def test_margin_without_a_positive_and_values_that_are_no_numbers():
    made = pool(["Capital of France?"], [[]])
    assert choose(made, 0, [("p2", 0.9)], positive=float("inf"), per_query=1, filters={"m": Margin(0.5)})
    for name in ("margin", "min_score", "max_score"):
        for wrong in ("much", True, float("nan")):
            with pytest.raises(UsageError, match=f"`{name}` is .*allowed: numbers"):
                filters_of({name: wrong})


ANSWER = "The Seine is a river in northern France that flows from Burgundy through Paris to the sea at Le Havre."
COPIES = {
    "a": ANSWER,
    "edited": "The Seine is a river of northern France, flowing from Burgundy through Paris to the sea near Le Havre.",
    "holding": f"About rivers. {ANSWER.lower()} The Loire is longer than it, and so is the Rhine, which rises in the"
    " Alps and reaches the North Sea in the Netherlands, after Basel, Strasbourg, Cologne and many castles on the way.",
    "other": "The Loire is the longest river in France; it flows to the sea at Saint-Nazaire after 1,006 kilometres.",
    "same": "Where is the mouth of the Seine? At Le Havre, in Normandy, where the tide is felt far up the stream.",
}


def test_near_copies_of_answers_are_dropped():
    made = pool(["Where does the Seine end?", "where does the SEINE end"], [["a"], ["same"]], COPIES)
    ranked = [("edited", 0.9), ("holding", 0.8), ("other", 0.7)]

    def kept(filters):
        return [row[0] for row in choose(made, 0, ranked, per_query=3, filters=filters, fill_random=False)]

    assert kept({}) == ["edited", "holding", "other"]
    assert kept({"near_copies": NearCopies(0.5)}) == ["holding", "other"]
    assert kept({"containing": Containing(24)}) == ["edited", "other"]
    assert kept({"containing": Containing(500)}) == ["edited", "holding", "other"]
    assert kept({"near_copies": NearCopies(1.0)}) == ["edited", "holding", "other"]
    # Answers of an equal query are answers.
    nearer = COPIES | {"other": COPIES["same"].replace("tide", "tidal wave")}
    made = pool(["Where does the Seine end?", "where does the SEINE end"], [["a"], ["same"]], nearer)
    assert kept({"near_copies": NearCopies(0.5)}) == ["holding"]
    # Of short texts one other word may be another answer.
    short = {"a": "Heron 3 reads maps of the sea", "other": "Heron 3 reads maps of the lake",
             "number": "Heron 4 reads maps of the sea", "same": "Heron 3 - reads maps: of the seas!"}  # fmt: skip
    made = pool(["What reads maps?"], [["a"]], short)
    ranked = [("other", 0.9), ("number", 0.8), ("same", 0.7)]
    assert kept({"near_copies": NearCopies(0.5)}) == ["other", "number"]
    for name, wrong in (
        ("near_copies", 0),
        ("near_copies", "much"),
        ("near_copies", 1.5),
        ("containing", 0),
        ("containing", 2.5),
    ):
        with pytest.raises(UsageError, match=f"`{name}` is"):
            filters_of({name: wrong})


def test_ranks_count_what_may_be_a_negative_and_are_never_random_fill():
    made = pool(["Capital of France?"], [["p1"]])
    ranked = [("p2", 0.9), ("p1", 0.8), ("p3", 0.7), ("p4", 0.6)]

    def kept(ranks, **settings):
        number = {passage: place for place, passage in enumerate(made.passage_ids)}
        names, scores = zip(*ranked, strict=True)
        found = Candidates(np.array([number[name] for name in names]), np.array(scores, np.float32), 0.8)
        table = NegativeTable(made, MiningSettings(ranks=ranks, **settings), "test")
        table.add(0, table.possible(0, found))
        return [(row["passage_id"], row["miner"]) for row in table.table().to_pylist()], table.dropped

    assert kept((1, 3), per_query=2) == ([("p3", "test"), ("p4", "test")], {"ranks": 1})
    assert kept((1, 2), per_query=3) == ([("p3", "test"), ("p6", "random")], {"ranks": 2})
    assert MiningSettings(ranks=(10, 150)).reach(made) == 151
    assert MiningSettings(depth=70).reach(made) == 70
    for wrong in ((3, 3), (-1, 2)):
        with pytest.raises(UsageError, match="`ranks` is"):
            MiningSettings(ranks=wrong)


def test_each_filter_is_counted_on_its_own_and_known_answers_by_none():
    made = pool(["Capital of France?"], [["p1"]])
    settings = MiningSettings(filters={"max_score": MaxScore(0.75), "min_score": MinScore(0.65)}, per_query=1)
    table = NegativeTable(made, settings, "test")
    found = Candidates(np.array([0, 1, 2, 3]), np.array([0.9, 0.8, 0.7, 0.6], np.float32), 0.9)
    table.add(0, table.possible(0, found))
    assert table.dropped == {"max_score": 1, "min_score": 1}


def test_a_random_sample_is_drawn_by_the_seed_and_keeps_the_order():
    texts = {f"p{n:02}": f"text {n}" for n in range(40)}
    made = pool(["one", "two"], [["p00"], ["p01"]], texts)
    ranked = [(name, 1.0 - n / 100) for n, name in enumerate(texts)]

    def drawn(example=0, **settings):
        return [row[0] for row in choose(made, example, ranked, per_query=5, sample="random", **settings)]

    first = drawn()
    assert first == sorted(first) == drawn()
    assert first != [name for name, _ in ranked[1:6]]
    assert first != drawn(seed=7)
    assert first != drawn(example=1)
    counts = Counter(name for seed in range(300) for name in drawn(seed=seed))
    assert set(counts) == set(texts) - {"p00"}
    assert max(counts.values()) < 75  # 38 on the mean
    with pytest.raises(UsageError, match="`sample` is 'any'; allowed: top, random"):
        MiningSettings(sample="any")


def test_rescoring_takes_the_place_of_scores_order_and_positive():
    made = pool(["Capital of France?", "River of France?"], [["p1"], ["p2", "p3"]])

    def score(pairs):
        seen.extend(pairs)
        return np.array([len(passage) + (query[0] == "R") * 10 for query, passage in pairs])

    seen: list[tuple[str, str]] = []
    found = [Candidates(np.array([1, 0, 3]), np.array([3.0, 2.0, 1.0], np.float32), 2.0),
             Candidates(np.array([4]), np.array([1.0], np.float32), 0.5)]  # fmt: skip
    one, two = rescored(made, iter(found), score)
    assert one.passages.tolist() == [1, 3, 0]  # London and Berlin are equally long
    assert (one.scores.tolist(), one.positive) == ([6.0, 6.0, 5.0], 5.0)
    assert (two.passages.tolist(), two.scores.tolist(), two.positive) == ([4], [16.0], 14.0)
    assert seen[:2] == [("Capital of France?", "Paris"), ("Capital of France?", "London")]
    with pytest.raises(UsageError, match=r"rescore: 7 pairs gave shape \(1,\), expected \(7,\)"):
        list(rescored(made, iter(found), lambda pairs: np.zeros(1)))
    with pytest.raises(UsageError, match="of numbers"):
        list(rescored(made, iter(found), lambda pairs: np.full(len(pairs), np.nan)))


def test_a_miner_rescores_what_the_ranks_let_through():
    made = pool(["Capital of France?"], [["p1"]])
    asked = []

    def search(pool, depth, encode, progress):
        asked.append(depth)
        yield Candidates(np.array([1, 0, 2, 3]), np.array([4.0, 3.0, 2.0, 1.0], np.float32), 3.0)

    def score(pairs):
        asked.append([passage for _, passage in pairs])
        return np.arange(len(pairs), dtype=np.float32)

    settings = MiningSettings(ranks=(1, 3), per_query=2, depth=3)
    table = Miner(search=search).mine(made, settings, recorded="it", rescore=score).table()
    assert asked == [4, ["Paris", "Rome", "Berlin"]]
    assert [(row["passage_id"], row["score"]) for row in table.to_pylist()] == [("p4", 2.0), ("p3", 1.0)]
