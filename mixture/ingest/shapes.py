"""The shapes a row can have, whatever file it comes from: a list of texts, or an object with known names.

Every reader hands its rows to `example_from` (JSON lines) or to the `Shape` of its columns (tables), so a layout is
understood in one place only. A row that cannot be used raises BadRow with the reason.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixture.ingest.damage import BadRow
from mixture.rows import RawExample, RawPassage

EXPECTED = (
    "query + pos (+ neg), anchor + positive (+ negative), query + positive_passages (+ negative_passages), "
    "set, or a pair such as question + answer"
)

# Names that say which side is which. The first list cannot be mistaken; of the second only one pair may match.
CERTAIN_PAIRS = (("anchor", "positive"), ("query", "positive"), ("question", "positive"))
KNOWN_PAIRS = (
    ("query", "passage"), ("query", "document"), ("query", "answer"), ("query", "context"), ("query", "response"),
    ("query", "text"), ("question", "answer"), ("question", "passage"), ("question", "context"),
    ("question", "explanation"), ("question", "document"), ("comment", "code"), ("docstring", "code"),
    ("title", "abstract"), ("title", "description"), ("title", "body"), ("title", "text"), ("document", "summary"),
)  # fmt: skip
# Pairs of equals: files with these names often carry a label, and then not every row is a positive pair.
SYMMETRIC_PAIRS = (
    ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("text1", "text2"), ("text_a", "text_b"),
    ("question1", "question2"), ("premise", "hypothesis"),
)  # fmt: skip
LABELS = frozenset(
    {"label", "labels", "score", "similarity", "similarity_score", "is_duplicate", "gold_label", "relevance"}
)
NOT_TEXT = frozenset({"id", "_id", "idx", "index", "docid", "doc_id", "qid", "pid", "query_id", "passage_id", "url"})
NEGATIVE_NAME = re.compile(r"(hard_)?neg(ative)?s?(_?\d+)?")
LANGUAGE_NAMES = ("language", "lang")
# Names that change what a row is, the first of numbered ones for all of them.
MEANINGFUL = tuple(
    sorted(
        {name for pair in (*CERTAIN_PAIRS, *KNOWN_PAIRS, *SYMMETRIC_PAIRS) for name in pair}
        | LABELS
        | {"set", "pos", "neg", "prompt", "pos_scores", "neg_scores", "positive_passages", "negative_passages"}
        | {f"{hard}{name}" for hard in ("", "hard_") for name in ("negative", "negatives", "neg", "negs")}
        | {f"{name}{number}" for name in ("negative_", "negative", "neg_") for number in (0, 1, 2)}
    )
)
HEADER_MAX_CHARS, HEADER_MAX_WORDS = 40, 4


@dataclass(frozen=True, slots=True)
class Sides:
    """Where the sides of an example are, for readers that take whole columns.

    A packed column holds lists of texts: [query, positive, negative…], or a set of equals.
    """

    query: str = ""
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    scores: Mapping[str, str] = field(default_factory=dict)  # the name of the scores by that of the passages
    packed: str = ""
    packed_negatives: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout of named values: which names it looks at, and how it builds an example from them and a line number."""

    names: tuple[str, ...]
    build: Callable[[Mapping[str, Any], int], RawExample]
    sides: Sides


def example_from(value: Any, line: int) -> RawExample:
    """The example in one parsed JSON value: a list of texts or an object.

    Raises BadRow when the value has no known shape, a missing key, a wrong type or no positive.
    """
    if isinstance(value, list):
        return from_list(value, line)
    if isinstance(value, dict):
        return shape_of(tuple(value), "key").build(value, line)
    raise BadRow(f"line is {_kind(value)}; expected a JSON list or object")


