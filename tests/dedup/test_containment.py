import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.dedup.containment import CONTAINED, MIN_GRAMS, find_contained
from mixture.errors import UsageError
from mixture.suites.lists import TEST_PASSAGES, read_test_passages
from mixture.text.letters import letters_of

TOWER = "The Eiffel Tower, built in 1889, is 330 metres tall; it was the tallest structure of all for 41 years."
THAI = "หอไอเฟลสร้างขึ้นในปี พ.ศ. 2432 สูง 330 เมตร และเป็นสิ่งก่อสร้างที่สูงที่สุดในโลกนานถึงสี่สิบเอ็ดปี"
CHINESE = "埃菲尔铁塔建成于一八八九年，高三百三十米，在随后的四十一年间一直是全世界最高的人造建筑物。"
ARABIC = "بني برج إيفل سنة 1889 ويبلغ ارتفاعه 330 مترا، وظل أعلى مبنى في العالم طوال إحدى وأربعين سنة كاملة"


def suite_table(*rows):
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[], [], []], schema=TEST_PASSAGES)


def found(texts, tests, **options):
    table = find_contained(texts, [f"p{row:02d}" for row in range(len(texts))], tests, **options)
    assert table.schema == CONTAINED
    return [(row["removed"], row["suite"], row["doc_id"], row["share"]) for row in table.to_pylist()]


def grams(letters, wide, narrow):
    widths = [(i, narrow if "\u4e00" <= char <= "\u9fff" else wide) for i, char in enumerate(letters)]
    return {letters[i : i + width] for i, width in widths if i + width <= len(letters)}


def by_definition(texts, tests, wide, narrow, share):
    """All pairs, one by one, with sets of grams."""
    rows = []
    for row, text in enumerate(letters_of(texts)):
        held = []
        for number, test in enumerate(letters_of(tests)):
            wanted = grams(test, wide, narrow)
            if len(wanted) < MIN_GRAMS:
                part = float(text == test != "")
            else:
                part = len(wanted & grams(text, wide, narrow)) / len(wanted)
            if part and part >= (share if len(wanted) >= MIN_GRAMS else 1):
                held.append((-part, number))
        if held:
            rows.append((f"p{row:02d}", "s", f"{min(held)[1]:02d}", -min(held)[0]))
    return rows


ALPHABETS = ["ab ", "abcdefghijkl ,", "塔建成于高三百ab，"]


@st.composite
def collections(draw):
    """Test passages, and training texts made of pieces of them, some repeated, some edited."""
    alphabet = draw(st.sampled_from(ALPHABETS))
    tests = draw(st.lists(st.text(alphabet, max_size=90), min_size=1, max_size=6))
    texts = []
    for _ in range(draw(st.integers(1, 6))):
        pieces = []
        for _ in range(draw(st.integers(1, 3))):
            text = draw(st.sampled_from(tests))
            first, last, cut = draw(st.tuples(st.integers(0, 40), st.integers(50, 90), st.integers(0, 90)))
            pieces.append(text[first:cut] + draw(st.text(alphabet, max_size=2)) + text[cut:last])
        texts.append("".join(pieces))
    return texts, tests


@settings(max_examples=300, deadline=None)
@given(collections(), st.integers(2, 9), st.integers(2, 4), st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]))
def test_finds_what_comparing_all_pairs_finds(collection, wide, narrow, share):
    texts, tests = collection
    table = suite_table(*(("s", f"{number:02d}", test) for number, test in enumerate(tests)))
    rows = found(texts, table, gram=wide, gram_cjk=narrow, share=share)
    assert rows == by_definition(texts, tests, wide, narrow, share)


@pytest.mark.parametrize("passage", [TOWER, THAI, CHINESE, ARABIC])
def test_inside_a_longer_text_in_any_script(passage):
    tests = suite_table(("s", "1", passage))
    longer = f"Facts of the day: {passage.upper().replace(',', '')} And so on and so forth."
    assert found([longer, "Facts of the day. And so on.", passage[: len(passage) // 3]], tests) == [
        ("p00", "s", "1", 1.0)
    ]


@pytest.mark.parametrize("passage", [TOWER, THAI, CHINESE, ARABIC])
def test_a_part_counts_by_its_share(passage):
    tests = suite_table(("s", "1", passage))
    part = passage[: len(passage) * 3 // 4]
    share = found([part], tests)[0][3]
    assert 0.5 < share < 0.8
    assert found([part], tests, share=share + 0.01) == []


def test_short_test_passages_must_be_equal():
    tests = suite_table(("quora", "1", "Why is the sky blue?"))
    assert found(["WHY is the sky-blue", "why is the sky blue and so high"], tests) == [("p00", "quora", "1", 1.0)]


def test_a_gram_that_a_text_repeats_counts_once():
    assert found([TOWER[:30] * 20], suite_table(("s", "1", TOWER))) == []


def test_one_row_a_text_with_the_test_passage_it_holds_most_of():
    tests = suite_table(("z", "1", TOWER + " " + ARABIC), ("b", "2", TOWER), ("b", "1", TOWER), ("a", "9", ARABIC[:70]))
    assert found([TOWER], tests) == [("p00", "b", "1", 1.0)]


def test_arrow_arrays_and_nothing_to_compare():
    tests = suite_table(("s", "1", TOWER))
    texts = pa.chunked_array([["no"], [TOWER]])
    assert find_contained(texts, pa.array(["a", "b"]), tests)["removed"].to_pylist() == ["b"]
    assert found([], tests) == found([TOWER], suite_table()) == found(["", "?"], suite_table(("s", "1", ""))) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gram": 1}, "`gram` is 1; allowed: whole numbers from 2 to 64"),
        ({"gram_cjk": 65}, "`gram_cjk` is 65; allowed"),
        ({"share": 0}, "`share` is 0; allowed: numbers above 0"),
        ({"share": 1.5}, "`share` is 1.5; allowed"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        found(["a"], suite_table(("s", "1", TOWER)), **options)


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="no column 'doc_id'"):
        find_contained(["a"], ["a"], pa.table({"suite": ["s"], "text": ["a"]}))
    with pytest.raises(UsageError, match="one id for each text"):
        find_contained(["a", "b"], ["a"], suite_table(("s", "1", TOWER)))


def test_real_suites_and_a_leak(real_data):
    tests = read_test_passages(real_data / "eval")
    texts = [f"{row['text']} {'and something else ' * 9}" for row in tests.to_pylist() if len(row["text"]) > 100]
    assert len(found(texts, tests)) == len(texts)
