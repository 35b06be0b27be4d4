"""Hard negatives for the examples of a store."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixture.arguments import Names, listed
from mixture.embeddings import index_of, source_of
from mixture.embeddings.indexes.base import EXACT
from mixture.embeddings.space import check_precision
from mixture.engine import Engine, engine_of
from mixture.errors import UsageError
from mixture.ingest.normalise import PROVIDED
from mixture.jobs.elsewhere import brought_in, passages_of, with_those
from mixture.jobs.miners import checked, chosen, judging, rescoring
from mixture.jobs.tasks import ProgressHere, beside
from mixture.mining import Miner, MiningPool, MiningSettings
from mixture.mining.evidence import Seen
from mixture.mining.filters import filters_of
from mixture.mining.judges import Judge
from mixture.mining.miners import Encode, Rescore
from mixture.mining.negatives import RANDOM
from mixture.progress import Progress, silent
from mixture.rows import whole_texts
from mixture.store import Store, layout, read
from mixture.store.negatives import TakenBack, add_negatives
from mixture.store.negatives import undo_mining as take_back

GOOD_RECALL = 0.95  # of an approximate index; with less a remark says what to do


@dataclass(frozen=True)
class MiningResult:
    """What mining came to in a collection, or would.

    examples:  that were mined for
    negatives: that are this miner's now, random passages among them
    new:       of these, passages that were no negatives of their examples before
    random:    of these, random passages, where the miner found too few
    short:     examples for which the miner found too few
    known:     found, but negatives of the file already, and left as they are
    replaced:  negatives of this miner's earlier calls, and random passages of any, that are its own no more
    dropped:   filter -> candidates that it dropped, each counted on its own; `ranks` and `judge` among them
    snapshot:  of the store that was read
    encoded:   texts that the model encoded
    reused:    texts whose embeddings were kept by an earlier call
    answers:   passages that the judge calls answers of their queries; they are positives from now on
    recall:    of an approximate `index`, the share of the candidates of an exact search that it found, for a sample of
               the queries; None where the search was exact
    miner:     under whose name the negatives are
    evidence:  scores by rank, and some of what filters dropped, to read (`report`)
    """

    collection: str
    examples: int
    negatives: int
    new: int
    random: int
    short: int
    known: int
    replaced: int
    dropped: dict[str, int]
    snapshot: int
    encoded: int = 0
    reused: int = 0
    answers: int = 0
    recall: float | None = None
    miner: str = ""
    evidence: Seen | None = field(default=None, repr=False, compare=False)

    @property
    def row(self) -> dict[str, Any]:
        """All of it but the evidence."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "evidence"}


