"""What models trained on a mixture scored, beside models trained on another, and whether the difference is chance:
between queries for each suite, between suites for their mean."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from mixture.report.learning import without_folder
from mixture.store import Store, layout

# With fewer suites no outcome at all could be significant at 5 %: 2^-4 of the signs are as extreme.
FEWEST_SUITES = 6
SIGNIFICANT = 0.05
# All subsets of 13 suites are 8,191; of more suites so many are drawn.
RESAMPLES = 9_999
# Of a suite. With fewer the t distribution of the mean is in doubt.
FEWEST_QUERIES = 20
# Settings that say where a run was written, not how it trained; the mixture is what is compared.
NOT_ASKED = frozenset({"checkpoint_every", "name", "out"})


@dataclass(frozen=True)
class Score:
    """A mean over the queries of a suite, within 0 to 1.

    against: the other model's, on the same suite and corpus
    test:    of the difference over the queries that both have values of, `FEWEST_QUERIES` or more
    adjusted: the test's p, adjusted for the number of suites with this metric (Benjamini and Hochberg 1995)
    """

    suite: str
    metric: str
    corpus: str
    value: float
    against: float | None
    num_queries: int
    num_documents: int
    test: PairedTest | None = None
    adjusted: float | None = None


@dataclass(frozen=True)
class PairedTest:
    """The mean difference over `num_pairs` suites or queries.

    low, high: its 95 % interval, of the same test: it leaves 0 out where p is at most `SIGNIFICANT`, and only there
    p:         how often chance alone gives a mean as far from 0, two-sided
    """

    num_pairs: int
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model of the mixture and, where there is one, a model of the other mixture.

    tests:   by metric, where at least `FEWEST_SUITES` suites have both scores
    differs: settings besides the mixture in which the two trainings differ: name, this one's, the other's
    """

    model: str
    against: str | None
    scores: tuple[Score, ...]
    tests: dict[str, PairedTest]
    differs: tuple[tuple[str, Any, Any], ...]

    @property
    def metrics(self) -> list[str]:
        """nDCG first, which is what retrieval reports; then by name."""
        return sorted({s.metric for s in self.scores}, key=lambda m: (not m.startswith("ndcg"), m))

    @property
    def by_queries(self) -> bool:
        """Whether any suite's difference is tested over its queries."""
        return any(s.test is not None for s in self.scores)

    def of(self, metric: str) -> list[Score]:
        return [score for score in self.scores if score.metric == metric]


@dataclass(frozen=True)
class Verdict:
    """What `mixture verdict` found, as the table `verdicts` has it."""

    says: str
    model: str
    steps: int
    num_seeds: int


def verdict(store: Store, mixture: str, other: str | None) -> Verdict | None:
    """The newest verdict on a mixture against the other one, over all suites."""
    rows = store.sql(
        """SELECT says, model, steps, len(seeds) AS num_seeds FROM verdicts
           WHERE mixture = $mixture AND against = $other AND suites = 'all' ORDER BY decided_at DESC LIMIT 1""",
        {"mixture": mixture, "other": other},
    )
    return next((Verdict(**row) for row in rows.to_pylist()), None)


def evaluation(store: Store, mixture: str, other: str | None) -> Evaluation | None:
    """The newest scores of a mixture's model, against those of the other mixture's model that was trained most alike.

    None where no model of the mixture was evaluated.
    """
    ours = _models(store, mixture)
    theirs = _models(store, other) if other not in (None, mixture) else []
    if not ours:
        return None
    for models in (ours, theirs):  # the newest first; models of a verdict, which are gone, last
        models.sort(key=lambda m: m["at"], reverse=True)
        models.sort(key=lambda m: layout.of_verdict(m["model"]))
    pairs = [(a, b) for a in ours for b in theirs if a["model"] != b["model"]]
    # min takes the first of equals, and the newest stand first.
    a, b = min(pairs, key=_unlike) if pairs else (ours[0], None)
    scores = _scores(store, mixture, a["model"], other, b["model"] if b else None)
    if b and other is not None:
        scores = _tested(store, scores, mixture, a["model"], other, b["model"])
    tests = {}
    for metric in {s.metric for s in scores}:
        paired = [(s.value, s.against) for s in scores if s.metric == metric and s.against is not None]
        if len(paired) >= FEWEST_SUITES:
            tests[metric] = paired_test([x for x, _ in paired], [y for _, y in paired])
    return Evaluation(
        model=_shown(a["model"]),
        against=_shown(b["model"]) if b else None,
        scores=scores,
        tests=tests,
        differs=tuple(_differs(a, b)) if b else (),
    )


def _unlike(pair: tuple[dict[str, Any], dict[str, Any]]) -> tuple[int, int]:
    """How many are models of a verdict, and in how many settings the two differ."""
    return sum(layout.of_verdict(one["model"]) for one in pair), len(_differs(*pair))


def _models(store: Store, mixture: str | None) -> list[dict[str, Any]]:
    rows = store.sql(
        """SELECT e.model, max(e.evaluated_at) AS "at", arg_max(r.config, e.evaluated_at) AS config
           FROM evaluations e LEFT JOIN runs r USING (run_id) WHERE e.mixture = $mixture AND e.step IS NULL
           GROUP BY e.model""",
        {"mixture": mixture},
    ).to_pylist()
    return [row | {"config": json.loads(row["config"] or "{}")} for row in rows]


