import gzip
import json
import math
import random
import time

import bm25s
import numpy as np
import pytest

from mixture.mining import MINERS, MiningPool, MiningSettings
from mixture.mining.bm25 import Index, ranked
from mixture.mining.filters.max_ratio import MaxRatio
from mixture.mining.words import tokenize
from mixture.rows import NEGATIVES

PASSAGES = {
    "a": "The river Seine runs through Paris.",
    "b": "Paris is the capital of France.",
    "c": "Rome is the capital of Italy.",
    "d": "Cats sleep most of the day.",
    "e": "Dogs bark at cats.",
    "f": "红楼梦是曹雪芹写的小说。",
    "g": "西游记是吴承恩写的小说。",
    "h": "今天天气很好。",
}


def mine_bm25(pool, settings=None, **options):
    return MINERS["bm25"].mine(pool, settings or MiningSettings(), recorded="bm25", **options).table()


def pool(queries, positives, passages=None):
    passages = PASSAGES if passages is None else passages
    return MiningPool.build(
        [f"e{row}" for row in range(len(queries))], queries, positives, list(passages), list(passages.values())
    )


def by_example(table):
    found = {}
    for row in table.to_pylist():
        found.setdefault(row["example_id"], []).append((row["passage_id"], row["score"], row["miner"]))
    return found


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Who wrote «Hamlet»?", ["who", "wrote", "hamlet"]),
        ("红楼梦的作者", ["红楼", "楼梦", "梦的", "的作", "作者"]),
        ("iPhone15手机 多少钱", ["iphone15", "手机", "多少", "少钱"]),
        ("我 a", ["我", "a"]),
        ("カタカナとひらがな", ["カタ", "タカ", "カナ", "ナと", "とひ", "ひら", "らが", "がな"]),
        ("ทีมรับ", ["ที", "ีม", "มร", "รั", "ับ"]),
        ("कितने अंक", ["कितने", "अंक"]),
        ("조선 왕조", ["조선", "왕조"]),  # Hangul is written with spaces
        ("?!", ["?!"]),
        ("", []),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens


def test_the_right_negatives_in_the_right_order():
    table = mine_bm25(pool(["capital of France", "红楼梦的小说"], [["b"], ["f"]]), MiningSettings(per_query=2))
    assert table.schema == NEGATIVES
    found = by_example(table)
    assert [name for name, _, _ in found["e0"]] == ["c", "d"]  # "capital of", then "of"
    assert found["e1"][0][0] == "g"  # 小说
    assert [miner for _, _, miner in found["e1"]] == ["bm25", "random"]
    assert table["rank"].to_pylist() == [1, 2, 1, 2]


def bm25(query, text, texts, k1=1.5, b=0.75):
    """Lucene's BM25, from its formula."""
    documents = [tokenize(other) for other in texts]
    mean = sum(map(len, documents)) / len(documents)
    own = tokenize(text)
    score = 0.0
    for token in tokenize(query):
        holding = sum(token in document for document in documents)
        weight = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        count = own.count(token)
        score += weight * count / (count + k1 * (1 - b + b * len(own) / mean))
    return score


def test_scores_are_bm25():
    queries = ["where does the river run", "who sleeps most of the day", "小说是谁写的"]
    table = mine_bm25(pool(queries, [["a"], ["d"], ["f"]]), MiningSettings(per_query=8))
    rows = [row for row in table.to_pylist() if row["miner"] == "bm25"]
    assert len(rows) >= 5
    for row in rows:
        query = queries[int(row["example_id"][1:])]
        expected = bm25(query, PASSAGES[row["passage_id"]], list(PASSAGES.values()))
        assert row["score"] == pytest.approx(expected, rel=1e-5)


def test_no_shared_token_is_no_candidate():
    found = by_example(mine_bm25(pool(["zebra", "?"], [["a"], ["a"]]), MiningSettings(per_query=3)))
    assert {miner for rows in found.values() for _, _, miner in rows} == {"random"}
    assert all(score is None for rows in found.values() for _, score, _ in rows)


def test_positives_of_an_equal_query_are_no_negatives():
    table = mine_bm25(pool(["A capital?", "a capital"], [["b"], ["c"]]), MiningSettings(per_query=6))
    assert not {"b", "c"} & set(table["passage_id"].to_pylist())


def test_ties_go_by_passage_id():
    passages = {"p9": "red apple", "p1": "red pear", "p5": "red plum", "p0": "blue sky"}
    found = by_example(mine_bm25(pool(["red"], [["p0"]], passages), MiningSettings(per_query=2)))
    assert [name for name, _, _ in found["e0"]] == ["p1", "p5"]


def test_depth_limits_the_candidates():
    passages = {f"p{row}": f"red {'very ' * row}" for row in range(6)}
    found = by_example(mine_bm25(pool(["red"], [["p0"]], passages), MiningSettings(per_query=5, depth=3)))
    assert [miner for _, _, miner in found["e0"]] == ["bm25", "bm25", "random", "random", "random"]


