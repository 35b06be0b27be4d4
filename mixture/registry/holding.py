"""Where given rows are held: contents that mixtures pin and runs drew from, these mixtures and runs, copies of rows.

A content is told by its collection's name in the mixture, its digest, and the selection of a slice. A slice's rows are
in the store. Those of a whole collection are in the materialised files, else in today's rows or an older version's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import StoreError, UsageError
from mixture.materialised import ComponentData
from mixture.progress import Progress
from mixture.specs import Component, Part
from mixture.store import Store, layout, read
from mixture.store.change import RENAME
from mixture.store.files import at_version, digest
from mixture.store.materialise import versions


class Content(NamedTuple):
    """What a component pins."""

    collection: str
    digest: str
    selection: str | None
    miners: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Holding:
    """A mixture that pins some of the rows.

    held:       how many of them, by component
    unknown:    components that may hold some: the store never held their contents
    learned_by: the run that learned its weights, on rows among which these are
    """

    mixture: str
    id: str
    held: dict[str, int]
    unknown: tuple[str, ...] = ()
    learned_by: str | None = None


@dataclass(frozen=True)
class Drawing:
    """A run that drew from contents with some of the rows, or that began on a mixture with some.

    rows:     how many of them it could draw; of a run that kept no draws, as many as its mixture holds
    at_least, at_most: draws of all of them together; None where the run kept no draws
    seconds:  from the last start to the end; None for a run that has not ended
    model:    the folder that it made, if any
    """

    run: str
    kind: str
    status: str
    mixture: str | None
    rows: int
    at_least: int | None
    at_most: int | None
    steps: int | None
    batch_size: int | None
    seconds: float | None
    model: str | None

    @property
    def learned(self) -> bool:
        """Whether it learned weights."""
        return self.kind in LEARNED or (self.kind not in TRAINED and self.kind not in COMPARED)


TRAINED, COMPARED, LEARNED = ("finetune", "reference"), ("verdict", "ablation"), ("tdro", "tdro-seeds")


@dataclass(frozen=True)
class Copies:
    """Rows of another collection with a text of the rows.

    same_query, same_positive: rows with an equal query; with an equal passage as a positive
    as_negative: rows with such a passage as a negative
    """

    collection: str
    same_query: int
    same_positive: int
    as_negative: int


def former_names(store: Store, names: Sequence[str]) -> dict[str, set[str]]:
    """By a name that collections have or had: which of today's `names` that were."""
    changes = store.rows("SELECT renamed_to, collection FROM collection_changes WHERE starts_with(change, ?)", [RENAME])
    found: dict[str, set[str]] = {}
    for name in names:
        waiting, seen = [name], {name}
        while waiting:
            now = waiting.pop()
            earlier = {row["collection"] for row in changes if row["renamed_to"] == now} - seen
            seen |= earlier
            waiting += sorted(earlier)
        for then in seen:
            found.setdefault(then, set()).add(name)
    return found


def contents(store: Store, names: Sequence[str]) -> list[Content]:
    """The contents of these collections that mixtures pin or runs drew from, each once."""
    rows = store.rows(
        """SELECT DISTINCT coalesce(slice_of, collection) AS collection, digest, selection, miners FROM mixture_weights
           WHERE list_contains($names, coalesce(slice_of, collection)) AND digest <> ''
           UNION ALL SELECT DISTINCT coalesce(slice_of, collection), digest, selection, NULL FROM run_draws
           WHERE list_contains($names, coalesce(slice_of, collection)) ORDER BY ALL""",
        {"names": list(names)},
    )
    found: dict[tuple[Any, ...], Content] = {}
    for row in rows:
        miners = None if row["miners"] is None else tuple(row["miners"])
        content = Content(row["collection"], row["digest"], row["selection"], miners)
        if content[:3] not in found or miners is not None:
            found[content[:3]] = content
    return list(found.values())


def rows_of(store: Store, some: Sequence[Content], progress: Progress) -> dict[Content, pa.ChunkedArray | None]:
    """The example ids of contents; None where the store never held one."""
    today: dict[Part, str] = {}
    found: dict[Content, pa.ChunkedArray | None] = {}
    for done, content in enumerate(some):
        progress(done, len(some), content.collection)
        if content.selection is not None:
            query = "SELECT example_id FROM selected_examples WHERE selection = ?"
            found[content] = store.read(query, [content.selection])["example_id"]
        else:
            found[content] = _whole(store, content, today)
    return found