def _differs(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted((a["config"].keys() | b["config"].keys()) - NOT_ASKED)
    pairs = [(n, without_folder(a["config"].get(n)), without_folder(b["config"].get(n))) for n in names]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _scores(
    store: Store, mixture: str, model: str, other: str | None, other_model: str | None
) -> tuple[Score, ...]:  # fmt: skip
    rows = store.sql(
        """WITH newest AS (
               SELECT * FROM evaluations WHERE step IS NULL -- others are of a training under way
               QUALIFY row_number() OVER (PARTITION BY model, mixture, suite, corpus, metric
                                          ORDER BY evaluated_at DESC) = 1)
           SELECT a.suite, a.metric, a.corpus, a.value, b.value AS against, a.num_queries, a.num_documents
           FROM newest a LEFT JOIN (FROM newest WHERE mixture = $other AND model = $other_model) b
                ON a.suite = b.suite AND a.corpus = b.corpus AND a.metric = b.metric
                   AND a.num_queries = b.num_queries AND a.num_documents = b.num_documents
           WHERE a.mixture = $mixture AND a.model = $model
           ORDER BY a.metric, a.suite, a.corpus""",
        {"mixture": mixture, "model": model, "other": other, "other_model": other_model},
    )
    return tuple(Score(**row) for row in rows.to_pylist())


def _tested(
    store: Store, scores: Sequence[Score], mixture: str, model: str, other: str, other_model: str
) -> tuple[Score, ...]:  # fmt: skip
    """The scores with their tests over queries, where the store has the values of those."""
    rows = store.sql(
        """WITH newest AS (
               FROM evaluation_queries WHERE mixture IN ($mixture, $other)
               QUALIFY evaluated_at = max(evaluated_at) OVER (PARTITION BY model, mixture, suite, corpus, metric))
           SELECT a.suite, a.corpus, a.metric, a.value, b.value AS against
           FROM newest a JOIN newest b USING (suite, corpus, metric, query_id)
           WHERE a.mixture = $mixture AND a.model = $model AND b.mixture = $other AND b.model = $other_model
           ORDER BY ALL""",
        {"mixture": mixture, "model": model, "other": other, "other_model": other_model},
    )
    values: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows.to_pylist():
        values[row["suite"], row["corpus"], row["metric"]].append((row["value"], row["against"]))
    tests: dict[Score, PairedTest] = {}
    adjusted: dict[Score, float] = {}
    for score in scores:
        pairs = values.get((score.suite, score.corpus, score.metric), [])
        if score.against is not None and len(pairs) >= FEWEST_QUERIES:
            tests[score] = query_test([x for x, _ in pairs], [y for _, y in pairs])
    for metric in {score.metric for score in tests}:
        of_metric = [score for score in tests if score.metric == metric]
        adjusted |= zip(of_metric, _adjusted([tests[score].p for score in of_metric]), strict=True)
    return tuple(replace(score, test=tests.get(score), adjusted=adjusted.get(score)) for score in scores)


def query_test(ours: Sequence[float], theirs: Sequence[float]) -> PairedTest:
    """Paired t-test over n queries, two-sided, with its interval of the mean difference. For differences of retrieval
    metrics it agrees with the permutation test (Smucker, Allan and Carterette 2007) and takes thousands of queries.
    """
    from scipy import stats

    difference = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    mean = float(difference.mean())
    if difference.min() == difference.max():  # no spread: all queries moved alike, or none did
        return PairedTest(len(difference), mean, mean, mean, 0.0 if mean else 1.0)
    found = stats.ttest_1samp(difference, 0.0)
    low, high = found.confidence_interval(0.95)
    return PairedTest(len(difference), mean, float(low), float(high), float(found.pvalue))


def _adjusted(p: Sequence[float]) -> list[float]:
    from scipy import stats

    return [float(value) for value in stats.false_discovery_control(p)]


def paired_test(ours: Sequence[float], theirs: Sequence[float]) -> PairedTest:
    """Two-sided paired permutation test of the mean difference over n suites, and the interval of those means that it
    does not refuse: order statistics of the means of subsets (Hartigan 1969, "Using subsample values as typical
    values"). Turning the signs of a subset leaves the sum no lower where the subset's mean is at most 0.

    All subsets of up to 13 suites count, of more suites a seeded sample of them.
    """
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    suites = len(difference)
    if 2**suites - 1 <= RESAMPLES:
        subsets = np.arange(1, 2**suites)[:, None] >> np.arange(suites) & 1
    else:
        subsets = np.random.default_rng(0).integers(0, 2, (RESAMPLES, suites))
        subsets = subsets[subsets.any(axis=1)]
    # Rounded, so that what cancels is 0.
    means = np.sort(np.round(subsets @ difference / subsets.sum(axis=1), 12))
    draws = len(means) + 1  # and no sign turned
    tail = min(int((means <= 0).sum()), int((means >= 0).sum())) + 1
    outside = int(SIGNIFICANT / 2 * draws)
    low, high = (means[outside - 1], means[-outside]) if outside else (-np.inf, np.inf)
    return PairedTest(suites, float(difference.mean()), float(low), float(high), min(1.0, 2 * tail / draws))


def _shown(model: str) -> str:
    """A hub id as it is; of a folder its name."""
    return PurePath(model).name if PurePath(model).is_absolute() else model
