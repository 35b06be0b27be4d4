"""The user's word on which column is which: `query=user_query,positive=relevant_doc,negative=ctxs.text`.

A path with dots goes into nested objects; of a list it takes every item. A name that is there with its dots wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from mixture.errors import UsageError, unknown_name
from mixture.ingest.damage import BadRow

ROLES = {
    "query": "the query",
    "positive": "a text, a list of texts, or objects with `text` (and `title`)",
    "negative": "the same; may be given several times",
    "label": "a number, true/false or yes/no: rows of 0 are negatives of their query",
    "language": "the row's language",
    "prompt": "the row's prompt",
}
NEEDED = ("query", "positive", "label")
SEVERAL = ("positive", "negative")
SHAPE = "query=NAME,positive=NAME,negative=NAME"

ColumnMap: TypeAlias = Mapping[str, tuple[str, ...]]
Given: TypeAlias = str | Iterable[str] | Mapping[str, str | Sequence[str]]
"""`query=a,positive=b`, several such texts, or a mapping of roles to one name or several."""

MISSING = object()


def column_map(given: Given | None) -> ColumnMap:
    """What a user gave, as roles and paths. Empty for None.

    >>> column_map("query=q,positive=answers.text,negative=bad,negative=worse")
    {'query': ('q',), 'positive': ('answers.text',), 'negative': ('bad', 'worse')}
    >>> column_map({"query": "q", "negative": ["bad", "worse"]})
    {'query': ('q',), 'negative': ('bad', 'worse')}

    Raises UsageError for a role that does not exist, one that is given twice, and one without a name.
    """
    found: dict[str, tuple[str, ...]] = {}
    for role, name in _pairs(given):
        if role not in ROLES:
            raise unknown_name("role in `columns`", role, ROLES)
        if not name:
            raise UsageError(f"`columns` gives no name for {role}; write `columns={SHAPE}`")
        if role in found and role not in SEVERAL:
            raise UsageError(f"`columns` gives {role} twice: {found[role][0]!r} and {name!r}")
        found[role] = (*found.get(role, ()), name)
    return found


def _pairs(given: Given | None) -> Iterator[tuple[str, str]]:
    if given is None:
        return
    if isinstance(given, Mapping):
        for role, names in given.items():
            for name in names if isinstance(names, list | tuple) else [names]:
                if not isinstance(name, str):
                    raise UsageError(f"`columns` gives {name!r} for {role}; give a name, or a list of names")
                yield str(role), name
        return
    for text in [given] if isinstance(given, str) else given:
        parts: list[str] = []
        for part in text.split(","):  # a part without "=" belongs to a name with a comma in it
            if "=" in part or not parts:
                parts.append(part)
            else:
                parts[-1] += f",{part}"
        for part in parts:
            role, sign, name = part.partition("=")
            if not sign:
                raise UsageError(f"`columns` is {text!r}; write `columns={SHAPE}`")
            yield role.strip().lower(), name.strip()


def mapping_text(columns: ColumnMap) -> str:
    """A mapping as text, equal for equal ones; empty for none. It is part of how a store knows a file again."""
    plain = {role: names[0] if len(names) == 1 else list(names) for role, names in columns.items()}
    return json.dumps(plain, sort_keys=True) if plain else ""


def head_of(path: str, names: Sequence[str]) -> str | None:
    """Which of the names a path starts at: the path itself, else its longest beginning that ends at a dot. A name in
    other letters (`Query` for `query`) counts when there is one alone."""
    while path:
        if path in names:
            return path
        alike = [name for name in names if name.casefold() == path.casefold()]
        if len(alike) == 1:
            return alike[0]
        path = path.rpartition(".")[0]
    return None


def value_at(row: Mapping[str, Any], path: str, head: str) -> Any:
    """What stands at a path of which `head` is the beginning; MISSING where there is nothing."""
    if head not in row:
        return MISSING
    rest = path[len(head) + 1 :]
    return _inside(row[head], rest) if rest else row[head]


def _inside(value: Any, path: str) -> Any:
    if isinstance(value, list):
        first, _, rest = path.partition(".")
        if first.isdecimal():
            if int(first) >= len(value):
                return MISSING
            return _inside(value[int(first)], rest) if rest else value[int(first)]
        found = [one for item in value if (one := _inside(item, path)) is not MISSING]
        if value and not found:
            return MISSING
        return [text for one in found for text in (one if isinstance(one, list) else [one])]
    if not isinstance(value, Mapping):
        return MISSING
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    return _inside(value[head], rest) if dot and head in value else MISSING


def not_there(role: str, path: str, names: Sequence[str], what: str) -> BadRow:
    """The reason for a name of the mapping that a row or table lacks."""
    listed = ", ".join(map(repr, names[:12])) or "none"
    return BadRow(f"no {what} {path!r}, given for {role} in `columns` or the datacard; found {listed}")