def _whole(store: Store, content: Content, today: dict[Part, str]) -> pa.ChunkedArray | None:
    """The example ids of a whole collection's content. today: digests that are known already."""
    folder = layout.component(layout.materialised(store.work), content.digest)
    if folder.is_dir():
        return ComponentData(folder).example_ids()
    part = Part(content.collection, None, content.miners)
    if part not in today:
        today[part] = ""
        with suppress(UsageError):
            today[part] = read.digest(store, part)
    query = "SELECT example_id FROM examples WHERE collection = ?"
    if today[part] == content.digest:
        return store.read(query, [content.collection])["example_id"]
    pinned = Component(content.collection, content.digest, 0.0, 1.0, miners=content.miners)
    # The oldest mixture with a content was made of it; later ones may have it from that one.
    for version in reversed(versions(store, pinned)):
        with suppress(StoreError), at_version(store, version) as old:
            if digest(old, part) == content.digest:
                return old.read(query, [content.collection])["example_id"]
    return None


def counted(
    rows: Mapping[Content, pa.ChunkedArray | None], chosen: Mapping[str, pa.Array]
) -> dict[Content, int | None]:  # fmt: skip
    """How many of the chosen ids contents hold. chosen: by the collection's name in the mixture. None as in `rows`."""
    found: dict[Content, int | None] = {}
    for content, ids in rows.items():
        found[content] = None
        if ids is not None:
            there = pc.is_in(ids, chosen[content.collection].cast(ids.type))
            found[content] = int(pc.sum(there).as_py() or 0)
    return found


HELD = pa.schema([("whole", pa.string()), ("digest", pa.string()), ("selection", pa.string()), ("n", pa.int64())])


def _held(held: Mapping[Content, int | None]) -> pa.Table:
    rows = [(*content[:3], count) for content, count in held.items() if count != 0]
    return pa.Table.from_pylist([dict(zip(HELD.names, row, strict=True)) for row in rows], HELD)


def mixtures(store: Store, held: Mapping[Content, int | None]) -> list[Holding]:
    """The mixtures that pin contents which hold some of the rows (or None: nobody knows), in order of their making."""
    store.connection.register("held", _held(held))
    rows = store.rows(
        """SELECT m.name || ':' || m.version AS mixture, m.mixture AS id, m.run_id, w.collection AS component, h.n
           FROM mixture_weights w JOIN held h ON h.digest = w.digest AND h.whole = coalesce(w.slice_of, w.collection)
                AND h.selection IS NOT DISTINCT FROM w.selection
           JOIN mixtures m USING (mixture) ORDER BY m.created_at, m.name, m.version, component"""
    )
    found: dict[str, Holding] = {}
    for row in rows:
        one = found.get(row["mixture"]) or Holding(row["mixture"], row["id"], {}, (), row["run_id"])
        if row["n"] is None:
            one = replace(one, unknown=(*one.unknown, row["component"]))
        else:
            one = replace(one, held=one.held | {row["component"]: row["n"]})
        found[row["mixture"]] = one
    return list(found.values())


