"""Learning weights towards a target: the suites, the held-out rows, one run a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mixture import registry, transfers
from mixture.arguments import Names, listed
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, Stage
from mixture.registry import SavedMixture
from mixture.registry.holdout import TRAIN
from mixture.specs import Component, MixtureSpec
from mixture.store import Store, layout
from mixture.store.write import append
from mixture.suites.given import suites_of
from mixture.suites.halves import LEARN, halved
from mixture.suites.suite import Suite
from mixture.weights import bounded, epoch_caps
from trainers.jobs.runs import finished_config, materialised, record_history, recorded
from trainers.learning.config import LearningSettings
from trainers.learning.learners.learner import Found, Round, mean_of_later_half
from trainers.model.identity import model_identity
from trainers.model.template import identified, template_of
from trainers.parallel import ranks
from trainers.settings import run_id

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from trainers.learning.target import Target


def asked_target(target: Names, settings: LearningSettings) -> list[Suite]:
    """The `learn` halves of the suites that are named.

    Raises `UsageError` for a target that the algorithm does not look at, and where one is missing.
    """
    given = listed(target)
    if given and not settings.looks_at_target:
        raise UsageError(f"{settings.algorithm} looks at no target; leave `target` out")
    if settings.looks_at_target and not given and not settings.holdout:
        raise UsageError(
            f"{settings.algorithm} learns towards what is evaluated: name suites in `target`, or set `holdout`, the"
            " share of each collection's rows to hold out, as 0.05"
        )
    return [halved(one.load(), LEARN) for one in suites_of(given)] if given else []


def asked_members(store: Store, spec: MixtureSpec, settings: LearningSettings) -> dict[str, MixtureSpec]:
    """The mixtures that are named as members, where the algorithm has such.

    Raises `UsageError` for one that is not there, and for one of other components than `spec`.
    """
    found = {}
    for reference in getattr(settings.options, "members", ()):
        member = registry.resolve(store, reference).spec
        # By collection and slice: what a run with the same `holdout` made has other names, and is of the same parts.
        theirs, ours = (sorted(map(_whole_name, s.components)) for s in (member, spec))
        if theirs != ours:
            unlike = sorted(set(theirs) ^ set(ours))
            raise UsageError(
                f"`members`: {reference} is not a mixture of the same collections: {', '.join(unlike[:5])}"
                f"{' and others' if len(unlike) > 5 else ''} {'are' if len(unlike) > 1 else 'is'} in one of both alone"
            )
        found[reference] = member
    return found


def asked_reuse(mixture: SavedMixture, reuse: SavedMixture, spec: MixtureSpec) -> dict[str, float]:
    """The components of `spec` (the mixture, or what a `holdout` leaves of it) that are as they are in `reuse`, with
    what each is of them, sum 1.

    Raises `UsageError` where none is as it was, and where all are.
    """
    whole = {_whole_name(c): c for c in mixture.spec.components}
    known = {_whole_name(c): c for c in reuse.spec.components}
    found = {}
    for c in spec.components:
        then, now = known.get(_whole_name(c)), (c.digest, whole[_whole_name(c)].digest)
        if then is not None and then.digest in now:
            found[c.name] = then.weight
    if not sum(found.values()):
        raise UsageError(
            f"`reuse` is {reuse.reference}, in which no collection of {mixture.reference} with a weight is as it is now"
        )
    if len(found) == len(spec.components):
        raise UsageError(
            f"`reuse` is {reuse.reference}, which has every collection of {mixture.reference} as it is now: there is"
            " nothing to search"
        )
    return _shares(found, found)


def learn_towards(
    store: Store, spec: MixtureSpec, held_out: Mapping[str, Component], data: MaterialisedMixture, model: str,
    suites: list[Suite], settings: LearningSettings, name: str, base: SavedMixture | None, stage: Stage,
    members: Mapping[str, MixtureSpec], reuse: tuple[SavedMixture, Mapping[str, float]] | None = None,
) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
    """One run a seed of a learner that looks at a target; their ids, and what they found by run.

    base:  the mixture to stay near; `spec` has its weights. Without it equal ones
    reuse: a mixture, and the components that are weighed together by its weights (`asked_reuse`)
    """
    outside = _materialised(store, held_out)
    targets = [f"{suite.title}:{suite.digest}" for suite in suites]
    targets += [f"{kept}:{c.digest}" for kept, c in sorted(held_out.items())]
    known_by = {"proxy": model_identity(model), "target": ",".join(targets), **identified(data, model, settings)}
    if base is not None:
        known_by["base"] = base.spec.id
    if members:
        known_by["members"] = ",".join(member.id for member in members.values())
    if reuse is not None:
        known_by["reuse"] = reuse[0].spec.id
    runs, found = [], {}
    for number in range(settings.seeds):
        one = settings.of_seed(number)
        run = run_id("target", spec.id, one.identity, **known_by)
        runs.append(run)
        config = finished_config(store, run)
        if config is None:
            title = one.algorithm + (f", seed {one.seed}" if settings.seeds > 1 else "")
            about = {"proxy": model, "name": name, "target": [text.rsplit(":", 1)[0] for text in targets]}
            about |= {} if reuse is None else {"reuse": reuse[0].reference}
            with recorded(store, run, one.algorithm, spec.id, one, **about) as config:
                near = None if base is None else spec.weights
                made = _find(store, run, data, outside, model, suites, one, near, stage(title), members,
                             {} if reuse is None else {reuse[0].reference: reuse[1]})  # fmt: skip
                config |= {"lines": list(made.lines), "facts": made.facts or {}}
        found[run] = {key: config[key] for key in ("lines", "facts")}
    return runs, {"runs": found, "repeated": {}, "target": [text.rsplit(":", 1)[0] for text in targets]}


def _materialised(store: Store, held_out: Mapping[str, Component]) -> dict[str, Any]:
    """The rows held out, by the component that they are held out of."""
    if not held_out:
        return {}
    data = materialised(store, transfers.uniform(list(held_out.values())))
    return {kept: data.components[c.name] for kept, c in held_out.items()}


def _find(
    store: Store, run: str, data: MaterialisedMixture, outside: Mapping[str, Any], model: str, suites: list[Suite],
    settings: LearningSettings, base: Mapping[str, float] | None, progress: Progress,
    members: Mapping[str, MixtureSpec], together: Mapping[str, Mapping[str, float]],
) -> Found:  # fmt: skip
    from trainers.learning.lab import Lab
    from trainers.learning.learners import TargetLearner
    from trainers.learning.target import Target, held_out_set, suite_set

    chosen = settings.of_fine_tuning
    template = template_of(model, chosen)

    def target(encoder: SentenceTransformer) -> Target:
        sets = [suite_set(suite, encoder, template, settings.seed) for suite in suites]
        sets += [held_out_set(name, part, template, settings.seed) for name, part in outside.items()]
        return Target(sets, encoder, chosen, grouped=settings.group_sets)

    names = sorted(data.components)
    caps = None
    if settings.max_epochs > 0:
        sizes = np.array([data.sizes[name] for name in names])
        caps = epoch_caps(sizes, settings.epoch_budget, settings.max_epochs)
    near = dict.fromkeys(names, 1 / len(names)) if base is None else dict(base)
    for parts in together.values():
        whole = sum(near[name] for name in parts)
        near |= {name: whole * share for name, share in parts.items()}
    near = dict(zip(names, bounded(np.array([near[n] for n in names]), settings.min_weight, caps)[0].tolist(),
                    strict=True))  # fmt: skip
    lab = Lab(data, model, chosen, near, target, layout.run(store.work, run),
              layout.branches(store.work), settings.min_weight, caps, progress,
              {reference: _weights(data.spec, member) for reference, member in members.items()},
              {title: _shares(near, parts) for title, parts in together.items()})  # fmt: skip
    learner = settings.learner(len(lab.names))
    assert isinstance(learner, TargetLearner)
    found = learner.find(lab)
    weights = bounded(lab.spread(found.weights / found.weights.sum()), settings.min_weight, caps)[0]
    tried = tuple(replace(one, weights=lab.spread(one.weights)) for one in found.tried)
    lines = [f"weighed together, as in {title}: {', '.join(sorted(parts))}" for title, parts in together.items()]
    found = replace(found, weights=weights, tried=tried, lines=(*lines, *found.lines))
    if ranks.is_main():
        record_history(store, run, history_rows(names, found))
        _record_tried(store, run, names, lab.target, found)
    return found


def _shares(weights: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, float]:
    """What each of `parts` is of them together, by `weights`; where these are all 0, by their own."""
    if not (whole := sum(weights[name] for name in parts)):
        return dict(parts)
    return {name: weights[name] / whole for name in parts}


def _whole_name(c: Component) -> str:
    """The component's name without the part of it that a `holdout` leaves."""
    if c.slice is None or c.slice == TRAIN:
        return c.collection
    return f"{c.collection}[{c.slice.removesuffix(f', {TRAIN}')}]"