def mine(
    store: Store, collections: Names = (), *, miner: str = "bm25", encode: Encode | None = None,
    encoder: Callable[[str], Encode] | None = None, per_query: int = 8, depth: int = 100,
    ranks: tuple[int, int] | None = None, filters: Mapping[str, Any] | None = None, sample: str = "top",
    rescore: Rescore | str | None = None, rescorer: Callable[[str], Rescore] | None = None,
    judge: Judge | str | None = None, pool: Names = (), name: str | None = None, fill_random: bool = True,
    seed: int = 42, replace: bool = False, dry_run: bool = False, engine: str | Engine = "local",
    progress: Progress = silent, keep_embeddings: bool = True, precision: str = "float32",
    index: str = EXACT,
) -> list[MiningResult]:  # fmt: skip
    """Find hard negatives within each collection.

    Without `collections`, for every example that has no negatives; the rest stays as it is. With `collections`, for
    every example of those, in place of what this miner found before. What other miners found stays beside it.

    miner:     a name of `MINERS`, in small letters or capitals, or a model, with which the dense miner searches.
               NAME:MODEL is a model for another miner that needs one; dense alone is that with BGE-large-en-1.5, as in
               the tDRO paper. Recorded with the negatives
    encode:    the model as a function, `trainers.encode_with("…")`
    encoder:   in its place, what makes that function of a model's name, `trainers.encode_with`; called when there is
               something to mine
    per_query: negatives for each example
    depth:     candidates looked at for each example, its positives included
    ranks:     (10, 100): only candidates after the first 10 and up to the 100th, known answers not counted; raises
               `depth` where it must
    filters:   values by name, of names of `FILTERS`; they take the place of the miner's own, and None switches one off
    sample:    of the candidates that remain the best (top), or any with equal chances (random)
    rescore:   a cross-encoder by its name, or as a function, which scores all candidates within the ranks anew:
               filters, order and the stored scores are then its own. The negatives are recorded as MINER+NAME
    rescorer:  what makes that function of a name, `trainers.rescore_with`
    judge:     says whether a candidate may be a negative (`mining.judges.Judge`), or the command of such a program.
               Asked of what filters leave until there are enough; a program's answers are kept in the store's folder
    pool:      collections, and folders with a corpus.jsonl, in whose passages the miner looks too. Those that become
               negatives come into the collection
    name:      of the mining, in place of the miner's, for random passages too: several minings of one miner lie side
               by side, and a mixture may take one of them (`miners` of `jobs.create`). Without `collections` the
               examples that have neither negatives of this name nor of their file are mined for
    fill_random: fill up with random passages where too few candidates remain; the result says how many
    seed:      of the random passages, and of what is sampled
    replace:   without `collections` too, for every example in place of what this miner found before
    dry_run:   mine, and only say what it comes to
    engine:    what runs the tasks, one a collection: a name of `ENGINES`, or an `Engine`
    keep_embeddings: keep the model's embeddings in the store's folder, also on a dry run, and take those that are
               there: a second call, or a killed one, encodes what is missing. Those of a plain function are not kept,
               for it does not say what they depend on; an `embeddings.Encoder` does
    precision: of kept embeddings, of `embeddings.PRECISIONS`: float32, or float16 in half the room
    index:     how a model's embeddings are searched: a name of `embeddings.INDEXES`. An approximate one says its recall

    Each collection is stored when it is mined. `undo_mining` takes all of a call back.
    """
    found, recorded, encoding = chosen(miner, encode, encoder)
    asked: dict[str, Any] = {"per_query": per_query, "depth": depth, "ranks": ranks, "sample": sample, "seed": seed,
             "fill_random": fill_random}  # fmt: skip
    values = {**found.filters, **(filters or {})}
    settings = MiningSettings(**asked, filters=filters_of(values))
    check_precision(precision)
    if index != EXACT and not found.needs_encoder:
        raise UsageError(f"the miner {recorded} searches no embeddings; leave away `index`")
    index_of(index)
    recorded, anew = rescoring(recorded, rescore, rescorer)
    asked |= {
        "filters": values,
        "miner": recorded,
        "pool": listed(pool),
        "judge": judge if judge is None or isinstance(judge, str) else getattr(judge, "__name__", "judge"),
    }
    random = RANDOM if name is None else checked(name)
    recorded = name or recorded
    runs, names = engine_of(engine), listed(collections)
    whole = bool(names) or replace
    spared = None if name is None else (name, PROVIDED)
    todo = _todo(store, read.collections(store, names), whole, spared)
    if not todo:
        return []
    others = passages_of(store, listed(pool))
    keep = partial(layout.space, store.work) if keep_embeddings else None

    def tasks() -> Iterator[_Task]:
        for done, collection in enumerate(todo):
            progress(done, len(todo), collection)
            yield _read(store, collection, others, whole=whole, spared=spared, place=(done, len(todo)))

    model, scorer, asking = encoding(), anew(), judging(store, judge)
    work = partial(_mined, miner=found, settings=settings, encode=model, rescore=scorer,
                   judge=asking, names=(recorded, random), progress=ProgressHere(progress), keep=keep,
                   precision=precision, index=index)  # fmt: skip
    results, command = [], uuid.uuid4().hex
    for task, negatives, positives, answers in beside(runs, model, scorer, asking).map(work, tasks()):
        searched = {} if index == EXACT else {"index": index, "recall": task.recall}
        added = add_negatives(
            store, task.collection, negatives, replace=[recorded, random] if whole else [], dry_run=dry_run,
            miner=recorded, command=command, snapshot=task.snapshot, settings=asked | searched, dropped=task.dropped,
            positives=positives, passages=brought_in(others, negatives, answers), answers=answers,
        )  # fmt: skip
        results.append(
            MiningResult(
                task.collection, task.examples, added.stored, added.new, added.random, task.short, added.known,
                added.replaced, task.dropped, task.snapshot, task.encoded, task.reused, answers.num_rows,
                task.recall, recorded, task.seen,
            )
        )  # fmt: skip
    progress(len(todo), len(todo), "done")
    return results


