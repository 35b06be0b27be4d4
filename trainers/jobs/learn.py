"""Learning weights over a store: the reference, one run a seed, and the mixtures they make."""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixture import registry, transfers
from mixture.arguments import Name, Names
from mixture.errors import UsageError
from mixture.jobs.contamination import matches_of, warn_of_test_rows
from mixture.materialised import MaterialisedMixture
from mixture.progress import Stage, quiet
from mixture.registry import Mixture, SavedMixture
from mixture.registry.holdout import hold_out
from mixture.specs import Component, MixtureSpec
from mixture.store import Store, layout
from mixture.weights import MANY_EPOCHS
from trainers.finetune.output import RECORD, record_if_any
from trainers.jobs.runs import (
    finished_config,
    last_weights,
    materialised,
    record_history,
    record_training,
    recorded,
    set_result,
)
from trainers.jobs.towards import asked_members, asked_reuse, asked_target, learn_towards
from trainers.learning.config import LearningSettings
from trainers.model.fitting import fitted
from trainers.model.identity import model_identity
from trainers.model.names import known_model, resolve_model, shown
from trainers.model.template import identified, own_template, template_of
from trainers.parallel import ranks
from trainers.settings import run_id

if TYPE_CHECKING:
    from trainers.learning.loop import Watch

logger = logging.getLogger(__name__)
RESTLESS = 0.02
# Of `Learned`, what a run's row in the store keeps.
FACTS = ("drift", "at_floor", "at_cap", "hard_for_both")
# Of a target, in a mixture's note.
SHOWN_TARGETS = 3


@dataclass(frozen=True)
class LearnedMixtures:
    """What learning made.

    mixtures: one for each average asked for, the first under the name given
    facts:    drift, at_floor, at_cap and hard_for_both by run (see `learning.loop.Learned`); of the first mixture the
              spread over seeds by collection (mean, std, min, max), empty for one seed; whether a reference was used or
              losses were forecast, and which collections the reference's training repeated often, or the proxy's more
              than once where it forecasts (collection -> epochs)
    """

    mixtures: tuple[SavedMixture, ...]
    facts: dict[str, Any]

    @property
    def first(self) -> SavedMixture:
        return self.mixtures[0]

    def lines(self) -> list[str]:
        """The facts for people, a line each."""
        found = []
        for run, facts in self.facts["runs"].items():
            if "lines" in facts:
                found += [f"run {run}: {line}" for line in facts["lines"]]
                continue
            last, before = facts["drift"]
            rest = "; still moving, more steps would change them" if last > RESTLESS and last > before / 2 else ""
            found.append(
                f"run {run}: weights moved by {last:.4f} (total variation) in the last 10 % of the steps,"
                f" {before:.4f} in the 10 % before{rest}"
            )
            for what, bound in (("floor held up", facts["at_floor"]), ("epoch cap held down", facts["at_cap"])):
                steps = ", ".join(f"{name} ({count} steps)" for name, count in bound.items())
                found += [f"run {run}: the {what} {steps}"] * bool(bound)
            found += [
                f"run {run}: {name} gained weight, but the reference is hardly ahead of the proxy on it (the proxy's"
                f" loss is {lead:.2f} times its); noise looks like that: read rows, compare measurement=relative_group"
                for name, lead in facts["hard_for_both"].items()
            ]
        often = ", ".join(f"{name} {epochs:.3g} times" for name, epochs in self.facts["repeated"].items())
        if often and self.facts.get("forecast"):
            found.append(
                f"the proxy went through {often}: what it comes to know by heart falls as well, noise included, and the"
                " forecast rewards it; give it fewer steps, or more data"
            )
        elif often:
            found.append(
                f"the reference went through {often} and may know it by heart, noise included: relative and excess then"
                " reward noise; give it fewer steps, or more data"
            )
        if not self.facts["reference"] and not self.facts.get("forecast") and "target" not in self.facts:
            found.append("no reference was used: weight may have gone to what cannot be learned; look at the heaviest")
        return found


