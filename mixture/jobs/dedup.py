"""Near-equal examples are taken out, within collections or across them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.arguments import Names, listed, named
from mixture.dedup import simhash_fingerprints
from mixture.dedup.duplicates import fingerprint_distances
from mixture.dedup.methods import METHODS, Method, Settings, StoredTexts
from mixture.dedup.methods.base import DEFAULT_VERIFY, Groups
from mixture.engine import Engine, engine_of
from mixture.jobs.removals import DUPLICATE, RemovalResult, take_out
from mixture.jobs.tasks import Snapshot
from mixture.progress import Progress, silent
from mixture.store import Store, read

KEYS = ("pair", "query", "positive")
SEPARATOR = "\x1f"


def dedup(
    store: Store, collections: Names = (), *, method: str = "simhash", distance: int = 3, key: str = "pair",
    verify: float | None = DEFAULT_VERIFY, across: bool = False, dry_run: bool = False, engine: str | Engine = "local",
    progress: Progress = silent,
) -> list[RemovalResult]:  # fmt: skip
    """Take near-equal examples out, all at once at the end.

    Each group keeps one example: that of the first collection (in the order of `collections`; alphabetically without),
    and in it the one with the smallest id.

    method:   a name of `METHODS`
    distance: bits in which the fingerprints of near-equal texts may differ, 0 to 7; simhash reads it
    key:      what is compared. "query", "positive", or "pair" for both, so that one question with two different answers
              stays twice
    verify:   least Jaccard similarity of the n-grams of near-equal texts, above 0 to 1; None for none (minhash:
              0.8). exact does not read it
    across:   also compare the collections with each other
    dry_run:  only say which examples would go
    engine:   what runs the tasks, one a collection, or one in all with `across`: a name of `ENGINES`, or an `Engine`
    """
    settings = Settings(distance, verify)
    named("key", key, dict.fromkeys(KEYS))
    chosen = named("method", method, METHODS)
    chosen.check(settings)
    runs = engine_of(engine)
    with store.reading() as snapshot:
        infos = read.collections(store, listed(collections))
        groups = [infos] if across else [[info] for info in infos]

        def tasks() -> Iterator[list[str]]:
            for done, group in enumerate(groups):
                names = [info.collection for info in group]
                progress(done, len(groups), ", ".join(names[:3]))
                yield names

        work = partial(_duplicates, Snapshot(store.catalog, snapshot, store), method=chosen, settings=settings, key=key)
        duplicates = list(runs.map(work, tasks()))
    results = take_out(store, infos, duplicates, snapshot, dry_run)
    progress(len(groups), len(groups), "done")
    return results


def _duplicates(source: Snapshot, names: list[str], *, method: Method, settings: Settings, key: str) -> pa.Table:
    with source.opened() as store:
        rows = read.query_prints(store, names)
        keys = [] if key == "positive" else [_groups(store, "query", rows, method, settings)]
        if key != "query":
            passages = read.positive_prints(store, names)
            label = _groups(store, "positive", passages, method, settings)
            keys.append(_positive_keys(store, names, rows, passages, label))
        # Rows come in the order of the keeper's rule, so the first of equal keys is kept.
        _, first, inverse = np.unique(np.stack(keys), axis=1, return_index=True, return_inverse=True)
        kept = first[inverse.reshape(-1)]
        gone = np.flatnonzero(kept != np.arange(rows.num_rows))
        removed, keepers = rows.take(pa.array(gone)), rows.take(pa.array(kept[gone]))
        texts = pa.concat_arrays([read.texts_of(store, "query", part) for part in (removed, keepers)])
        positives = {}
        if key == "positive":  # the queries then say nothing
            names_of = {"positive": removed, "kept_positive": keepers}
            positives = {name: read.texts_of(store, "first positive", part) for name, part in names_of.items()}
    left, right = np.arange(len(gone)), np.arange(len(gone), 2 * len(gone))
    return pa.table(
        {
            "collection": removed["collection"],
            "example_id": removed["id"],
            "reason": pa.repeat(DUPLICATE, len(gone)),
            "kept_collection": keepers["collection"],
            "kept_id": keepers["id"],
            "kept_query": texts.slice(len(gone)),
            "distance": pa.array(fingerprint_distances(texts, left, right), pa.int32()),
            "query": texts.slice(0, len(gone)),
        }
        | positives
    )


def _groups(store: Store, kind: str, rows: pa.Table, method: Method, settings: Settings) -> Groups:
    """For each row the first row of its group of near-equal texts; (n,)."""

    def prints() -> NDArray[np.uint64]:
        if rows["simhash"].null_count:  # stored by other means than ingest
            return simhash_fingerprints(read.texts_of(store, kind, rows))
        stored: NDArray[np.uint64] = rows["simhash"].to_numpy()
        return stored

    def texts_of(wanted: NDArray[np.int64]) -> pa.Array:
        return read.texts_of(store, kind, rows.take(pa.array(wanted)))

    return method.groups(StoredTexts(rows.num_rows, prints, texts_of), settings)


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
