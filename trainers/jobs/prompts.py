"""Choosing the prompt of a model's queries: on suites, robustly, and reported on others."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixture.arguments import Name, Names, listed
from mixture.errors import UsageError
from mixture.progress import Stage, quiet
from mixture.store import Store
from mixture.store.write import append
from mixture.suites.families import family
from mixture.suites.given import Given, suites_of
from mixture.suites.halves import LEARN, REPORT, halved, with_queries
from mixture.suites.suite import Suite
from mixture.whole import check_new
from trainers.evaluation import groups
from trainers.evaluation.choice import LEAST, OBJECTIVES, WORST, against_best, dropped, sizes, subset, worth
from trainers.evaluation.groups import SUITE
from trainers.evaluation.metrics import require_pytrec_eval
from trainers.evaluation.worst_case import RADIUS
from trainers.finetune.scores import METRIC, check_judged
from trainers.jobs.candidates import NONE, OWN, Candidates, candidates_of, check_not_symmetric
from trainers.jobs.prompt_choice import Gain, Prompt, PromptChoice
from trainers.jobs.prompt_scores import REPORTED, PromptScores, Scored, space_of
from trainers.jobs.runs import recorded
from trainers.model.names import ModelName
from trainers.model.prompted import write_prompted

if TYPE_CHECKING:
    from trainers.evaluation.summary import Row
    from trainers.jobs.dense import DenseModel

logger = logging.getLogger(__name__)
ALL, CHOSEN = "all", "chosen"
# Of fewer queries a bootstrap interval is far too narrow.
FEWEST = 10


def prompts(
    store: Store, model: Name, suites: Names, *, candidates: Names = (), half: str = LEARN, report: Names = (),
    objective: str = WORST, radius: float = RADIUS, relative: bool = True, first_queries: int = 0, seed: int = 0,
    out: Name | None = None, processes: int = 1, stage: Stage = quiet,
) -> PromptChoice:  # fmt: skip
    """Choose what stands before a model's queries, by nDCG@10 on suites (as `evaluate` takes them), and report on
    others what that brings. All scores are those of `evaluate` with `prompt`, to the last digit.

    model:      one dense model by folder or name
    candidates: files of prompts (`trainers.jobs.candidates`), and the word `cards` for those of datacards. No prompt
                and the model's own are always among them
    half:       `learn`, or `all`: the queries that are chosen on. A choice is a kind of training, so that the `report`
                half stays for the report, and `all` needs `report`
    report:     other suites, whole; default: the `report` half of the same ones
    objective:  of `choice.OBJECTIVES`: `worst` is the least mean over all weights of suites within a Kullback-Leibler
                ball of `radius` around equal ones, `mean` that of equal ones, `least` that of a single suite
    relative:   worst and least are of what a prompt gains over none. False: of scores as such, where the hardest suite
                decides
    first_queries: of each suite that all prompts are asked for; who is surely worse than the best, and the worse half,
                goes, the others are asked for twice as many, and so on up to all. 0: all at once
    seed:       which queries these are
    out:        a new folder for a copy of the model with the prompt
    processes:  that encode (`encode_with`)

    A corpus is encoded once. What the store has is not scored again, so that a killed call goes on.
    """
    began = time.monotonic()
    name, target = ModelName(str(model)), None if out is None else Path(out).expanduser()
    _check(half, objective, radius, first_queries, bool(listed(report)))
    if target is not None:
        check_new(target, "out")
    found = candidates_of(store, listed(candidates), name.dense)
    name.check()
    require_pytrec_eval()
    given, others = suites_of(suites), suites_of(report) if listed(report) else []
    chosen_on, reported_on = _loaded(given, others, half, stage)
    check_judged([*chosen_on, *reported_on])
    check_not_symmetric(store, [*chosen_on, *reported_on])
    starting = stage("starting")
    starting(0, 0, f"loading PyTorch and {name.shown}")
    from trainers.jobs.dense import DenseModel

    dense = DenseModel.load(name.dense, processes)
    starting(1, 1, "done")
    texts = _with_own(found, dense, [*chosen_on, *reported_on])
    how = {"objective": objective, "radius": radius, "relative": relative, "first_queries": first_queries,
           "seed": seed, "half": half}  # fmt: skip
    choice = _id(dense, texts, chosen_on, reported_on, how)
    scores = PromptScores(store, dense, name.kept, choice)
    with scores, recorded(store, choice, "prompts", None, how, model=name.kept, candidates=len(texts)) as row:
        ranked = _ranked(scores, found, texts, chosen_on, how, stage)
        gains = _gains(scores, ranked[0].prompt, dense, reported_on, stage)
        result = PromptChoice(
            choice=choice, model=name.kept, suites=tuple(suite.title for suite in chosen_on),
            half=None if half == ALL else half, objective=objective, radius=radius, relative=relative,
            prompts=tuple(ranked), card_prompt=found.template.prompt_in(ranked[0].prompt),
            reported_on=tuple(suite.title for suite in reported_on), gains=tuple(gains), encoded=scores.encoded,
            seconds=time.monotonic() - began, out=target,
        )  # fmt: skip
        _record(store, result, seed)
        if target is not None:
            write_prompted(name.dense, result.chosen.prompt, target)
        row["result"] = result.chosen.prompt
    return result


def _check(half: str, objective: str, radius: float, first_queries: int, reports: bool) -> None:
    if half == REPORT:
        raise UsageError(f"`half` is {REPORT}, which is kept for the report: a prompt would be reported on the "
                         f"queries that chose it; allowed: {LEARN}, {ALL}")  # fmt: skip
    if half not in (LEARN, ALL):
        raise UsageError(f"`half` is {half!r}; allowed: {LEARN}, {ALL}")
    if half == ALL and not reports:
        raise UsageError(f"`half` is {ALL}, which leaves no queries to report on; name other suites in `report`")
    if objective not in OBJECTIVES:
        raise UsageError(f"`objective` is {objective!r}; allowed: {', '.join(OBJECTIVES)}")
    if not 0 <= radius < float("inf"):
        raise UsageError(f"`radius` is {radius:g}; allowed: 0 or more")
    if first_queries and first_queries < FEWEST:
        raise UsageError(f"`first_queries` is {first_queries}; allowed: {FEWEST} or more, or 0 for all at once")


def _loaded(
    given: Sequence[Given], others: Sequence[Given], half: str, stage: Stage
) -> tuple[list[Suite], list[Suite]]:  # fmt: skip
    """The suites that are chosen on, and those that are reported on."""
    names = {one.name: one.key for one in given}
    if shared := [one.name for one in others if one.name in names]:
        raise UsageError(f"`report` has {shared[0]}, which `suite` has too; what was chosen on a suite is reported on "
                         "others, or without `report` on the other half of its queries")  # fmt: skip
    if alike := [one.name for one in others if family(one.name) in set(map(family, names))]:
        logger.warning("%s may have the questions that are chosen on in another language: they are of one family with "
                       "suites that are chosen on", ", ".join(alike))  # fmt: skip
    reading, asked = stage("suites"), [*given, *others]
    for one in asked:
        one.fetch()
    loaded = []
    for number, one in enumerate(asked):
        reading(number, len(asked), one.key)
        loaded.append(one.load())
    reading(len(asked), len(asked), "done")
    chosen_on = [halved(one, None if half == ALL else half) for one in loaded[: len(given)]]
    return chosen_on, loaded[len(given) :] or [halved(one, REPORT) for one in loaded]


def _with_own(found: Candidates, dense: DenseModel, suites: Sequence[Suite]) -> list[str]:
    """All texts in the order in which they are preferred: none, the model's own for these suites, the others."""
    own = [dense.own_prompt(suite) or "" for suite in suites]
    for text in [*own, *(() if any(own) else [dense.texts.instructions.query])]:
        if text:
            found.add(text, OWN)
    others = [text for text in found.sources if text]
    return ["", *sorted(others, key=lambda text: OWN not in found.sources[text])]


