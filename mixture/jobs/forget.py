"""Data is withdrawn: what must be retrained, and the rows taken out so that no training reads them again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import UsageError, unknown_name
from mixture.materialised import ComponentData
from mixture.progress import Progress, silent
from mixture.registry import holding, saved_mixtures, slices
from mixture.registry.holding import Content, Copies, Drawing, Holding
from mixture.specs import MixtureSpec
from mixture.store import Store, forgotten, layout, read
from mixture.store.change import FORGOTTEN
from mixture.store.forgotten import CONTENTS, ROWS


@dataclass(frozen=True)
class ForgottenOf:
    """The rows of one collection.

    examples: that it has; before they are taken out, or after they were put back
    rows:     that go, or came back
    out:      that are marked alone, since they are out for another reason already
    """

    collection: str
    examples: int
    rows: int
    out: int = 0


@dataclass(frozen=True)
class Forgetting:
    """What forgetting rows means, and whether it was done.

    done:        "nothing" (a report), "forgotten" or "put back"
    collections: the rows, by collection
    mixtures:    that hold some; they are refused by what reads contents, once the rows are forgotten
    runs:        that drew some, or may have
    models:      that were evaluated, of these mixtures and runs, beside the folders of the runs
    copies:      rows of other collections with the same texts, which stay
    deleted:     files and folders of the store that held the rows, as paths in its folder
    embeddings:  folders of kept embeddings, which may have vectors of the rows' texts
    gone:        with "put back": rows that no file gives any more, so that they stay out
    example_ids: collection and example_id of the rows
    """

    done: str
    collections: tuple[ForgottenOf, ...]
    mixtures: tuple[Holding, ...] = ()
    runs: tuple[Drawing, ...] = ()
    models: tuple[str, ...] = ()
    copies: tuple[Copies, ...] = ()
    deleted: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    gone: int = 0
    example_ids: pa.Table = field(default_factory=ROWS.empty_table, repr=False)

    @property
    def retrain(self) -> list[Drawing]:
        """Runs whose models or weights may depend on the rows."""
        return [run for run in self.runs if run.at_most is None or run.at_most > 0]


@dataclass(frozen=True)
class Chosen:
    """Rows to forget. whole: of a collection as a whole; rows: `ROWS`, each once, not forgotten yet"""

    rows: pa.Table
    whole: str | None = None

    def ids(self, collection: str) -> pa.Array:
        return self.rows.filter(pc.equal(self.rows["collection"], collection))["example_id"].combine_chunks()

    @property
    def names(self) -> list[str]:
        return sorted(pc.unique(self.rows["collection"]).to_pylist())


def forget(
    store: Store, what: str | None = None, *, where: str | None = None, apply: bool = False, undo: bool = False,
    reason: str | None = None, progress: Progress = silent,
) -> Forgetting:  # fmt: skip
    """Say what must be retrained when rows are withdrawn; with `apply` also take them out.

    what:   a collection; a slice that the store keeps, such as xquad[language=zh]; or a file of collection, example_id
            (CSV, Parquet or JSON). Rows that are out for another reason are meant too
    where:  in its place a SQL condition over examples
    apply:  rows go in one step, with the reason forgotten in `removals`: no file brings them back. Mixtures that pin
            some raise `ForgottenRows` when their contents are read, until they are made anew (`create` with `refresh`).
            Files of the store's folder that hold them go
    undo:   put back what the newest such call took out, as it was; goes alone
    reason: with `apply`: why, kept in `removals.note`

    A retrained model is proof by itself: `trainers.check_forgotten` counts what its run draws. Raises `UsageError`
    where nothing is meant, and where all of it is forgotten already.
    """
    if undo:
        if what is not None or where is not None or apply or reason is not None:
            raise UsageError("`undo` puts back all that the newest `forget` took out; it goes alone")
        return _put_back(store)
    if reason is not None and not apply:
        raise UsageError("`reason` goes with `apply`: without it nothing is written")
    chosen, rows_in = _with_contents(store, chosen_rows(store, what, where), progress)
    if not chosen.rows.num_rows:
        raise UsageError("there is nothing to forget: all these rows are forgotten already")
    held = holding.counted(rows_in, _by_former_name(store, chosen))
    report = _report(store, chosen, held)
    if not apply:
        return report
    forgotten.forget_rows(store, chosen.rows, _contents(held), reason)
    deleted = _delete_files(store, chosen, {one.id for one in report.mixtures if one.held})
    return Forgetting(**vars(report) | {"done": FORGOTTEN, "deleted": tuple(deleted)})


def chosen_rows(store: Store, what: str | None, where: str | None, *, although_forgotten: bool = False) -> Chosen:
    """The rows that are meant, as `forget` takes them; without those that are forgotten already, or with them."""
    rows, whole = _meant(store, what, where)
    return Chosen(rows.cast(ROWS), whole) if although_forgotten else _unmarked(store, rows, whole)


def _meant(store: Store, what: str | None, where: str | None) -> tuple[pa.Table, str | None]:
    """The rows, and the collection where all of it is meant."""
    if (what is None) == (where is None):
        raise UsageError("say which rows: `what`, a collection, a slice or a file of ids, or `where`, a condition")
    if where is not None:
        return _ids(slices.by_predicate(store, where)), None
    assert what is not None
    known = read.names(store)
    if what in known:
        rows = store.read(
            """SELECT collection, example_id FROM examples WHERE collection = $c
               UNION SELECT collection, example_id FROM removals WHERE collection = $c""",
            {"c": what},
        )
        if not rows.num_rows:
            raise UsageError(f"collection {what!r} has no examples")
        return rows, what
    kept = store.rows(
        """SELECT selection, collection FROM selections WHERE collection || '[' || slice || ']' = ?
           ORDER BY created_at DESC LIMIT 1""",
        [what],
    )
    if kept:
        query = "SELECT ? AS collection, example_id FROM selected_examples WHERE selection = ?"
        return store.read(query, [kept[0]["collection"], kept[0]["selection"]]), None
    file = Path(what).expanduser()
    if file.is_file():
        return _known(store, _ids(slices.from_file(store, file)), file), None
    named = store.rows("SELECT DISTINCT collection || '[' || slice || ']' AS name FROM selections")
    raise unknown_name("collection, slice or file", what, [*known, *(row["name"] for row in named)])


def _ids(some: list[slices.Slice]) -> pa.Table:
    parts = [
        pa.table([pa.repeat(pa.scalar(one.collection), len(one.example_ids)), one.example_ids], schema=ROWS)
        for one in some
    ]
    return pa.concat_tables(parts)


def _known(store: Store, rows: pa.Table, file: Path) -> pa.Table:
    """The rows; `UsageError` where the store never had some."""
    known = read.names(store)
    for name in pc.unique(rows["collection"]).to_pylist():
        if name not in known:
            raise unknown_name("collection", name, known)
    store.connection.register("listed", rows)
    (found,) = store.rows(
        """SELECT count(*) AS n, min(example_id) AS first FROM listed ANTI JOIN (
               SELECT collection, example_id FROM examples UNION ALL SELECT collection, example_id FROM removals)
           USING (collection, example_id)"""
    )
    if found["n"]:
        raise UsageError(f"{file}: {found['n']:,} of {rows.num_rows:,} examples are not in the store and were never "
                         f"taken out of it, the first: {found['first']!r}")  # fmt: skip
    return rows


def _unmarked(store: Store, rows: pa.Table, whole: str | None = None) -> Chosen:
    store.connection.register("listed", rows)
    left = store.read(
        """SELECT DISTINCT collection, example_id FROM listed ANTI JOIN
               (SELECT collection, example_id FROM removals WHERE reason = ?) USING (collection, example_id)
           ORDER BY ALL""",
        [FORGOTTEN],
    )
    return Chosen(left.cast(ROWS), whole)


def _with_contents(
    store: Store, chosen: Chosen, progress: Progress
) -> tuple[Chosen, dict[Content, pa.ChunkedArray | None]]:
    """The rows, and those of all contents of their collections. Where a whole collection is meant, what only its older
    contents have is meant too."""
    names = holding.former_names(store, chosen.names)
    rows_in = holding.rows_of(store, holding.contents(store, sorted(names)), progress)
    if chosen.whole is not None:
        own = [ids.cast(pa.string()) for content, ids in rows_in.items()
               if content.collection == chosen.whole and ids is not None]  # fmt: skip
        older = pc.unique(pa.chunked_array([chunk for ids in own for chunk in ids.chunks], pa.string()))
        rows = pa.table([pa.repeat(pa.scalar(chosen.whole), len(older)), older], schema=ROWS)
        chosen = _unmarked(store, pa.concat_tables([chosen.rows, rows]), chosen.whole)
    return chosen, rows_in


def _by_former_name(store: Store, chosen: Chosen) -> dict[str, pa.Array]:
    """The ids by each name that their collection has or had."""
    return {
        then: pa.concat_arrays([chosen.ids(name) for name in sorted(now)])
        for then, now in holding.former_names(store, chosen.names).items()
    }


def _report(store: Store, chosen: Chosen, held: Mapping[Content, int | None]) -> Forgetting:
    pins = holding.mixtures(store, held)
    drawing = holding.runs(store, held, pins)
    learned = {one.run for one in drawing if one.learned}
    pins = [one if one.learned_by in learned else Holding(one.mixture, one.id, one.held, one.unknown) for one in pins]
    root = layout.space(store.work, "").parent
    return Forgetting(
        "nothing",
        tuple(_of_collections(store, chosen)),
        tuple(pins),
        tuple(drawing),
        tuple(holding.evaluated(store, [one for one in pins if one.held], drawing)),
        tuple(holding.copies(store, chosen.rows)),
        embeddings=tuple(f"{root.name}/{path.name}" for path in layout.spaces(store.work)),
        example_ids=chosen.rows,
    )


def _of_collections(store: Store, chosen: Chosen) -> list[ForgottenOf]:
    store.connection.register("chosen", chosen.rows)
    rows = store.rows(
        """SELECT c.collection, any_value(n.examples) AS examples, count(e.example_id) AS there, count(*) AS meant
           FROM chosen c LEFT JOIN examples e USING (collection, example_id)
           LEFT JOIN (SELECT collection, count(*) AS examples FROM examples GROUP BY ALL) n USING (collection)
           GROUP BY c.collection ORDER BY c.collection"""
    )
    return [
        ForgottenOf(row["collection"], row["examples"] or 0, row["there"], row["meant"] - row["there"]) for row in rows
    ]


def _contents(held: Mapping[Content, int | None]) -> pa.Table:
    """`CONTENTS` of what holds some. A slice of all rows has the digest of the whole."""
    most = {(content.collection, content.digest): count for content, count in held.items() if count}
    rows = [{"collection": name, "digest": digest, "num_forgotten": count} for (name, digest), count in most.items()]
    return pa.Table.from_pylist(rows, CONTENTS)


def _delete_files(store: Store, chosen: Chosen, mixtures: set[str]) -> list[str]:
    """Delete what of the store's folder holds the rows: materialised contents, whether a mixture pins them or not, the
    lists of mixtures that name these, and tiny models that were built from texts of `mixtures`."""
    root, gone = layout.materialised(store.work), []
    ids = _by_former_name(store, chosen)
    for folder in layout.components(root):
        part = ComponentData(folder)
        found = part.example_ids()
        if part.collection in ids and pc.any(pc.is_in(found, ids[part.collection].cast(found.type))).as_py():
            gone.append(folder)
    digests = {folder.name for folder in gone}
    for file in layout.specs(root):
        spec = MixtureSpec.from_json(file.read_text("utf-8"))
        if digests & {c.digest for c in spec.components}:
            gone.append(file)
    texts = {layout.texts_id(c.digest for c in one.spec.components) for one in saved_mixtures(store)
             if one.spec.id in mixtures} if mixtures else set()  # fmt: skip
    gone += [folder for folder, of in layout.tiny_models(store.work).items() if of in texts]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return [str(path.relative_to(store.work)) for path in gone]


def _put_back(store: Store) -> Forgetting:
    done = forgotten.restore(store)
    sizes: dict[str, Any] = {info.collection: info.num_examples for info in read.collections(store)}
    return Forgetting(
        "put back",
        tuple(ForgottenOf(name, sizes[name], count) for name, count in sorted(done.back.items())),
        gone=done.gone,
    )