@functools.lru_cache(maxsize=256)
def shape_of(names: tuple[str, ...], what: str) -> Shape:
    """The shape that a set of names stands for. `what` (key or column) is how messages call a name.

    Raises BadRow with the missing name, or with the names found and those expected.
    """
    have = set(names)
    language = tuple(name for name in LANGUAGE_NAMES if name in have)
    if "set" in have:
        return Shape(("set", *language), from_set, Sides(packed="set"))
    if have & {"positive_passages", "negative_passages"}:
        _require(have, ("query", "positive_passages"), what)
        known = ("query", "positive_passages", "negative_passages", *language)
        sides = Sides("query", ("positive_passages",), ("negative_passages",))
        return Shape(tuple(name for name in known if name in have), from_tevatron, sides)
    if "pos" in have or {"query", "neg"} <= have:
        _require(have, ("query", "pos"), what)
        known = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", *language)
        sides = Sides("query", ("pos",), ("neg",), {"pos": "pos_scores", "neg": "neg_scores"})
        return Shape(tuple(name for name in known if name in have), from_flag_embedding, sides)
    query, positive = _pair_names(names, what)
    negatives = tuple(sorted((name for name in names if NEGATIVE_NAME.fullmatch(name)), key=_numbered))
    build = functools.partial(from_pair, query=query, positive=positive, negatives=negatives)
    return Shape((query, positive, *negatives, *language), build, Sides(query, (positive,), negatives))


def table_shape(columns: Sequence[str], *, in_order: bool = True) -> Shape:
    """The shape of a table by its column names (already in lower case).

    Where `in_order` allows it (all columns are text), two columns of unknown names are query and positive; unless one
    is an id or a label, or the names read like a row of data (a missing header would cost the first row).

    Raises BadRow with the columns found and those expected.
    """
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise BadRow(f"column {twice[0]!r} appears more than once")
    try:
        return shape_of(tuple(columns), "column")
    except BadRow:
        if (
            not in_order
            or len(columns) != 2
            or set(columns) & (NOT_TEXT | LABELS | {"query", "anchor", "pos", "positive"})
        ):
            raise
    if any(not name or len(name) > HEADER_MAX_CHARS or len(name.split()) > HEADER_MAX_WORDS for name in columns):
        raise BadRow("the first line does not look like a header; add one, such as query and passage")
    query, positive = columns
    build = functools.partial(from_pair, query=query, positive=positive)
    return Shape((query, positive), build, Sides(query, (positive,)))


LIST_NAME = "texts"
# What a line that is a list looks like once it stands under a name.
LIST_SHAPE = Shape(
    (LIST_NAME,), lambda row, line: from_list(row[LIST_NAME], line), Sides(packed=LIST_NAME, packed_negatives=True)
)


def from_list(texts: Sequence[Any], line: int) -> RawExample:
    """sentence-transformers: [query, positive, negative...]."""
    if len(texts) < 2:
        raise BadRow(f"list has {len(texts)} text{'s' * (len(texts) != 1)}; expected a query and a positive at least")
    values = [_text(value, f"item {position}") for position, value in enumerate(texts, start=1)]
    return RawExample(line, values[0], (RawPassage(values[1]),), tuple(map(RawPassage, values[2:])))


def from_set(row: Mapping[str, Any], line: int) -> RawExample:
    """sentence-transformers: equal texts; the first becomes the query, all others its positives."""
    texts = row["set"]
    if not isinstance(texts, list):
        raise BadRow(f"'set' is {_kind(texts)}; expected a list of texts")
    if len(texts) < 2:
        raise BadRow(f"'set' has {len(texts)} text{'s' * (len(texts) != 1)}; expected two at least")
    query, *positives = [_text(value, f"'set' item {position}") for position, value in enumerate(texts, start=1)]
    return RawExample(line, query, tuple(map(RawPassage, positives)), language=_language(row))


def from_tevatron(row: Mapping[str, Any], line: int) -> RawExample:
    """Tevatron and tDRO: passages are objects of docid, title and text."""
    return RawExample(
        line,
        _text(row["query"], "'query'"),
        _positives(row, "positive_passages"),
        _passages(row, "negative_passages"),
        language=_language(row),
    )


def from_flag_embedding(row: Mapping[str, Any], line: int) -> RawExample:
    """FlagEmbedding: `pos` and `neg` are a text or a list, with optional scores beside them."""
    prompt = row.get("prompt")
    return RawExample(
        line,
        _text(row["query"], "'query'"),
        _positives(row, "pos", "pos_scores"),
        _passages(row, "neg", "neg_scores"),
        language=_language(row),
        prompt=None if prompt is None else _text(prompt, "'prompt'"),
    )


