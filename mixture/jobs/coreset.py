"""Which rows: a mixture of the rows of another whose distribution is near a target's (GORACS, arXiv 2506.04015)."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture import registry
from mixture.arguments import Names, listed, named
from mixture.coreset import Coreset, Costs, choose
from mixture.coreset.choose import NONE, RANDOM, SOLVE, described, measured, quotas, random_rows
from mixture.coreset.transport import pot
from mixture.embeddings import Encoder, source_of
from mixture.embeddings.space import check_precision
from mixture.errors import UsageError
from mixture.jobs.coreset_rows import Asked, Candidates, Goal, asked_for, candidates, goal, unchanged
from mixture.mining.miners import Encode
from mixture.progress import Progress, Stage, quiet
from mixture.registry import Mixture, SavedMixture, slices
from mixture.registry.slices import Slice, slice_of
from mixture.specs import Component, MixtureSpec
from mixture.store import Store, layout
from mixture.store.write import append
from mixture.suites.halves import REPORT

SHARES = {
    "mixture": "each collection gives rows by its weight, and keeps the weight",
    "free": "rows are chosen from all together, and how many a collection gives is its weight",
}
"""How many rows each collection gives."""
TARGET_ROWS = 1_000
KIND = "coreset"
# Of a target, in a mixture's note.
SHOWN_TARGETS = 3


@dataclass(frozen=True)
class MadeCoreset:
    """A mixture of chosen rows.

    distance: between its rows and the target's: the optimal transport of their embeddings, in parts of the greatest
              distance that there can be. random: of as many rows drawn at random; whole: of all rows. None where both
              sides have too many rows for an exact one (`coreset.pairs.MOST_CELLS`)
    rows:     for each collection: collection, chosen, of (rows it has), weight, distance (the median of the chosen rows
              to their nearest target rows; None without any), method (of `coreset.Coreset`)
    encoded:  texts that the model encoded; reused: texts whose embeddings were kept
    remarks:  what is worth knowing of it, a sentence each
    """

    mixture: SavedMixture
    run_id: str
    target: tuple[str, ...]
    target_rows: int
    distance: float | None
    random: float | None
    whole: float | None
    rows: list[dict[str, Any]]
    encoded: int
    reused: int
    seconds: float
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Settings:
    n: int
    shares: str
    random: bool
    gradient_weight: float
    target_rows: int
    solve: int
    seed: int
    precision: str


def coreset(
    store: Store, mixture: Mixture, name: str, *, target: Names, budget: float, model: str = "static",
    encode: Encode | None = None, encoder: Callable[[str], Encode] | None = None, shares: str = "mixture",
    random: bool = False, gradient_weight: float = 0.0, target_rows: int = TARGET_ROWS, solve: int = SOLVE,
    seed: int = 42, keep_embeddings: bool = True, precision: str = "float32", stage: Stage = quiet,
) -> MadeCoreset:  # fmt: skip
    """Choose rows of a mixture whose distribution is near a target's, and save them as the mixture `name`.

    A row is the embeddings of its query and of its first positive. The chosen rows make the optimal transport to the
    target's rows least, all of a side counting alike (`coreset.choose`).

    mixture:     saved, or what names it; its collections must be as they were
    target:      suites, of whose half `learn` the queries count, each with the document judged best; and mixtures. Of
                 more than `target_rows` rows so many are drawn by seed
    budget:      rows to choose; below 1 a share of those that there are
    encode:      the model as a function. In its place `model`, its name, with `encoder`, what makes that function of a
                 name: `trainers.encode_with`
    shares:      a name of `SHARES`
    random:      the baseline: rows drawn at random; the target is measured, and chooses nothing
    gradient_weight: λ of GORACS: what counts of how much a row would teach (`coreset.score_gradients`). That is largest
                 for rows whose positive is wrong
    solve:       exact transports that exchanges may take, where fewer rows are chosen than the target has
    keep_embeddings, precision: as in `jobs.mine`

    Raises `UsageError` for the half `report` of a suite: what models are reported on must not choose what they learn.
    """
    named("shares", shares, SHARES)
    check_precision(precision)
    for parameter, value, least in (("gradient_weight", gradient_weight, 0), ("target_rows", target_rows, 1),
                                    ("solve", solve, 1), ("seed", seed, 0)):  # fmt: skip
        if not (math.isfinite(value) and value >= least):
            raise UsageError(f"`{parameter}` is {value:g}; allowed: {least} or more")
    registry.check_name("mixture name", name)
    if store.rows("SELECT 1 FROM mixture_tags WHERE tag = ?", [name]):  # said before the work, and not after it
        raise UsageError(f"{name!r} is a tag; give the mixture another name")
    pot()
    began, source = time.perf_counter(), registry.resolve(store, mixture)
    asked, parts = asked_for(store, listed(target)), unchanged(store, source)
    held = slices.sizes(store, parts)
    settings = _Settings(_rows_asked(budget, sum(held.values())), shares, random, gradient_weight, target_rows, solve,
                         seed, precision)  # fmt: skip
    say = stage("embeddings")
    say(0, 0, f"loading PyTorch and {model}" if encode is None else "")
    if (function := encode or (encoder and encoder(model))) is None:
        raise UsageError("`encode` is missing: a function of texts; or `encoder`, what makes one of `model`")
    vectors = source_of(function, keep=partial(layout.space, store.work) if keep_embeddings else None,
                        precision=precision)  # fmt: skip
    towards = goal(store, asked, vectors, target_rows, seed)
    rows = candidates(store, parts, held, vectors, say, gradients=gradient_weight > 0, seed=seed)
    weights = {c.name: c.weight for c in parts}
    picked = _pick(rows, towards, weights, settings, stage("choosing"))
    chosen = np.concatenate([one.rows + rows.starts[name] for name, one in picked.items()])
    distance, by_chance, whole = _measured(
        rows, towards, [chosen, _at_random(rows, weights, settings), np.arange(len(rows.vectors))], stage("distances")
    )
    known_as = model if encode is None else "a function"
    space = function.space("query").model if isinstance(function, Encoder) else known_as
    run = _run_id(source, asked, name, space, settings)
    made = _frozen(store, parts, rows, picked, name, f"coreset {name} of {source.reference}", free=shares == "free")
    parents = dict.fromkeys([source.spec.id, *(one.spec.id for one in asked.mixtures)])
    saved = registry.save(store, MixtureSpec(tuple(made.values())), name, parents=list(parents), run_id=run,
                          note=_note(source, asked, settings, len(rows.vectors)))  # fmt: skip
    result = MadeCoreset(
        mixture=saved, run_id=run, target=asked.titles, target_rows=len(towards.ids),
        distance=distance, random=by_chance, whole=whole,
        rows=_by_collection(rows, picked, made, gradient_weight), encoded=vectors.encoded, reused=vectors.reused,
        seconds=time.perf_counter() - began, remarks=tuple(_remarks(store, asked, towards, rows, picked)),
    )  # fmt: skip
    _record(store, result, source, known_as, settings, rows, towards, picked, parts)
    return result


def _rows_asked(budget: float, held: int) -> int:
    n = round(budget * held) if 0 < budget < 1 else budget
    if not (math.isfinite(n) and n == int(n) and 1 <= n <= held):
        raise UsageError(f"`budget` is {budget:g}; allowed: 1 to {held:,} rows, or a share of them below 1, as 0.1")
    return int(n)


def _at_random(rows: Candidates, weights: Mapping[str, float], settings: _Settings) -> NDArray[np.int64]:
    """The baseline: places among all rows, ascending."""
    if settings.shares == "free":
        return random_rows(len(rows.vectors), settings.n, settings.seed)
    counts = quotas(weights, rows.sizes, settings.n)
    return np.concatenate([rows.starts[name] + random_rows(rows.sizes[name], count, settings.seed)
                           for name, count in counts.items()])  # fmt: skip


def _pick(
    rows: Candidates, towards: Goal, weights: Mapping[str, float], settings: _Settings, progress: Progress
) -> dict[str, Coreset]:  # fmt: skip
    """The choice within each component, by its name."""

    def costs(part: slice) -> Costs:
        gradients = None if rows.gradients is None else rows.gradients[part]
        return Costs(rows.vectors[part], towards.vectors, gradients, weight=settings.gradient_weight)

    if settings.random:
        return _by_component(rows, described(costs(slice(None)), _at_random(rows, weights, settings), RANDOM))
    if settings.shares == "free":
        whole = choose(costs(slice(None)), settings.n, seed=settings.seed, solve=settings.solve, measure=False,
                       progress=lambda done, total: progress(done, total, ""))  # fmt: skip
        return _by_component(rows, whole)
    counts = quotas(weights, rows.sizes, settings.n)
    found: dict[str, Coreset] = {}
    for number, (name, count) in enumerate(counts.items()):
        progress(number, len(counts), name)
        own = costs(rows.of(name))
        found[name] = (
            choose(own, count, seed=settings.seed, solve=settings.solve, measure=False)
            if count else described(own, np.empty(0, np.int64), NONE)
        )  # fmt: skip
    progress(len(counts), len(counts), "done")
    return found


def _by_component(rows: Candidates, whole: Coreset) -> dict[str, Coreset]:
    """A choice from all rows, by component."""
    found = {}
    for name in rows.ids:
        part = rows.of(name)
        here = (whole.rows >= part.start) & (whole.rows < part.stop)
        found[name] = replace(whole, rows=whole.rows[here] - part.start, nearest=whole.nearest[here],
                              cost=whole.cost[here])  # fmt: skip
    return found


def _measured(
    rows: Candidates, towards: Goal, some: Sequence[NDArray[np.int64]], say: Progress
) -> list[float | None]:  # fmt: skip
    """The distance of each of several choices, given by places among all rows; without what rows would teach."""
    costs, found = Costs(rows.vectors, towards.vectors), list[float | None]()
    for number, numbers in enumerate(some):
        say(number, len(some), "")
        value = measured(costs, numbers)
        found.append(None if math.isnan(value) else value)
    say(len(some), len(some), "done")
    return found


def _distances(rows: Candidates, name: str, one: Coreset, gradient_weight: float) -> NDArray[np.float64]:
    """Of each chosen row that to its nearest target row: its cost, without what it would teach."""
    taught = 0.0 if rows.gradients is None else gradient_weight * rows.gradients[rows.of(name)][one.rows]
    return np.asarray(one.cost.astype(np.float64) + taught)


def _frozen(
    store: Store, parts: Sequence[Component], rows: Candidates, picked: Mapping[str, Coreset], name: str, rule: str, *,
    free: bool,
) -> dict[str, Component]:  # fmt: skip
    """By component the slice of its chosen rows, which the store keeps; one of which all are chosen stays as it is."""
    drawn = [c for c in parts if len(picked[c.name].rows)]
    weights = {c.name: len(picked[c.name].rows) if free else c.weight for c in drawn}

    def chosen(c: Component) -> Slice:
        ids = rows.ids[c.name].take(pa.array(picked[c.name].rows))
        return slice_of(c.collection, name if c.slice is None else f"{c.slice}, {name}", rule, pa.chunked_array([ids]))

    def work(connection: Any) -> dict[str, Component]:
        made = {}
        for c in drawn:
            part = c
            if len(picked[c.name].rows) < len(rows.ids[c.name]):
                (part,) = slices.frozen(store, connection, [chosen(c)], c.miners).values()
            made[c.name] = replace(part, weight=weights[c.name] / sum(weights.values()), loss_weight=c.loss_weight)
        return made

    return store.transaction(work)


def _by_collection(
    rows: Candidates, picked: Mapping[str, Coreset], made: Mapping[str, Component], gradient_weight: float
) -> list[dict[str, Any]]:  # fmt: skip
    found = []
    for name, one in picked.items():
        distances = _distances(rows, name, one, gradient_weight)
        found.append({"collection": name, "chosen": len(one.rows), "of": len(rows.ids[name]),
                      "weight": made[name].weight if name in made else 0.0,
                      "distance": float(np.median(distances)) if len(distances) else None,
                      "method": one.method})  # fmt: skip
    return found


def _run_id(source: SavedMixture, asked: Asked, name: str, model: str, settings: _Settings) -> str:
    body = {"kind": KIND, "mixture": source.spec.id, "target": asked.digests, "name": name, "model": model}
    body |= asdict(settings)
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def _note(source: SavedMixture, asked: Asked, settings: _Settings, held: int) -> str:
    titles = ", ".join(asked.titles[:SHOWN_TARGETS]) + " and others" * (len(asked.titles) > SHOWN_TARGETS)
    how = "drawn at random" if settings.random else f"towards {titles}"
    return f"coreset of {source.reference}: {settings.n:,} of {held:,} rows, {how}"


def _remarks(
    store: Store, asked: Asked, towards: Goal, rows: Candidates, picked: Mapping[str, Coreset]
) -> list[str]:  # fmt: skip
    found = []
    ids = set().union(*(one.to_pylist() for one in rows.ids.values()))
    if asked.mixtures and (own := sum(id in ids for id in towards.ids)):
        found.append(f"{own:,} of the {len(towards.ids):,} target rows are candidates themselves")
    scored = {row["suite"] for row in store.rows("SELECT DISTINCT suite FROM evaluations")}
    if whole := [suite.name for suite in asked.suites if suite.name in scored]:
        found.append(
            f"evaluated whole before: {', '.join(whole)}; the queries of the half `learn` choose rows now, so report on"
            f" the half `{REPORT}` alone"
        )
    if left := [name for name, one in picked.items() if not len(one.rows)]:
        found.append(f"no row is chosen of {', '.join(left)}")
    return found


def _record(
    store: Store, made: MadeCoreset, source: SavedMixture, model: str, settings: _Settings, rows: Candidates,
    towards: Goal, picked: Mapping[str, Coreset], parts: Sequence[Component],
) -> None:  # fmt: skip
    """The run, what it came to, and every chosen row with its nearest target row, in place of an equal call's."""
    now = datetime.now(UTC)
    run = {"run_id": made.run_id, "kind": KIND, "status": "finished", "mixture": source.spec.id,
           "result": made.mixture.reference, "started_at": now - timedelta(seconds=made.seconds), "finished_at": now,
           "config": json.dumps(asdict(settings) | {"model": model, "target": made.target})}  # fmt: skip
    facts = {"run_id": made.run_id, "mixture": made.mixture.spec.id, "source": source.spec.id,
             "target": list(made.target), "model": model, "shares": settings.shares, "by_chance": settings.random,
             "num_examples": settings.n, "num_candidates": len(rows.vectors), "num_target_rows": made.target_rows,
             "gradient_weight": settings.gradient_weight, "seed": settings.seed, "distance": made.distance,
             "random_distance": made.random, "whole_distance": made.whole, "seconds": made.seconds,
             "chosen_at": now}  # fmt: skip
    tables, collections = [], {c.name: c.collection for c in parts}
    for name, one in picked.items():
        gradients = np.full(len(one.rows), np.nan)
        if rows.gradients is not None:
            gradients = rows.gradients[rows.of(name)][one.rows]
        tables.append(pa.table({
            "run_id": pa.array([made.run_id] * len(one.rows), pa.string()),
            "collection": pa.array([collections[name]] * len(one.rows), pa.string()),
            "example_id": rows.ids[name].take(pa.array(one.rows)),
            "distance": pa.array(_distances(rows, name, one, settings.gradient_weight)),
            "nearest_of": pa.array([towards.of[place] for place in one.nearest], pa.string()),
            "nearest_id": pa.array([towards.ids[place] for place in one.nearest], pa.string()),
            "gradient": pa.array(gradients, pa.float64(), from_pandas=True),
        }))  # fmt: skip

    def work(connection: Any) -> None:
        for table in ("runs", "coresets", "coreset_examples"):
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [made.run_id])
        append(connection, "runs", [run])
        append(connection, "coresets", [facts])
        append(connection, "coreset_examples", pa.concat_tables(tables))

    store.transaction(work)