def learn_weights(
    store: Store, mixture: Mixture, *, proxy: Name, name: str = "tdro", reference: Name | None = None,
    base: Mixture | None = None, reuse: Mixture | None = None, target: Names = (),
    settings: LearningSettings | None = None, stage: Stage = quiet, watch: Watch | None = None,
) -> LearnedMixtures:  # fmt: skip
    """Learn a weight for each collection of a mixture with a small proxy model, and save the weights as mixtures.

    mixture:   saved, or what names it; weights and loss weights that it has do not matter
    proxy:     a model's folder or name; `tiny-qwen2` is built from the data, `static` is a table of token vectors
    name:      of the new mixture; with all averages `name-mean` and so on for those that are not the algorithm's own
    reference: a trained model. Without one, one is fine-tuned first from the proxy on the same collections, equally
               weighted, with the proxy's settings; all seeds share it
    target:    suites that the weights are learned towards, with the `learn` half of their queries; for learners that
               look at a target. The setting `holdout` adds held-out rows; the new mixture then leaves these out
    base:      a mixture of the same collections, saved or what names it, to whose weights the new ones stay near; for
               algorithms that know such a distance
    reuse:     a mixture that was learned before some collections came or changed, saved or what names it: those that
               are as they were keep their proportions, and only the others and all of those together are weighed
    watch:     called with each step's rows of the history

    Over several seeds a mixture is the mean of their weights. Killed, the same call goes on where it was; finished, it
    finds its mixtures.
    """
    settings, mixture = settings or LearningSettings(), registry.resolve(store, mixture)
    given = None if reference is None else known_model(reference)
    asked = known_model(proxy)
    registry.check_name("mixture name", name)
    if given is not None and not settings.uses_reference:
        raise UsageError(f"{settings.described} uses no reference model; leave `reference` out")
    if reuse is not None and not settings.reuses:
        raise UsageError(f"{settings.algorithm} reuses no weights; leave `reuse` out, or take algorithm=search")
    suites = asked_target(target, settings)
    near = None if base is None else _base(store, mixture, base, settings)
    again = None if reuse is None else registry.resolve(store, reuse)
    members = ranks.on_main(partial(asked_members, store, mixture.spec, settings))
    starting = stage("starting")
    starting(0, 0, "writing out the mixture")
    # The weights of a mixture that is learned on do not matter: they carry those of the base.
    weighed = mixture.spec if near is None else mixture.spec.with_weights(near.spec.weights)
    spec, held_out = _held_out(store, weighed, settings.holdout)
    reused = None if again is None else (again, asked_reuse(mixture, again, spec))
    data = materialised(store, spec)
    ranks.on_main(lambda: warn_of_test_rows(matches_of(store, mixture.spec.components)))
    starting(0, 0, f"loading PyTorch and {shown(asked)}")
    from trainers.batch.texts import say_small, say_texts
    from trainers.learning.loop import embeddings_name, run_learner, start

    if not settings.looks_at_target:
        start(data, settings)  # what does not fit is said before anything long starts
    model = resolve_model(store.work, data, asked, seed=settings.seed)
    settings = fitted(settings, model)
    template = template_of(model, settings)
    say_texts(data, template)
    say_small(data, settings.batch_size, mixed=not settings.looks_at_target)
    if given is not None and (own := own_template(given)) is not None and own.parts != template.parts:
        logger.warning("the reference comes with other prompts than the proxy: %r; both see the proxy's", own.query)
    starting(1, 1, "done")
    if settings.looks_at_target:
        runs, facts = learn_towards(store, spec, held_out, data, model, suites, settings, name, near, stage,
                                    members, reused)  # fmt: skip
        return _saved(store, mixture, spec, name, settings, runs, facts, again)
    folder, identity = _reference(store, mixture.spec, data, model, given, settings, stage)
    repeated = {} if folder is None else _repeated(folder)
    known_by = {"proxy": model_identity(model), "reference": identity, **identified(data, model, settings)}
    if near is not None:
        known_by["base"] = near.spec.id
    if settings.forecasts:
        repeated = _proxy_epochs(data, settings)
    runs, found = [], {}
    for number in range(settings.seeds):
        one = settings.of_seed(number)
        run = run_id("tdro", mixture.spec.id, one.identity, **known_by)
        runs.append(run)
        config = finished_config(store, run)
        if config is None:
            title = "tDRO" if one.algorithm == "tdro" else one.algorithm
            title += f", seed {one.seed}" if settings.seeds > 1 else ""
            about: dict[str, Any] = {"proxy": model, "reference": folder, "name": name}
            if near is not None:
                about["base"] = near.reference
            if folder is not None:
                about["reference_embeddings"] = embeddings_name(folder, one)
            with recorded(store, run, "tdro", mixture.spec.id, one, **about) as config:
                learned = run_learner(
                    data, model, folder, one, layout.run(store.work, run), progress=stage(title), watch=watch,
                    base=None if near is None else near.spec.weights,
                    record=partial(record_history, store, run) if ranks.is_main() else None,
                )  # fmt: skip
                config |= {key: getattr(learned, key) for key in FACTS}
                config |= {"drift": list(learned.drift), "repeated": repeated, "forecast": settings.forecasts}
        found[run] = {key: config[key] for key in FACTS}
    return _saved(store, mixture, spec, name, settings, runs, {"runs": found, "repeated": repeated})


