"""Models held against a baseline: means by group, stars, what got worse and on which queries, and the files of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mixture.errors import UsageError
from trainers.evaluation.compare import holm
from trainers.evaluation.exports import checked_export, export, markdown, tables
from trainers.evaluation.groups import groups
from trainers.evaluation.significance import interval, paired_t, randomisation
from trainers.evaluation.summary import Row, Summary, summarise
from trainers.evaluation.worst_case import worst_case


@dataclass(frozen=True)
class Result:
    """As `SuiteResult` has it."""

    model: str
    suite: str
    per_query: dict[str, dict[str, float]]
    corpus: str = "full corpus of the suite"
    num_documents: int = 1000
    language: str | None = None
    benchmark: str | None = None
    revision: str | None = None
    seconds: float = 2.5
    metrics: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        names = next(iter(self.per_query.values()))
        means = {name: float(np.mean([scores[name] for scores in self.per_query.values()])) for name in names}
        object.__setattr__(self, "metrics", means)


def _result(model: str, suite: str, values: Any, *, metrics: tuple[str, ...] = ("ndcg@10",), **more: Any) -> Result:
    per_query = {f"q{number:03}": dict.fromkeys(metrics, float(value)) for number, value in enumerate(values)}
    return Result(model, suite, per_query, **more)


def _some(seed: int, queries: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 0, 0.39, 0.63, 1.0], queries)


@pytest.fixture
def results() -> list[Result]:
    """`worse` loses on xquad-de, is nearly alike elsewhere; `better` gains everywhere."""
    found = []
    for number, (suite, language) in enumerate({"nq": "en", "xquad-de": "de", "xquad-en": "en"}.items()):
        base = _some(number)
        worse = np.maximum(base - 0.3 * (np.arange(60) % 2), 0) if suite == "xquad-de" else base
        better = np.minimum(base + 0.2, 1.0)
        for model, values in (("base", base), ("worse", worse), ("better", better)):
            found.append(_result(f"runs/{model}/model", suite, values, language=language))
    return found


def _row(summary: Summary, model: str, name: str, metric: str = "ndcg@10") -> Row:
    return next(row for row in summary.rows if (row.model, row.name, row.metric) == (model, name, metric))


def test_a_mean_with_a_suite_of_one_query_has_no_interval() -> None:
    summary = summarise([_result("a", "s", _some(1)), _result("a", "t", [0.5]), _result("a", "u", [1.0])])
    assert _row(summary, "a", "s").low is not None
    assert _row(summary, "a", "t").low is _row(summary, "a", "all").low is None


def test_a_suites_row_has_the_numbers_of_its_parts(results: list[Result]) -> None:
    summary = summarise(results)
    before, after = (np.array([s["ndcg@10"] for s in r.per_query.values()]) for r in results[3:5])
    row = _row(summary, "runs/worse/model", "xquad-de")
    assert row.score == pytest.approx(after.mean())
    assert row.difference == pytest.approx((after - before).mean())
    np.testing.assert_allclose([row.low, row.high], interval(after))
    np.testing.assert_allclose([row.difference_low, row.difference_high], interval(after - before))
    assert row.p == randomisation(after - before)
    assert row.p_t == pytest.approx(float(paired_t(after - before)))
    of_suites = [one for one in summary.rows if one.kind == "suite" and one.p is not None]
    assert len(of_suites) == 6
    assert [one.p_holm for one in of_suites] == holm([one.p for one in of_suites])
    base = _row(summary, "runs/base/model", "xquad-de")
    assert (base.difference, base.p, base.p_t, base.p_holm, base.sure) == (None, None, None, None, False)


def test_groups_have_the_means_of_their_suites(results: list[Result]) -> None:
    summary = summarise(results, categories={"nq": "web", "xquad-de": "wiki", "xquad-en": "wiki"})
    assert [(row.kind, row.name) for row in summary.rows[::3]] == [
        ("suite", "nq"), ("suite", "xquad-de"), ("suite", "xquad-en"), ("family", "xquad"), ("language", "en"),
        ("category", "wiki"), ("all", "all"),
    ]  # fmt: skip
    means = {result.suite: result.metrics["ndcg@10"] for result in results if result.model == "runs/better/model"}
    for name, suites in (("xquad", ("xquad-de", "xquad-en")), ("en", ("nq", "xquad-en")), ("all", tuple(means))):
        row = _row(summary, "runs/better/model", name)
        assert row.score == pytest.approx(np.mean([means[suite] for suite in suites]))
        assert (row.num_suites, row.num_queries) == (len(suites), 60 * len(suites))
        assert row.low is not None and row.high is not None and row.low < row.score < row.high
        assert row.sure and row.p_t is None


def test_one_question_in_several_languages_is_one_draw() -> None:
    """Eight copies of a suite are no more than one: the same p and interval. Of a family each, they are eight times as
    many queries."""
    base, other = _some(1, 40), _some(2, 40)

    def of_all(names: list[str]) -> Row:
        found = [_result(m, name, v) for name in names for m, v in (("a", base), ("b", other))]
        return _row(summarise(found), "b", "all" if len(names) > 1 else names[0])

    alone = of_all(["xquad-de"])
    copies = of_all([f"xquad-{language}" for language in ("de", "en", "es", "ru", "th", "zh", "ar", "hi")])
    assert (copies.p, copies.num_queries) == (alone.p, 320)
    np.testing.assert_allclose(_ends(copies), _ends(alone))
    apart = of_all([f"s{number}" for number in range(8)])
    assert apart.p is not None and alone.p is not None and apart.p < alone.p
    assert np.ptp(_ends(apart)) < np.ptp(_ends(alone)) / 2


def _ends(row: Row) -> tuple[float, float]:
    assert row.difference_low is not None and row.difference_high is not None
    return row.difference_low, row.difference_high


@pytest.mark.slow
def test_a_groups_test_keeps_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of two languages and another suite, 400 times without a difference: 5 % is 20, and 3 errors are 13."""
    monkeypatch.setattr("trainers.evaluation.summary.DRAWS", 499)
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        told = random.normal(size=30)  # how a question tells the models apart, whatever its language
        moved = {f"x-{language}": told + random.normal(size=30) / 2 for language in ("de", "en")}
        moved["nq"] = random.normal(size=80)
        found = [_result(m, s, v * (m == "b")) for s, v in moved.items() for m in "ab"]
        alarms += _row(summarise(found), "b", "all").p <= 0.05  # type: ignore[operator]
    assert 7 <= alarms <= 33