def runs(store: Store, held: Mapping[Content, int | None], holding: Sequence[Holding]) -> list[Drawing]:
    """The runs that drew from contents which hold some of the rows, that learned the weights of such mixtures, or that
    began on them; in order of their start.

    How often a run drew a row at least and at most is as the macro `seen_by` has it.
    """
    store.connection.register("held", _held({content: count for content, count in held.items() if count}))
    drawn = {row["run_id"]: row for row in store.rows(
        """SELECT run_id, sum(h.n)::BIGINT AS n, sum(h.n * ceil(d.epochs))::BIGINT AS at_most,
                  sum(h.n * greatest(0, floor(d.epochs) - (round(d.epochs * d.num_examples) - d.examples_drawn)))
                  ::BIGINT AS at_least
           FROM run_draws d JOIN held h ON h.digest = d.digest AND h.whole = coalesce(d.slice_of, d.collection)
                AND h.selection IS NOT DISTINCT FROM d.selection
           WHERE d.batches > 0 GROUP BY run_id"""
    )}  # fmt: skip
    rows_in = {one.id: sum(one.held.values()) for one in holding}
    learned = {one.learned_by: one.id for one in holding if one.learned_by is not None}
    kept = {row["run_id"] for row in store.rows("SELECT DISTINCT run_id FROM run_draws")}
    found = []
    for row in store.rows("SELECT *, epoch(finished_at - started_at) AS seconds FROM runs ORDER BY started_at, run_id"):
        run, config = row["run_id"], json.loads(row["config"] or "{}")
        on = [row["mixture"], *(phase["mixture"] for phase in config.get("phases") or ())]
        rows = max((rows_in.get(one, 0) for one in [*on, learned.get(run)]), default=0)
        if run not in drawn and (run in kept or not rows):
            continue
        own = drawn.get(run, {"n": rows, "at_least": None, "at_most": None})
        found.append(Drawing(
            run, row["kind"], row["status"], row["mixture"], own["n"], own["at_least"], own["at_most"],
            config.get("steps"), config.get("batch_size"), row["seconds"],
            row["result"] if row["kind"] in TRAINED else None,
        ))  # fmt: skip
    return found


def evaluated(store: Store, holding: Sequence[Holding], drawing: Sequence[Drawing]) -> list[str]:
    """Models that were evaluated, and that were trained on such mixtures or by such runs, beside those of the runs."""
    rows = store.rows(
        """SELECT DISTINCT model FROM evaluations WHERE list_contains($mixtures, mixture)
           OR list_contains($runs, run_id) ORDER BY model""",
        {"mixtures": [one.id for one in holding], "runs": [one.run for one in drawing]},
    )
    known = {one.model for one in drawing}
    return [row["model"] for row in rows if row["model"] not in known]


def copies(store: Store, chosen: pa.Table) -> list[Copies]:
    """Rows of other collections today with the query of a chosen row of today, or with one of its positives.

    chosen: collection, example_id. Passages are equal where their ids are, title included.
    """
    store.connection.register("chosen", chosen)
    rows = store.rows(
        """WITH own AS (SELECT e.* FROM examples e SEMI JOIN chosen USING (collection, example_id)),
               others AS (SELECT e.* FROM examples e ANTI JOIN chosen USING (collection, example_id)),
               passages_of AS (SELECT DISTINCT collection, unnest(positives).passage_id AS passage_id FROM own),
               hits AS (
                   SELECT o.collection, o.example_id, 'query' AS what FROM others o JOIN
                       (SELECT DISTINCT collection, query FROM own) q
                       ON q.query = o.query AND q.collection <> o.collection
                   UNION SELECT o.collection, o.example_id, 'positive'
                   FROM (SELECT collection, example_id, unnest(positives).passage_id AS passage_id FROM others) o
                   JOIN passages_of p ON p.passage_id = o.passage_id AND p.collection <> o.collection
                   UNION SELECT o.collection, o.example_id, 'negative'
                   FROM (SELECT * FROM negatives ANTI JOIN chosen USING (collection, example_id)) o
                   JOIN passages_of p ON p.passage_id = o.passage_id AND p.collection <> o.collection)
           SELECT collection, count(*) FILTER (what = 'query') AS same_query,
                  count(*) FILTER (what = 'positive') AS same_positive,
                  count(*) FILTER (what = 'negative') AS as_negative
           FROM hits GROUP BY collection ORDER BY collection"""
    )
    return [Copies(**row) for row in rows]


def learned_with(store: Store, ids: Sequence[str]) -> list[str]:
    """Of mixtures, by their ids, those that hold forgotten rows and whose weights a run learned."""
    rows = store.rows(
        """SELECT DISTINCT m.mixture FROM mixtures m JOIN mixture_weights w USING (mixture) JOIN forgotten_contents f
           ON f.digest = w.digest AND f.collection = coalesce(w.slice_of, w.collection)
           WHERE m.run_id IS NOT NULL AND list_contains(?, m.mixture) ORDER BY ALL""",
        [list(ids)],
    )
    return [row["mixture"] for row in rows]