def from_pair(
    row: Mapping[str, Any], line: int, *, query: str, positive: str, negatives: Sequence[str] = ()
) -> RawExample:
    """A query and its positive under any two names, with any number of names that hold negatives."""
    return RawExample(
        line,
        _text(row[query], repr(query)),
        _positives(row, positive),
        tuple(passage for name in negatives for passage in _passages(row, name)),
        language=_language(row),
    )


def _pair_names(names: Sequence[str], what: str) -> tuple[str, str]:
    have = set(names)
    for pair in CERTAIN_PAIRS:
        if have.issuperset(pair):
            return pair
    found = [pair for pair in (*KNOWN_PAIRS, *SYMMETRIC_PAIRS) if have.issuperset(pair)]
    if len(found) > 1:
        listed = " or ".join(" + ".join(pair) for pair in found)
        raise BadRow(f"more than one pair of {what}s fits: {listed}; rename the right one to anchor + positive")
    if not found:
        _missing_side(have, what)
        listed = ", ".join(repr(name) for name in names[:12]) or "none"
        raise BadRow(f"no known {what}s; found {listed}; expected {EXPECTED}")
    if found[0] in SYMMETRIC_PAIRS and (labels := sorted(have & LABELS)):
        raise BadRow(
            f"{' + '.join(found[0])} come with {what} {labels[0]!r}, so not every row is a positive pair; "
            "keep the positive ones and name them anchor + positive"
        )
    return found[0]


def _missing_side(have: set[str], what: str) -> None:
    if "positive" in have:
        raise BadRow(f"missing {what} 'anchor'")
    if "anchor" in have:
        raise BadRow(f"missing {what} 'positive'")


def _require(have: set[str], needed: Sequence[str], what: str) -> None:
    for name in needed:
        if name not in have:
            raise BadRow(f"missing {what} {name!r}")


def _numbered(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits.group()) if digits else 0, name)


def _positives(row: Mapping[str, Any], name: str, scores: str | None = None) -> tuple[RawPassage, ...]:
    if row[name] is None:
        raise BadRow(f"{name!r} is null; expected a text or a list of texts")
    passages = _passages(row, name, scores)
    if not passages:
        raise BadRow(f"{name!r} is an empty list; an example needs a positive")
    return passages


def _passages(row: Mapping[str, Any], name: str, scores: str | None = None) -> tuple[RawPassage, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise BadRow(f"{name!r} is {_kind(value)}; expected a text or a list of texts")
    numbers = _scores(row.get(scores), scores, len(value)) if scores else None
    return tuple(
        _passage(item, f"{name!r} item {position}", numbers[position - 1] if numbers else None)
        for position, item in enumerate(value, start=1)
    )


def _passage(item: Any, where: str, score: float | None) -> RawPassage:
    if not isinstance(item, dict):
        return RawPassage(_text(item, where), score=score)
    if "text" not in item:
        raise BadRow(f"{where} has no 'text'")
    title = item.get("title")
    return RawPassage(
        _text(item["text"], f"'text' of {where}"),
        "" if title is None else _text(title, f"'title' of {where}"),
        score if score is not None else _score(item.get("score"), f"'score' of {where}"),
    )


def _scores(value: Any, name: str, count: int) -> list[float | None] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        value = [value]
    if len(value) != count:
        raise BadRow(f"{name!r} has {len(value)} numbers for {count} passages")
    return [_score(item, f"{name!r} item {position}") for position, item in enumerate(value, start=1)]


def _score(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"{where} is {_kind(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRow(f"{where} is not a finite number")
    return number


def _language(row: Mapping[str, Any]) -> str | None:
    for name in LANGUAGE_NAMES:
        value = row.get(name)
        if value is not None and value != "":
            return _text(value, repr(name))
    return None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{where} is {_kind(value)}; expected text")
    return value


def _kind(value: Any) -> str:
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (type(None), "null"),
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "an object"),
        (bytes, "binary data"),
    )
    return next((words for types, words in kinds if isinstance(value, types)), type(value).__name__)
