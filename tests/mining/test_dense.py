import hashlib

import numpy as np
import pytest

from mixture.errors import UsageError
from mixture.mining import MINERS, MiningPool, MiningSettings, dense
from mixture.mining.filters import filters_of
from mixture.mining.filters.max_ratio import MaxRatio
from mixture.rows import NEGATIVES

SIZE = 64


def mine_dense(pool, encode, settings=None, *, miner="dense", **options):
    settings = settings or MiningSettings(filters=filters_of(MINERS["dense"].filters))
    return MINERS["dense"].mine(pool, settings, encode=encode, recorded=miner, **options).table()


def encode(texts, kind):
    """A bag of hashed words, normalised: equal word sets have cosine 1."""
    vectors = np.zeros((len(texts), SIZE), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row, hashlib.sha256(word.encode()).digest()[0] % SIZE] += 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def counts(texts, kind):
    """The bag before normalisation: scores are whole numbers, so ties are exact on every processor."""
    return np.stack([np.bincount([int(word[1:]) for word in text.split()], minlength=25) for text in texts])


def collection(seed, num_examples=30, num_passages=200):
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{number}" for number in rng.integers(0, 25, 6)) for _ in range(num_passages)]
    chosen = rng.choice(num_passages, num_examples, replace=False)
    queries = [" ".join(texts[number].split()[:4]) for number in chosen]
    positives = [[f"p{number:03d}"] for number in chosen]
    ids = [f"p{row:03d}" for row in range(num_passages)]
    return MiningPool.build([f"e{row}" for row in range(num_examples)], queries, positives, ids, texts)


def naive(pool, settings, max_ratio):
    """All scores at once, then the rules in the words of the documentation."""
    scores = counts(pool.queries, "query") @ counts(pool.passages, "passage").T
    found = []
    for example, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda passage: (-row[passage], passage))[: settings.depth]
        highest = max_ratio * min(row[passage] for passage in pool.positives[example])
        left = [p for p in order if p not in pool.blocked[example] and row[p] <= highest]
        found.append([(pool.passage_ids[p], row[p]) for p in left[: settings.per_query]])
    return found


def mined(table, num_examples, miner="dense"):
    found = [[] for _ in range(num_examples)]
    for row in table.to_pylist():
        if row["miner"] == miner:
            found[int(row["example_id"][1:])].append((row["passage_id"], row["score"]))
    return found


@pytest.mark.parametrize(("passages", "queries"), [(4096, 1024), (7, 4), (1, 1), (64, 30)])
def test_blockwise_is_the_same_as_all_at_once(monkeypatch, passages, queries):
    monkeypatch.setattr(dense, "_PASSAGES", passages)
    monkeypatch.setattr(dense, "_QUERIES", queries)
    pool = collection(0)
    settings = MiningSettings(per_query=5, depth=20, filters={"max_ratio": MaxRatio(0.75)})
    expected = naive(pool, settings, 0.75)
    assert sum(map(len, expected)) > 50
    assert mined(mine_dense(pool, counts, settings), 30) == expected


def test_known_answer_with_the_positive_aware_filter():
    texts = {"a": "red apple pie", "b": "red apple pie recipe", "c": "red apple", "d": "blue sky", "e": "red sea"}
    pool = MiningPool.build(["e0"], ["red apple pie"], [["a"]], list(texts), list(texts.values()))
    table = mine_dense(pool, encode, MiningSettings(per_query=2, filters={"max_ratio": MaxRatio(0.85)}), miner="bag")
    assert table.schema == NEGATIVES
    # b has cosine 0.87 with the query: above 0.85 of the positive's 1.0, taken for an answer; c has 0.82
    assert table["passage_id"].to_pylist() == ["c", "e"]
    assert table["score"].to_pylist() == pytest.approx([np.sqrt(2 / 3), np.sqrt(1 / 6)], rel=1e-5)
    assert table["miner"].to_pylist() == ["bag", "bag"]
    assert table["rank"].to_pylist() == [1, 2]
    unfiltered = mine_dense(pool, encode, MiningSettings(per_query=2))
    assert unfiltered["passage_id"].to_pylist() == ["b", "c"]


