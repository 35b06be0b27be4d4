import sys
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixture.dedup import normalise_text
from mixture.text import columns
from mixture.text.columns import normalise_texts
from mixture.text.form import folded, is_gap

SCRIPTS = [
    range(0x80),
    range(0x80, 0x250),  # Latin
    range(0x300, 0x370),  # combining marks
    range(0x370, 0x530),  # Greek, Cyrillic
    range(0x590, 0x780),  # Hebrew, Arabic
    range(0x900, 0xD80),  # Indic, with vowel signs in two parts
    range(0xE00, 0xF00),  # Thai, Lao
    range(0x1100, 0x1200),  # Hangul by letter
    range(0x1E00, 0x2100),  # Latin and Greek with marks, punctuation, invisible marks
    range(0x3040, 0x3400),  # kana, units in a square
    range(0x4E00, 0x4E40),
    range(0xAC00, 0xAC40),  # Hangul by syllable
    range(0xF900, 0xFA00),  # ideographs that fold to others
    range(0xFB00, 0x10000),  # ligatures, full and half width
    range(0x1D400, 0x1D800),  # letters of mathematics
    range(0x1F300, 0x1F700),  # emoji
    range(0xD800, 0xE000),  # halves of surrogate pairs
    range(0xE0100, 0xE01F0),
]
character = st.sampled_from(SCRIPTS).flatmap(st.sampled_from).map(chr)
combining = st.sampled_from([chr(c) for c in range(sys.maxunicode) if unicodedata.combining(chr(c))])
texts = st.lists(st.one_of(character, character, combining), max_size=12).map("".join)


@settings(max_examples=600, deadline=None)
@given(st.lists(texts, max_size=4))
@example(["각 각", "가\u11a7ᆨ"])
@example(["A\u030a\u0327", "ά\u0345", "\u0345\u0301", "क\u093c", "\u0958"])
@example(["=\u0338", "\u0338", ". \u0301", "\ufdfa" * 3])
def test_compiled_form_is_the_reference(given_texts):
    assert normalise_texts(given_texts).to_pylist() == [normalise_text(text) for text in given_texts]


@given(texts)
def test_normal_form_is_stable(text):
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert unicodedata.is_normalized("NFKC", once)


def test_every_character_alone():
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    assert normalise_texts(characters).to_pylist() == [normalise_text(char) for char in characters]


def test_characters_left_out_of_the_tables_are_plain():
    """A newer Unicode may put others there."""
    for first, end in columns._PLAIN:
        for code in range(first, end):
            char = chr(code)
            special = folded(code) != char or is_gap(code) or char.isspace() or char.isdecimal()
            assert not special and not unicodedata.combining(char) and not unicodedata.decomposition(char)


def test_what_is_no_utf8_does_no_harm():
    """Arrow does not check strings that come from bytes. Each byte that fits nowhere is U+FFFD."""
    cases = [b"\xff", b"a\xe4\xb8", b"\xf4\x90\x80\x80", b"\x80z", b"\xe4\xb8\xad"]
    raw = pa.array(cases, pa.binary())
    unchecked = pa.Array.from_buffers(pa.string(), len(cases), raw.buffers())
    found = normalise_texts(unchecked).to_pylist()
    assert found == ["\ufffd", "a\ufffd\ufffd", "\ufffd" * 4, "\ufffdz", "中"]


@pytest.mark.parametrize("cut", [1, 5, 10_000])
def test_parts_do_not_matter(monkeypatch, cut):
    monkeypatch.setattr(columns, "_PART_BYTES", cut)
    given_texts = ["", "One Two", "", "Drei «Vier»", "五", "", ""]
    expected = [normalise_text(text) for text in given_texts]
    assert normalise_texts(given_texts).to_pylist() == expected
    assert normalise_texts(pa.chunked_array([given_texts[:3], [], given_texts[3:]])).to_pylist() == expected


def test_empty():
    assert normalise_texts([]).to_pylist() == [] and normalise_texts([""] * 3).to_pylist() == [""] * 3