def _id(
    dense: DenseModel, texts: Sequence[str], chosen_on: Sequence[Suite], reported_on: Sequence[Suite],
    how: Mapping[str, Any],
) -> str:  # fmt: skip
    body = [space_of(dense), sorted(texts), *(sorted((suite.title, suite.digest) for suite in part)
                                           for part in (chosen_on, reported_on)), how]  # fmt: skip
    return hashlib.sha256(json.dumps(["prompts", body], sort_keys=True).encode()).hexdigest()[:12]


def _ranked(
    scores: PromptScores, found: Candidates, texts: Sequence[str], suites: Sequence[Suite], how: Mapping[str, Any],
    stage: Stage,
) -> list[Prompt]:  # fmt: skip
    """The candidates: those that were asked for all queries first, the best first."""
    rounds = sizes(how["first_queries"], max(len(suite.queries) for suite in suites))[:-1]
    kept = {text for text in texts if not text or OWN in found.sources[text]}
    alive, gone = list(texts), list[Prompt]()
    for number, size in enumerate(rounds, start=1):
        if len(kept.union(alive)) <= len(kept) + 1:
            break  # one is left to choose, and is asked for all
        parts = [_part(suite, size, how["seed"]) for suite in suites]
        scored = scores.on(suites, parts, alive, number, stage(f"round {number}, {len(alive)} prompts"))
        relative, means = _over_none(scored, how)
        values = worth(means, how["objective"], radius=how["radius"])
        clusters = [f"{family(part.name)} {query}" for part in parts for query in part.query_ids]
        left_out = dropped(values.values, against_best(relative, values, clusters),
                           [place for place, text in enumerate(alive) if text in kept])  # fmt: skip
        rows = _as_prompts(scored, found, alive, parts, how)
        gone = [replace(rows[place], dropped=why) for place, why in left_out.items()] + gone
        alive = [text for place, text in enumerate(alive) if place not in left_out]
    scored = scores.on(suites, suites, alive, len(rounds) + 1, stage(f"{len(alive)} prompts"))
    values = worth(_over_none(scored, how)[1], how["objective"], radius=how["radius"])
    rows = _as_prompts(scored, found, alive, suites, how)
    return [rows[place] for place in np.argsort(-values.values, kind="stable")] + gone