def test_benchmarks_are_means_of_families() -> None:
    """The forums of CQADupStack count as one suite of BEIR; MIRACL's languages, one family, are the benchmark."""
    of = {"nfcorpus": "beir", "cqadupstack-android": "beir", "cqadupstack-gaming": "beir", "miracl-zh": "miracl",
          "miracl-de": "miracl", "nfcorpus-nano": "nanobeir", "nq": None}  # fmt: skip
    found = {(g.kind, g.name): dict(g.weights) for g in groups(list(of), benchmarks=of) if g.kind != "suite"}
    assert found == {
        ("family", "beir/cqadupstack"): {"cqadupstack-android": 0.5, "cqadupstack-gaming": 0.5},
        ("benchmark", "beir"): {"nfcorpus": 0.5, "cqadupstack-android": 0.25, "cqadupstack-gaming": 0.25},
        ("benchmark", "miracl"): {"miracl-zh": 0.5, "miracl-de": 0.5},
        ("all", "all"): dict.fromkeys(of, 1 / 7),
    }  # fmt: skip
    assert [group.kind for group in groups(["nq/report"])] == ["suite"]
    assert [group.name for group in groups(["xquad-de/report", "xquad-en/report"])][2:] == ["xquad", "all"]
    assert [group.name for group in groups(["a", "b"], {"a": "en", "b": "en"}, {"a": "web"})][2:] == ["all"]


def test_a_metric_is_of_the_suites_that_have_it() -> None:
    both = ("ndcg@10", "recall@100")
    suites = {"miracl-zh": both, "miracl-de": both, "mkqa-de": ("acc@100",)}
    found = [_result(m, s, _some(len(s)), metrics=names) for m in "ab" for s, names in suites.items()]
    summary = summarise(found)
    assert summary.metrics == ["ndcg@10", "recall@100", "acc@100"]
    assert [row.name for row in summary.rows if row.metric == "acc@100"] == ["mkqa-de"] * 2
    assert _row(summary, "a", "miracl", "recall@100").num_suites == 2
    assert [line[0] for line in tables(summary)["acc@100"]] == ["mkqa-de"]


