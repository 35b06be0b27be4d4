"""Near-equal examples are taken out, within collections or across them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.arguments import Names, listed, named
from mixture.dedup import simhash_fingerprints
from mixture.dedup.cosines import cosines
from mixture.dedup.duplicates import fingerprint_distances
from mixture.dedup.methods import METHODS, Method, Settings, StoredTexts
from mixture.dedup.methods.base import DEFAULT_SIMILARITY, DEFAULT_VERIFY, PART_ROWS, Groups, OfTexts
from mixture.embeddings import Encode, Kind, Source, source_of
from mixture.embeddings.space import check_precision
from mixture.engine import LOCAL, Engine
from mixture.errors import UsageError
from mixture.jobs.removals import DUPLICATE, RemovalResult, take_out
from mixture.jobs.tasks import ProgressHere, Snapshot, beside, engine_for, of_part
from mixture.progress import Progress, silent
from mixture.store import Store, layout, read
from mixture.store.parts import text_parts

KEYS = ("pair", "query", "positive")
SEPARATOR = "\x1f"
ENCODED_AS: dict[str, Kind] = {"query": "query", "positive": "passage"}
PLURALS = {"query": "queries", "positive": "positives"}
PAIRS = 16_384  # whose vectors are in memory at a time


def dedup(
    store: Store, collections: Names = (), *, method: str = "simhash", distance: int = 3, key: str = "pair",
    verify: float | None = DEFAULT_VERIFY, model: str | None = None, encode: Encode | None = None,
    encoder: Callable[[str], Encode] | None = None, similarity: float | None = None, across: bool = False,
    dry_run: bool = False, engine: str | Engine = "local", progress: Progress = silent, keep_embeddings: bool = True,
    precision: str = "float32",
) -> list[RemovalResult]:  # fmt: skip
    """Take near-equal examples out, all at once at the end.

    Each group keeps one example: that of the first collection (in the order of `collections`; alphabetically without),
    and in it the one with the smallest id.

    method:   a name of `METHODS`
    distance: bits in which the fingerprints of near-equal texts may differ, 0 to 7; simhash reads it
    key:      what is compared. "query", "positive", or "pair" for both, so that one question with two different answers
              stays twice
    verify:   least Jaccard similarity of the n-grams of near-equal texts, above 0 to 1; None for none (minhash:
              0.8). exact and semantic do not read it
    model:    for semantic, whose embeddings are compared; by default BGE-large-en-1.5, as for the dense miner
    encode:   the model as a function, `trainers.encode_with("…")`
    encoder:  in its place, what makes that function of a model's name, `trainers.encode_with`; called when there is
              something to compare
    similarity: for semantic, least cosine of the embeddings of near-equal texts, above 0 to 1 (0.95)
    across:   also compare the collections with each other
    dry_run:  only say which examples would go
    engine:   what runs the tasks, one a collection, or one in all with `across`: a name of `ENGINES`, or an `Engine`
    keep_embeddings, precision: as of `mine`, which shares what is kept

    With a model, `removals` has the cosine of the two queries; with the key "positive" of the two first positives.
    """
    settings = Settings(distance, verify, DEFAULT_SIMILARITY if similarity is None else similarity)
    named("key", key, dict.fromkeys(KEYS))
    chosen = named("method", method, METHODS)
    chosen.check(settings)
    check_precision(precision)
    encoding = _encoding(method, model, encode, encoder, similarity)
    runs = engine_for(store, engine)
    with store.reading() as snapshot:
        infos = read.collections(store, listed(collections))
        groups = [infos] if across else [[info] for info in infos]

        def tasks() -> Iterator[_Task]:
            for done, group in enumerate(groups):
                task = _Task([info.collection for info in group], (done, len(groups)))
                progress(*task.place, task.label)
                yield task

        keep = partial(layout.space, store.work) if keep_embeddings else None
        encode = encoding() if infos else None
        work = partial(_duplicates, Snapshot(store.catalog, snapshot, store), method=chosen, settings=settings, key=key,
                       encode=encode, keep=keep, precision=precision, runs=runs,
                       progress=ProgressHere(progress))  # fmt: skip
        duplicates = list(beside(runs, encode).map(work, tasks()))
    results = take_out(store, infos, duplicates, snapshot, dry_run)
    progress(len(groups), len(groups), "done")
    return results


def _encoding(
    method: str, model: str | None, encode: Encode | None, encoder: Callable[[str], Encode] | None,
    similarity: float | None,
) -> Callable[[], Encode | None]:  # fmt: skip
    """What makes the encoder of a method that needs one."""
    chosen = METHODS[method]
    if not chosen.needs_encoder:
        for name, value in (("model", model), ("encode", encode), ("similarity", similarity)):
            if value is not None:
                able = ", ".join(known for known, other in METHODS.items() if other.needs_encoder)
                raise UsageError(f"the method {method} compares no embeddings; leave away `{name}` (for {able})")
        return lambda: None
    if encode is not None:
        if model is not None:
            raise UsageError("`encode` is the model; leave away `model`")
        return lambda: encode
    wanted = chosen.model if model is None else model
    if not wanted:
        raise UsageError(f"the method {method} needs a `model`")
    if encoder is None:
        raise UsageError(f"the method {method} needs a model; hand it over as encode=trainers.encode_with({wanted!r})")
    return lambda: encoder(wanted)


@dataclass(frozen=True)
class _Task:
    """Collections that are compared with each other. place: number of the task, of how many."""

    names: list[str]
    place: tuple[int, int]

    @property
    def label(self) -> str:
        return ", ".join(self.names[:3])


@dataclass(frozen=True)
class _Sides:
    """How the texts of one task are compared: queries, and positives.

    snapshot: where they are; `store` is it, opened
    names: the collections
    runs: what runs parts of the task
    source: of the vectors, for a method that needs an encoder
    """

    snapshot: Snapshot
    store: Store
    names: Sequence[str]
    runs: Engine
    method: Method
    settings: Settings
    source: Source | None
    report: Callable[[str, int, int], None]

    def groups(self, kind: str, rows: pa.Table) -> Groups:
        """For each row the first row of its group of near-equal texts; (n,)."""

        def prints() -> NDArray[np.uint64]:
            if rows["simhash"].null_count:  # stored by other means than ingest
                return simhash_fingerprints(read.texts_of(self.store, kind, rows))
            stored: NDArray[np.uint64] = rows["simhash"].to_numpy()
            return stored

        def texts_of(wanted: NDArray[np.int64]) -> pa.Array:
            return read.texts_of(self.store, kind, rows.take(pa.array(wanted)))

        def each(work: OfTexts) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
            parts = list(text_parts(self.store, kind, self.names, rows["row"].to_numpy(), PART_ROWS))
            runs = self.runs if len(parts) > 1 else LOCAL
            made = runs.map(partial(of_part, self.snapshot, work), [part for _, part in parts])
            for done, ((places, _), values) in enumerate(zip(parts, made, strict=True), 1):
                yield places, values
                self.report(f"parts of the {PLURALS[kind]} read", done, len(parts))

        return self.method.groups(StoredTexts(rows.num_rows, prints, texts_of, each), self._settings(kind))

    def _settings(self, kind: str) -> Settings:
        if self.source is None:
            return self.settings
        encoded, compared = (partial(self.report, f"{PLURALS[kind]} {done}") for done in ("encoded", "compared"))
        vectors = partial(self.source.vectors, kind=ENCODED_AS[kind], again=True, progress=encoded)
        return replace(self.settings, vectors=vectors, progress=compared)

    def similarities(self, kind: str, left: pa.Array, right: pa.Array) -> pa.Array:
        """The cosine of left[k] and right[k], texts, (p,); nulls for a method that knows no vectors."""
        if self.source is None:
            return pa.nulls(len(left), pa.float64())
        parts = [
            cosines(*(self.source(texts[start : start + PAIRS], ENCODED_AS[kind]) for texts in (left, right)))
            for start in range(0, len(left), PAIRS)
        ]
        return pa.array(np.concatenate([np.empty(0), *parts]))


def _duplicates(
    source: Snapshot, task: _Task, *, method: Method, settings: Settings, key: str, encode: Encode | None,
    keep: Callable[[str], Path] | None, precision: str, runs: Engine, progress: ProgressHere,
) -> pa.Table:  # fmt: skip
    """keep: from a space of embeddings to its folder; None to keep none."""

    def report(what: str, done: int, total: int) -> None:
        progress(*task.place, f"{task.label}: {done:,}/{total:,} {what}")

    names = task.names
    vectors = None if encode is None else source_of(encode, keep=keep, precision=precision)
    with source.opened() as store:
        sides = _Sides(source, store, names, runs, method, settings, vectors, report)
        rows = read.query_prints(store, names)
        keys = [] if key == "positive" else [sides.groups("query", rows)]
        if key != "query":
            passages = read.positive_prints(store, names)
            label = sides.groups("positive", passages)
            keys.append(_positive_keys(store, names, rows, passages, label))
        # Rows come in the order of the keeper's rule, so the first of equal keys is kept.
        _, first, inverse = np.unique(np.stack(keys), axis=1, return_index=True, return_inverse=True)
        kept = first[inverse.reshape(-1)]
        gone = np.flatnonzero(kept != np.arange(rows.num_rows))
        removed, keepers = rows.take(pa.array(gone)), rows.take(pa.array(kept[gone]))
        texts = pa.concat_arrays([read.texts_of(store, "query", part) for part in (removed, keepers)])
        shown = {"query": texts.slice(0, len(gone)), "kept_query": texts.slice(len(gone))}
        compared = ("query", *shown.values())
        if key == "positive":  # the queries then say nothing
            names_of = {"positive": removed, "kept_positive": keepers}
            positives = {name: read.texts_of(store, "first positive", part) for name, part in names_of.items()}
            shown |= positives
            compared = ("positive", *positives.values())
        similarity = sides.similarities(*compared)
    left, right = np.arange(len(gone)), np.arange(len(gone), 2 * len(gone))
    return pa.table(
        {
            "collection": removed["collection"],
            "example_id": removed["id"],
            "reason": pa.repeat(DUPLICATE, len(gone)),
            "kept_collection": keepers["collection"],
            "kept_id": keepers["id"],
            "distance": pa.array(fingerprint_distances(texts, left, right), pa.int32()),
            "similarity": similarity,
        }
        | shown
    )


def _positive_keys(
    store: Store, names: list[str], rows: pa.Table, passages: pa.Table, label: Groups
) -> NDArray[np.int64]:
    """For each example a number that two have in common when their positives are near-equal, whatever their order.

    rows: the n examples; passages, label: the positives and their groups, (m,). Returns (n,).
    """
    links = read.positives_of(store, names)
    example = _places(rows["collection"], rows["id"], links["collection"], links["example_id"])
    passage = label[_places(passages["collection"], passages["id"], links["collection"], links["passage_id"])]
    pairs = np.unique(np.stack([example, passage], axis=1), axis=0)
    key = np.full(rows.num_rows, -1, np.int64)
    counts = np.bincount(pairs[:, 0], minlength=rows.num_rows)
    starts = np.cumsum(counts) - counts
    single = counts == 1
    key[single] = pairs[starts[single], 1]
    sets: dict[bytes, int] = {}
    for row in np.flatnonzero(~single):
        members = pairs[starts[row] : starts[row] + counts[row], 1].tobytes()
        key[row] = sets.setdefault(members, len(label) + len(sets))
    return key


def _places(
    collections: pa.ChunkedArray, ids: pa.ChunkedArray, of_collections: pa.ChunkedArray, of_ids: pa.ChunkedArray
) -> NDArray[np.int64]:
    """Where each (collection, id) of the second two columns stands in the first two."""
    between = pa.scalar(SEPARATOR, ids.type)
    known = pc.binary_join_element_wise(collections, ids, between).combine_chunks()
    wanted = pc.binary_join_element_wise(of_collections, of_ids, between)
    places: NDArray[np.int64] = pc.index_in(wanted, known).to_numpy().astype(np.int64)
    return places
