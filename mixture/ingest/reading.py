"""How one unit is read: the user's word on its columns, and a record of what its columns were taken for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mixture.errors import UsageError
from mixture.ingest import values
from mixture.ingest.damage import BadRow
from mixture.ingest.mapping import NEEDED, ROLES, ColumnMap, Given, column_map
from mixture.ingest.shapes import LIST_SHAPE, Shape, shape_of, table_shape
from mixture.rows import RawExample

MAX_NAMES = 12  # shown of each role
MAX_SHAPES = 1000  # of rows whose keys are data, the names would fill the memory


class Reading:
    """Readers ask it for the shape of their names, and it remembers the answers. One for each unit.

    columns:   the user's word on which column is which, if any (`column_map`)
    min_label: rows of a label below it are negatives; None: labels are grades, and 0 is a negative
    split:     which part of a folder that has several (`splits.choose`)
    may_lack:  `columns` are those of a datacard that was written for other files: names that know themselves do without
    """

    def __init__(
        self, columns: Given | None = None, min_label: float | None = None, *, split: str | None = None,
        may_lack: bool = False,
    ) -> None:  # fmt: skip
        self.columns: ColumnMap = column_map(columns)
        self.min_label = min_label
        self.split = split
        self._may_lack = may_lack
        self._shapes: dict[tuple[str, tuple[str, ...]], Shape] = {}
        self._names: dict[str, None] = {}
        self._words: list[str] = []

    def example(self, value: Any, line: int) -> RawExample:
        """The example in one parsed JSON value: a list of texts or an object.

        Raises BadRow when the value has no known shape, a missing key, a wrong type or no positive.
        """
        if isinstance(value, list):
            if self.columns and not self._may_lack:
                raise BadRow("line is a list, which has no names; leave `columns` out")
            self.note_shape(LIST_SHAPE, ())
            return values.from_list(value, line)
        if isinstance(value, dict):
            return self.shape(tuple(value), "key").build(value, line)
        raise BadRow(f"line is {values.kind(value)}; expected a JSON list or object")

    def shape(self, names: tuple[str, ...], what: str) -> Shape:
        """`shape_of`, with the user's word."""
        if (found := self._shapes.get((what, names))) is None:
            if len(self._names) < MAX_SHAPES:
                self._names.update(dict.fromkeys(names))
            found = self._found(lambda columns: shape_of(names, what, columns))
            if len(self._shapes) < MAX_SHAPES:
                self.note_shape(found, names, what)
        return found

    def table(self, names: Sequence[str], *, text_only: bool = True) -> Shape:
        """`table_shape`, with the user's word."""
        self._names.update(dict.fromkeys(names))
        found = self._found(lambda columns: table_shape(names, columns, text_only=text_only))
        self.note_shape(found, tuple(names))
        return found

    def _found(self, look: Callable[[ColumnMap | None], Shape]) -> Shape:
        try:
            return look(self.columns)
        except BadRow as reason:
            if not (self.columns and self._may_lack):
                raise
            try:
                found = look(None)
            except BadRow:
                raise reason from None
            self.note("the datacard's columns are not in it")
            return found

    def no_columns(self, place: object, why: str) -> None:
        """Raise UsageError where the user gave columns and the layout has fixed ones."""
        if self.columns and not self._may_lack:
            raise UsageError(f"{place}: `columns` is not for {why}; leave it out")

    def note(self, words: str) -> None:
        """Remember, in words, what a layout of its own was taken for."""
        if words not in self._words:
            self._words.append(words)

    def note_shape(self, shape: Shape, names: tuple[str, ...], what: str = "column") -> None:
        """Remember a shape, and the names that it was found among."""
        self._shapes.setdefault((what, names), shape)

    def check_names(self) -> None:
        """At the end: raise UsageError when `columns` gives a name that no row had, which may be absent from some."""
        shapes = list(self._shapes.values())
        if not shapes or self._may_lack:
            return
        given = {path for role, paths in self.columns.items() if role not in NEEDED for path in paths}
        seen = {path for shape in shapes for path in getattr(shape.build, "keywords", {}).get("found", ())}
        if missing := sorted(given - seen):
            listed = ", ".join(map(repr, list(self._names)[:12]))
            raise UsageError(f"`columns` or the datacard names {missing[0]!r}, which no row has; found {listed}")

    def __str__(self) -> str:
        """`query ← question, positive ← answer, negative ← bad_answer; ignored: id, source`. Empty before a row."""
        shapes = list(self._shapes.values())
        if not shapes:
            return "; ".join(self._words)
        roles: dict[str, list[str]] = {}
        for shape in shapes:
            for role, words in shape.roles.items():
                if words not in roles.setdefault(role, []):
                    roles[role].append(words)
        used = {name for shape in shapes for name in shape.names}
        ignored = [name for name in self._names if name not in used]
        said = {role: _cut(" or ".join(roles[role])) for role in ROLES if role in roles}
        if "label" in roles:
            said["label"] += (
                " (0: a negative)" if self.min_label is None else f" (below {self.min_label:g}: a negative)"
            )
        text = ", ".join(f"{role} ← {words}" for role, words in said.items())
        text += f"; ignored: {_cut(', '.join(ignored))}" if ignored else ""
        return "; ".join([text, *self._words])

    @property
    def mapping(self) -> dict[str, tuple[str, ...]]:
        """`columns` by which the rows would be read as they were; empty where none would do that, and for layouts that
        know themselves."""
        found: dict[str, tuple[str, ...]] = {}
        for shape in self._shapes.values():
            own = {role: tuple(words.split(", ")) for role, words in shape.roles.items()}
            if getattr(shape.build, "func", None) is not values.from_pair:
                return {}
            if found and any(found.get(role) != own.get(role) for role in NEEDED):
                return {}
            found = {role: tuple(dict.fromkeys((*found.get(role, ()), *own.get(role, ())))) for role in found | own}
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All names found, in order."""
        return tuple(self._names)


def _cut(listed: str) -> str:
    names = listed.split(", ")
    return ", ".join(names[:MAX_NAMES]) + f", … ({len(names):,} in all)" * (len(names) > MAX_NAMES)
