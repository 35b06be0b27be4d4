"""Worked by hand from DPR's rule."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import pytest

from mixture.suites.answers import has_answer, token_run

CASES = {
    "a word": ("Paris", "It is Paris.", True),
    "another case": ("PARIS", "it is paris", True),
    "part of a word": ("Pari", "It is Paris.", False),
    "tokens in order": ("New York City", "in New York City, 1977", True),
    "tokens with a gap": ("New City", "in New York City", False),
    "out of order": ("York New", "New York", False),
    "punctuation is a token": ("U.S.", "the U.S. Senate", True),
    "which must be there": ("U.S.", "the US Senate", False),
    "blanks and lines are not": ("New York", "New\n\t York", True),
    "digits of a number": ("19", "in 1990", False),
    "accents count": ("Jose", "José Saramago", False),
    "however they are written": (unicodedata.normalize("NFD", "José"), unicodedata.normalize("NFC", "José"), True),
    "Cyrillic": ("Лев Толстой", "Роман написал лев толстой в 1869 году", True),
    "Cyrillic, another form of the word": ("Толстой", "Роман Толстого", False),
    "Arabic": ("القاهرة", "عاصمة مصر هي القاهرة.", True),
    "Arabic with an article before": ("قاهرة", "عاصمة مصر هي القاهرة.", False),
    "Chinese between signs": ("北京", "首都（北京）", True),
    "Chinese in a run": ("北京", "首都是北京市", False),
    "Japanese in a run": ("東京", "日本の首都は東京です", False),
    "Thai between blanks": ("กรุงเทพ", "เมืองหลวง กรุงเทพ ใหญ่", True),
    "Thai in a run": ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร", False),
    "Thai marks belong to the run": ("น้ำ", "น้ำ", True),
    "Hindi vowels belong to the run": ("दिल्ली", "राजधानी दिल्ली है", True),
    "longer than the passage": ("a b c", "b c", False),
    "no tokens": (" \u200b", "anything", False),
    "nothing to look in": ("Paris", "", False),
}


@pytest.mark.parametrize(("answer", "passage", "held"), CASES.values(), ids=CASES)
def test_a_passage_holds_an_answer_as_dpr_says(answer: str, passage: str, held: bool) -> None:
    assert has_answer([answer], [passage]).tolist() == [held]


def test_any_answer_will_do_and_passages_keep_their_order() -> None:
    found = has_answer(["Rome", "Oslo"], ["in Oslo", "in Bonn", "Rome, Italy"])
    assert found.tolist() == [True, False, True]
    assert has_answer([], ["x"]).tolist() == [False] and has_answer(["x"], []).shape == (0,)


def test_a_run_is_made_once_where_the_caller_remembers_it() -> None:
    remembered = lru_cache(token_run)
    for _ in range(3):
        assert has_answer(["Oslo"], ["in Oslo", "in Oslo"], remembered).all()
    assert remembered.cache_info().misses == 1