def _held_out(store: Store, spec: MixtureSpec, share: float) -> tuple[MixtureSpec, dict[str, Component]]:
    return ranks.on_main(lambda: hold_out(store, spec, share)) if share else (spec, {})


def _reference(
    store: Store, spec: MixtureSpec, data: MaterialisedMixture, model: str, reference: str | None,
    settings: LearningSettings, stage: Stage,
) -> tuple[str | None, str]:  # fmt: skip
    """The reference's folder (None where nothing needs one), trained if it is not given, and what it is known by."""
    if not settings.uses_reference:
        return None, "none"
    if reference is not None:
        return reference, model_identity(reference)
    chosen = settings.of_fine_tuning
    # It is named by what it is trained on, so that a finished run is found without training one.
    uniform = transfers.uniform(transfers.drawn_only(spec).components)
    known_by = {"model": model_identity(model), **identified(data, model, settings)}
    identity = run_id("reference", uniform.id, chosen, **known_by)
    out = layout.reference(store.work, identity)
    if finished_config(store, identity) is None or not ranks.on_main(lambda: (out / RECORD).is_file()):
        from trainers.finetune.loop import finetune

        with recorded(store, identity, "reference", uniform.id, chosen, model=model) as row:
            finetune(materialised(store, uniform), model, chosen, out, progress=stage("reference model"))
            record_training(store, identity, out)
            row["result"] = str(out)
    ranks.send(out)  # to machines that share no folder
    return str(out), identity


def _base(store: Store, mixture: SavedMixture, base: Mixture, settings: LearningSettings) -> SavedMixture:
    """The mixture to stay near; `UsageError` where the algorithm has none, or its collections are others."""
    if not settings.reads_base:
        raise UsageError(f"{settings.algorithm} stays near no mixture; leave `base` out, or take another `algorithm`")
    near = registry.resolve(store, base)
    lacking = ", ".join(sorted(set(mixture.spec.weights) - set(near.spec.weights)))
    more = ", ".join(sorted(set(near.spec.weights) - set(mixture.spec.weights)))
    if lacking or more:
        differ = "; ".join([f"it lacks {lacking}"] * bool(lacking) + [f"it has {more} besides"] * bool(more))
        raise UsageError(f"`base` is {near.reference}, of other collections than {mixture.reference}: {differ}")
    return near


