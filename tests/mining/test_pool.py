"""The pool in columns is what the rules say text by text, and holds no passage as a Python object."""

from __future__ import annotations

import pickle
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.mining import MiningPool, pool
from mixture.text.form import normalise_text


def by_the_rules(
    example_ids: list[str], queries: list[str], positives: list[list[str]], ids: list[str], texts: list[str]
) -> tuple[list[str], list[list[int]], list[set[int]]]:
    """Passage ids, positives and blocked numbers, one text at a time."""
    text_of = dict(zip(ids, map(normalise_text, texts), strict=True))
    standing: dict[str, str] = {}
    for name in sorted(ids):
        standing.setdefault(text_of[name], name)
    numbers = {name: number for number, name in enumerate(sorted(standing.values()))}
    own = [sorted({numbers[standing[text_of[name]]] for name in row}) for row in positives]
    forms = [normalise_text(query) for query in queries]
    blocked = [{n for form, row in zip(forms, own, strict=True) if form == mine for n in row} for mine in forms]
    return sorted(standing.values()), own, blocked


TEXTS = st.sampled_from(["Paris", "paris!", "  PARIS", "Ｐａｒｉｓ", "Rome", "rome?", "", "?!", "红楼梦", "é"])


@st.composite
def collections(draw: Any) -> tuple[list[str], list[str], list[list[str]], list[str], list[str]]:
    texts = draw(st.lists(TEXTS, min_size=1, max_size=12))
    ids = draw(st.permutations([f"p{row}" for row in range(len(texts))]))
    queries = draw(st.lists(TEXTS, max_size=8))
    positives = [draw(st.lists(st.sampled_from(ids), max_size=4)) for _ in queries]
    return [f"e{row}" for row in range(len(queries))], queries, positives, list(ids), texts


@given(collections(), st.booleans(), st.booleans(), st.data())
def test_it_is_numbered_by_the_rules(made: Any, in_arrow: bool, one_by_one: bool, data: Any) -> None:
    names, queries, positives, ids, texts = made
    standing, own, blocked = by_the_rules(*made)
    wanted = data.draw(st.none() | st.sets(st.sampled_from(names))) if names else None
    given_columns = made
    if in_arrow:  # in chunks, of either string type
        given_columns = (
            pa.chunked_array([names[:2], names[2:]], pa.string()), pa.array(queries, pa.large_string()),
            pa.chunked_array([positives[:3], positives[3:]], pa.list_(pa.string())),
            pa.chunked_array([ids[:1], ids[1:]], pa.string()), pa.array(texts, pa.string()),
        )  # fmt: skip
    # No fixture: Hypothesis calls this many times, and a fixture would last over all of them.
    with patch.object(pool, "_FEW", 10_000 if one_by_one else 0):
        found = MiningPool.build(*given_columns, wanted)
    kept = [row for row, name in enumerate(names) if wanted is None or name in wanted]
    assert found.passage_ids == standing
    assert found.passages == [texts[ids.index(name)] for name in standing]
    assert found.example_ids == [names[row] for row in kept]
    assert found.queries == [queries[row] for row in kept]
    assert [row.tolist() for row in found.positives] == [own[row] for row in kept]
    assert [set(found.blocked[row]) for row in range(len(kept))] == [blocked[row] for row in kept]


def test_normal_forms_are_compared_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_AT_ONCE", 2)
    monkeypatch.setattr(pool, "_FEW", 0)
    made = MiningPool.build(["e"], ["q"], [["b"]], ["d", "c", "b", "a"], ["x", "y", "X!", "y?"])
    assert (made.passage_ids, made.passages) == (["a", "b"], ["y?", "X!"])
    assert made.positives[0].tolist() == [1]


def test_passages_and_ids_stay_in_arrow_and_are_not_copied() -> None:
    """Of passages in the order of their ids, all different, the pool holds the very bytes that it was given."""
    texts = pa.array([f"passage number {number}" for number in range(1000)], pa.large_string())
    ids = pa.array([f"{number:04d}" for number in range(1000)], pa.large_string())
    made = MiningPool.build(["e"], ["q"], [["0007"]], ids, texts)
    for found, before in ((made.passages.arrow, texts), (made.passage_ids.arrow, ids)):
        assert [chunk.buffers()[2].address for chunk in found.chunks] == [before.buffers()[2].address]
    assert made.passages[np.int64(7)] == "passage number 7"
    assert made.passages[-1] == "passage number 999"
    assert list(made.passages[5:7]) == ["passage number 5", "passage number 6"]
    assert list(made.passages[3:0:-2]) == ["passage number 3", "passage number 1"]
    with pytest.raises(IndexError):
        made.passages[1000]


def test_blocked_goes_where_sets_go() -> None:
    made = MiningPool.build(["e0", "e1"], ["a?", "A"], [["p0"], ["p2", "p1"]], ["p0", "p1", "p2"], ["x", "y", "z"])
    blocked = made.blocked[0]
    assert 2 in blocked and 3 not in blocked
    assert (len(blocked), sorted(blocked), blocked.union([7])) == (3, [0, 1, 2], {0, 1, 2, 7})
    assert made.blocked[1] is blocked  # not made again for an equal query
    assert made.positives[-1].dtype == np.int64
    copied = pickle.loads(pickle.dumps(made))
    assert (copied.passages, copied.blocked[1]) == (made.passages, blocked)


def test_half_a_surrogate_pair_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"passages: .* holds half of a surrogate pair"):
        MiningPool.build(["e"], ["q"], [[]], ["p"], ["a\ud800"])
