"""Is a mixture better than another? Models of both, trained alike with several seeds, scored and compared."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mixture import registry
from mixture.arguments import Name, Names
from mixture.errors import UsageError
from mixture.jobs.contamination import matches_of, warn_of_test_rows
from mixture.materialised import MaterialisedMixture
from mixture.progress import Stage, duration, quiet
from mixture.registry import Mixture, SavedMixture
from mixture.store import Store, layout
from mixture.store.write import append
from mixture.suites.families import family, is_own
from mixture.suites.given import suites_of
from mixture.suites.suite import Suite
from trainers.evaluation.compare import FEWEST_PAIRS, FEWEST_SEEDS, Comparison, compare, holm
from trainers.finetune.by_collection import check_names, within
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.identity import identity
from trainers.finetune.output import finished
from trainers.finetune.scores import METRIC, check_judged, check_suites, load_suites
from trainers.jobs.runs import finished_config, materialised, recorded
from trainers.jobs.train import trained_on
from trainers.model.fitting import fitted
from trainers.model.names import known_model, resolve_model, shown
from trainers.parallel import ranks
from trainers.settings import run_id

logger = logging.getLogger(__name__)
# Mixtures that share at least 4 of 5 draws are trained much alike by one seed: `benchmarks/verdict_null.py` finds their
# means correlated by 0.8, and those of mixtures far apart not at all.
ALIKE = 0.2


@dataclass(frozen=True)
class SuiteVerdict:
    """The comparison on one suite.

    own:    one of the mixtures has the suite's collection, so that it trains on such rows
    p_holm: the comparison's p, adjusted for the number of suites
    """

    suite: str
    own: bool
    found: Comparison
    p_holm: float
    ours_by_seed: tuple[float, ...]
    theirs_by_seed: tuple[float, ...]

    @property
    def row(self) -> dict[str, Any]:
        """As the table `verdict_suites` has it."""
        names = ("num_queries", "ours", "theirs", "difference", "error", "p")
        return {"suite": self.suite, "own": self.own, **{name: getattr(self.found, name) for name in names},
                "p_holm": self.p_holm, "ours_by_seed": list(self.ours_by_seed),
                "theirs_by_seed": list(self.theirs_by_seed)}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the models of two mixtures say of these.

    run:     the verdict's id
    found:   over all suites
    not_own: over the suites that are not own (`SuiteVerdict`); None where all or none are
    suites:  one by one
    """

    run: str
    mixture: str
    against: str
    model: str
    steps: int
    seeds: tuple[int, ...]
    half: str | None
    metric: str
    found: Comparison
    not_own: Comparison | None
    suites: tuple[SuiteVerdict, ...]

    @property
    def line(self) -> str:
        """`ahead of uniform by 0.3 ± 0.1 on 8 suites (p = 0.01)`."""
        return self.found.words(self.against)

    @property
    def lines(self) -> list[str]:
        """For people: first without the own suites, where there are such; the verdict is the last."""
        without = [] if self.not_own is None else [f"without own suites: {self.not_own.words(self.against)}"]
        return [*without, self.line]

    def as_rows(self) -> dict[str, Any]:
        """All of it as plain values: what a program reads."""
        return asdict(self) | {"suites": [one.row for one in self.suites]}


@dataclass(frozen=True)
class Training:
    """One of the models: of which mixture (0: ours, 1: the other), its settings, the run's id, the folder."""

    side: int
    title: str
    data: MaterialisedMixture
    base: str
    settings: FinetuneSettings
    run: str
    out: Path


