"""A labelled set for near-duplicate search: real texts, each with one planted copy that has a known amount of edits.

What counts as a duplicate: a text and its planted copy, whatever the edit rate (0 to 20 %), and nothing else. Edits
leave digits alone, because a text with another number is another text for us; `digits=True` lets them hit digits too.

Hard negatives come with the texts themselves: questions of one template ("What is the … of the …"), which annotators
wrote as different questions, news on one event, getters and setters. A text that is equal to another one is left out.
In sources where nobody says that two rows differ (news, simplified sentences, code), so are texts that would be a copy
of at most 20 % edits of another one. `changed_numbers` makes a harder kind: the same text, another number.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixture.dedup import normalise_text
from mixture.dedup.edits import edits_between
from mixture.dedup.minhash import minhash_pairs
from mixture.dedup.simhash import SHORT_TEXT
from mixture.ingest.read import read_file
from mixture.rows import RawExample

XQUAD = ("ar", "de", "en", "es", "hi", "ru", "th", "zh")
EDITS = ("form", "0 %", "1 %", "2 %", "5 %", "10 %", "20 %")
"""Kinds of copies. "form": only case, punctuation, spaces, width differ; a rate: so many characters, at least one."""
LENGTHS = ("short", "medium", "long")
"""short: a normal form of fewer than 12 n-grams (3 characters); long: more than 200 characters; medium: between."""
_KEYWORDS = 60  # short texts cut from the passages of each language
_MOST_ROWS = 1_000  # of each source
_LARGEST_SHARE = 0.2  # of edits that a copy has
_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Planted:
    """n texts in random order. pairs: (p, 2), a text and its copy; language, edit, length: (p,), of these pairs.

    pair_of: (n,), the number of each text's pair.
    """

    texts: list[str]
    pairs: NDArray[np.int64]
    language: NDArray[np.str_]
    edit: NDArray[np.str_]
    length: NDArray[np.str_]
    pair_of: NDArray[np.int64]


def _rows(path: Path) -> Iterator[RawExample]:
    return (row for row in read_file(path) if isinstance(row, RawExample))


def _keywords(passages: list[str], draw: random.Random) -> list[str]:
    """Short texts: one or two words next to each other, or what stands between two gaps where words have no gaps."""
    found: dict[str, None] = {}
    for passage in draw.sample(passages, len(passages)):
        words = normalise_text(passage).split()
        start = draw.randrange(len(words))
        text = " ".join(words[start : start + 2])
        if 4 <= len(text) <= 13 and not any(char.isdigit() for char in text):
            found[text] = None
    return list(found)[:_KEYWORDS]


def _apart(texts: list[str]) -> list[str]:
    """The texts without those that are a copy of an earlier one with at most `_LARGEST_SHARE` edits."""
    forms = [normalise_text(text) for text in texts]
    codes = [np.array([ord(char) for char in form], dtype=np.uint32) for form in forms]
    rows = np.empty((3, max(map(len, codes)) + 2), dtype=np.int32)
    dropped: set[int] = set()
    for i, j in minhash_pairs(forms, 0.25, 256).tolist():
        limit = int(_LARGEST_SHARE * max(len(codes[i]), len(codes[j])))
        if i not in dropped and edits_between(codes[i], codes[j], limit, rows) <= limit:
            dropped.add(j)
    return [text for number, text in enumerate(texts) if number not in dropped]


def base_texts(data: Path, seed: int) -> dict[str, list[str]]:
    """Distinct real texts of each language, and of code. data: the folder that has raw/."""
    draw, raw, found = random.Random(seed), data / "raw", {}
    for language in XQUAD:
        rows = list(_rows(raw / "xquad" / f"xquad.{language}.jsonl"))
        passages = list(dict.fromkeys(passage.text for row in rows for passage in row.positives))
        found[language] = [*(row.query for row in rows), *passages, *_keywords(passages * 3, draw)]
    rows = draw.sample(list(_rows(raw / "cmrc2018" / "cmrc2018.jsonl")), _MOST_ROWS)
    found["zh"] += [*(row.query for row in rows), *(row.positives[0].text for row in rows[::4])]
    news = draw.sample(list(_rows(raw / "agnews" / "agnews.jsonl.gz")), _MOST_ROWS)
    wiki = draw.sample(list(_rows(raw / "altlex" / "altlex.jsonl.gz")), _MOST_ROWS // 2)
    found["en"] += _apart([*(row.positives[0].text for row in news), *(row.query for row in wiki)])
    code = pq.read_table(raw / "concode" / "concode.parquet", columns=["positive"])["positive"].to_pylist()
    found["code"] = _apart(code)
    return {language: _distinct(texts) for language, texts in found.items()}


def _distinct(texts: list[str]) -> list[str]:
    return list({normalise_text(text): text for text in texts if len(normalise_text(text)) > 3}.values())


def _changed_form(text: str, draw: random.Random) -> str:
    """The text with other case, punctuation, spaces and width, at least one of them; its normal form is the same."""
    changes = [
        str.upper,
        str.title,
        lambda t: t.rstrip(".?!。？؟") + " ?!",
        lambda t: "« " + t.replace(" ", "  ") + " »",
        lambda t: t.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)}),
    ]
    for change in draw.sample(changes, len(changes)):
        changed = change(text)
        if changed != text and normalise_text(changed) == normalise_text(text):
            return changed
    return text + " "


def _edited(text: str, share: float, alphabet: list[str], draw: random.Random, *, digits: bool) -> str:
    """The text with this share of its characters edited: one left out, put in, replaced, or swapped with the next."""
    chars = list(text)
    free = [place for place, char in enumerate(chars) if digits or not char.isdigit()]
    for place in sorted(draw.sample(free, min(len(free), max(1, round(share * len(chars))))), reverse=True):
        kind = draw.randrange(4)
        char = draw.choice([other for other in draw.choices(alphabet, k=20) if other != chars[place]])
        following = "".join(chars[place + 1 : place + 2])
        if kind == 0 and len(chars) > 1:
            del chars[place]
        elif kind == 1 and (digits or not chars[max(0, place - 1)].isdigit()):
            chars.insert(place, char)
        elif kind == 2 and following not in ("", chars[place]) and (digits or not following.isdigit()):
            chars[place], chars[place + 1] = chars[place + 1], chars[place]
        else:
            chars[place] = char
    return "".join(chars)


def _copy(text: str, edit: str, alphabet: list[str], draw: random.Random, *, digits: bool) -> str:
    if edit == "0 %":
        return text
    if edit == "form":
        return _changed_form(text, draw)
    return _edited(text, float(edit.split()[0]) / 100, alphabet, draw, digits=digits)


def length_class(text: str) -> str:
    form = normalise_text(text)
    if len(form) - (1 if _DENSE.search(form) else 2) < SHORT_TEXT:
        return "short"
    return "long" if len(form) > 200 else "medium"


def planted(data: Path, seed: int, *, digits: bool = False) -> Planted:
    """Each real text and one copy of it; the kinds of `EDITS` take turns. The same for a seed on every machine."""
    draw = random.Random(seed)
    rows: list[tuple[str, int]] = []
    labels: list[tuple[str, str, str]] = []
    for language, texts in base_texts(data, seed).items():
        characters = [char for text in texts for char in text if (char.isalpha() or char == " ")]
        alphabet = draw.choices(characters, k=5_000)
        texts = sorted(draw.sample(texts, len(texts)), key=length_class)  # each length has all kinds of copies
        for number, text in enumerate(texts):
            edit = EDITS[number % len(EDITS)]
            rows += [(text, len(labels)), (_copy(text, edit, alphabet, draw, digits=digits), len(labels))]
            labels.append((language, edit, length_class(text)))
    order = np.array(draw.sample(range(len(rows)), len(rows)))
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows))
    language, edit, length = (np.array(column) for column in zip(*labels, strict=True))
    pairs = np.sort(place.reshape(-1, 2), axis=1)
    pair_of = np.array([rows[row][1] for row in order])
    return Planted([rows[row][0] for row in order], pairs, language, edit, length, pair_of)


def changed_numbers(data: Path, seed: int) -> list[tuple[str, str]]:
    """Pairs that are no duplicates: a text, and the same one with another digit in one of its numbers."""
    draw, pairs = random.Random(seed), []
    for texts in base_texts(data, seed).values():
        for text in texts:
            places = [place for place, char in enumerate(text) if char in "0123456789"]
            if places:
                place = draw.choice(places)
                digit = draw.choice([digit for digit in "123456789" if digit != text[place]])
                pairs.append((text, text[:place] + digit + text[place + 1 :]))
    return pairs
