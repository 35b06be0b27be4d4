"""Tokens of whole columns are those of `tokenize`."""

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixture.mining.words import Vocabulary, tokenize

SCRIPTS = [
    range(0x20, 0x7F),
    range(0xC0, 0x180),
    range(0x300, 0x320),  # combining marks
    range(0x900, 0x950),
    range(0xE00, 0xF00),  # Thai, Lao
    range(0x1000, 0x10A0),
    range(0x1780, 0x1800),
    range(0x3000, 0x3130),  # ideographic punctuation and marks, kana, bopomofo
    range(0x4E00, 0x4E20),
    range(0xAC00, 0xAC20),
    range(0xF900, 0xF910),  # ideographs that fold to others
    range(0xFF60, 0xFF9F),  # half-width kana
    range(0x20000, 0x20010),
]
character = st.sampled_from(SCRIPTS).flatmap(st.sampled_from).map(chr)
words = st.one_of(character, st.just(" "), st.sampled_from(["the ", "红楼", "ทีม", "カナ"]))
texts = st.lists(st.lists(words, max_size=12).map("".join), max_size=5)


def by_dictionary(some, vocabulary):
    numbers = [[vocabulary.setdefault(token, len(vocabulary)) for token in tokenize(text)] for text in some]
    return [number for row in numbers for number in row], [len(row) for row in numbers]


@settings(max_examples=400, deadline=None)
@given(texts, texts)
@example(["Who wrote 红楼梦?", "", "我 a", "iPhone15手机 多少钱"], ["?!", "・・", "我"])
def test_compiled_tokens_are_the_reference(some, more):
    vocabulary, reference = Vocabulary(), {}
    for part in (some, pa.array(more, pa.string())):
        numbers, lengths = vocabulary.number(part, grow=True)
        assert (numbers.tolist(), lengths.tolist()) == by_dictionary(
            part if part is some else part.to_pylist(), reference
        )
    assert len(vocabulary) == len(reference)


def test_many_tokens_and_long_columns():
    """The table grows, and a column is cut into parts."""
    rows = [" ".join(f"w{(row * 131 + place) % 60_007}" for place in range(40)) for row in range(4_000)]
    vocabulary, reference = Vocabulary(), {}
    for part in (rows[:2_500], rows[2_500:]):
        numbers, lengths = vocabulary.number(part, grow=True)
        assert (numbers.tolist(), lengths.tolist()) == by_dictionary(part, reference)


def test_unknown_tokens_stay_unknown():
    vocabulary = Vocabulary()
    vocabulary.number(["red apple"], grow=True)
    numbers, lengths = vocabulary.number(["a red pear", "", "apple"])
    assert (numbers.tolist(), lengths.tolist()) == ([-1, 0, -1, 1], [3, 0, 1])
    assert len(vocabulary) == 2
