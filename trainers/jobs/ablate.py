"""Which collection hurts? A mixture beside what it is without each: screens on branches, then whole trainings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mixture import registry, transfers
from mixture.arguments import Name, Names
from mixture.errors import UsageError
from mixture.holdout import MOST_HELD_OUT
from mixture.jobs.contamination import matches_of, warn_of_test_rows
from mixture.progress import Stage, quiet
from mixture.registry import Mixture, SavedMixture
from mixture.registry.holdout import held_apart
from mixture.specs import MixtureSpec
from mixture.store import Store, layout
from mixture.store.write import append
from mixture.suites.families import family
from mixture.suites.given import suites_of
from mixture.suites.halves import LEARN, REPORT
from mixture.suites.suite import Suite
from trainers.evaluation.compare import FEWEST_SEEDS, SIGNIFICANT, Comparison, compare, holm
from trainers.finetune.by_collection import check_names, within
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.identity import identity
from trainers.finetune.scores import check_judged, check_suites, load_suites
from trainers.jobs.runs import finished_config, materialised, recorded
from trainers.jobs.verdict import ALIKE, Training, scored, scores_of, train_missing
from trainers.learning.ablation import (
    AT_CHANCE,
    HARMFUL,
    HELD_OUT,
    MERGED,
    NEITHER,
    TOGETHER,
    TRAINED,
    USEFUL,
    Ablation,
    Effect,
    learnable,
    missed,
)
from trainers.model.fitting import fitted
from trainers.model.identity import model_identity
from trainers.model.names import known_model, resolve_model, shown
from trainers.model.template import identified, template_of
from trainers.parallel import ranks
from trainers.settings import run_id

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from trainers.learning.target import Target

logger = logging.getLogger(__name__)
SCREENS = ("merged", "none")


def ablate(
    store: Store, mixture: Mixture, model: Name, suites: Names, *, seeds: int = 3,
    settings: FinetuneSettings | None = None, half: str | None = None, screen: str = "merged", extremes: int = 3,
    holdout: float = 0.1, stage: Stage = quiet,
) -> Ablation:  # fmt: skip
    """Say which collections of a mixture teach nothing, which do harm, and which are missed when left out.

    suites:   folders in BEIR layout and names; `half` (learn or report) takes one half of their queries
    seeds:    models with the mixture and without each collection that is tried
    screen:   merged: branches are merged without each collection, and whole trainings tried for the extremes of that
              order; none: they are tried for all
    extremes: so many at each end of the order, those at chance first; 0: no whole trainings
    holdout:  the share of each collection's rows that the branches leave out, to see whether it can be learned; 0: that
              is not asked

    With the report half the screen looks at the learn half, so that what it picks is tested on other queries. All runs
    take equal steps: without a collection the others share its draws in their proportions, which is part of its effect.
    Nothing is trained whose scores the store has. A killed call goes on when called again.
    """
    settings, saved = settings or FinetuneSettings(), registry.resolve(store, mixture)
    _check(saved, seeds, screen, extremes, holdout)
    if settings.fsdp and (holdout or screen == "merged"):
        raise UsageError(
            "fsdp is true; allowed: false, but with `screen` none and `holdout` 0: branches are merged whole"
        )
    name, given = known_model(model), suites_of(suites)
    check_suites(given, settings)
    loaded = load_suites(given, half)
    check_judged(loaded)
    check_names(settings, saved.spec.weights)
    data = materialised(store, saved.spec, taught=settings.taught_in(saved.spec.weights))
    base = resolve_model(store.work, data, name, seed=settings.seed)
    settings = fitted(settings, base)
    about = {"model": model_identity(base), "suites": ",".join(f"{one.title}:{one.digest}" for one in loaded),
             "asked": f"{seeds} {screen} {extremes} {holdout}", **identified(data, base, settings)}  # fmt: skip
    run = run_id("ablation", saved.spec.id, settings, **about)
    if finished_config(store, run) is None:
        ranks.on_main(lambda: warn_of_test_rows(matches_of(store, saved.spec.components)))
        # By `target` gc knows a run that needs its branches.
        asked = {"seeds": seeds, "screen": screen, "extremes": extremes, "holdout": holdout, "half": half,
                 "target": [one.title for one in loaded]}  # fmt: skip
        with recorded(store, run, "ablation", saved.spec.id, settings, model=name, **asked) as row:
            effects: list[Effect] = []
            if holdout or screen == "merged":
                seen = load_suites(given, LEARN) if half == REPORT else loaded
                effects = _screened(store, run, saved.spec, base, seen, settings, screen, holdout, stage)
            if extremes:
                chosen = _extremes(saved.spec, effects, extremes if screen == "merged" else len(saved.spec.components))
                every = [replace(settings, seed=settings.seed + n) for n in range(seeds)]
                noise = [one.collection for one in effects if one.says == AT_CHANCE]
                effects += _trained(store, saved.spec, chosen, noise, name, loaded, every, stage)
            common = {"ablation": run, "mixture": saved.spec.id, "model": shown(name), "steps": settings.steps,
                      "seeds": [settings.seed + n for n in range(seeds)], "half": half}  # fmt: skip
            ranks.on_main(partial(_record, store, common, effects))
            row["result"] = f"{len(effects)} effects"
    rows = ranks.on_main(lambda: store.rows("SELECT * FROM ablations WHERE ablation = ?", [run]))
    found = [Effect(**{key: row[key] for key in Effect.__dataclass_fields__}) for row in rows]
    return Ablation(run, saved.name, shown(name), settings.steps, tuple(settings.seed + n for n in range(seeds)), half,
                    tuple(sorted(found, key=lambda one: one.order)))  # fmt: skip


def _check(saved: SavedMixture, seeds: int, screen: str, extremes: int, holdout: float) -> None:
    if screen not in SCREENS:
        raise UsageError(f"`screen` is {screen!r}; allowed: {', '.join(SCREENS)}")
    if extremes < 0:
        raise UsageError(f"`extremes` is {extremes}; allowed: 0 or more")
    if extremes and seeds < FEWEST_SEEDS:
        raise UsageError(f"`seeds` is {seeds}; allowed: {FEWEST_SEEDS} or more, to see what a seed alone changes")
    if not 0 <= holdout <= MOST_HELD_OUT:
        raise UsageError(f"`holdout` is {holdout:g}; allowed: 0 to {MOST_HELD_OUT}")
    if len([c for c in saved.spec.components if c.weight > 0]) < 2:
        raise UsageError(f"{saved.name} has one collection; to leave it out leaves nothing to train on")


# --- branches


def _screened(
    store: Store, run: str, spec: MixtureSpec, model: str, suites: Sequence[Suite], settings: FinetuneSettings,
    screen: str, holdout: float, stage: Stage,
) -> list[Effect]:  # fmt: skip
    """What branches on each collection show."""
    from trainers.learning.lab import Branching, Lab
    from trainers.learning.target import Target, held_out_set, suite_set

    parts = ranks.on_main(lambda: held_apart(store, spec, holdout)) if holdout else {
        c.name: (c, None) for c in spec.components}  # fmt: skip
    name_of = {kept.name: name for name, (kept, _) in parts.items()}
    data = materialised(store, MixtureSpec(tuple(kept for kept, _ in parts.values())))
    outside = [out for _, out in parts.values() if out is not None]
    rows = materialised(store, transfers.uniform(outside)).components if outside else {}
    template, branching = template_of(model, settings), Branching()

    def target(encoder: SentenceTransformer) -> Target:
        sets = [suite_set(suite, encoder, template, settings.seed) for suite in suites] if screen == "merged" else []
        return Target(sets, encoder, settings)

    lab = Lab(data, model, settings, data.spec.weights, target, layout.run(store.work, run),
              layout.branches(store.work), progress=stage("branches"))  # fmt: skip
    lab.plan(1 + len(lab.names))
    lab.say("trunk", lambda: lab.trunk(branching))
    found = []
    for component in lab.names:
        name = name_of[component]
        lab.say(f"branch {name}", partial(lab.branch, branching, component))
        if (out := parts[name][1]) is not None:
            unseen = held_out_set(name, rows[out.name], template, settings.seed, mined=False)
            own = Target([unseen], lab.encoder, settings)
            one = learnable(ranks.on_main(partial(own.above, lab.with_branch(branching, component)))[0])
            found.append(Effect(name, HELD_OUT, one.share, low=one.low, high=one.high, says=one.says))
    if screen == "merged" and suites:
        groups = np.array([s.group for s in lab.target.sets])
        say = lab.target.weights
        for component, lost in zip(lab.names, missed(lab, branching), strict=True):
            foreign = groups != family(component)
            without = float(lost[foreign] @ say[foreign] / say[foreign].sum()) if _some(foreign) else None
            found.append(Effect(name_of[component], MERGED, float(lost @ say), without))
    return found


def _some(chosen: np.ndarray) -> bool:
    """Whether these are some, and not all."""
    return bool(chosen.any() and not chosen.all())


def _extremes(spec: MixtureSpec, effects: Sequence[Effect], count: int) -> list[str]:
    """The collections to train without: those at chance, what is missed least, what is missed most."""
    noise = {one.collection for one in effects if one.says == AT_CHANCE}
    effect = {one.collection: one.effect for one in effects if one.kind == MERGED}
    names = [c.name for c in spec.components if c.weight > 0]
    order = sorted(names, key=lambda name: (name not in noise, effect.get(name, 0.0)))
    first = order[: max(count, len(noise)) if count else 0]
    return [*first, *[name for name in order[len(order) - count :] if name not in first]]


# --- whole trainings


def _trained(
    store: Store, spec: MixtureSpec, names: Sequence[str], noise: Sequence[str], model: str, suites: Sequence[Suite],
    settings: Sequence[FinetuneSettings], stage: Stage,
) -> list[Effect]:  # fmt: skip
    """Trainings with all and without each of `names`, and without all of `noise` where these are several."""
    several = [list(noise)] if 1 < len(noise) < len(spec.components) else []
    left_out = [[], *([name] for name in names), *several]
    trainings = []
    whole = materialised(store, spec, taught=settings[0].taught_in(spec.weights))
    for one in settings:
        base = resolve_model(store.work, whole, model, seed=one.seed)
        for side, out in enumerate(left_out):
            data = materialised(store, transfers.without(spec, out)) if out else whole
            own = within(one, data.components)
            run = identity(data, base, own, suites)
            title = f"without {', '.join(out)}, seed {one.seed}" if out else f"all, seed {one.seed}"
            trainings.append(Training(side, title, data, base, own, run, layout.verdict_model(store.work, run)))
    todo = [one for one in trainings if not scored(store, one, kept=False)]
    train_missing(store, todo, len(trainings), suites, keep=False, stage=stage)
    models, titles, clusters = scores_of(store, trainings)
    groups = np.array([family(suite) for suite in titles])

    def effect(side: int, chosen: np.ndarray) -> Comparison:
        # What the others gain is what the left out had: so far are the two mixtures apart.
        alike = sum(spec.weights[name] for name in left_out[side]) <= ALIKE
        return compare(models[0][:, chosen], models[side][:, chosen], titles[chosen], clusters[chosen], paired=alike)

    everywhere = np.ones(len(titles), dtype=bool)
    compared = [effect(side, everywhere) for side in range(1, len(left_out))]
    adjusted = holm([result.p for result in compared[: len(names)]])
    found = []
    for side, result in enumerate(compared, start=1):
        single = side <= len(names)
        p = adjusted[side - 1] if single else result.p
        foreign = ~np.isin(groups, [family(name) for name in left_out[side]])
        found.append(Effect(
            ", ".join(left_out[side]), TRAINED if single else TOGETHER, result.difference,
            effect(side, foreign).difference if _some(foreign) else None, result.error, result.low, result.high,
            result.p, p if single else None,
            NEITHER if p > SIGNIFICANT else USEFUL if result.difference > 0 else HARMFUL,
        ))  # fmt: skip
    return found


def _record(store: Store, common: dict[str, Any], effects: Sequence[Effect]) -> None:
    """The rows of `ablations`, in place of any that a killed call wrote."""
    rows = [common | asdict(one) | {"decided_at": datetime.now(UTC)} for one in effects]

    def work(connection: Any) -> None:
        connection.execute("DELETE FROM ablations WHERE ablation = ?", [common["ablation"]])
        append(connection, "ablations", rows)

    store.transaction(work)
