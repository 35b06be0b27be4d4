"""The shapes a row can have, whatever file it comes from: a list of texts, or an object with known names.

Every reader asks its `Reading` for the shape of its columns or keys, so a layout is understood in one place only. What
each shape makes of values is in `values`; docs/ingest.md has the shapes as a table.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mixture.ingest import values
from mixture.ingest.damage import BadRow
from mixture.ingest.mapping import NEEDED, ColumnMap, head_of, not_there
from mixture.ingest.names import (
    CERTAIN_PAIRS,
    KNOWN_PAIRS,
    LANGUAGE_NAMES,
    NOT_TEXT,
    PASSAGE_WORDS,
    SYMMETRIC_PAIRS,
    is_flaw,
    is_label,
    is_negative,
    sides_of_two,
    words_of,
)
from mixture.rows import RawExample

HEADER_MAX_CHARS, HEADER_MAX_WORDS = 40, 4


class UnknownNames(BadRow):
    """None of the names says what it holds. Other reasons are of names that do."""


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
    """A layout of named values.

    names: the names that it looks at
    build: an example from a row's values and its line
    roles: in words, what it takes for what: {"query": "question", "positive": "answer"}
    sides: for readers that take whole columns; None for a shape that is read row by row
    """

    names: tuple[str, ...]
    build: Callable[[Mapping[str, Any], int], RawExample]
    roles: Mapping[str, str]
    sides: Sides | None = None


def shape_of(names: tuple[str, ...], what: str, columns: ColumnMap | None = None) -> Shape:
    """The shape that a set of names stands for. `what` (key or column) is how messages call a name; `columns` is the
    user's word, which comes first.

    Raises BadRow with the missing name, or with the names found and those expected (UnknownNames).
    """
    if columns:
        return _mapped(names, what, columns)
    labels = [name for name in names if is_label(name)]
    shape = _known(names, what, labels)
    if labels and "label" not in shape.roles:
        raise _unclear(labels[0], shape.names, what)
    if flaw := next(filter(is_flaw, names), None):
        raise BadRow(f"{what} {flaw!r} may hold a wrong text, or say that the row is wrong; if it holds negatives give "
                     f"`columns=negative={flaw}`, else leave out rows that are wrong, and it")  # fmt: skip
    return shape


def _unclear(label: str, names: Sequence[str], what: str) -> BadRow:
    beside = _list([name for name in names if name != label])
    return BadRow(
        f"{what} {label!r} says how good a row is, and what it means beside {beside} is not clear; say which is which, "
        f"as in `columns=query=NAME,positive=NAME,label={label}` where 0 marks a negative, without the label where not"
    )


def _known(names: tuple[str, ...], what: str, labels: Sequence[str]) -> Shape:
    have = set(names)
    language = tuple(name for name in LANGUAGE_NAMES if name in have)
    said = {"language": language[0]} if language else {}
    if "set" in have:
        roles = {"query": "the first of set", "positive": "the others"}
        return Shape(("set", *language), values.from_set, roles | said, Sides(packed="set"))
    if have & {"positive_passages", "negative_passages"}:
        _require(have, ("query", "positive_passages"), what)
        known = ("query", "positive_passages", "negative_passages", *language)
        return _sided(have, known, values.from_tevatron, Sides("query", known[1:2], known[2:3]), said)
    if "messages" in have and have & {"positive_messages", "negative_messages"}:
        _require(have, ("positive_messages",), what)
        known = ("messages", "positive_messages", "negative_messages", *language)
        label = labels[0] if len(labels) == 1 and "negative_messages" not in have else ""
        build = functools.partial(values.from_ms_swift, label=label)
        shape = _sided(have, known, build, Sides("messages", known[1:2], known[2:3]), said)
        if label:
            shape = replace(shape, names=(*shape.names, label), roles={**shape.roles, "label": label})
        return replace(shape, sides=None)  # a text is a list
    if "pos" in have or {"query", "neg"} <= have:
        _require(have, ("query", "pos"), what)
        known = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", *language)
        sides = Sides("query", ("pos",), ("neg",), {"pos": "pos_scores", "neg": "neg_scores"})
        if "prompt" in have:
            said = {"prompt": "prompt", **said}
        return _sided(have, known, values.from_flag_embedding, sides, said)
    if "positive_ctxs" in have and (asked := have & {"query", "question"}):
        query = min(asked)
        known = (query, "positive_ctxs", "hard_negative_ctxs", "negative_ctxs", *language)
        build, sides = functools.partial(values.from_dpr, query=query), Sides(query, known[1:2], known[2:4])
        return replace(_sided(have, known, build, sides, said), sides=None)  # scores of whole columns would be grades
    if "texts" in have and not have & {"query", "question", "anchor", "positive"}:
        roles = {"query": "the first of texts", "positive": "the second", "negative": "the others"}
        return Shape(("texts", *language), values.from_texts, roles | said)
    query, positive = _pair_names(names, what, labels)
    if (query, positive) == ("instruction", "output"):
        given = tuple(name for name in ("input",) if name in have)
        roles = {"query": " + ".join((query, *given)), "positive": positive}
        return Shape((query, *given, positive, *language), values.from_instruction, roles | said)
    return _pair(names, query, positive, labels, said)


def _sided(
    have: set[str], known: tuple[str, ...], build: Callable[..., RawExample], sides: Sides, said: Mapping[str, str]
) -> Shape:
    there = tuple(name for name in known if name in have)
    negatives = [name for name in sides.negatives if name in have]
    roles = {"query": sides.query, "positive": _list(sides.positives)}
    return Shape(there, build, roles | ({"negative": _list(negatives)} if negatives else {}) | dict(said), sides)


def _pair(
    names: Sequence[str], query: str, positive: str, labels: Sequence[str] = (), said: Mapping[str, str] | None = None
) -> Shape:
    negatives = tuple(
        sorted((n for n in names if n not in (query, positive, *labels) and is_negative(n, positive)), key=_numbered)
    )
    language = tuple(name for name in LANGUAGE_NAMES if name in names)
    roles = {"query": query, "positive": positive, **({"negative": _list(negatives)} if negatives else {})}
    build = functools.partial(values.from_pair, query=query, positive=positive, negatives=negatives)
    used = (query, positive, *negatives, *language)
    if len(labels) == 1 and not negatives and (query, positive) not in SYMMETRIC_PAIRS:
        roles["label"] = labels[0]
        return Shape((*used, labels[0]), functools.partial(build, label=labels[0]), roles | dict(said or {}))
    return Shape(used, build, roles | dict(said or {}), Sides(query, (positive,), negatives))


def _mapped(names: tuple[str, ...], what: str, columns: ColumnMap) -> Shape:
    """A shape by the user's word; the sides that it does not name are found as without it."""
    given: dict[str, tuple[str, ...]] = dict(columns)
    if not {"query", "positive"} <= given.keys():
        named = {head_of(path, names) for paths in given.values() for path in paths}
        rest = tuple(name for name in names if name not in named)
        plain = _known(rest, what, ())
        if plain.sides is None or plain.sides.packed:
            raise BadRow(f"`columns` must name query and positive for {what}s such as {_list(names[:6])}")
        if "label" not in given and (label := shape_of(rest, what).roles.get("label")):
            if "negative" in given:
                raise _unclear(label, names, what)
            given["label"] = (label,)
        given = {"query": (plain.sides.query,), "positive": plain.sides.positives} | given
        if plain.sides.negatives and "label" not in given:
            given.setdefault("negative", tuple(name for name in plain.sides.negatives if name in names))
    roles: dict[str, list[tuple[str, str]]] = {}
    for role, paths in given.items():
        for path in paths:
            head = head_of(path, names)
            if head is not None:
                roles.setdefault(role, []).append((path, head))
            elif what == "column" or role in NEEDED:  # a key may be absent from a row
                raise not_there(role, path, names, what)
    heads = tuple(dict.fromkeys(head for paths in roles.values() for _, head in paths))
    language = tuple(name for name in LANGUAGE_NAMES if name in names and name not in heads)
    words = {role: _list([path for path, _ in paths]) for role, paths in roles.items()}
    if language:
        words.setdefault("language", language[0])
    build = functools.partial(values.from_mapping, roles=roles, found=set())
    return Shape((*heads, *language), build, words)