def test_positive_aware_filter_where_asked():
    settings = MiningSettings(per_query=4, filters={"max_ratio": MaxRatio(0.5)})
    queries = pool(["red red apple"], [["p0"]], {"p0": "red apple", "p1": "red apples apple", "p2": "red", "p3": "x"})
    names = [name for name, _, miner in by_example(mine_bm25(queries, settings))["e0"]]
    assert "p1" not in names
    assert "p1" in [name for name, _, _ in by_example(mine_bm25(queries))["e0"]]


def test_order_of_examples_and_passages_does_not_matter():
    rng = random.Random(0)
    words = [f"w{number}" for number in range(30)]
    passages = {f"p{row:02d}": " ".join(rng.choices(words, k=6)) for row in range(40)}
    examples = [(f"e{row}", " ".join(rng.choices(words, k=3)), [f"p{row:02d}"]) for row in range(20)]

    def mine(examples, ids):
        columns = zip(*examples, strict=True)
        table = mine_bm25(MiningPool.build(*map(list, columns), ids, [passages[name] for name in ids]))
        return sorted(map(str, table.to_pylist()))

    mixed = rng.sample(list(passages), len(passages))
    assert mine(examples, list(passages)) == mine(rng.sample(examples, len(examples)), mixed)


def test_progress_ends_at_the_total():
    calls = []
    mine_bm25(pool(["a"] * 300, [["a"]] * 300), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(256, 300), (300, 300)]


def test_nothing_to_mine():
    assert mine_bm25(pool([], [])).num_rows == 0
    assert mine_bm25(pool([], [])).schema == NEGATIVES
    assert mine_bm25(pool([], [], {})).num_rows == 0
    assert mine_bm25(pool(["a"], [["p"]], {"p": ""})).num_rows == 0


def reference(passages, queries, depth):
    """Places and scores by bm25s, and a stable sort of all scores."""
    vocabulary = {}
    documents = [[vocabulary.setdefault(token, len(vocabulary)) for token in tokenize(text)] for text in passages]
    index = bm25s.BM25(method="lucene")
    index.index((documents, vocabulary), show_progress=False)
    for query in queries:
        tokens = [vocabulary[token] for token in tokenize(query) if token in vocabulary]
        scores = index.get_scores_from_ids(tokens) if tokens else np.zeros(len(passages), np.float32)
        best = np.argsort(-scores, kind="stable")[:depth]
        yield best[scores[best] > 0], scores


def same_as_reference(passages, queries, depth):
    wanted = list(reference(passages, queries, depth))
    found = [(best, scores.copy()) for best, scores in Index(passages).search(queries, depth)]
    assert len(found) == len(wanted) == len(queries)
    for (best, scores), (places, expected) in zip(found, wanted, strict=True):
        assert scores.tobytes() == expected.tobytes()
        assert best.tolist() == places.tolist()
    assert [best.tolist() for best in ranked(passages, queries, depth)] == [best.tolist() for best, _ in wanted]


@pytest.mark.parametrize("depth", [1, 2, 7, 100, 1_000])
def test_scores_are_those_of_bm25s_to_the_bit(depth):
    """Words that nearly all passages hold and words that few do, twice in a passage or a query, and empty texts."""
    rng = random.Random(depth)
    words = [f"w{number}" for number in range(60)] + ["红楼梦", "ทีม", "ひらがな"]
    weights = [1 / (number + 1) for number in range(len(words))]
    passages = [" ".join(rng.choices(words, weights, k=rng.randrange(30))) for _ in range(300)]
    queries = [" ".join(rng.choices([*words, "unknown"], [*weights, 0.2], k=rng.randrange(6))) for _ in range(60)]
    same_as_reference(passages, [*queries, "", "?", "unknown"], depth)


def test_many_ties():
    same_as_reference(["red", "blue", "red", "red apple", "blue", "red"] * 50, ["red", "blue red", "apple apple"], 120)


@pytest.mark.parametrize("passages", [["red"], ["red", "red"], ["red", ""], ["red", "blue", "blue"]])
def test_few_passages(passages):
    same_as_reference(passages, ["red", "blue", "red red blue"], 5)


def test_nothing_to_rank():
    assert [best.tolist() for best in ranked([], ["red"], 3)] == [[]]
    assert [best.tolist() for best in ranked(["", "  "], ["red", ""], 3)] == [[], []]
    assert ranked(["red"], [], 3) == []


def test_real_collection(real_data):
    """2,000 real pairs in seconds; each negative is a passage of the collection and none is the example's own."""
    with gzip.open(real_data / "raw" / "altlex" / "altlex.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(next(file)) for _ in range(2000)]
    passages = {f"p{row}": pair[1] for row, pair in enumerate(pairs)}
    start = time.perf_counter()
    table = mine_bm25(pool([pair[0] for pair in pairs], [[name] for name in passages], passages))
    assert time.perf_counter() - start < 20
    assert table.num_rows == 2000 * 8
    own = {f"e{row}": f"p{row}" for row in range(2000)}
    assert all(own[row["example_id"]] != row["passage_id"] for row in table.to_pylist())


@pytest.mark.parametrize("language", ["en", "th", "zh"])
def test_real_scores_are_those_of_bm25s(real_data, language):
    with (real_data / "raw" / "xquad" / f"xquad.{language}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    passages = list({row["positive_passages"][0]["text"]: None for row in rows})
    same_as_reference(passages, [row["query"] for row in rows][::5], 10)
