import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixture.dedup import normalise_text, second_look
from mixture.dedup.second_look import Verifier
from mixture.dedup.simhash import GRAM, GRAM_CJK
from mixture.errors import UsageError


def grams(text):
    form = normalise_text(text)
    widths = [GRAM_CJK if re.match("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff]", char) else GRAM for char in form]
    return {form[i : i + width] for i, width in enumerate(widths) if i + width <= len(form)} or {form}


def numbers(text):
    return sorted(re.findall(r"\d+", normalise_text(text)))


text = st.text("ab Ａé漢字か1२٣34,", max_size=25)


@settings(max_examples=300, deadline=None)
@given(st.lists(text, min_size=2, max_size=6), st.floats(0, 1, exclude_min=True))
@example(["", "?"], 0.5)
@example(["1914 bis 1918", "1918, 1914: bis"], 0.1)
@example(["1 2", "12"], 1e-9)
@example(["a" * 3000, "ab" * 3000], 0.3)
def test_as_by_sets(texts, threshold):
    pairs = np.array([(i, j) for i in range(len(texts)) for j in range(len(texts))])
    a, b = ([texts[row] for row in pairs[:, side]] for side in (0, 1))
    expected = [len(grams(x) & grams(y)) / len(grams(x) | grams(y)) for x, y in zip(a, b, strict=True)]
    same = [numbers(x) == numbers(y) for x, y in zip(a, b, strict=True)]
    strict, mild = (Verifier(texts, threshold, same_numbers=wanted) for wanted in (True, False))
    assert mild.similarities(pairs).tolist() == expected
    assert mild.accept_pairs(pairs).tolist() == [value >= threshold for value in expected]
    assert strict.accept_pairs(pairs).tolist() == [v >= threshold and s for v, s in zip(expected, same, strict=True)]


def test_one_pair_at_a_time():
    verifier = Verifier(["Who wrote Hamlet?", "who wrote hamlet", "who wrote Faust"], 0.9, same_numbers=True)
    assert verifier.accepts(0, 1) is True
    assert verifier.accepts(1, 2) is False


@pytest.mark.parametrize("make", [list, pa.array, lambda texts: pa.chunked_array([texts[:1], [], texts[1:]])])
def test_every_kind_of_input_and_parts_of_pairs(monkeypatch, make):
    texts = [f"text number {i % 7} and some words" for i in range(30)]
    pairs = [(i, j) for i in range(30) for j in range(i)]
    whole = Verifier(texts, 0.8, same_numbers=True).accept_pairs(pairs)
    monkeypatch.setattr(second_look, "_PART", 7)
    assert np.array_equal(Verifier(make(texts), 0.8, same_numbers=True).accept_pairs(pairs), whole)
    assert whole.tolist() == [i % 7 == j % 7 for i, j in pairs]


def test_without_a_threshold_all_pass():
    verifier = Verifier(["a 1", "b 2"], None, same_numbers=True)
    assert verifier.accepts(0, 1) and verifier.accept_pairs([[0, 1], [1, 0]]).tolist() == [True, True]


def test_no_pairs():
    verifier = Verifier(["a"], 0.5, same_numbers=True)
    assert verifier.accept_pairs(np.empty((0, 2), dtype=np.int64)).shape == (0,)
    assert Verifier([], 0.5, same_numbers=False).similarities([]).shape == (0,)


@pytest.mark.parametrize("pairs", [[[0, 2]], [[-1, 0]]])
def test_rows_that_do_not_exist_are_refused(pairs):
    with pytest.raises(UsageError, match="0 to 1"):
        Verifier(["a", "b"], 0.5, same_numbers=False).accept_pairs(pairs)


@pytest.mark.parametrize("threshold", [-0.1, 0, 1.1, "0.5", 80, True])
def test_threshold_out_of_range(threshold):
    with pytest.raises(UsageError, match="0 to 1"):
        Verifier(["a"], threshold, same_numbers=False)
