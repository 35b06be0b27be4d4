"""Slices: parts of collections that are components of a mixture, each frozen to the example ids that it has now.

A slice is chosen by the values of a column (`by_column`), by a SQL predicate (`by_predicate`) or by a file of example
ids (`from_file`). `freeze` keeps the ids in the store, under a hash of them, and pins their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import UsageError, unknown_name
from mixture.specs import Component, MixtureSpec, Part
from mixture.store import Store, read
from mixture.store.write import append

# More parts than this are a mistake in the column's name, or no mixture that anyone reads.
MOST_PARTS = 200
LABEL_CHARACTERS = 60
FILE_COLUMNS = ("collection", "example_id")


@dataclass(frozen=True)
class Slice:
    """A part of a collection.

    label:       what it is called within the collection, as language=zh
    rule:        how its examples were chosen, in SQL or words
    example_ids: distinct, in order
    """

    collection: str
    label: str
    rule: str
    example_ids: pa.Array

    @property
    def name(self) -> str:
        return f"{self.collection}[{self.label}]"

    @cached_property
    def selection(self) -> str:
        """SHA-256 of the collection's name and the example ids: the id of the set, whatever chose it."""
        result = hashlib.sha256(json.dumps(self.collection, ensure_ascii=False).encode())
        for start in range(0, len(self.example_ids), 100_000):
            ids = self.example_ids[start : start + 100_000].to_pylist()
            result.update("".join(f"\n{example}" for example in ids).encode())
        return result.hexdigest()


def slice_of(collection: str, label: str, rule: str, example_ids: Sequence[str] | pa.ChunkedArray) -> Slice:
    """A slice of these examples, in whatever order and however often they are given. A long label is shortened."""
    given = example_ids if isinstance(example_ids, pa.ChunkedArray) else pa.array(example_ids, pa.string())
    ids = pc.unique(given).cast(pa.string())
    made = Slice(collection, " ".join(label.split()), rule, ids.take(pc.sort_indices(ids)))
    if len(made.label) <= LABEL_CHARACTERS:
        return made
    # What was cut off may have been the difference.
    return replace(made, label=f"{made.label[: LABEL_CHARACTERS - 6]}… {made.selection[:4]}")


def by_column(store: Store, text: str) -> list[Slice]:
    """One slice for each value of a column of a collection's examples; `text` is as `xquad:language`.

    Examples without a value are a slice too. Raises `UsageError` for what does not exist, and for too many values.
    """
    collection, _, column = text.rpartition(":")
    if not collection:
        raise UsageError(f"`slice` is {text!r}; allowed: a collection and a column of its examples, as xquad:language")
    _check_collection(store, collection)
    columns = [row["column_name"] for row in store.rows("DESCRIBE examples")]
    if column not in columns:
        raise unknown_name("column of examples", column, columns)
    of_collection = f'SELECT example_id, "{column}"::VARCHAR AS value FROM examples WHERE collection = ?'
    (counted,) = store.rows(f"SELECT count(DISTINCT value) AS parts FROM ({of_collection})", [collection])
    if counted["parts"] > MOST_PARTS:
        raise UsageError(f"`slice` {text} gives {counted['parts']:,} parts; allowed: up to {MOST_PARTS}")
    rows = store.read(of_collection, [collection])
    made = []
    for value in sorted(set(pc.unique(rows["value"]).to_pylist()), key=lambda value: (value is None, value)):
        if value is None:
            label, rule, here = f"{column} is null", f"{column} IS NULL", pc.is_null(rows["value"])
        else:
            label, rule = f"{column}={value}", f"{column} = '" + value.replace("'", "''") + "'"
            here = pc.equal(rows["value"], value)
        made.append(slice_of(collection, label, rule, rows["example_id"].filter(pc.fill_null(here, False))))
    if not made:
        raise UsageError(f"collection {collection!r} has no examples to slice")
    return made


def by_predicate(store: Store, where: str) -> list[Slice]:
    """One slice for each collection that has examples for which a SQL condition over the table examples holds.

    The condition is checked as any query of `Store.sql` is. Raises `UsageError` for a mistake in it, and where nothing
    satisfies it.
    """
    # On lines of its own: a comment at its end must not take the bracket away.
    rows = store.sql(f"SELECT collection, example_id FROM examples WHERE (\n{where}\n)")
    if not rows.num_rows:
        raise UsageError(f'no example satisfies `where` {where!r}; try it with: mixture sql "FROM examples WHERE …"')
    return _by_collection(rows, f"where {where}", where.strip())


