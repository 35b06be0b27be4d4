"""Raw rows to Arrow batches: cleaning, ids, what is stored once, what is dropped and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture import rows
from mixture.ingest import normalise
from mixture.ingest.normalise import build_batches
from mixture.rows import Batch, RawExample, RawPassage, Reject

P = RawPassage


def lengths(texts: pa.StringArray) -> np.ndarray:
    return np.array([len(text) for text in texts.to_pylist()], dtype=np.uint64)


def batch_of(
    *raw: RawExample | Reject, language: str | None = None, fingerprint: normalise.Fingerprint | None = None
) -> Batch:
    (batch,) = build_batches(raw, file="some.jsonl", language=language, fingerprint=fingerprint)
    return batch


def negatives(batch: Batch) -> list[tuple[str, int, float | None]]:
    """Text, rank and score of the negatives, in the order of the table."""
    texts = dict(zip(batch.passages["passage_id"].to_pylist(), batch.passages["text"].to_pylist(), strict=True))
    return [(texts[row["passage_id"]], row["rank"], row["score"]) for row in batch.negatives.to_pylist()]


def test_one_row_in_full() -> None:
    row = RawExample(
        4,
        "\ufeff Cafe\u0301 \n",
        (P(" p1\t", " T ", score=2.5), P("p2")),
        (P("n1", score=0.5), P("n2")),
        prompt=" Find it. ",
    )
    batch = batch_of(row, language="fr", fingerprint=lengths)
    p1, p2 = rows.passage_id("T", "p1"), rows.passage_id("", "p2")
    n1, n2 = rows.passage_id("", "n1"), rows.passage_id("", "n2")
    example = rows.example_id("Café", [p1, p2])
    positives = [{"passage_id": p1, "grade": 2.5}, {"passage_id": p2, "grade": 1.0}]
    assert batch.examples.to_pylist() == [
        {"example_id": example, "query": "Café", "language": "fr", "positives": positives, "simhash": 4}
    ]
    assert sorted(batch.passages.to_pylist(), key=lambda row: row["text"]) == [
        {"passage_id": n1, "title": "", "text": "n1", "simhash": 2},
        {"passage_id": n2, "title": "", "text": "n2", "simhash": 2},
        {"passage_id": p1, "title": "T", "text": "p1", "simhash": len("T p1")},
        {"passage_id": p2, "title": "", "text": "p2", "simhash": 2},
    ]
    assert batch.negatives.to_pylist() == [
        {"example_id": example, "passage_id": n1, "rank": 1, "score": 0.5, "miner": "provided"},
        {"example_id": example, "passage_id": n2, "rank": 2, "score": None, "miner": "provided"},
    ]
    assert batch.rejects.num_rows == 0
    assert (batch.rows_read, batch.prompts) == (1, ("Find it.",))


@pytest.mark.parametrize("raw", [[RawExample(1, "q", (P("p"),), (P("n"),))], [Reject(1, "why")]])
def test_tables_have_the_agreed_schemas(raw: Sequence[RawExample | Reject]) -> None:
    batch = batch_of(*raw)
    found = (batch.examples.schema, batch.passages.schema, batch.negatives.schema, batch.rejects.schema)
    expected = (rows.EXAMPLES, rows.PASSAGES, rows.NEGATIVES, rows.REJECTS)
    for schema, agreed in zip(found, expected, strict=True):
        assert schema.equals(agreed)
    for table in (batch.examples, batch.passages, batch.negatives, batch.rejects):
        table.validate(full=True)


def test_without_fingerprint_the_simhash_is_null() -> None:
    batch = batch_of(RawExample(1, "q", (P("p"),)))
    assert batch.examples["simhash"].to_pylist() == [None]
    assert batch.passages["simhash"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("row", "reason", "raw"),
    [
        (RawExample(9, " \ufeff", (P("p"),)), "query is empty", "p"),
        (RawExample(9, "q", ()), "no positives", "q"),
        (RawExample(9, "q", (P(" \n"),)), "positive is empty", "q"),
        (RawExample(9, "q", (P(""), P("", "title"))), "positives are empty", "q"),
        (RawExample(9, "a\ud83d", (P("p"),)), "query is not valid Unicode: \\ud83d is half of a surrogate pair", "a?"),
        (RawExample(9, "q", (P("p"),), (P("\udc00"),)), "negative is not valid Unicode: \\udc00", "q"),
        (RawExample(9, "x" * 999, ()), "no positives", "x" * 200),
    ],
)
def test_refused_rows_leave_nothing_but_a_reject(row: RawExample, reason: str, raw: str) -> None:
    batch = batch_of(row, RawExample(10, "good", (P("passage"),)))
    (reject,) = batch.rejects.to_pylist()
    assert (reject["file"], reject["line"], reject["raw"]) == ("some.jsonl", 9, raw)
    assert reject["reason"].startswith(reason)
    assert batch.examples["query"].to_pylist() == ["good"]
    assert batch.passages["text"].to_pylist() == ["passage"]
    assert batch.rows_read == 2


def test_rejects_of_the_reader_pass_through() -> None:
    batch = batch_of(Reject(3, "cut", "\udcff{"), Reject(1, "first"))
    assert batch.rejects.to_pylist() == [
        {"file": "some.jsonl", "line": 3, "reason": "cut", "raw": "?{"},
        {"file": "some.jsonl", "line": 1, "reason": "first", "raw": ""},
    ]
    assert batch.rows_read == 2


def test_negatives_that_are_empty_or_repeated_or_positive_are_dropped() -> None:
    row = RawExample(
        1, "q", (P("p"),), (P(" ", score=1), P("n1", score=2), P("p", score=3), P("n1 ", score=4), P("n2"))
    )
    assert negatives(batch_of(row)) == [("n1", 1, 2.0), ("n2", 2, None)]


def test_equal_passage_under_another_title_is_another_passage() -> None:
    row = RawExample(1, "q", (P("p", "A"),), (P("p", "B"),))
    assert negatives(batch_of(row)) == [("p", 1, None)]


def test_equal_examples_unite_their_negatives() -> None:
    batch = batch_of(
        RawExample(1, "q", (P("p1", score=3), P("p2")), (P("n1", score=0.5), P("n2"))),
        RawExample(2, "other", (P("p1"),), (P("n1"),)),
        RawExample(3, " q", (P("p2"), P("p1", score=7)), (P("n2", score=0.25), P("n3"), P("n1", score=9))),
    )
    assert batch.examples["query"].to_pylist() == ["q", "other"]
    assert [positive["grade"] for positive in batch.examples["positives"].to_pylist()[0]] == [3.0, 1.0]
    assert negatives(batch) == [("n1", 1, 0.5), ("n2", 2, 0.25), ("n3", 3, None), ("n1", 1, None)]
    assert sorted(batch.passages["text"].to_pylist()) == ["n1", "n2", "n3", "p1", "p2"]


def test_the_row_knows_its_language_better_than_the_file() -> None:
    batch = batch_of(RawExample(1, "a", (P("p"),), language="de"), RawExample(2, "b", (P("p"),)), language="fr")
    assert batch.examples["language"].to_pylist() == ["de", "fr"]


def test_prompts_are_distinct_and_in_order() -> None:
    prompts = ("second", "first", None, "", "second ")
    batch = batch_of(*(RawExample(1, f"q{at}", (P("p"),), prompt=prompt) for at, prompt in enumerate(prompts)))
    assert batch.prompts == ("second", "first")


def test_batches_end_after_max_rows_read() -> None:
    raw = [RawExample(at, f"q{at % 3}", (P("p"),)) if at % 2 else Reject(at, "bad") for at in range(10)]
    batches = list(build_batches(raw, file="f", language=None, fingerprint=None, max_rows=4))
    assert [batch.rows_read for batch in batches] == [4, 4, 2]
    assert [batch.rejects.num_rows for batch in batches] == [2, 2, 1]
    assert list(build_batches([], file="f", language=None, fingerprint=None)) == []
    with pytest.raises(ValueError, match="max_rows is 0"):
        list(build_batches(raw, file="f", language=None, fingerprint=None, max_rows=0))


def test_batches_end_when_they_hold_much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "MAX_BATCH_CHARS", 100)
    raw = [RawExample(at, f"query {at}", (P("x" * 30 + str(at)),)) for at in range(6)]
    assert [batch.rows_read for batch in build_batches(raw, file="f", language=None, fingerprint=None)] == [3, 3]


def test_fingerprints_must_fit() -> None:
    row = RawExample(1, "q", (P("p"),))
    for wrong in (lambda texts: np.zeros(len(texts)), lambda texts: np.zeros(7, np.uint64)):
        with pytest.raises(ValueError, match="fingerprint gave"):
            batch_of(row, fingerprint=wrong)


def by_row(raw: list[RawExample]) -> tuple[dict[str, tuple[object, ...]], set[str], int]:
    """What a batch holds, worked out row by row: examples with positives and negatives, passage ids, refused rows."""
    examples: dict[str, tuple[str, str | None, dict[str, float], dict[str, float | None]]] = {}
    refused = 0
    for row in raw:
        query = rows.clean(row.query)
        sides: list[dict[str, float | None]] = []
        for passages in (row.positives, row.negatives):
            side: dict[str, float | None] = {}
            for passage in passages:
                if text := rows.clean(passage.text):
                    key = rows.passage_id(rows.clean(passage.title), text)
                    side[key] = passage.score if side.get(key) is None else side[key]
            sides.append(side)
        positives, against = sides
        if not query or not positives:
            refused += 1
            continue
        key = rows.example_id(query, list(positives))
        grades = {pid: 1.0 if score is None else score for pid, score in positives.items()}
        known = examples.setdefault(key, (query, row.language or None, grades, {}))[3]
        for pid, score in against.items():
            if pid not in positives:
                known[pid] = score if known.get(pid) is None else known[pid]
    used = {pid for _, _, grades, against in examples.values() for pid in (*grades, *against)}
    listed = {key: (q, lang, list(grades.items()), list(against.items()))
              for key, (q, lang, grades, against) in examples.items()}  # fmt: skip
    return listed, used, refused


texts = st.text("ab \u0301e\u1100\u1161\ufeff", max_size=3)
passages = st.lists(st.builds(RawPassage, texts, texts, st.none() | st.floats(0, 1, width=32)), max_size=4)
examples = st.builds(RawExample, st.just(1), texts, passages, passages, st.none() | texts)


@given(st.lists(examples, max_size=12))
def test_columns_give_what_a_row_by_row_reading_gives(raw: list[RawExample]) -> None:
    listed, used, refused = by_row(raw)
    for batch in build_batches(raw, file="f", language=None, fingerprint=None):
        found = {}
        for example in batch.examples.to_pylist():
            own = [row for row in batch.negatives.to_pylist() if row["example_id"] == example["example_id"]]
            grades = [(positive["passage_id"], positive["grade"]) for positive in example["positives"]]
            against = [(row["passage_id"], row["score"]) for row in own]
            found[example["example_id"]] = (example["query"], example["language"], grades, against)
        assert found == listed
        assert list(found) == list(listed)
        assert set(batch.passages["passage_id"].to_pylist()) == used
        assert batch.rejects.num_rows == refused


@given(st.lists(examples, max_size=12))
def test_every_batch_is_consistent(raw: list[RawExample]) -> None:
    for batch in build_batches(raw, file="f", language=None, fingerprint=None):
        known = batch.passages["passage_id"].to_pylist()
        ids = batch.examples["example_id"].to_pylist()
        assert len(set(known)) == len(known)
        assert len(set(ids)) == len(ids)
        assert all(batch.examples["query"].to_pylist())
        assert all(batch.passages["text"].to_pylist())
        used: set[str] = set()
        for example in batch.examples.to_pylist():
            keys = [positive["passage_id"] for positive in example["positives"]]
            assert example["example_id"] == rows.example_id(example["query"], keys)
            ranks = batch.negatives.filter(pa.compute.equal(batch.negatives["example_id"], example["example_id"]))
            against = ranks["passage_id"].to_pylist()
            assert keys
            assert not set(keys) & set(against)
            assert ranks["rank"].to_pylist() == list(range(1, len(set(against)) + 1))
            used.update(keys, against)
        assert used == set(known)
        assert batch.rejects.num_rows + batch.examples.num_rows <= batch.rows_read