def verdict(
    store: Store, mixture: Mixture, against: Mixture, model: Name, suites: Names, *, seeds: int = 3,
    settings: FinetuneSettings | None = None, half: str | None = None, keep: Name | None = None, stage: Stage = quiet,
) -> Verdict:  # fmt: skip
    """Train `model` on two mixtures, for equal steps and with the same seeds, and say whether one is ahead.

    suites: folders in BEIR layout and names; `half` (learn or report) takes one half of their queries
            (`mixture.suites.halves`)
    seeds:  models of each mixture: with the settings' seed, and the next ones
    keep:   a folder for the models; without one only their scores are kept, in the store

    Nothing is trained whose scores the store has, from another verdict too. A killed verdict goes on when called again.
    What is tested says `trainers.evaluation.compare`.
    """
    settings = settings or FinetuneSettings()
    if seeds < FEWEST_SEEDS:
        raise UsageError(f"`seeds` is {seeds}; allowed: {FEWEST_SEEDS} or more, to see what a seed alone changes")
    pair = registry.resolve(store, mixture), registry.resolve(store, against)
    if pair[0].spec.id == pair[1].spec.id:
        raise UsageError(f"{pair[0].reference} and {pair[1].reference} are one mixture; `against` takes another")
    name, given = known_model(model), suites_of(suites)
    check_suites(given, settings)
    loaded = load_suites(given, half)
    check_judged(loaded)
    home = None if keep is None else Path(keep).expanduser()
    trainings = _trainings(
        store, pair, name, loaded, [replace(settings, seed=settings.seed + n) for n in range(seeds)], home
    )
    runs = [one.run for one in trainings]
    run = run_id("verdict", pair[0].spec.id, settings, against=pair[1].spec.id, runs=",".join(runs))
    todo = [one for one in trainings if not scored(store, one, kept=home is not None)]

    def judged() -> Verdict:
        return _judged(store, run, pair, trainings, loaded, shown(name), half)

    if not todo and finished_config(store, run) is not None:
        return judged()
    for saved in pair:
        ranks.on_main(partial(_warn, store, saved))
    with recorded(store, run, "verdict", pair[0].spec.id, settings, model=name, half=half,
                  against=pair[1].spec.id, seeds=seeds, runs=runs) as row:  # fmt: skip
        train_missing(store, todo, len(trainings), loaded, keep=home is not None, stage=stage)
        found = judged()
        ranks.on_main(partial(_record, store, found, pair))
        row["result"] = found.line
    return found


def _warn(store: Store, saved: SavedMixture) -> None:
    warn_of_test_rows(matches_of(store, saved.spec.components))


def _alike(pair: tuple[SavedMixture, SavedMixture]) -> bool:
    """Whether models of the two with one seed are taken as pairs: it hangs on the weights alone, not on the scores."""
    ours, theirs = (saved.spec.weights for saved in pair)
    moved = sum(abs(ours.get(name, 0.0) - theirs.get(name, 0.0)) for name in ours.keys() | theirs.keys()) / 2
    return moved <= ALIKE


def _titles(pair: tuple[SavedMixture, SavedMixture]) -> tuple[str, str]:
    """The mixtures' names; where these are one, with their versions."""
    ours, theirs = pair
    return (ours.name, theirs.name) if ours.name != theirs.name else (ours.reference, theirs.reference)


def _trainings(
    store: Store, pair: tuple[SavedMixture, SavedMixture], model: str, suites: Sequence[Suite],
    settings: Sequence[FinetuneSettings], keep: Path | None,
) -> list[Training]:  # fmt: skip
    """Seed after seed, both mixtures. A folder that holds other things is refused before anything is trained."""
    found: list[Training] = []
    taught = [settings[0].taught_in(saved.spec.weights) for saved in pair]
    data = [materialised(store, saved.spec, taught=names) for saved, names in zip(pair, taught, strict=True)]
    check_names(settings[0], {name for one in data for name in one.components})
    for one in settings:
        # Both start from one model: a tiny one is built from the texts of the other mixture.
        base = resolve_model(store.work, data[1], model, seed=one.seed)
        chosen = fitted(one, base)
        for side, title in enumerate(_titles(pair)):
            own = within(chosen, data[side].components)
            run = identity(data[side], base, own, suites)
            saved = pair[side]
            out = layout.verdict_model(store.work, run) if keep is None else (
                keep / f"{saved.name}-{saved.version}-seed-{one.seed}")  # fmt: skip
            ranks.on_main(partial(finished, out, run))
            found.append(Training(side, f"{title}, seed {one.seed}", data[side], base, own, run, out))
    return found


def scored(store: Store, training: Training, *, kept: bool) -> bool:
    """Whether the store has the scores of a training and, where it is to be `kept`, the folder has its model."""
    if kept and not ranks.on_main(partial(finished, training.out, training.run)):
        return False
    return finished_config(store, training.run) is not None and bool(query_scores(store, training.run))


def train_missing(
    store: Store, todo: Sequence[Training], total: int, suites: Sequence[Suite], *, keep: bool, stage: Stage
) -> None:  # fmt: skip
    if todo:
        there = f"; the scores of {total - len(todo)} others are there" if total > len(todo) else ""
        logger.info("%d trainings of %d steps, each scored on %d suite%s%s", len(todo), todo[0].settings.steps,
                    len(suites), "s" * (len(suites) != 1), there)  # fmt: skip
    for number, one in enumerate(todo):
        began = time.monotonic()
        trained_on(store, one.data, one.base, suites, one.out, one.settings, stage(one.title))
        if not keep:
            ranks.on_main(partial(shutil.rmtree, one.out, ignore_errors=True))
        if number == 0 and len(todo) > 1:
            seconds = time.monotonic() - began
            logger.info("the first took %s; %d more take about %s", duration(seconds), len(todo) - 1,
                        duration(seconds * (len(todo) - 1)))  # fmt: skip