def test_the_filters_that_are_on_by_default():
    texts = {"a": "red apple pie", "b": "pie red apple", "c": "red apple", "d": "blue sky"}
    pool = MiningPool.build(["e0"], ["red apple pie"], [["a"]], list(texts), list(texts.values()))
    assert list(MINERS["dense"].filters) == ["max_ratio", "near_copies"]
    assert list(MINERS["bm25"].filters) == ["near_copies"]
    assert mine_dense(pool, encode)["passage_id"].to_pylist() == ["c", "d"]


def test_the_lowest_positive_decides():
    texts = {"a": "red apple pie", "b": "red", "c": "red apple", "d": "blue pie", "e": "x"}
    pool = MiningPool.build(["e0"], ["red apple pie"], [["a", "b"]], list(texts), list(texts.values()))
    table = mine_dense(pool, encode, MiningSettings(per_query=3, filters={"max_ratio": MaxRatio(1.0)}))
    assert table["passage_id"].to_pylist() == ["d", "e"]  # c (0.82) is above b (0.58)


def test_passages_are_encoded_once_and_in_blocks(monkeypatch):
    monkeypatch.setattr(dense, "_PASSAGES", 50)
    calls = []

    def spy(texts, kind):
        calls.append((kind, len(texts)))
        return encode(texts, kind)

    pool = collection(1)
    steps = []
    mine_dense(pool, spy, progress=lambda done, total: steps.append((done, total)))
    num = len(pool.passages)
    assert calls[0] == ("query", 30)
    assert [kind for kind, _ in calls[1:]] == ["passage"] * 4
    assert max(size for _, size in calls[1:]) == 50 and sum(size for _, size in calls[1:]) == num
    assert steps == [(50, num), (100, num), (150, num), (num, num)]


def test_ties_go_by_passage_id_across_blocks(monkeypatch):
    monkeypatch.setattr(dense, "_PASSAGES", 2)
    texts = {"p3": "red x", "p1": "red y", "p4": "red z", "p2": "red q", "p0": "other"}

    def flat(texts, kind):
        return np.array([[1.0, 0.0] if "red" in text else [0.0, 1.0] for text in texts])

    pool = MiningPool.build(["e0"], ["red"], [["p0"]], list(texts), list(texts.values()))
    table = mine_dense(pool, flat, MiningSettings(per_query=3))
    assert table["passage_id"].to_pylist() == ["p1", "p2", "p3"]


def test_negative_scores_are_candidates_too():
    def opposite(texts, kind):
        return encode(texts, kind) * (1 if kind == "query" else -1)

    texts = {"a": "red apple", "b": "red", "c": "blue"}
    pool = MiningPool.build(["e0"], ["red apple"], [["a"]], list(texts), list(texts.values()))
    table = mine_dense(pool, opposite, MiningSettings(per_query=2))
    assert table["passage_id"].to_pylist() == ["c", "b"]
    assert table["miner"].to_pylist() == ["dense", "dense"]


def test_nothing_to_mine():
    empty = MiningPool.build([], [], [], ["p"], ["x"])
    assert mine_dense(empty, encode).num_rows == 0
    assert mine_dense(empty, encode).schema == NEGATIVES
    lonely = MiningPool.build(["e"], ["q"], [["p"]], ["p"], ["x"])
    assert mine_dense(lonely, encode).num_rows == 0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda texts, kind: encode(texts, kind)[:-1], "gave shape"),
        (lambda texts, kind: encode(texts, kind)[:, : 8 if kind == "query" else 9], "gave shape"),
        (lambda texts, kind: encode(texts, kind) * np.nan, "undefined"),
        (lambda texts, kind: np.zeros(len(texts)), "gave shape"),
    ],
)
def test_a_broken_encoder_is_refused(broken, message):
    with pytest.raises(UsageError, match=message):
        mine_dense(collection(2, num_examples=3, num_passages=10), broken)
