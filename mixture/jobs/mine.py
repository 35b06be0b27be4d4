"""Hard negatives for the examples of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixture.arguments import Names, listed
from mixture.engine import Engine, engine_of
from mixture.errors import UsageError
from mixture.jobs.tasks import ProgressHere
from mixture.mining import MINERS, Miner, MiningPool, MiningSettings
from mixture.mining.filters import filters_of
from mixture.mining.miners import Encode
from mixture.mining.negatives import RANDOM
from mixture.progress import Progress, silent
from mixture.rows import whole_texts
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
    store: Store, collections: Names = (), *, miner: str = "bm25", encode: Encode | None = None,
    encoder: Callable[[str], Encode] | None = None, per_query: int = 8, depth: int = 100,
    filters: Mapping[str, Any] | None = None, seed: int = 42, engine: str | Engine = "local",
    progress: Progress = silent,
) -> list[MiningResult]:  # fmt: skip
    """Find hard negatives within each collection.

    Without `collections`, for every example that has no negatives; the rest stays as it is. With `collections`, for
    every example of those, in place of what this miner found before.

    miner:     a name of `MINERS`, or a model, with which the dense miner searches. NAME:MODEL is a model for another
               miner that needs one. Recorded with the negatives
    encode:    the model as a function, `trainers.encode_with("…")`
    encoder:   in its place, what makes that function of a model's name, `trainers.encode_with`
    per_query: negatives for each example
    depth:     candidates looked at for each example, its positives included
    filters:   values by name, of names of `FILTERS`; they take the place of the miner's own (dense: max_ratio 0.95),
               and None switches one off
    seed:      of the random passages that fill up where too few candidates remain
    engine:    what runs the tasks, one a collection: a name of `ENGINES`, or an `Engine`
    """
    chosen, encode = _chosen(miner, encode, encoder)
    settings = MiningSettings(per_query=per_query, depth=depth, seed=seed,
                              filters=filters_of({**chosen.filters, **(filters or {})}))  # fmt: skip
    runs, names = engine_of(engine), listed(collections)
    infos = read.collections(store, names)
    todo = infos if names else [i for i in infos if i.num_with_negatives < i.num_examples]

    def tasks() -> Iterator[_Task]:
        for done, info in enumerate(todo):
            progress(done, len(todo), info.collection)
            yield _read(store, info.collection, whole=bool(names), place=(done, len(todo)))

    work = partial(_mined, miner=chosen, settings=settings, encode=encode, recorded=miner,
                   progress=ProgressHere(progress))  # fmt: skip
    results = []
    for result, negatives in runs.map(work, tasks()):
        add_negatives(store, result.collection, negatives, replace=[miner, RANDOM] if names else [])
        results.append(result)
    progress(len(todo), len(todo), "done")
    return results


def _chosen(
    name: str, encode: Encode | None, encoder: Callable[[str], Encode] | None
) -> tuple[Miner, Encode | None]:  # fmt: skip
    """What a miner's name means: the miner, and the encoder of one that needs it."""
    first, _, model = name.partition(":")
    if first not in MINERS:
        first, model = "dense", name
    miner = MINERS[first]
    if not miner.needs_encoder:
        if model or encode is not None:
            raise UsageError(f"the miner {first} reads no model; leave away {'`encode`' if encode else repr(model)}")
        return miner, None
    if encode is not None:
        return miner, encode
    if not model:
        raise UsageError(f"the miner {first} needs a model: {first}:MODEL in `miner`")
    if encoder is None:
        raise UsageError(f"`miner` is {name!r}, which names a model (miners: {', '.join(MINERS)}); hand the model "
                         f"over as encode=trainers.encode_with({model!r})")  # fmt: skip
    try:
        return miner, encoder(model)
    except UsageError as error:
        raise UsageError(f"{error} (miners: {', '.join(MINERS)})") from error


@dataclass(frozen=True)
class _Task:
    """What a collection is mined from. wanted: the examples to mine for; None: all."""

    collection: str
    snapshot: int
    pairs: pa.Table
    texts: pa.Table
    wanted: set[str] | None
    place: tuple[int, int]


def _read(store: Store, collection: str, *, whole: bool, place: tuple[int, int]) -> _Task:
    with store.reading() as snapshot:
        pairs = read.pairs(store, collection)
        wanted = None if whole else set(read.without_negatives(store, collection))
        return _Task(collection, snapshot, pairs, read.passages(store, collection), wanted, place)


def _mined(
    task: _Task, *, miner: Miner, settings: MiningSettings, encode: Encode | None, recorded: str, progress: ProgressHere
) -> tuple[MiningResult, pa.Table]:
    pool = MiningPool.build(
        task.pairs["example_id"].to_pylist(),
        task.pairs["query"].to_pylist(),
        task.pairs["positives"].to_pylist(),
        task.texts["passage_id"].to_pylist(),
        whole_texts(task.texts["title"], task.texts["text"]).to_pylist(),
        task.wanted,
    )  # fmt: skip

    def report(done: int, total: int) -> None:
        progress(*task.place, f"{task.collection} {done:,}/{total:,}")

    negatives = miner.mine(pool, settings, encode=encode, recorded=recorded, progress=report)
    filled = pc.sum(pc.equal(negatives["miner"], RANDOM)).as_py() or 0
    return MiningResult(task.collection, len(pool.example_ids), negatives.num_rows, filled, task.snapshot), negatives
