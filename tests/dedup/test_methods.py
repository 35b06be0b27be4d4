"""Dedup methods over texts that stay in the store: only the needed ones are read, in parts, with the same outcome."""

import random
from dataclasses import replace
from string import ascii_lowercase

import numpy as np
import pyarrow as pa
import pytest

from mixture.dedup import simhash_fingerprints
from mixture.dedup.duplicates import duplicate_groups
from mixture.dedup.methods import METHODS, Method, Settings, StoredTexts, base
from mixture.embeddings import InMemory
from mixture.errors import UsageError


def sample():
    """Twenty texts, twice and once more without the first letters, and 25 that are like no other."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(400)]
    texts = [" ".join(draw.choices(words, k=25)) for _ in range(45)]
    near = [text[12:] for text in texts[:20]]
    return pa.array([*texts[:20], *(text.upper() for text in texts[:20]), *near, *texts[20:]])


TEXTS = sample()


def letters(texts, kind):
    """Counts of letters, less what all texts have."""
    return np.array([[text.lower().count(letter) for letter in ascii_lowercase] for text in texts], "f4") - 6


def stored(texts, asked):
    def texts_of(rows):
        asked.append(rows.tolist())
        return texts.take(pa.array(rows))

    return StoredTexts(len(texts), lambda: simhash_fingerprints(texts), texts_of)


@pytest.mark.parametrize("part_rows", [7, 200_000])
@pytest.mark.parametrize("settings", [Settings(), Settings(verify=None), Settings(distance=0), Settings(7, 0.5)])
@pytest.mark.parametrize("name", METHODS)
def test_what_stays_in_the_store_is_grouped_as_texts_in_memory_are(monkeypatch, name, settings, part_rows):
    monkeypatch.setattr(base, "PART_ROWS", part_rows)
    encode = letters if METHODS[name].needs_encoder else None
    expected = duplicate_groups(TEXTS, method=name, distance=settings.distance, verify=settings.verify, encode=encode)
    settings = replace(settings, vectors=lambda texts: InMemory(letters(list(texts), "query")))
    assert METHODS[name].groups(stored(TEXTS, []), settings).tolist() == expected.tolist()
    assert 20 <= (expected != np.arange(len(TEXTS))).sum() <= 40


@pytest.mark.parametrize(
    ("name", "settings", "read"),
    [
        ("exact", Settings(), [range(40)]),  # texts without an equal fingerprint are not read
        ("simhash", Settings(distance=0), [range(40)]),
        ("simhash", Settings(verify=None), []),  # fingerprints are all it needs
        (
            "simhash",
            Settings(),
            [range(85), range(60)],
        ),  # all once for further fingerprints, then those with neighbours
        ("minhash", Settings(), [range(85)]),
    ],
)
def test_texts_are_read_only_where_the_method_needs_them(name, settings, read):
    asked = []
    METHODS[name].groups(stored(TEXTS, asked), settings)
    assert asked == [list(rows) for rows in read]


def test_few_texts_are_in_memory_at_a_time(monkeypatch):
    monkeypatch.setattr(base, "PART_ROWS", 7)
    asked = []
    METHODS["simhash"].groups(stored(TEXTS, asked), Settings())
    # All, for further fingerprints; then those with a neighbour, by groups of three, which stay whole.
    assert [len(rows) for rows in asked] == [7] * 12 + [1] + [9] * 6 + [6]


def test_a_method_needs_a_name_and_a_function():
    """`link` sees each normal form once; without `lazily` all texts are read."""
    seen = []

    def link(forms, settings):
        seen.extend(forms.to_pylist())
        first = {}
        return np.array([first.setdefault(form[0], row) for row, form in enumerate(forms.to_pylist())])

    method = Method(link=link)
    texts = pa.array(["Abc", "abc!", "xyz", "Ant", "xyz"])
    assert method.groups(stored(texts, []), Settings()).tolist() == [0, 0, 2, 0, 2]
    assert seen == ["abc", "xyz", "ant"]


def test_a_method_with_an_encoder_gets_texts_as_they_are_written():
    """Equal normal forms are in one group whatever it finds: here texts of one length, so that two groups meet."""
    seen = []

    def link(texts, settings):
        seen.extend(texts.to_pylist())
        first = {}
        return np.array([first.setdefault(len(text), row) for row, text in enumerate(texts.to_pylist())])

    texts = pa.array(["xyz", "Abc", "abc!", "four", "elephant", "Abc"])
    method = Method(link=link, needs_encoder=True)
    assert method.groups(stored(texts, []), Settings()).tolist() == [0, 0, 0, 0, 4, 0]
    assert seen == ["xyz", "Abc", "abc!", "four", "elephant"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("minhash", Settings(verify=0.99), r"`verify` is 0.99; allowed with minhash: 0.1 to 0.95"),
    ],
)
def test_a_method_allows_less_than_the_settings_do(name, settings, message):
    with pytest.raises(UsageError, match=message):
        METHODS[name].check(settings)
    METHODS["exact"].check(settings)
