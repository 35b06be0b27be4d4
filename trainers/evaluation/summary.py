"""Several models on several suites, held against one of them: means by group, which differences are sure, what got
worse and on which queries, and the worst case.

A p-value is that of the randomisation test. Holm's correction is over all models and suites of a metric, and by itself
over all models and groups of suites: of twenty tables of models that do not differ, one has a star at a suite, and one
at a group. A test of a group is over its queries; a question in several languages of one family is one draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from mixture.errors import UsageError, unknown_name
from mixture.suites.families import family
from trainers.evaluation.compare import SIGNIFICANT, holm
from trainers.evaluation.groups import SUITE, Group, groups
from trainers.evaluation.significance import DRAWS, by_cluster, interval, paired_t, randomisation
from trainers.evaluation.worst_case import RADIUS, worst_case

# Queries shown of each suite that got worse.
SHOWN = 10
# Holm's least p-value is this at most, however many comparisons there are.
FINEST = 0.01

Texts = Mapping[str, Mapping[str, str]]


class Scored(Protocol):
    """What is read of a result: `trainers.evaluation.evaluate.SuiteResult` has it."""

    @property
    def model(self) -> str: ...
    @property
    def suite(self) -> str: ...
    @property
    def per_query(self) -> Mapping[str, Mapping[str, float]]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def corpus(self) -> str: ...
    @property
    def num_documents(self) -> int: ...
    @property
    def language(self) -> str | None: ...
    @property
    def benchmark(self) -> str | None: ...


@dataclass(frozen=True)
class Row:
    """A model on a suite or a group of suites. Scores and differences are within 0 to 1, and −1 to 1.

    low, high:  95 % interval of the score over other queries; None where a suite has one query alone
    difference: to the baseline, with its interval. None, as all p-values, in the baseline's own rows
    p, p_t:     of the randomisation test, and of the paired t-test (suites alone)
    p_holm:     p, corrected for the number of suites or groups and models
    """

    kind: str
    name: str
    metric: str
    model: str
    num_suites: int
    num_queries: int
    score: float
    low: float | None
    high: float | None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    p_t: float | None = None
    p_holm: float | None = None

    @property
    def sure(self) -> bool:
        """Whether the difference has a star."""
        return self.p_holm is not None and self.p_holm <= SIGNIFICANT

    @property
    def worse(self) -> bool:
        return self.sure and self.difference is not None and self.difference < 0


@dataclass(frozen=True)
class Lost:
    """A query that a model answers worse than the baseline, with both scores; text: None where it is not known."""

    suite: str
    query: str
    text: str | None
    before: float
    after: float


@dataclass(frozen=True)
class Regression:
    """Where a model is surely worse than the baseline; queries: those that lost most, the worst first."""

    kind: str
    name: str
    metric: str
    model: str
    difference: float
    p_holm: float
    queries: list[Lost]


@dataclass(frozen=True)
class Worst:
    """A model's worst case over suites, `radius` around equal weights.

    score, weights: of its scores, and the weights of suites that make it so
    difference:     of its differences to the baseline, under weights of their own; None for the baseline
    """

    metric: str
    model: str
    radius: float
    score: float
    weights: dict[str, float]
    difference: float | None


@dataclass(frozen=True)
class Summary:
    """A row for each suite or group, metric and model, in this order."""

    baseline: str
    models: list[str]
    metrics: list[str]
    rows: list[Row]
    worst: list[Worst]
    regressions: list[Regression]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; a row says in `sure` whether it has a star."""
        return asdict(self) | {"rows": [asdict(row) | {"sure": row.sure} for row in self.rows]}


def summarise(
    results: Sequence[Scored], *, baseline: str | None = None, categories: Mapping[str, str] | None = None,
    texts: Texts | None = None, radius: float = RADIUS,
) -> Summary:  # fmt: skip
    """Hold models against the baseline, by default the first one.

    results:    one for each model and suite; all models must have the same suites, corpora, queries and metrics
    categories: suite -> category
    texts:      suite -> query id -> text, for the queries that got worse
    radius:     of the worst case, see `worst_case`

    Raises UsageError where results cannot be compared, and for a baseline that is none of the models.
    """
    models = list(dict.fromkeys(result.model for result in results))
    if not models:
        raise UsageError("`results` is empty; there is nothing to compare")
    baseline = models[0] if baseline is None else baseline
    if baseline not in models:
        raise unknown_name("model", baseline, models)
    by_suite = _checked(results, models)
    languages = {suite: found[baseline].language for suite, found in by_suite.items()}
    benchmarks = {suite: found[baseline].benchmark for suite, found in by_suite.items()}
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    rows: list[Row] = []
    worst: list[Worst] = []
    regressions: list[Regression] = []
    for metric in metrics:
        suites = {suite: found for suite, found in by_suite.items() if metric in found[baseline].metrics}
        parts = groups(list(suites), languages, categories, benchmarks)
        for part in ([g for g in parts if g.kind == SUITE], [g for g in parts if g.kind != SUITE]):
            draws = max(DRAWS, int(len(part) * (len(models) - 1) / FINEST) - 1)
            of_groups = [
                (group, row) for group in part for row in _rows(group, metric, suites, models, baseline, draws)
            ]
            adjusted = _corrected([row for _, row in of_groups])
            rows += adjusted
            regressions += [_regression(row, group, suites, baseline, texts or {})
                            for (group, _), row in zip(of_groups, adjusted, strict=True) if row.worse]  # fmt: skip
        worst += [_worst(metric, model, suites, baseline, radius) for model in models]
    return Summary(baseline, models, metrics, rows, worst, regressions)