def query_scores(store: Store, run: str) -> dict[tuple[str, str], float]:
    """(suite, query) -> value, of the model that a run trained; as the training scored it, whatever came later."""
    rows = ranks.on_main(
        lambda: store.rows(
            """SELECT suite, query_id, value FROM evaluation_queries q WHERE metric = $metric AND EXISTS (
                   FROM evaluations e WHERE e.run_id = $run AND e.step IS NOT NULL AND e.model = q.model
                   AND e.evaluated_at = q.evaluated_at AND e.suite = q.suite AND e.metric = q.metric)""",
            {"metric": METRIC, "run": run},
        )
    )
    return {(row["suite"], row["query_id"]): row["value"] for row in rows}


def scores_of(store: Store, trainings: Sequence[Training]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Of each side in turn what its models scored, (S, Q); of each query its suite; and what is drawn together with it,
    as `compare` takes them. One question in several languages is one draw."""
    scores = [query_scores(store, one.run) for one in trainings]
    columns = sorted(scores[0])
    sides = [np.array([[found[column] for column in columns] for one, found in zip(trainings, scores, strict=True)
                       if one.side == side]) for side in sorted({one.side for one in trainings})]  # fmt: skip
    return sides, np.array([s for s, _ in columns]), np.array([f"{family(s)} {query}" for s, query in columns])


def _judged(
    store: Store, run: str, pair: tuple[SavedMixture, SavedMixture], trainings: Sequence[Training],
    suites: Sequence[Suite], model: str, half: str | None,
) -> Verdict:  # fmt: skip
    sides, names, clusters = scores_of(store, trainings)
    drawn = {part.collection for saved in pair for part in saved.spec.components}
    own = {suite.title: is_own(suite.name, drawn) for suite in suites}
    paired = _alike(pair) and len(sides[0]) >= FEWEST_PAIRS

    def over(chosen: np.ndarray) -> Comparison:
        return compare(sides[0][:, chosen], sides[1][:, chosen], names[chosen], clusters[chosen], paired=paired)

    places = {suite.title: names == suite.title for suite in suites}
    single = {suite: over(there) for suite, there in places.items()}
    adjusted = holm([found.p for found in single.values()])
    found = tuple(
        SuiteVerdict(suite, own[suite], single[suite], p, *(
            tuple(float(value) for value in side[:, places[suite]].mean(axis=1)) for side in sides))
        for suite, p in zip(single, adjusted, strict=True)
    )  # fmt: skip
    foreign = np.array([not own[suite] for suite in names])
    ours, theirs = _titles(pair)
    return Verdict(
        run=run, mixture=ours, against=theirs, model=model, steps=trainings[0].settings.steps,
        seeds=tuple(one.settings.seed for one in trainings if one.side == 0), half=half, metric=METRIC,
        found=over(np.ones(len(names), dtype=bool)),
        not_own=over(foreign) if foreign.any() and not foreign.all() else None, suites=found,
    )  # fmt: skip


def _record(store: Store, found: Verdict, pair: tuple[SavedMixture, SavedMixture]) -> None:
    """The verdict's rows in `verdicts` and `verdict_suites`, in place of any that a killed call wrote."""
    common = {"verdict": found.run, "mixture": pair[0].spec.id, "against": pair[1].spec.id, "model": found.model,
              "steps": found.steps, "seeds": list(found.seeds), "half": found.half, "metric": found.metric,
              "decided_at": datetime.now(UTC)}  # fmt: skip
    over = {"all": found.found} | ({} if found.not_own is None else {"not own": found.not_own})
    rows = [common | asdict(one) | {"suites": suites, "difference": one.difference, "says": one.words(found.against)}
            for suites, one in over.items()]  # fmt: skip

    def work(connection: Any) -> None:
        for table in ("verdicts", "verdict_suites"):
            connection.execute(f"DELETE FROM {table} WHERE verdict = ?", [found.run])
        append(connection, "verdicts", rows)
        append(connection, "verdict_suites", [{"verdict": found.run, **one.row} for one in found.suites])

    store.transaction(work)