def _over_none(scored: Scored, how: Mapping[str, Any]) -> Scored:
    """What prompts gain over none, which is the first of them; where scores as such were asked for, these."""
    if not how["relative"]:
        return scored
    return Scored([values - values[:1] for values in scored.of_queries], scored.means - scored.means[:1])


def _as_prompts(
    scored: Scored, found: Candidates, texts: Sequence[str], parts: Sequence[Suite], how: Mapping[str, Any]
) -> list[Prompt]:  # fmt: skip
    names, means = [part.title for part in parts], _over_none(scored, how).means
    worst, least = (worth(means, objective, radius=how["radius"]) for objective in (WORST, LEAST))
    gains = (scored.means - scored.means[:1]).mean(axis=1)
    return [
        Prompt(
            prompt=text, sources=tuple(found.sources[text]), num_queries=sum(len(part.queries) for part in parts),
            scores=dict(zip(names, scored.means[place].tolist(), strict=True)),
            mean=float(scored.means[place].mean()), gain=float(gains[place]), worst=float(worst.values[place]),
            least=float(least.values[place]),
            weights=dict(zip(names, worst.weights[place].tolist(), strict=True)), dropped=None,
        )
        for place, text in enumerate(texts)
    ]  # fmt: skip


def _part(suite: Suite, size: int, seed: int) -> Suite:
    """The suite with `size` of its queries; itself where it has no more."""
    if size >= len(suite.queries):
        return suite
    return with_queries(suite, subset(suite.query_ids, size, seed))


def _gains(
    scores: PromptScores, chosen: str, dense: DenseModel, suites: Sequence[Suite], stage: Stage
) -> list[Gain]:  # fmt: skip
    """The chosen prompt against none and against the model's own, where it is another."""
    from trainers.evaluation.summary import summarise

    own = [dense.own_prompt(suite) or "" for suite in suites]
    baselines = {NONE: [""] * len(suites), OWN: own}
    if own == baselines[NONE]:
        del baselines[OWN]
    baselines = {name: texts for name, texts in baselines.items() if any(text != chosen for text in texts)}
    found: list[Gain] = []
    for name, texts in baselines.items():
        results = []
        for suite, text in zip(suites, texts, strict=True):
            values, means = scores.on([suite], [suite], [chosen, text], REPORTED, stage(f"report, {suite.title}"))
            results += [_Result(label, suite, values[0][row], float(means[row, 0]))
                        for row, label in enumerate((CHOSEN, name))]  # fmt: skip
        summary = summarise(results, baseline=name)
        found += [_gain(row, name, summary.rows) for row in summary.rows
                  if row.model == CHOSEN and row.kind in (SUITE, groups.ALL)]  # fmt: skip
    return found


def _gain(row: Row, against: str, rows: Sequence[Row]) -> Gain:
    baseline = next(one.score for one in rows if (one.kind, one.name, one.model) == (row.kind, row.name, against))
    assert row.difference is not None and row.p is not None
    return Gain(row.name, row.num_suites, row.num_queries, against, row.score, baseline, row.difference,
                row.difference_low, row.difference_high, row.p)  # fmt: skip


class _Result:
    """Scores of a prompt as `summarise` reads those of a model."""

    corpus, num_documents = "", 0  # one suite's

    def __init__(self, model: str, suite: Suite, values: np.ndarray, mean: float) -> None:
        self.model, self.suite, self.metrics = model, suite.title, {METRIC: mean}
        self.per_query = {query: {METRIC: float(value)} for query, value in zip(suite.query_ids, values, strict=True)}
        self.language, self.benchmark = suite.language, suite.benchmark


def _record(store: Store, found: PromptChoice, seed: int) -> None:
    """The rows of `prompt_choices` and `prompt_gains`, in place of any of an earlier call."""
    common = {"choice": found.choice, "decided_at": datetime.now(UTC)}
    of_choice = {"model": found.model, "suites": list(found.suites), "half": found.half, "objective": found.objective,
                 "radius": found.radius, "relative": found.relative, "seed": seed}  # fmt: skip
    rows = [
        common | of_choice | {name: value for name, value in asdict(one).items() if name != "scores"}
        | {"sources": list(one.sources), "weights": list(one.weights.values()), "chosen": one is found.chosen}
        for one in found.prompts
    ]  # fmt: skip

    def work(connection: Any) -> None:
        for table in ("prompt_choices", "prompt_gains"):
            connection.execute(f"DELETE FROM {table} WHERE choice = ?", [found.choice])
        append(connection, "prompt_choices", rows)
        append(connection, "prompt_gains", [common | asdict(gain) for gain in found.gains])

    store.transaction(work)
