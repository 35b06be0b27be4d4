"""Hard negatives for the examples of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixture.mining import MiningPool, MiningSettings, mine_bm25, mine_dense
from mixture.mining.dense import Encode
from mixture.progress import Progress, silent
from mixture.store import Store, read
from mixture.store.write import add_negatives


@dataclass(frozen=True)
class MiningResult:
    """How many examples of a collection got how many negatives. `filled` of them are random passages.

    snapshot: of the store that was read
    """

    collection: str
    examples: int
    negatives: int
    filled: int
    snapshot: int


def mine(
    store: Store, names: Sequence[str] = (), *, miner: str = "bm25", encode: Encode | None = None, per_query: int = 8,
    seed: int = 42, progress: Progress = silent,
) -> list[MiningResult]:  # fmt: skip
    """Find hard negatives within each collection.

    Without `names`, for every example that has no negatives; the rest stays as it is. With `names`, for every example
    of those collections, in place of what this miner found before.

    miner:  recorded with the negatives; "bm25", or a model's name together with `encode`
    """
    # Another passage's cosine is a share of the positive's; its BM25 score is not (arXiv 2407.15831).
    settings = MiningSettings(per_query=per_query, seed=seed, max_ratio=None if encode is None else 0.95)
    infos = read.collections(store, names)
    todo = infos if names else [i for i in infos if i.num_with_negatives < i.num_examples]
    results = []
    for done, info in enumerate(todo):
        progress(done, len(todo), info.collection)
        with store.reading() as snapshot:
            pairs = read.pairs(store, info.collection)
            wanted = None if names else set(read.without_negatives(store, info.collection))
            texts = read.passages(store, info.collection)
        pool = MiningPool.build(
            pairs["example_id"].to_pylist(),
            pairs["query"].to_pylist(),
            pairs["positives"].to_pylist(),
            texts["passage_id"].to_pylist(),
            [f"{title} {text}" if title else text for title, text in zip(
                texts["title"].to_pylist(), texts["text"].to_pylist(), strict=True)],
            wanted,
        )  # fmt: skip

        def report(n: int, total: int, name: str = info.collection, place: int = done) -> None:
            progress(place, len(todo), f"{name} {n:,}/{total:,}")

        if encode is None:
            found = mine_bm25(pool, settings, progress=report)
        else:
            found = mine_dense(pool, encode, settings, miner=miner, progress=report)
        add_negatives(store, info.collection, found, replace=[miner, "random"] if names else [])
        filled = found["miner"].to_pylist().count("random")
        results.append(MiningResult(info.collection, len(pool.example_ids), found.num_rows, filled, snapshot))
    progress(len(todo), len(todo), "done")
    return results