def test_what_got_worse_is_named_with_its_queries(results: list[Result]) -> None:
    texts = {"xquad-de": {f"q{number:03}": f"Frage {number}?" for number in range(59)}}
    summary = summarise(results, texts=texts)
    assert {(one.kind, one.name, one.model) for one in summary.regressions} == {
        (kind, name, "runs/worse/model") for kind, name in
        (("suite", "xquad-de"), ("family", "xquad"), ("all", "all"))
    }  # fmt: skip
    one = summary.regressions[0]
    losses = {q: results[4].per_query[q]["ndcg@10"] - s["ndcg@10"] for q, s in results[3].per_query.items()}
    worst = sorted((loss, query) for query, loss in losses.items() if loss < 0)[:10]
    assert [(lost.after - lost.before, lost.query) for lost in one.queries] == worst
    assert all(lost.text == texts["xquad-de"].get(lost.query) for lost in one.queries)
    assert one.p_holm <= 0.05 and one.difference < 0
    # Not against itself, and not when the other is the baseline.
    assert {one.model for one in summarise(results, baseline="runs/worse/model").regressions} == set()


def test_the_worst_case_stands_beside_the_mean() -> None:
    scores = {"a": (0.7, 0.6, 0.2), "b": (0.5, 0.48, 0.4)}
    summary = summarise([_result(m, f"s{k}", [v, v]) for m, of in scores.items() for k, v in enumerate(of)])
    assert [round(one.score, 4) for one in summary.worst] == [0.4007, 0.4401]
    assert summary.worst[0].weights == pytest.approx({"s0": 0.2031, "s1": 0.2478, "s2": 0.5491}, abs=5e-5)
    assert summary.worst[0].difference is None
    assert summary.worst[1].difference == pytest.approx(worst_case([-0.2, -0.12, 0.2]).value)
    assert [row[1:] for row in tables(summary)["ndcg@10"][-2:]] == [["40.07", "44.01"], ["", "-11.25"]]


def test_one_query_or_one_model_says_nothing_of_others() -> None:
    row = _row(summarise([_result("a", "s", [0.5]), _result("b", "s", [0.1])]), "b", "s")
    assert (row.low, row.difference_low, row.p, row.p_t, row.sure) == (None, None, 1.0, 1.0, False)
    alone = summarise([_result("a", "s", _some(1)), _result("a", "t", _some(2))])
    assert len(alone.rows) == 3 and not alone.regressions
    assert "*" not in markdown(alone).replace("**ndcg@10**", "")