def _weights(spec: MixtureSpec, member: MixtureSpec) -> np.ndarray:
    """A member's weights (G,) in the order of the names of `spec`."""
    theirs = {_whole_name(c): c.weight for c in member.components}
    found = np.array([theirs[_whole_name(c)] for c in sorted(spec.components, key=lambda c: c.name)])
    return np.asarray(found / found.sum())


def history_rows(names: Sequence[str], found: Found) -> list[dict[str, Any]]:
    """The rows of `weight_history`: of each round where there are such, else of one step. `mean_weight` is the mean
    of the later half of the rounds so far, at the end what was found."""
    from trainers.learning.averages import EMA_FACTOR

    rounds = list(found.history) or [Round(1, found.weights, np.full(len(names), np.nan), 0)]
    rows, ema = [], rounds[0].weights
    for count, one in enumerate(rounds, 1):
        mean = found.weights if count == len(rounds) else mean_of_later_half(rounds[:count])
        ema = ema * (1 - EMA_FACTOR) + one.weights * EMA_FACTOR
        for place, name in enumerate(names):
            measured = float(one.measured[place])
            rows.append({"step": one.step, "collection": name, "weight": float(one.weights[place]),
                         "mean_weight": float(mean[place]), "ema_weight": float(ema[place]), "proxy_loss": None,
                         "reference_loss": None, "measurement": None if np.isnan(measured) else measured,
                         "num_examples": one.num_examples})  # fmt: skip
    return rows


def _record_tried(store: Store, run: str, names: list[str], target: Target, found: Found) -> None:
    """What was tried, and the products, in place of what a killed call of the same run wrote."""
    weights, scores = [], []
    for number, tried in enumerate(found.tried):
        common = {"run_id": run, "candidate": number}
        weights += [{**common, "kind": tried.kind, "collection": name, "weight": weight}
                    for name, weight in zip(names, tried.weights.tolist(), strict=True)]  # fmt: skip
        if tried.loss is not None and tried.ndcg is not None:
            values = zip(target.sets, tried.loss.tolist(), tried.ndcg.tolist(), strict=True)
            scores += [{**common, "target": s.name, "target_group": s.group, "loss": loss, "ndcg": ndcg}
                       for s, loss, ndcg in values]  # fmt: skip
    products = [] if found.products is None else [
        {"run_id": run, "collection": a, "other": b, "product": float(found.products[i, j])}
        for i, a in enumerate(names) for j, b in enumerate(names)
    ]  # fmt: skip

    def work(connection: Any) -> None:
        for table, rows in (("candidates", weights), ("candidate_scores", scores), ("collection_products", products)):
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run])
            append(connection, table, rows)

    store.transaction(work)