def _proxy_epochs(data: MaterialisedMixture, settings: LearningSettings) -> dict[str, float]:
    """Collections that a proxy's run goes through more than once, and how often: batches are uniform over them."""
    drawn = settings.steps * settings.batch_size / len(data.sizes)
    return {name: drawn / size for name, size in data.sizes.items() if drawn > size}


def _repeated(reference: str) -> dict[str, float]:
    """Collections that the reference's own training went through more than `MANY_EPOCHS` times, and how often; empty
    where its folder has no record of that."""
    drawn = record_if_any(Path(reference)).get("drawn", ())
    return {row["collection"]: row["epochs"] for row in drawn if row["epochs"] > MANY_EPOCHS}


def _saved(
    store: Store, mixture: SavedMixture, spec: MixtureSpec, name: str, settings: LearningSettings, runs: list[str],
    facts: dict[str, Any], reused: SavedMixture | None = None,
) -> LearnedMixtures:  # fmt: skip
    """The mixtures of one run, or of the mean of several, which has a row of its own in `runs`. Their parents are the
    mixture that was learned on, and the one whose weights were reused."""
    parents = [mixture.spec.id, *([reused.spec.id] if reused else [])]
    run = runs[0]
    weights = {run: last_weights(store, run) for run in runs}
    averages = settings.averages
    spreads = {average: _spread([weights[one][average] for one in runs]) for average in averages}
    if settings.seeds > 1:
        run = run_id("tdro-seeds", mixture.spec.id, settings.identity, runs=",".join(runs), average=averages[0])
        if finished_config(store, run) is None:
            with recorded(store, run, "tdro-seeds", mixture.spec.id, settings, runs=runs) as row:
                row["spread"] = spreads[averages[0]]
    saved = []
    for place, average in enumerate(averages):
        by_seed = [weights[one][average] for one in runs]
        mean = {c: statistics.fmean(w[c] for w in by_seed) for c in by_seed[0]}
        note = f"{settings.algorithm}, {average} weights after {settings.steps} steps"
        if "target" in facts:
            names = facts["target"]
            more = f" and {len(names) - SHOWN_TARGETS} more" if len(names) > SHOWN_TARGETS else ""
            note = f"{settings.algorithm} towards {', '.join(names[:SHOWN_TARGETS])}{more}"
            note += f", reusing {reused.reference}" if reused else ""
        if spread := spreads[average]:
            widest = max(spread, key=lambda c: spread[c]["std"])
            note += f", mean of {len(runs)} seeds, standard deviation up to {spread[widest]['std']:.4f} ({widest})"
        title = name if place == 0 else f"{name}-{average}"
        learned = transfers.drawn_only(spec).with_weights(mean)
        saved.append(ranks.on_main(partial(_save, store, learned, title, parents, run, note)))
    set_result(store, run, ", ".join(m.reference for m in saved))
    facts |= {"spread": spreads[averages[0]], "reference": settings.uses_reference}
    facts |= {"forecast": True} if settings.forecasts else {}
    return LearnedMixtures(tuple(saved), facts)


def _save(store: Store, spec: MixtureSpec, name: str, parents: list[str], run: str, note: str) -> SavedMixture:
    """Save under `name`, or find what the same run saved there before, whatever came under that name since."""
    query = "SELECT version FROM mixtures WHERE name = ? AND mixture = ? AND run_id = ? ORDER BY version"
    before = store.rows(query, [name, spec.id, run])
    if before:
        return registry.resolve(store, f"{name}:{before[-1]['version']}")
    return registry.save(store, spec, name, parents=parents, run_id=run, note=note)


def _spread(by_seed: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """By collection, over several seeds; of one seed nothing."""
    if len(by_seed) == 1:
        return {}
    columns = {name: [weights[name] for weights in by_seed] for name in by_seed[0]}
    return {
        name: {"mean": statistics.fmean(v), "std": statistics.stdev(v), "min": min(v), "max": max(v)}
        for name, v in columns.items()
    }
