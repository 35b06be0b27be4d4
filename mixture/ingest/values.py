"""Values of a row, under whatever names, as an example: each function is one layout.

A row that cannot be used raises BadRow with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mixture.ingest.damage import BadRow
from mixture.ingest.mapping import MISSING, NEEDED, value_at
from mixture.ingest.names import LANGUAGE_NAMES
from mixture.rows import RawExample, RawPassage


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
        raise BadRow(f"'set' is {kind(texts)}; expected a list of texts")
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


def from_ms_swift(row: Mapping[str, Any], line: int, *, label: str = "") -> RawExample:
    """ms-swift: a text is what is said in a list of messages, beside a system's message, which for the query is the
    prompt."""
    query, prompt = _said(row["messages"], "'messages'")
    sides = {name: row.get(name) or [] for name in ("positive_messages", "negative_messages")}
    for name, value in sides.items():
        if not isinstance(value, list):
            raise BadRow(f"{name!r} is {kind(value)}; expected a list of lists of messages")
    positives, negatives = (
        tuple(RawPassage(_said(said, f"{name!r} item {position}")[0]) for position, said in enumerate(value, start=1))
        for name, value in sides.items()
    )
    if not positives:
        raise BadRow("'positive_messages' is null or an empty list; an example needs a positive")
    judged = label_of(row[label], label) if label else None
    return RawExample(line, query, positives, negatives, _language(row), prompt, judged)


def _said(messages: Any, where: str) -> tuple[str, str | None]:
    """The text of the one message of a list that is not the system's, and the system's."""
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise BadRow(f"{where} is not a list of messages")
    said = [one for one in messages if one.get("role") != "system"]
    if len(said) != 1:
        raise BadRow(f"{where} has {len(said)} messages beside the system's; expected one")
    texts = [_text(one.get("content"), f"'content' in {where}") for one in messages if one not in said]
    return _text(said[0].get("content"), f"'content' in {where}"), texts[0] if texts else None


def from_pair(
    row: Mapping[str, Any], line: int, *, query: str, positive: str, negatives: Sequence[str] = (), label: str = ""
) -> RawExample:
    """A query and its positive under any two names, with any number of names that hold negatives, and one that may
    hold a label."""
    return RawExample(
        line,
        _text(row[query], repr(query)),
        _positives(row, positive),
        tuple(passage for name in negatives for passage in _passages(row, name)),
        language=_language(row),
        label=label_of(row[label], label) if label else None,
    )


def from_texts(row: Mapping[str, Any], line: int) -> RawExample:
    """sentence-transformers: `texts` is [query, positive, negative...]."""
    if not isinstance(row["texts"], list):
        raise BadRow(f"'texts' is {kind(row['texts'])}; expected a list of texts")
    return from_list(row["texts"], line)


def from_instruction(row: Mapping[str, Any], line: int) -> RawExample:
    """Alpaca: the instruction, and the input under it where there is one, is answered by the output."""
    instruction = _text(row["instruction"], "'instruction'")
    given = row.get("input")
    below = "" if given is None else _text(given, "'input'")
    query = f"{instruction}\n{below}" if below.strip() else instruction
    return RawExample(line, query, _positives(row, "output"), language=_language(row))


def from_dpr(row: Mapping[str, Any], line: int, *, query: str) -> RawExample:
    """DPR: contexts are objects of title, text and score, hard negatives before the others. The score of a positive
    says how it was found and is no grade."""
    positives = tuple(RawPassage(p.text, p.title) for p in _positives(row, "positive_ctxs"))
    negatives = (*_passages(row, "hard_negative_ctxs"), *_passages(row, "negative_ctxs"))
    return RawExample(line, _text(row[query], repr(query)), positives, negatives, language=_language(row))


def from_mapping(
    row: Mapping[str, Any], line: int, *, roles: Mapping[str, Sequence[tuple[str, str]]], found: set[str]
) -> RawExample:
    """A row by the user's word.

    roles: for each role its paths, each with the name that it starts at
    found: the paths that had a value in some row; this row's are added
    """
    values: dict[str, list[tuple[str, Any]]] = {}
    for role, paths in roles.items():
        values[role] = []
        for path, head in paths:
            if (value := value_at(row, path, head)) is not MISSING:
                found.add(path)
                values[role].append((path, value))
            elif role in NEEDED:
                raise BadRow(f"nothing at {path!r}, given for {role} in `columns` or the datacard")

    def one(role: str) -> tuple[str, Any] | None:
        given = values.get(role)
        return given[0] if given and given[0][1] not in (None, "") else None

    query_path, query = values["query"][0]
    positives = [passage for path, value in values["positive"] for passage in _passages({path: value}, path)]
    if not positives:
        raise BadRow(f"{values['positive'][0][0]!r} is null or an empty list; an example needs a positive")
    negatives = [passage for path, value in values.get("negative", ()) for passage in _passages({path: value}, path)]
    language, prompt = one("language"), one("prompt")
    return RawExample(
        line,
        _text(query, repr(query_path)),
        tuple(positives),
        tuple(negatives),
        language=_text(language[1], repr(language[0])) if language else _language(row),
        prompt=_text(prompt[1], repr(prompt[0])) if prompt else None,
        label=label_of(values["label"][0][1], values["label"][0][0]) if "label" in values else None,
    )


WORDS_OF_LABELS = {
    "true": 1.0, "yes": 1.0, "positive": 1.0, "pos": 1.0, "relevant": 1.0, "correct": 1.0,
    "false": 0.0, "no": 0.0, "negative": 0.0, "neg": 0.0, "irrelevant": 0.0, "not relevant": 0.0, "incorrect": 0.0,
}  # fmt: skip


def label_of(value: Any, where: str) -> float:
    """A label as a number: 0 says that the passage does not answer the query."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        text = value.strip().lower()
        if text in WORDS_OF_LABELS:
            return WORDS_OF_LABELS[text]
        try:
            value = float(text)
        except ValueError:
            raise BadRow(f"label {where!r} is {value[:40]!r}; expected a number, true/false or yes/no") from None
    number = _score(value, f"label {where!r}")
    if number is None:
        raise BadRow(f"label {where!r} is null, so nobody can tell whether the row is a positive")
    return number


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
        raise BadRow(f"{name!r} is {kind(value)}; expected a text or a list of texts")
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
        raise BadRow(f"{where} is {kind(value)}; expected a number")
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
        raise BadRow(f"{where} is {kind(value)}; expected text")
    return value


def kind(value: Any) -> str:
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