def _checked(results: Sequence[Scored], models: Sequence[str]) -> dict[str, dict[str, Scored]]:
    """suite -> model -> result."""
    by_suite: dict[str, dict[str, Scored]] = {}
    for result in results:
        if result.model in by_suite.setdefault(result.suite, {}):
            raise UsageError(f"{result.model} has two results on {result.suite}; give one")
        by_suite[result.suite][result.model] = result
    for suite, found in by_suite.items():
        if missing := [model for model in models if model not in found]:
            raise UsageError(f"{missing[0]} has no result on {suite}; compare models on the same suites")
        first = found[models[0]]
        for result in found.values():
            for what, ours, theirs in (
                ("corpora", result.corpus, first.corpus),
                ("corpora", result.num_documents, first.num_documents),
                ("queries", result.per_query.keys(), first.per_query.keys()),
                ("metrics", result.metrics.keys(), first.metrics.keys()),
            ):
                if ours != theirs:
                    raise UsageError(f"{suite}: {result.model} and {first.model} were scored on different {what}; "
                                     "evaluate both on the same")  # fmt: skip
    return by_suite


def _rows(
    group: Group, metric: str, suites: Mapping[str, Mapping[str, Scored]], models: Sequence[str], baseline: str,
    draws: int,
) -> list[Row]:  # fmt: skip
    """Of the group, a row a model. A query's share is its suite's weight over the suite's queries."""
    weighed, centred, keys = [], [], []
    means: np.ndarray = np.zeros(len(models))
    for suite, weight in group.weights.items():
        found = suites[suite]
        queries = sorted(found[baseline].per_query)
        scores = np.array([[found[model].per_query[query][metric] for query in queries] for model in models])
        own = scores.mean(axis=1, keepdims=True)
        means = means + weight * own[:, 0]
        weighed.append(scores * weight / len(queries))
        centred.append((scores - own) * weight / len(queries))
        keys += [f"{family(suite)} {query}" if len(group.weights) > 1 else query for query in queries]
    cluster = np.unique(keys, return_inverse=True)[1]
    base = models.index(baseline)
    shares, deviations = (by_cluster(np.concatenate(parts, axis=1), cluster) for parts in (weighed, centred))
    differences = shares - shares[base]
    # An interval is that of the deviations from each suite's mean: suites are given, their queries are drawn.
    ends = interval(np.stack([deviations, deviations - deviations[base]]))
    if any(part.shape[1] < 2 for part in weighed):  # which says nothing of others
        ends = np.full_like(ends, np.nan)
    p, p_t = randomisation(differences, draws=draws), paired_t(differences)
    rows = []
    for place, model in enumerate(models):
        row = Row(group.kind, group.name, metric, model, len(group.weights), len(keys), float(means[place]),
                  *_finite(means[place] + ends[0, place]))  # fmt: skip
        if place != base:
            gain = float(means[place] - means[base])
            low, high = _finite(gain + ends[1, place])
            row = replace(row, difference=gain, difference_low=low, difference_high=high, p=float(p[place]),
                          p_t=float(p_t[place]) if group.kind == SUITE else None)  # fmt: skip
        rows.append(row)
    return rows


def _finite(ends: np.ndarray) -> tuple[float | None, float | None]:
    return (float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else (None, None)


def _corrected(rows: Sequence[Row]) -> list[Row]:
    adjusted = iter(holm([row.p for row in rows if row.p is not None]))
    return [row if row.p is None else replace(row, p_holm=next(adjusted)) for row in rows]


def _regression(
    row: Row, group: Group, suites: Mapping[str, Mapping[str, Scored]], baseline: str, texts: Texts
) -> Regression:
    """`queries` are at most `SHOWN` that lost something; equal losses by suite and id."""
    found: list[Lost] = []
    for suite in group.weights:
        before, after = suites[suite][baseline].per_query, suites[suite][row.model].per_query
        known = texts.get(suite, {})
        found += [Lost(suite, query, known.get(query), scores[row.metric], after[query][row.metric])
                  for query, scores in before.items() if after[query][row.metric] < scores[row.metric]]  # fmt: skip
    found.sort(key=lambda lost: (lost.after - lost.before, lost.suite, lost.query))
    assert row.difference is not None and row.p_holm is not None
    return Regression(row.kind, row.name, row.metric, row.model, row.difference, row.p_holm, found[:SHOWN])


def _worst(metric: str, model: str, suites: Mapping[str, Mapping[str, Scored]], baseline: str, radius: float) -> Worst:
    scores = {name: np.array([found[name].metrics[metric] for found in suites.values()]) for name in (model, baseline)}
    own = worst_case(scores[model], radius=radius)
    gain = None if model == baseline else worst_case(scores[model] - scores[baseline], radius=radius).value
    weights = {suite: float(weight) for suite, weight in zip(suites, own.weights, strict=True)}
    return Worst(metric, model, radius, own.value, weights, gain)
