"""What is taken out of collections again: near-duplicates, and examples that are in a test set.

Every removal says why (table `removals`), is not ingested again, and can be put back (`undo`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.dedup import find_contaminated, near_duplicate_groups, simhash_fingerprints
from mixture.dedup.bands import MOST_BLOCKS, many_fingerprints, proposed_pairs
from mixture.dedup.containment import find_contained
from mixture.dedup.decontaminate import DEFAULT_DISTANCE
from mixture.dedup.duplicates import DEFAULT_VERIFY, METHODS, duplicate_groups, fingerprint_distances
from mixture.dedup.neighbours import joined
from mixture.errors import UsageError
from mixture.progress import Progress, silent
from mixture.store import Store, read
from mixture.store.write import add_test_suites, remove_examples, restore_removed
from mixture.suites.lists import check_suite_names, read_test_passages, read_test_queries

KEYS = ("pair", "query", "positive")
DUPLICATE, TEST_QUERY, TEST_PASSAGE = "duplicate", "test query", "test passage"
SEPARATOR = "\x1f"
PART_ROWS = 200_000  # texts in memory at a time


@dataclass(frozen=True)
class RemovalResult:
    """How many examples a collection had, how many were taken out (or would be), and which: rows of `removals`.

    snapshot: of the store that was read
    """

    collection: str
    examples: int
    removed: int
    snapshot: int
    removals: pa.Table = field(default_factory=lambda: pa.table({}), repr=False)


@dataclass(frozen=True)
class DedupSettings:
    """method, distance, verify: see `duplicate_groups`. key: `query` compares queries, `positive` positives, `pair`
    both, so that one question with two different answers stays twice. across: also compare the collections with each
    other."""

    method: str = "simhash"
    distance: int = 3
    key: str = "pair"
    verify: float | None = DEFAULT_VERIFY
    across: bool = False

    def __post_init__(self) -> None:
        if self.key not in KEYS:
            raise UsageError(f"key {self.key!r}; allowed: {', '.join(KEYS)}")
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r}; allowed: {', '.join(METHODS)}")
        if self.verify is not None and not 0 < self.verify <= 1:
            raise UsageError(f"verify is {self.verify}; allowed: above 0 to 1, or none")


def dedup(
    store: Store, names: Sequence[str] = (), settings: DedupSettings | None = None, *, dry_run: bool = False,
    progress: Progress = silent,
) -> list[RemovalResult]:  # fmt: skip
    """Take near-equal examples out, all at once at the end; with `dry_run`, only say which.

    Each group keeps one example: that of the collection that comes first (in the order of `names`; alphabetically
    without), and in it the one with the smallest id.
    """
    settings = settings or DedupSettings()
    found = []
    with store.reading() as snapshot:
        infos = read.collections(store, names)
        groups = [infos] if settings.across else [[info] for info in infos]
        for done, group in enumerate(groups):
            progress(done, len(groups), ", ".join(info.collection for info in group[:3]))
            found.append(_duplicates(store, [info.collection for info in group], settings))
    results = _taken_out(store, infos, found, snapshot, dry_run)
    progress(len(groups), len(groups), "done")
    return results


def undo(store: Store, reasons: Sequence[str]) -> list[RemovalResult]:
    """Put back what the newest command took out for one of these reasons; `removed` is below 0."""
    back = restore_removed(store, reasons)
    if not back:
        raise UsageError(f"nothing to put back: no removals for the reason {' or '.join(map(repr, reasons))}")
    with store.reading() as snapshot:
        infos = [info for info in read.collections(store) if info.collection in back]
    return [RemovalResult(info.collection, info.num_examples, -back[info.collection], snapshot) for info in infos]


def _taken_out(
    store: Store, infos: Sequence[read.CollectionInfo], found: Sequence[pa.Table], snapshot: int, dry_run: bool
) -> list[RemovalResult]:
    """Take out what was found at a snapshot, but for what other processes took out, or put back, since."""
    rows = pa.concat_tables([part for part in found if part.num_rows] or found[:1]) if found else pa.table({})
    if rows.num_rows and not dry_run:
        rows = rows.filter(remove_examples(store, rows, snapshot))
    return [
        RemovalResult(info.collection, info.num_examples, own.num_rows, snapshot, own)
        for info in infos
        for own in [rows.filter(pc.equal(rows["collection"], info.collection))]
    ]


def _duplicates(store: Store, names: list[str], settings: DedupSettings) -> pa.Table:
    rows = read.query_prints(store, names)
    key = [] if settings.key == "positive" else [_groups(store, "query", rows, settings)]
    if settings.key != "query":
        key.append(_positive_keys(store, names, rows, settings))
    # Rows come in the order of the keeper's rule, so the first of equal keys is kept.
    _, first, inverse = np.unique(np.stack(key), axis=1, return_index=True, return_inverse=True)
    kept = first[inverse.reshape(-1)]
    gone = np.flatnonzero(kept != np.arange(rows.num_rows))
    removed, keepers = rows.take(pa.array(gone)), rows.take(pa.array(kept[gone]))
    texts = pa.concat_arrays([read.texts_of(store, "query", part) for part in (removed, keepers)])
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
        }
    )


def _groups(store: Store, kind: str, rows: pa.Table, settings: DedupSettings) -> NDArray[np.int64]:
    """For each row the first row of its group of near-equal texts; (n,).

    With fingerprints only the texts of rows that have a neighbour at all are fetched, group by group: equal texts have
    equal fingerprints, and no link leaves a group of neighbours.
    """
    if settings.method == "minhash":
        return duplicate_groups(read.texts_of(store, kind, rows), method="minhash", verify=settings.verify)
    distance = 0 if settings.method == "exact" else settings.distance
    found = near_duplicate_groups(_prints(store, kind, rows), distance)
    if settings.method == "simhash" and settings.verify is not None and distance:
        found = _with_proposed(store, kind, rows, found, distance, settings.verify)
    if settings.method == "simhash" and settings.verify is None:
        return found
    label = np.arange(rows.num_rows)
    for part in _parts(found):
        texts = read.texts_of(store, kind, rows.take(pa.array(part)))
        label[part] = part[duplicate_groups(texts, method=settings.method, distance=distance, verify=settings.verify)]
    return label


def _with_proposed(
    store: Store, kind: str, rows: pa.Table, group: NDArray[np.int64], distance: int, verify: float
) -> NDArray[np.int64]:
    """The groups joined by the pairs that many fingerprints propose; the texts are read a part at a time."""
    prints = [
        many_fingerprints(read.texts_of(store, kind, rows.slice(start, PART_ROWS)))
        for start in range(0, rows.num_rows, PART_ROWS)
    ]
    if not prints:
        return group
    return joined(group, proposed_pairs(np.concatenate(prints), min(distance + 1, MOST_BLOCKS), verify))


def _prints(store: Store, kind: str, rows: pa.Table) -> NDArray[np.uint64]:
    if rows["simhash"].null_count:  # stored by other means than ingest
        return simhash_fingerprints(read.texts_of(store, kind, rows))
    prints: NDArray[np.uint64] = rows["simhash"].to_numpy()
    return prints


def _parts(group: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The rows of groups of two and more, whole groups together, in ascending order, about PART_ROWS at a time."""
    sizes = np.bincount(group, minlength=len(group))
    rows = np.flatnonzero(sizes[group] > 1)
    rows = rows[np.argsort(group[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(group[rows], append=-1)) + 1
    start = 0
    while start < len(rows):
        later = ends[np.searchsorted(ends, min(start + PART_ROWS, len(rows)))]
        yield np.sort(rows[start:later])
        start = int(later)


def _positive_keys(store: Store, names: list[str], rows: pa.Table, settings: DedupSettings) -> NDArray[np.int64]:
    """For each example a number that two have in common when their positives are near-equal, whatever their order."""
    passages = read.positive_prints(store, names)
    label = _groups(store, "positive", passages, settings)
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


def register_suites(store: Store, path: Path, queries: pa.Table) -> list[str]:
    """Register test queries that were read from `path`, with the passages of suites in BEIR layout. Returns the names
    of the suites."""
    queries = queries.select(["suite", "query_id", "query"])
    prints = simhash_fingerprints(queries["query"])
    passages = read_test_passages(path) if path.is_dir() else None
    add_test_suites(store, queries.append_column("simhash", pa.array(prints, pa.uint64())), passages)
    return sorted(set(queries["suite"].to_pylist()))


def decontaminate(
    store: Store, against: Sequence[str], names: Sequence[str] = (), *, distance: int = DEFAULT_DISTANCE,
    dry_run: bool = False, progress: Progress = silent,
) -> list[RemovalResult]:  # fmt: skip
    """Take out examples whose query is a test query, or nearly, and those with a positive that holds most of a test
    passage; with `dry_run`, only say which.

    against: files and folders of test queries (they are registered in the store under their suites' names), or names of
    suites registered before. Suites in BEIR layout bring the passages that their judgements call relevant.
    """
    total = len(against) + len(read.collections(store, names))
    paths = {given: Path(given).expanduser() for given in against}
    lists = {given: read_test_queries(path) for given, path in paths.items() if path.exists()}
    check_suite_names({paths[given]: queries for given, queries in lists.items()})
    suites: list[str] = []
    for done, given in enumerate(against):
        progress(done, total, given)
        suites += register_suites(store, paths[given], lists[given]) if given in lists else [given]
    found = []
    with store.reading() as snapshot:
        infos = read.collections(store, names)
        queries, passages = read.test_queries(store, suites), read.test_passages(store, suites)
        for done, info in enumerate(infos):
            progress(len(against) + done, total, info.collection)
            found.append(_contaminated(store, info.collection, queries, passages, distance))
    results = _taken_out(store, infos, found, snapshot, dry_run)
    progress(total, total, "done")
    return results


def _contaminated(store: Store, collection: str, queries: pa.Table, passages: pa.Table, distance: int) -> pa.Table:
    train = read.queries(store, collection)
    by_query = find_contaminated(train["query"], train["example_id"], queries, distance=distance)
    rows = {
        hit["removed"]: {"reason": TEST_QUERY, "suite": hit["suite"], "query_id": hit["query_id"],
                         "kept_query": hit["test_query"], "distance": hit["distance"], "similarity": hit["similarity"]}
        for hit in by_query.to_pylist()
    }  # fmt: skip
    if passages.num_rows:
        hits = _containing(store, collection, passages)
        links = read.positives_of(store, [collection])
        for example, passage in zip(links["example_id"].to_pylist(), links["passage_id"].to_pylist(), strict=True):
            if passage in hits:
                rows.setdefault(example, hits[passage])
    return pa.Table.from_pylist(
        [{"collection": collection, "example_id": example, **why} for example, why in sorted(rows.items())],
        schema=CONTAMINATED,
    )


CONTAMINATED = pa.schema(
    [("collection", pa.string()), ("example_id", pa.string()), ("reason", pa.string()), ("suite", pa.string()),
     ("query_id", pa.string()), ("kept_query", pa.string()), ("distance", pa.int32()), ("similarity", pa.float64())]
)  # fmt: skip


def _containing(store: Store, collection: str, passages: pa.Table) -> dict[str, dict[str, object]]:
    """Why each positive that holds most of a test passage goes, by passage id."""
    rows = read.positive_prints(store, [collection])
    found: dict[str, dict[str, object]] = {}
    for start in range(0, rows.num_rows, PART_ROWS):
        part = rows.slice(start, PART_ROWS)
        texts = read.texts_of(store, "positive", part)
        for hit in find_contained(texts, part["id"], passages).to_pylist():
            found[hit["removed"]] = {
                "reason": TEST_PASSAGE, "suite": hit["suite"], "query_id": hit["doc_id"],
                "kept_query": hit["test_passage"], "distance": None, "similarity": hit["share"],
            }  # fmt: skip
    return found
