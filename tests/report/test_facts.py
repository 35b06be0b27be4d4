"""What a report says, held against SQL and against numbers worked by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime
from statistics import NormalDist, fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mixture import Store, UsageError, registry
from mixture.registry import slices
from mixture.report.facts import Facts, gather
from mixture.report.findings import findings, summary
from mixture.report.learning import FEWEST_STEPS, MOST_POINTS, thin
from mixture.report.lines import apart
from mixture.report.scores import FEWEST_SUITES, paired_test, query_test
from mixture.report.wording import percent
from mixture.store.write import insert_rows
from tests.report.conftest import COLLECTIONS, FORMULA, IMAGE, SCRIPT, SLICE, STEPS, WEIGHTS


def _facts(store: Store, name: str, against: str | None = None, **training: int) -> Facts:
    other = registry.resolve(store, against) if against else None
    return gather(store, registry.resolve(store, name), other, **training)


@pytest.fixture(scope="module")
def learned(store: Store) -> Facts:
    return _facts(store, "learned")


def test_weights_are_held_against_the_first_parent(learned: Facts) -> None:
    assert learned.against is not None and learned.against.reference == "base:1"
    assert {c.collection: c.weight for c in learned.components} == pytest.approx(WEIGHTS)
    assert [c.weight for c in learned.components] == sorted(WEIGHTS.values(), reverse=True)
    assert {c.against for c in learned.components} == {0.2}
    assert learned.distance == pytest.approx(0.3)
    assert learned.effective == pytest.approx(math.exp(-sum(w * math.log(w) for w in WEIGHTS.values())))
    assert learned.num_examples == sum(COLLECTIONS[name][3] for name in WEIGHTS)


def test_another_mixture_can_be_asked_for_and_what_it_lacks_is_shown(store: Store) -> None:
    facts = _facts(store, "top", "base")
    dropped = {c.collection for c in facts.components if c.weight is None}
    assert dropped == {SCRIPT, IMAGE, FORMULA}
    assert any("3 collections of base:1 are left out" in f.text for f in findings(facts))


def test_epochs_follow_from_steps_and_batch_size(store: Store) -> None:
    facts = _facts(store, "learned", steps=10, batch_size=20)
    epochs = {r.collection: r.epochs for r in facts.epochs}
    assert epochs == pytest.approx({name: w * 200 / COLLECTIONS[name][3] for name, w in WEIGHTS.items()})
    # Of 80, 60, 30, 20, 10 draws: forum, the script, the image and the formula pass 40, 20, 10, 5.
    assert any("10 steps of 20 repeat 4 of 5 collections" in f.text for f in findings(facts))
    with pytest.raises(UsageError, match="`steps` is 0"):
        _facts(store, "learned", steps=0)


def test_taken_out_counts_each_kind(learned: Facts) -> None:
    rows = {r.collection: r for r in learned.taken_out}
    assert set(rows) == set(WEIGHTS)
    wiki = rows["wiki"]
    assert (wiki.rows_read, wiki.repeated, wiki.rejected, wiki.duplicates, wiki.tests) == (68, 4, 1, 2, 1)
    assert {(r.what, r.reason, r.suite): (r.num_rows, r.num_collections) for r in learned.reasons} == {
        ("rejected", "<u>not JSON</u>", None): (5, 5),
        ("removed", "duplicate", None): (2, 1),
        ("removed", "test query", "nq"): (1, 1),
    }


def test_the_run_is_the_mixtures_own(learned: Facts) -> None:
    run = learned.learning
    assert run is not None and run.own and run.run_id == "aaaa00000001"
    assert (run.num_steps, run.num_seeds, run.average) == (STEPS, 1, "current")
    assert run.ends()[1] == pytest.approx(WEIGHTS)
    assert run.settings["proxy"] == "qwen"
    assert not {"drift", "hard_for_both", "repeated"} & set(run.settings)
    losses = {r.collection: r for r in run.losses}
    # The last quarter has ten steps: all of them draw the first collection, every other one the rest.
    assert [losses[name].num_examples for name in WEIGHTS] == [40, 20, 20, 20, 20]
    assert [losses[name].proxy_loss for name in WEIGHTS] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [r.collection for r in run.losses] == list(WEIGHTS)


def test_what_speaks_against_the_weights_is_said(learned: Facts) -> None:
    said = [f.text for f in findings(learned)]
    assert any(t.startswith("wiki gained weight although the reference is hardly ahead") for t in said)
    assert any(t.startswith(f"The reference went through {FORMULA} up to 19 times") for t in said)
    assert not any("without a reference" in t for t in said)
    assert learned.learning is not None
    alone = tuple(replace(loss, reference_loss=None) for loss in learned.learning.losses)
    bare = replace(learned, learning=replace(learned.learning, losses=alone, hard_for_both={}, repeated={}))
    said = [f.text for f in findings(bare)]
    assert any("were learned without a reference" in t for t in said)
    assert not any("Noise" in t or "by heart" in t for t in said)


def test_seeds_are_averaged_and_their_spread_is_shown(store: Store) -> None:
    facts = _facts(store, "seeds")
    run = facts.learning
    assert run is not None and run.own and run.num_seeds == 2
    assert run.ends()[1] == pytest.approx({c.collection: c.weight for c in facts.present})
    assert {c.spread for c in facts.present} == {0.01}
    assert run.drift == (0.03, 0.04)


def test_a_mixture_made_of_a_learned_one_shows_that_run(store: Store) -> None:
    run = _facts(store, "top").learning
    assert run is not None and not run.own and run.made == "learned:1"


def test_a_mixture_without_a_run_has_none(store: Store) -> None:
    assert _facts(store, "base").learning is None


def test_the_model_trained_most_alike_is_held_against(learned: Facts) -> None:
    found = learned.evaluation
    assert found is not None
    assert (found.model, found.against, found.differs) == ("learned", "base", ())
    test = found.tests["ndcg@10"]
    # Six gains of one sign: 2 of the 64 ways to draw the signs are as far from 0.
    assert test.p == pytest.approx(2 / 64)
    assert test.difference == pytest.approx(0.035)
    assert (test.low, test.high) == pytest.approx((0.01, 0.06))
    assert findings(learned)[0].text == (
        "nDCG@10 is 43.5 on average over 6 suites, 3.5 points higher than with base:1. That is more than chance "
        "between suites (permutation test: 95 % interval +1.0 to +6.0, p\u00a0=\u00a00.031)."
    )


def test_each_suite_is_tested_over_its_queries(store: Store, learned: Facts) -> None:
    assert learned.evaluation is not None
    scores = learned.evaluation.of("ndcg@10")
    plain = []
    for score in scores:
        assert score.test is not None
        rows = store.sql(
            """SELECT a.value - b.value AS d FROM evaluation_queries a JOIN evaluation_queries b
                   ON a.suite = b.suite AND a.metric = b.metric AND a.query_id = b.query_id
                   AND a.evaluated_at = b.evaluated_at
               WHERE a.suite = ? AND a.metric = 'ndcg@10' AND a.evaluated_at = '2026-01-01T00:00:00Z'
                   AND a.model LIKE '%/learned' AND b.model LIKE '%/base' AND a.mixture <> b.mixture""",
            [score.suite],
        )
        differences = rows["d"].to_pylist()
        mean, error = fmean(differences), stdev(differences) / math.sqrt(50)
        assert len(differences) == score.test.num_pairs == 50
        assert score.test.difference == pytest.approx(mean)
        # 2.0096: the 97.5th percentile of Student's t with 49 degrees of freedom.
        assert score.test.low == pytest.approx(mean - 2.0096 * error, abs=1e-6)
        assert score.test.high == pytest.approx(mean + 2.0096 * error, abs=1e-6)
        plain.append(2 * (1 - NormalDist().cdf(abs(mean) / error)))
    # Benjamini and Hochberg's step-up over the six; the normal's p is near the t's.
    order = sorted(range(6), key=lambda i: plain[i])
    expected = [min(plain[k] * 6 / (order.index(k) + 1) for k in order[order.index(i) :]) for i in range(6)]
    assert [score.test.p for score in scores if score.test] == pytest.approx(plain, abs=0.02)
    found = [score.adjusted for score in scores if score.adjusted is not None]
    assert found == pytest.approx(expected, abs=0.02)
    assert any(p >= 0.05 for p in found) and any(p < 0.001 for p in found)
    (said,) = (f.text for f in findings(learned) if "paired t-test over the queries" in f.text)
    better = [score.suite for score in scores if score.adjusted is not None and score.adjusted <= 0.05]
    assert said.startswith(f"Suite by suite, nDCG@10 compared with base:1 is higher on {better[0]}, ")
    assert f"may differ by chance between queries on {6 - len(better)} of 6 suites" in said


def test_equal_scores_are_no_difference() -> None:
    for test in (paired_test([0.1] * 6, [0.1] * 6), query_test([0.1] * 30, [0.1] * 30)):
        assert (test.difference, test.low, test.high, test.p) == (0.0, 0.0, 0.0, 1.0)


@given(st.lists(st.floats(-0.2, 0.2), min_size=FEWEST_SUITES, max_size=16))
@settings(max_examples=60, deadline=None)
def test_interval_and_p_speak_with_one_voice(difference: list[float]) -> None:
    test = paired_test(difference, [0.0] * len(difference))
    assert test.low <= test.high
    assert (test.low > 0 or test.high < 0) == (test.p <= 0.05)


@pytest.mark.parametrize("suites", [6, 9, 13, 15])
def test_the_permutation_test_is_scipys(suites: int) -> None:
    difference = np.random.default_rng(suites).normal(0.02, 0.03, suites)
    expected = stats.permutation_test(
        (difference, np.zeros(suites)), lambda x, y, axis: np.mean(x - y, axis=axis), vectorized=True,
        permutation_type="samples", n_resamples=40_000, rng=0,
    )  # fmt: skip
    found = paired_test(difference.tolist(), [0.0] * suites)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12 if suites <= 13 else 0.01)
    # The mean that the interval ends at is the first that the test would not refuse.
    for shift, refused in ((found.low - 1e-6, True), (found.low + 1e-6, False), (found.high + 1e-6, True)):
        assert (paired_test((difference - shift).tolist(), [0.0] * suites).p <= 0.05) == refused


def test_a_score_that_may_be_chance_is_said_with_the_interval_that_says_so(learned: Facts) -> None:
    assert learned.evaluation is not None
    test = paired_test([0.01, 0.02, 0.03, 0.04, 0.05, -0.001], [0.0] * 6)
    found = replace(learned, evaluation=replace(learned.evaluation, tests={"ndcg@10": test}))
    assert "That may be chance between suites (permutation test: 95 % interval −0.1 to +5.0," in findings(found)[0].text
    few = replace(learned, evaluation=replace(learned.evaluation, tests={}))
    assert "6 suites are too few" in findings(few)[0].text
    alone = replace(learned, against=None)
    assert findings(alone)[0].text == "nDCG@10 is 43.5 on average over 6 suites."


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"a": 0.624, "b": 0.188, "c": 0.188}, "All weights are between half and twice an equal share (33.3 %): "
         "from 18.8 % to 62.4 %."),
        ({"a": 0.35, "b": 0.35, "c": 0.3}, "All weights are within a quarter of an equal share (33.3 %): from 30.0 % "
         "to 35.0 %."),
    ],
)  # fmt: skip
def test_how_far_weights_are_from_equal_is_said_as_it_is(learned: Facts, weights: dict[str, float], said: str) -> None:
    parts = tuple(replace(learned.components[0], collection=name, weight=w) for name, w in weights.items())
    texts = [f.text for f in findings(replace(learned, components=parts, against=None))]
    assert [t for t in texts if t.startswith("All weights")] == [said]


def test_an_imported_mixture_that_is_nowhere_here(store: Store) -> None:
    facts = _facts(store, "elsewhere")
    assert facts.missing == ["farther", "far"]
    assert facts.num_examples is None
    assert {r.collection: r.epochs for r in facts.epochs} == {"far": 16.0, "farther": None}
    assert (facts.taken_out, facts.reasons, facts.evaluation) == ((), (), None)
    assert any("lacks 2 of the 2 collections" in f.text for f in findings(facts))


def test_a_name_with_brackets_is_a_name(store: Store) -> None:
    facts = _facts(store, "plain")
    assert facts.missing == []
    assert {(p.value, p.num_examples) for p in facts.composition if p.dimension == "language"} == {
        ("en", 40), ("zh", 30)}  # fmt: skip
    assert {c.collection for c in facts.present} == {SLICE, "forum"}


def test_the_first_lines_say_what_it_is(learned: Facts) -> None:
    assert summary(learned) == "5 collections with 135 examples, weighted by tDRO in 40 steps."
    said = [f.text for f in findings(learned)]
    sections = [f.section for f in findings(learned)]
    assert sections[:2] == ["scores", "scores"] and "scores" not in sections[2:]
    warns = [f.warns for f in findings(learned)][2:]
    assert warns == sorted(warns, reverse=True)
    # Unknown: 0.15 of the draws; other: 0.1.
    assert "25.0 % of the draws come from 2 collections whose licence is unknown or none of the standard ones." in said
    assert "30.0 % of the draws come from 1 collection under a licence that forbids commercial use." in said
    assert any(text.startswith("The weights still moved by 3.00 %") for text in said)
    assert f"While learning, the floor held up {FORMULA}." in said
    assert "forum takes 40.0 % of the draws, 2.0 times an equal share." in said


@given(st.integers(1, 5_000), st.integers(2, 200))
def test_thinning_keeps_both_ends_and_the_limit(steps: int, most: int) -> None:
    kept = thin(range(1, steps + 1), most)
    assert kept == sorted(set(kept)) and len(kept) == min(steps, most)
    assert (kept[0], kept[-1]) == (1, steps)


def test_long_histories_are_thinned(hundred: Store) -> None:
    run = _facts(hundred, "hundred").learning
    assert run is not None
    assert run.steps_shown == max(FEWEST_STEPS, MOST_POINTS // 100)
    assert {p.step for p in run.points} >= {1, 300}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_labels_keep_their_order_and_distance(values: list[float], gap: float) -> None:
    for low in (-1e9, 0.2):
        places = apart(sorted(values, reverse=True), gap, low)
        assert all(a - b >= gap * (1 - 1e-6) for a, b in itertools.pairwise(places))
        assert places[-1] >= low


def test_small_shares_keep_a_figure() -> None:
    shares = (0.0, 0.00004, 0.0028, 0.0999, 0.1, -0.05, 1.0)
    assert [percent(share) for share in shares] == [
        "0 %", "0.004 %", "0.28 %", "9.99 %", "10.0 %", "−5.00 %", "100 %"]  # fmt: skip


def test_slices_are_components_of_their_own(small_store: Store) -> None:
    lake = small_store
    whole = registry.save(lake, registry.weighted(registry.pin(lake), {"easy": 1.0, "hard": 1.0}), "whole")
    ids = lake.sql("SELECT example_id FROM examples WHERE collection = 'easy' ORDER BY 1 LIMIT 7")["example_id"]
    parts = slices.freeze(lake, [slices.slice_of("easy", "seven", "the first seven", ids.to_pylist())])
    facts = gather(lake, registry.save(lake, registry.weighted(parts, dict.fromkeys(parts, 1.0)), "sliced"), whole)
    (part,) = facts.present
    assert (part.num_examples, part.num_today) == (7, 7)
    assert [r.collection for r in facts.taken_out] == ["easy"]
    assert summary(facts).startswith("1 slice with 7 examples")
    assert any("1 collection of whole:1 is left out: hard" in f.text for f in findings(facts))


def test_a_verdict_stands_first(store: Store) -> None:
    base, learned = (registry.resolve(store, name) for name in ("base", "learned"))
    assert gather(store, learned, base).verdict is None
    numbers = {"num_suites": 8, "num_queries": 80, "ours": 0.4, "theirs": 0.3, "difference": 0.1, "error": 0.01,
               "low": 0.08, "high": 0.12, "p": 0.01, "metric": "ndcg@10", "steps": 400, "model": "static"}  # fmt: skip
    given = [(1, "all", base.spec.id, "old"), (2, "all", base.spec.id, "ahead of base"),
             (2, "not own", base.spec.id, "level"), (3, "all", "other", "behind")]  # fmt: skip
    rows = [numbers | {"verdict": f"{n}", "suites": suites, "says": says, "seeds": [1, 2, 3],
                       "mixture": learned.spec.id, "against": against, "decided_at": datetime(2026, 1, n, tzinfo=UTC)}
            for n, suites, against, says in given]  # fmt: skip
    insert_rows(store, "verdicts", rows)
    try:
        first = findings(gather(store, learned, base))[0]
    finally:
        store.transaction(lambda c: c.execute("DELETE FROM verdicts"))
    assert first.text == "Trained alike, 3 models each (static, 400 steps), it is ahead of base."
    assert first.section == "scores"