def test_many_comparisons_can_still_be_sure() -> None:
    """600 of them: with 9,999 draws Holm's least p-value would be 0.06."""
    base = _some(0, 30)
    models = [_result(f"m{number}", "s", np.minimum(base + 0.3, 1) if number else base) for number in range(601)]
    assert all(row.sure for row in summarise(models).rows[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:-1], "has no result on xquad-en"),
        (lambda r: [*r, r[0]], "has two results on nq"),
        (lambda r: [replace(r[0], num_documents=9), *r[1:]], "different corpora"),
        (lambda r: [replace(r[0], corpus="judged passages"), *r[1:]], "different corpora"),
        (lambda r: [_result(r[0].model, "nq", _some(0, 59)), *r[1:]], "different queries"),
        (lambda r: [_result(r[0].model, "nq", _some(0), metrics=("acc@100",)), *r[1:]], "different metrics"),
        (lambda r: [], "nothing to compare"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(
    results: list[Result], change: Callable[[list[Result]], list[Result]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        summarise(change(results))


def test_a_wrong_baseline_names_the_models(results: list[Result]) -> None:
    with pytest.raises(UsageError, match="did you mean 'runs/base/model'"):
        summarise(results, baseline="runs/base/mode")
    assert summarise(results, baseline="runs/better/model").baseline == "runs/better/model"


def test_results_are_the_same_twice_and_in_any_order(results: list[Result]) -> None:
    first = summarise(results, baseline="runs/base/model").as_json()
    assert summarise(results, baseline="runs/base/model").as_json() == first
    shuffled = summarise(results[::-1], baseline="runs/base/model").as_json()
    key = lambda row: (row["kind"], row["name"], row["model"])  # noqa: E731
    for one, other in zip(sorted(first["rows"], key=key), sorted(shuffled["rows"], key=key), strict=True):
        assert one == pytest.approx(other)


def test_csv_holds_all_rows(results: list[Result], tmp_path: Path) -> None:
    summary = summarise(results)
    assert export(tmp_path / "new" / "scores.csv", summary, results) == [tmp_path / "new" / "scores.csv"]
    with (tmp_path / "new" / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(summary.rows)
    for read, row in zip(rows, summary.rows, strict=True):
        assert float(read["score"]) == row.score
        assert read["difference"] == ("" if row.difference is None else str(row.difference))
        assert read["sure"] == str(row.sure)


def test_markdown_has_stars_as_the_paper(results: list[Result], tmp_path: Path) -> None:
    summary = summarise(results)
    export(tmp_path / "scores.md", summary, results)
    text = (tmp_path / "scores.md").read_text("utf-8")
    base, worse = (_row(summary, f"runs/{m}/model", "xquad-de") for m in ("base", "worse"))
    assert f"| xquad-de | {100 * base.score:.2f} | {100 * worse.score:.2f}* (-" in text
    alike = 100 * _row(summary, "runs/worse/model", "nq").score
    assert f"| {alike:.2f} (+0.00) |" in text
    assert "| family xquad (2) |" in text and "| mean of 3 suites |" in text and "| worst case, ε = 0.1 |" in text
    assert text.rstrip().endswith("another seed of a training is another model")
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


@pytest.mark.parametrize("wrong", ["scores.json", "scores.xlsx", "scores.CSV"])
def test_a_wrong_ending_names_the_right_ones(wrong: str, results: list[Result], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"allowed: a file that ends in \.csv or \.md, or a folder"):
        export(tmp_path / wrong, summarise(results), results)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_what_looks_like_one(tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()
    (tmp_path / "file").write_text("")
    assert [checked_export(place) for place in ("out", "out.d/", tmp_path / "v1.5", "a.csv", "a.md")] == [
        "mteb", "mteb", "mteb", "csv", "md"]  # fmt: skip
    with pytest.raises(UsageError, match="is a file"):
        checked_export(tmp_path / "file")


@pytest.mark.slow
def test_mteb_reads_its_json_back(tmp_path: Path) -> None:
    mteb = pytest.importorskip("mteb")
    suites = {"NFCorpus": "en", "miracl/zh": "zh", "other": None}
    results = [_result(m, s, _some(len(s)), metrics=("ndcg@10", "recall@100"), language=language)
               for m in ("org/a", "b") for s, language in suites.items()]  # fmt: skip
    files = export(tmp_path / "results", summarise(results), results)
    assert len(files) == len(set(files)) == 8 and all(file.is_file() for file in files)
    for result in results:
        folder = tmp_path / "results" / result.model.replace("/", "__") / "no_revision_available"
        read = mteb.results.TaskResult.from_disk(folder / f"{result.suite.replace('/', '__')}.json")
        assert read.task_name == result.suite
        assert read.get_score() == result.metrics["ndcg@10"]
        assert read.get_score(getter=lambda scores: scores["recall_at_100"]) == result.metrics["recall@100"]
        assert read.languages == {"en": ["eng"], "zh": ["zho"], None: ["und"]}[result.language]
        assert read.evaluation_time == 2.5
        assert json.loads((folder / "model_meta.json").read_text("utf-8"))["name"] == result.model
    cache = mteb.ResultCache(tmp_path)
    found = cache.load_results(include_remote=False)
    assert {(one.model_name, len(one.task_results)) for one in found.model_results} == {("org/a", 3), ("b", 3)}


def test_the_t_test_beside_it_is_scipys(results: list[Result]) -> None:
    row = _row(summarise(results), "runs/better/model", "nq")
    before, after = ([s["ndcg@10"] for s in results[k].per_query.values()] for k in (0, 2))
    assert row.p_t == pytest.approx(stats.ttest_rel(after, before).pvalue)