def from_file(store: Store, file: Path) -> list[Slice]:
    """One slice for each collection that a list of example ids names; it is called as the file.

    file: CSV with a header, Parquet, JSON (a list of objects) or JSON lines, with the columns collection, example_id
    """
    try:
        rows = _read_ids(file)
        if not set(FILE_COLUMNS) <= set(rows.column_names):
            found = ", ".join(rows.column_names)
            raise UsageError(f"{file}: the columns {' and '.join(FILE_COLUMNS)} are needed; found: {found}")
        rows = rows.select(FILE_COLUMNS).cast(pa.schema([(name, pa.string()) for name in FILE_COLUMNS]))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{file}: {error}") from error
    if not rows.num_rows or any(column.null_count for column in rows.columns):
        raise UsageError(f"{file}: it names no examples, or some row lacks a value")
    return _by_collection(rows, file.stem, f"listed in {file.name}")


def _read_ids(file: Path) -> pa.Table:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file)
    if file.suffix == ".csv":
        from pyarrow import csv

        # As texts: an id of digits only is no number.
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(FILE_COLUMNS, pa.string()))
        return csv.read_csv(file, convert_options=as_text)
    if file.suffix not in (".json", ".jsonl"):
        raise UsageError("a list of examples is a .csv, .parquet, .json or .jsonl file")
    text = file.read_text("utf-8")
    lines = (line for line in text.splitlines() if line.strip())
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"each entry must be an object with {', '.join(FILE_COLUMNS)}")
    return pa.Table.from_pylist([{name: row.get(name) for name in FILE_COLUMNS} for row in rows])


def _by_collection(rows: pa.Table, label: str, rule: str) -> list[Slice]:
    names = sorted(pc.unique(rows["collection"]).to_pylist())
    return [
        slice_of(name, label, rule, rows["example_id"].filter(pc.equal(rows["collection"], name))) for name in names
    ]


def freeze(store: Store, slices: Sequence[Slice], miners: tuple[str, ...] | None = None) -> dict[str, Component]:
    """Keep the slices in the store, and pin today's content of each: components of weight 0, by name. miners: whose
    negatives (`specs.Part`).

    A slice that would be called as a collection of this store is called otherwise. Raises `UsageError` for examples
    that the store does not hold, and for two slices of one name.
    """
    # One transaction: that they are there, and their digests, are of one snapshot.
    return store.transaction(lambda connection: frozen(store, connection, slices, miners))


def frozen(
    store: Store, connection: Any, slices: Sequence[Slice], miners: tuple[str, ...] | None = None
) -> dict[str, Component]:
    """`freeze` as a part of the transaction of `connection`."""
    named = _named(store, slices)
    _check_examples(connection, list(named.values()))
    _keep(connection, list(named.values()))
    return {name: pinned(store, Part(c.collection, c.selection, miners), c.label) for name, c in named.items()}


def pinned(store: Store, part: Part, label: str | None = None) -> Component:
    """Today's content of a collection, or of a slice of this label: a component of weight 0."""
    return Component(part.collection, read.digest(store, part), 0.0, 1.0, label, part.selection, part.miners)


def names_of(store: Store, slices: Sequence[Slice]) -> set[str]:
    """What `freeze` calls the slices, and its errors."""
    return set(_named(store, slices))


def _named(store: Store, slices: Sequence[Slice]) -> dict[str, Slice]:
    held = read.names(store)
    for made in slices:
        _check_collection(store, made.collection, held)
    slices = [replace(made, label=_free(made, held)) for made in slices]
    named = {made.name: made for made in slices}
    if len(named) < len(slices):
        repeated = sorted({made.name for made in slices if named[made.name] is not made})
        raise UsageError(f"two slices are called {', '.join(repeated)}; leave one out, or rename a file")
    return named


def keep(store: Store, slices: Sequence[Slice]) -> None:
    """Keep slices that another store froze; their examples may be none of this one's."""
    store.transaction(lambda connection: _keep(connection, slices))


def _free(made: Slice, held: set[str]) -> str:
    label = made.label
    while f"{made.collection}[{label}]" in held:
        label = f"slice {label}"
    return label


def _check_collection(store: Store, name: str, held: set[str] | None = None) -> None:
    held = read.names(store) if held is None else held
    if name not in held:
        raise unknown_name("collection", name, held)


def _check_examples(connection: Any, slices: Sequence[Slice]) -> None:
    for made in slices:
        connection.register("chosen", pa.table({"example_id": made.example_ids}))
        missing, first = connection.execute(
            """SELECT count(*), min(example_id) FROM temp.chosen
               ANTI JOIN (SELECT example_id FROM examples WHERE collection = ?) USING (example_id)""",
            [made.collection],
        ).fetchone()
        if missing:
            raise UsageError(
                f"{missing:,} of {len(made.example_ids):,} examples of {made.name} are not in the store, the first: "
                f"{first!r}; what dedup and decontaminate took out stands in the table removals"
            )