def table_shape(columns: Sequence[str], given: ColumnMap | None = None, *, text_only: bool = True) -> Shape:
    """The shape of a table by its column names (already in lower case).

    Two columns of other names are query and positive when words in them say which is which (`answer_text` and
    `question_text`, in any order) and both hold text (`text_only`). Nothing is taken by its place.

    Raises BadRow with the columns found and those expected.
    """
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise BadRow(f"column {twice[0]!r} appears more than once")
    try:
        return shape_of(tuple(columns), "column", given)
    except UnknownNames:
        if given or len(columns) != 2 or not text_only or set(columns) & NOT_TEXT:
            raise
        if sides := sides_of_two((columns[0], columns[1])):
            return _pair(columns, *sides)
        if any(not name or len(name) > HEADER_MAX_CHARS or len(name.split()) > HEADER_MAX_WORDS for name in columns):
            raise BadRow("the first line does not look like a header; add one, such as query and passage") from None
        raise


LIST_NAME = "texts"
LIST_ROLES = {"query": "the first text", "positive": "the second", "negative": "the others"}
# What a line that is a list looks like once it stands under a name.
LIST_SIDES = Sides(packed=LIST_NAME, packed_negatives=True)
LIST_SHAPE = Shape((LIST_NAME,), lambda row, line: values.from_list(row[LIST_NAME], line), LIST_ROLES, LIST_SIDES)


def _pair_names(names: Sequence[str], what: str, labels: Sequence[str]) -> tuple[str, str]:
    have = set(names)
    for pair in CERTAIN_PAIRS:
        if have.issuperset(pair):
            return pair
    found = [pair for pair in (*KNOWN_PAIRS, *SYMMETRIC_PAIRS) if have.issuperset(pair)]
    if len(found) > 1:
        listed = " or ".join(" + ".join(pair) for pair in found)
        raise BadRow(f"more than one pair of {what}s fits: {listed}; say which, as in "
                     f"`columns=query={found[0][0]},positive={found[0][1]}`")  # fmt: skip
    if not found:
        _missing_side(have, what)
        listed = ", ".join(repr(name) for name in names[:12]) or "none"
        plain = [label for label in labels if words_of(label)[-1] not in PASSAGE_WORDS]  # `relevant_doc` is a text
        label = f",label={plain[0]}" if plain and len(names) > 2 else ""
        raise UnknownNames(f"no known {what}s; found {listed}; say which is which, as in "
                           f"`columns=query=NAME,positive=NAME{label}`")  # fmt: skip
    if found[0] in SYMMETRIC_PAIRS and labels:
        query, positive = found[0]
        raise BadRow(
            f"{query} + {positive} come with {what} {labels[0]!r}, so not every row is a positive pair; if 0 marks a "
            f"negative give `columns=query={query},positive={positive},label={labels[0]}`"
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


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