def _todo(
    store: Store, infos: Sequence[read.CollectionInfo], whole: bool, spared: tuple[str, ...] | None
) -> list[str]:  # fmt: skip
    """The collections that have something to mine for. spared: whose negatives an example must lack; None for all."""
    if whole:
        return [i.collection for i in infos]
    if spared is None:
        return [i.collection for i in infos if i.num_with_negatives < i.num_examples]
    return [i.collection for i in infos if len(read.without_negatives(store, i.collection, spared))]


def remarks(results: Sequence[MiningResult], per_query: int) -> list[str]:
    """What a caller should know of the results, a line each."""
    return [
        f"{r.collection}: fewer than {per_query:,} candidates remained for {r.short:,} of {r.examples:,} examples"
        + (
            f", so {r.random:,} of the {r.negatives:,} negatives are random passages (`fill_random`)"
            if r.random
            else ""
        )
        + "; lower `per_query` or raise `depth`"
        for r in results
        if r.short
    ] + [
        f"{r.collection}: `index` found {100 * r.recall:.1f} % of the candidates of an exact search; raise what it"
        " looks at, as faiss:IVF1024,Flat:nprobe=256 or faiss:HNSW32:efSearch=800, or leave `index` away"
        for r in results
        if r.recall is not None and r.recall < GOOD_RECALL
    ]


def undo_mining(store: Store, *, dry_run: bool = False) -> list[TakenBack]:
    """Take back what the newest `mine` added to all its collections, and put back what it replaced.

    dry_run: only say how much
    """
    found = take_back(store, dry_run=dry_run)
    if not found:
        raise UsageError("nothing to take back: no negatives were mined, or all of them are taken back already")
    return found


@dataclass(frozen=True)
class _Task:
    """What a collection is mined from. wanted: the examples to mine for; None: all."""

    collection: str
    snapshot: int
    pairs: pa.Table
    texts: pa.Table
    wanted: pa.ChunkedArray | None
    place: tuple[int, int]


def _read(
    store: Store, collection: str, others: pa.Table | None, *, whole: bool, spared: tuple[str, ...] | None,
    place: tuple[int, int],
) -> _Task:  # fmt: skip
    with store.reading() as snapshot:
        pairs = read.pairs(store, collection)
        wanted = None if whole else read.without_negatives(store, collection, spared)
        texts = with_those(read.passages(store, collection), others)
        return _Task(collection, snapshot, pairs, texts, wanted, place)


@dataclass(frozen=True)
class _Mined:
    """short: examples for which the miner found fewer than were asked for. The rest: as in `MiningResult`."""

    collection: str
    examples: int
    short: int
    dropped: dict[str, int]
    snapshot: int
    encoded: int
    reused: int
    recall: float | None
    seen: Seen


def _mined(
    task: _Task, *, miner: Miner, settings: MiningSettings, encode: Encode | None, rescore: Rescore | None,
    judge: Judge | None, names: tuple[str, str], progress: ProgressHere, keep: Callable[[str], Path] | None,
    precision: str, index: str,
) -> tuple[_Mined, pa.Table, pa.Table, pa.Table]:  # fmt: skip
    """The negatives, the scores of positives, and what the judge calls a positive. names: to record. keep: from a space
    of embeddings to its folder; None to keep none."""
    pool = MiningPool.build(
        task.pairs["example_id"],
        task.pairs["query"],
        task.pairs["positives"],
        task.texts["passage_id"],
        whole_texts(task.texts["title"], task.texts["text"]),
        task.wanted,
    )  # fmt: skip

    def report(done: int, total: int) -> None:
        progress(*task.place, f"{task.collection} {done:,}/{total:,}")

    source = None if encode is None else source_of(encode, keep=keep, precision=precision)
    if source is not None:
        source.index = index
    mined = miner.mine(pool, settings, encode=source, rescore=rescore, judge=judge, recorded=names[0], random=names[1],
                       progress=report)  # fmt: skip
    if source is not None:
        source.forget_searches()
    negatives = mined.table()
    found = negatives.filter(pc.is_valid(negatives["score"])).group_by("example_id").aggregate([([], "count_all")])
    full = pc.sum(pc.greater_equal(found["count_all"], settings.per_query)).as_py() or 0
    short = len(pool.example_ids) - full
    counts = (0, 0, None) if source is None else (source.encoded, source.reused, source.recall)
    facts = _Mined(task.collection, len(pool.example_ids), short, mined.dropped, task.snapshot, *counts,
                   mined.evidence.seen())  # fmt: skip
    return facts, negatives, mined.positive_scores(), mined.answers()