def _keep(connection: Any, slices: Sequence[Slice]) -> None:
    """What the store has of the slices already stays as it is."""
    stored = set(connection.execute("SELECT selection, slice FROM selections").fetchall())
    with_ids = {selection for selection, _ in stored}
    rows = []
    for made in slices:
        if (made.selection, made.label) not in stored:
            rows.append({"selection": made.selection, "collection": made.collection, "slice": made.label,
                         "rule": made.rule, "num_examples": len(made.example_ids),
                         "created_at": datetime.now(UTC)})  # fmt: skip
        if made.selection not in with_ids:
            ids = made.example_ids
            append(connection, "selected_examples",
                   pa.table({"selection": pa.array([made.selection] * len(ids)), "example_id": ids}))  # fmt: skip
            with_ids.add(made.selection)
    append(connection, "selections", rows)


def kept(store: Store, spec: MixtureSpec) -> dict[str, Slice]:
    """The slices of a mixture by name, as the store keeps them; without those that it does not."""
    found = {}
    for c in spec.components:
        if c.slice is None:
            continue
        rows = store.rows("SELECT rule FROM selections WHERE selection = ? ORDER BY slice <> ?, created_at LIMIT 1",
                          [c.selection, c.slice])  # fmt: skip
        if rows:
            query = "SELECT example_id FROM selected_examples WHERE selection = ? ORDER BY example_id"
            ids = store.read(query, [c.selection])["example_id"].combine_chunks()
            found[c.name] = Slice(c.collection, c.slice, rows[0]["rule"], ids)
    return found


def pin_named(store: Store, names: Collection[str]) -> dict[str, Component]:
    """Slices that the store knows by these names (the newest of each name), pinned at today's content."""
    rows = store.rows("SELECT * FROM selections ORDER BY created_at")
    newest = {f"{row['collection']}[{row['slice']}]": row for row in rows}
    return {
        name: pinned(store, Part(row["collection"], row["selection"]), row["slice"])
        for name, row in newest.items() if name in names
    }  # fmt: skip


def check_disjoint(store: Store, spec: MixtureSpec) -> None:
    """Raise `UsageError` where an example is in two components.

    A weight is the probability of drawing from one part. In overlapping parts it would say too little of what their
    common examples get, and a learned weight would answer for examples that others are answerable for too.
    """
    for collection, parts in _shared(spec):
        whole = [c.name for c in parts if c.slice is None]
        if whole:
            part = next(c.name for c in parts if c.slice is not None)
            raise UsageError(
                f"{collection!r} is in the mixture as a whole and as {part!r}; take one of them. To have the part "
                f"alone, leave the whole out; to look for a condition in it only, write collection = {collection!r} "
                "into `where`"
            )
        names: dict[str | None, list[str]] = {}
        for c in parts:
            names.setdefault(c.selection, []).append(c.name)
        (found,) = store.rows(
            """SELECT any_value(selections) AS selections FROM (
                   SELECT list(selection ORDER BY selection) AS selections FROM selected_examples
                   WHERE list_contains($chosen, selection) GROUP BY example_id HAVING count(*) > 1)""",
            {"chosen": list(names)},
        )
        twice = next((same for same in names.values() if len(same) > 1), None)
        both = twice or [names[selection][0] for selection in found["selections"] or ()]
        if both:
            raise UsageError(
                f"{both[0]!r} and {both[1]!r} have examples in common; the parts of a mixture must not overlap"
            )


def _shared(spec: MixtureSpec) -> Iterator[tuple[str, list[Component]]]:
    """Collections that several components are of."""
    by_collection: dict[str, list[Component]] = {}
    for c in spec.components:
        by_collection.setdefault(c.collection, []).append(c)
    return ((name, parts) for name, parts in by_collection.items() if len(parts) > 1)


def sizes(store: Store, components: Iterable[Component]) -> dict[str, int]:
    """How many examples each component has, by name: a collection today, a slice when it was frozen.

    What the store does not hold is left out.
    """
    counted = {i.collection: i.num_examples for i in read.collections(store)}
    selected = {row["selection"]: row["n"] for row in store.rows("SELECT selection, num_examples AS n FROM selections")}
    found = {c.name: selected.get(c.selection) if c.selection else counted.get(c.collection) for c in components}
    return {name: size for name, size in found.items() if size is not None}
