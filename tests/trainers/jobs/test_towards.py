"""Learning towards a target over a store: what is asked before, whom it measures on, what it saves and says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainers
from cli import app
from mixture import Store, UsageError, registry
from mixture.jobs import gc, ingest
from mixture.materialised import MaterialisedMixture
from mixture.store import layout
from mixture.suites.halves import LEARN, half_of
from tests.trainers.conftest import write_suite
from trainers.jobs.towards import history_rows
from trainers.learning.config import LearningSettings
from trainers.learning.lab import Lab
from trainers.learning.law import within_error
from trainers.learning.learners import Found
from trainers.learning.learners.learner import Round
from trainers.learning.target import Target

SHORT: dict[str, Any] = {"batch_size": 8, "temperature": 0.05, "negatives": 2, "max_query_tokens": 32,
                         "max_passage_tokens": 32, "steps": 12, "learning_rate": 1e-2}  # fmt: skip
INFLUENCE = LearningSettings(algorithm="influence", round_steps=6, probe_steps=2, **SHORT)
SEARCH = LearningSettings(algorithm="search", branch_steps=4, num_candidates=12, fidelity=3, **SHORT)
KMM = LearningSettings(algorithm="kmm", branch_steps=4, **SHORT)


@pytest.fixture
def target(mixture_data: MaterialisedMixture, tmp_path: Path) -> Path:
    """A suite of 24 rows of middle."""
    return write_suite(mixture_data, tmp_path / "middle-en", 24)


@pytest.fixture
def learn(small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, target: Path) -> Any:
    def run(settings: LearningSettings, mixture: str = "mix", **given: Any) -> Any:
        given = {"target": str(target), "name": settings.algorithm, "proxy": str(static_model)} | given
        return trainers.learn_weights(small_store, mixture, settings=settings, **given)

    return run


def test_influence_saves_the_mean_of_its_later_rounds_and_their_history(learn: Any, small_store: Store) -> None:
    made = learn(INFLUENCE)
    rows = small_store.sql("SELECT * FROM weight_history ORDER BY step, collection").to_pylist()
    assert [r["step"] for r in rows] == [6] * 3 + [12] * 3
    assert made.first.spec.weights == pytest.approx({r["collection"]: r["mean_weight"] for r in rows[3:]}, abs=1e-12)
    assert made.first.spec.weights == pytest.approx({r["collection"]: r["weight"] for r in rows[3:]}, abs=1e-12)
    assert {r["num_examples"] for r in rows} == {16}
    tried = small_store.sql("SELECT kind, count(*) AS n FROM candidates GROUP BY ALL").to_pylist()
    assert tried == [{"kind": "round", "n": 6}]
    scores = small_store.sql("SELECT * FROM candidate_scores ORDER BY candidate").to_pylist()
    assert [(r["target"], r["target_group"]) for r in scores] == [("middle-en/learn", "middle")] * 2
    assert made.lines()[0].startswith(f"run {made.first.run_id}: over the later 1 of 2 rounds")
    assert made.first.note == "influence towards middle-en/learn"
    assert small_store.sql("SELECT kind, status, result FROM runs").to_pylist() == [
        {"kind": "influence", "status": "finished", "result": "influence:1"}
    ]
    # Found again, also with another average.
    other = learn(replace(INFLUENCE, average="current"), name="last")
    assert other.first.spec.weights == pytest.approx({r["collection"]: r["weight"] for r in rows[3:]}, abs=1e-12)
    assert small_store.rows("SELECT count(*) AS n FROM runs")[0]["n"] == 1


def test_the_rows_of_a_history() -> None:
    rounds = tuple(Round(10 * n, np.array([w, 1 - w]), np.array([0.1, np.nan]), 5) for n, w in
                   enumerate((0.2, 0.4, 0.6, 0.8), 1))  # fmt: skip
    rows = [r for r in history_rows(["a", "b"], Found(np.array([0.7, 0.3]), rounds)) if r["collection"] == "a"]
    assert [r["mean_weight"] for r in rows] == pytest.approx([0.2, 0.4, 0.5, 0.7])
    assert [r["ema_weight"] for r in rows] == pytest.approx([0.2, 0.22, 0.258, 0.3122])
    assert rows[0]["measurement"] == 0.1
    (one, other) = history_rows(["a", "b"], Found(np.array([0.7, 0.3])))
    assert (one["step"], one["weight"], one["mean_weight"], one["measurement"]) == (1, 0.7, 0.7, None)
    assert other["weight"] == 0.3


def test_kmm_stores_what_the_collections_have_in_common(learn: Any, small_store: Store) -> None:
    made = learn(KMM)
    rows = small_store.sql("SELECT * FROM collection_products").to_pylist()
    products = {(r["collection"], r["other"]): r["product"] for r in rows}
    assert len(products) == 9
    assert all(products[a, b] == pytest.approx(products[b, a]) for a, b in products)
    config = json.loads(small_store.sql("SELECT config FROM runs").to_pylist()[0]["config"])
    assert set(config["facts"]["alignment"]) == {"easy", "hard", "middle"}
    assert made.first.spec.weights["middle"] > 0.5 / 3
    branches = layout.branches(small_store.work)
    assert len(list(branches.glob("branch-*.safetensors"))) == 6
    # The branches serve other runs; no finished one needs them.
    small_store.connection.execute("UPDATE runs SET status = 'running'")
    assert "runs/branches" not in [thing.path for thing in gc(small_store, dry_run=True)]
    small_store.connection.execute("UPDATE runs SET status = 'finished'")
    assert [(t.path, t.why) for t in gc(small_store)] == [("runs/branches", "branches that no unfinished run uses")]
    assert not branches.exists()


def test_search_tries_and_says_how_far_it_can_be_trusted(learn: Any, small_store: Store) -> None:
    made = learn(SEARCH)
    rows = small_store.rows("SELECT kind, count(*) // 3 AS n FROM candidates GROUP BY kind")
    kinds = {row["kind"]: row["n"] for row in rows}
    assert kinds["merged"] == 12
    facts = next(iter(made.facts["runs"].values()))["facts"]
    if facts["held_out_correlation"] >= 0.5:
        assert (kinds["proposal"], kinds["trained"]) == (7, 3)
        assert any("merged and real trainings order 3 mixtures" in line for line in made.lines())
    else:
        assert "the weights stay those of the base mixture" in made.lines()[-1]
        assert made.first.spec.weights == pytest.approx(dict.fromkeys(("easy", "hard", "middle"), 1 / 3))


def test_an_ensemble_averages_the_members_that_do_best(learn: Any, small_store: Store) -> None:
    parts = registry.pin(small_store)
    for name, weights in (("good", {"easy": 0.0, "middle": 1.0, "hard": 0.0}),
                          ("bad", {"easy": 0.0, "middle": 0.0, "hard": 1.0})):  # fmt: skip
        registry.save(small_store, registry.weighted(parts, weights), name)
    settings = LearningSettings(algorithm="ensemble", members=("good", "bad:1"), **SHORT)
    made = learn(settings)
    tried = small_store.sql(
        "SELECT candidate, collection, weight FROM candidates WHERE kind = 'trained' ORDER BY ALL"
    ).to_pylist()
    assert [r["weight"] for r in tried] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0, 1, 0, 1, 0])
    losses = next(iter(made.facts["runs"].values()))["facts"]["losses"]
    best = min(losses, key=lambda name: losses[name])
    expected = {"the base mixture": dict.fromkeys(("easy", "hard", "middle"), 1 / 3), "good": {"middle": 1.0}}[best]
    assert {k: v for k, v in made.first.spec.weights.items() if v} == pytest.approx(expected)
    assert f"the best of 3 is {best}" in made.lines()[0]
    # A member's name may mean other weights later: that is another run.
    registry.save(small_store, registry.weighted(parts, {"easy": 1.0, "middle": 1.0, "hard": 0.0}), "good")
    learn(settings)
    assert small_store.rows("SELECT count(*) AS n FROM runs")[0]["n"] == 2


def proportions(weights: dict[str, float], *names: str) -> list[float]:
    return [weights[name] / sum(weights[n] for n in names) for name in names]


def test_collections_that_are_as_they_were_keep_the_proportions_of_a_mixture(learn: Any, small_store: Store) -> None:
    parts = registry.pin(small_store, ["easy", "hard"])
    known = registry.save(small_store, registry.weighted(parts, {"easy": 0.8, "hard": 0.2}), "known")
    settings = replace(SEARCH, num_candidates=None)
    made = learn(settings, reuse="known")
    rows = small_store.sql("SELECT candidate, kind, collection, weight FROM candidates").to_pylist()
    tried: dict[int, dict[str, float]] = {}
    for row in rows:
        tried.setdefault(row["candidate"], {})[row["collection"]] = row["weight"]
    together = [proportions(weights, "easy", "hard") for weights in (*tried.values(), made.first.spec.weights)]
    assert together == pytest.approx(np.array([[0.8, 0.2]] * len(together)))
    assert len({round(weights["middle"], 6) for weights in tried.values()}) > 8
    assert sum(row["kind"] == "merged" for row in rows) == 3 * 9
    # A branch of each, of which that of both was drawn by their proportions.
    assert len(list(layout.branches(small_store.work).glob("branch-*.safetensors"))) == 2
    assert made.lines()[0].endswith("weighed together, as in known:1: easy, hard")
    assert made.first.note == "search towards middle-en/learn, reusing known:1"
    parents = small_store.sql("SELECT parents FROM mixtures WHERE mixture = $m", {"m": made.first.spec.id}).to_pylist()
    assert parents == [{"parents": [registry.resolve(small_store, "mix").spec.id, known.spec.id]}]


def test_what_the_base_gives_nothing_can_be_reused(learn: Any, small_store: Store) -> None:
    parts = registry.pin(small_store, ["easy", "hard"])
    registry.save(small_store, registry.weighted(parts, {"easy": 0.8, "hard": 0.2}), "known")
    whole = registry.weighted(registry.pin(small_store), {"easy": 0.0, "hard": 0.0, "middle": 1.0})
    registry.save(small_store, whole, "near")
    weights = learn(replace(SEARCH, num_candidates=8), reuse="known", base="near").first.spec.weights
    assert weights["easy"] == pytest.approx(4 * weights["hard"])


def test_what_has_changed_since_is_searched(learn: Any, small_store: Store) -> None:
    registry.save(small_store, registry.weighted(registry.pin(small_store), {"easy": 4.0, "middle": 2.0, "hard": 1.0}),
                  "known")  # fmt: skip
    settings = replace(SEARCH, num_candidates=8)
    with pytest.raises(UsageError, match="`reuse` is known:1, which has every collection of mix:1 as it is now"):
        learn(settings, reuse="known")
    raw = Path(small_store.work).parent / "raw" / "hard.jsonl"
    rows = raw.read_text("utf-8").splitlines(keepends=True)[:4]
    raw.write_text("".join(row.replace('"query": "', '"query": "which ') for row in rows))
    ingest(small_store, [str(raw)])
    now = registry.pin(small_store)
    registry.save(small_store, registry.weighted(now, dict.fromkeys(now, 1.0)), "mix")
    made = learn(replace(settings, holdout=0.3), "mix", reuse="known")
    assert made.lines()[0].endswith("weighed together, as in known:1: easy[train], middle[train]")
    weights = made.first.spec.weights
    assert proportions(weights, "easy[train]", "middle[train]") == pytest.approx([2 / 3, 1 / 3])
    # What that made has these rows held out as well.
    with pytest.raises(UsageError, match="there is nothing to search"):
        learn(replace(settings, holdout=0.3), "mix", reuse=made.first)
    one = registry.save(small_store, registry.weighted(registry.pin(small_store, ["hard"]), {"hard": 1.0}), "one")
    with pytest.raises(UsageError, match=r"in which no collection of known:1 with a weight is as it is now"):
        learn(settings, "known", reuse=one)


def test_members_within_one_standard_error_count_alike() -> None:
    scores = np.array([[1.0, 1.0, 1.0], [1.1, 0.9, 1.06], [1.2, 1.2, 1.21]])
    assert within_error(scores) == [0, 1]
    assert within_error(scores[:, :1]) == [0]


def test_members_of_other_collections_are_refused(learn: Any, small_store: Store) -> None:
    parts = registry.pin(small_store, ["easy", "hard"])
    registry.save(small_store, registry.weighted(parts, {"easy": 1, "hard": 1}), "two")
    with pytest.raises(UsageError, match="`members`: two is not a mixture of the same collections: middle is in one"):
        learn(LearningSettings(algorithm="ensemble", members=("two",), **SHORT))
    with pytest.raises(UsageError, match=r"members is \(\); allowed: one mixture or more"):
        LearningSettings(algorithm="ensemble", **SHORT)


def test_held_out_rows_are_targets_and_in_no_training(
    learn: Any, small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sets: list[Target] = []
    whole, made_target = Lab._source, Target.__init__

    def noted(lab: Lab, plan: Any) -> Any:
        source = whole(lab, plan)
        texts = source.homogeneous

        def remembered(step: int) -> Any:
            batch = texts(step)
            seen.extend(batch.queries)
            return batch

        source.homogeneous = remembered  # type: ignore[method-assign]
        return source

    def noted_target(self: Target, *arguments: Any, **named: Any) -> None:
        made_target(self, *arguments, **named)
        sets.append(self)

    monkeypatch.setattr(Lab, "_source", noted)
    monkeypatch.setattr(Target, "__init__", noted_target)
    made = learn(replace(INFLUENCE, holdout=0.3))
    names = [s.name for s in sets[0].sets]
    assert names == ["middle-en/learn", *(f"{c}[train]/held out" for c in ("easy", "hard", "middle"))]
    assert [s.group for s in sets[0].sets] == ["middle", "easy", "hard", "middle"]
    held = {query for s in sets[0].sets[1:] for query in s.queries}
    assert len(held) > 24
    assert seen
    assert not held & set(seen)
    assert {half_of(query) for query in sets[0].sets[0].queries} == {LEARN}
    assert sorted(made.first.spec.weights) == ["easy[train]", "hard[train]", "middle[train]"]
    data = registry.resolve(small_store, made.first.reference)
    assert data.spec.id != registry.resolve(small_store, "mix").spec.id
    # An ensemble of what was learned with the same rows held out, and of mixtures of all rows.
    mixed = learn(LearningSettings(algorithm="ensemble", members=("influence", "mix"), holdout=0.3, **SHORT))
    assert sorted(mixed.first.spec.weights) == sorted(made.first.spec.weights)


def test_one_collection_alone_gets_all(learn: Any, small_store: Store) -> None:
    parts = registry.pin(small_store, ["middle"])
    registry.save(small_store, registry.weighted(parts, {"middle": 1}), "one")
    for settings in (INFLUENCE, KMM, replace(SEARCH, num_candidates=8)):
        assert learn(settings, "one").first.spec.weights == {"middle": 1.0}


def test_seeds_are_averaged_and_their_spread_is_told(learn: Any, small_store: Store) -> None:
    made = learn(replace(INFLUENCE, seeds=2))
    runs = small_store.rows("SELECT run_id, kind FROM runs ORDER BY kind")
    assert [r["kind"] for r in runs] == ["influence", "influence", "tdro-seeds"]
    last = small_store.sql("SELECT collection, avg(mean_weight) AS w FROM weight_history WHERE step = 12 GROUP BY ALL")
    assert made.first.spec.weights == pytest.approx({r["collection"]: r["w"] for r in last.to_pylist()}, abs=1e-12)
    assert set(made.facts["spread"]) == {"easy", "hard", "middle"}
    assert len(made.lines()) == 2


@pytest.mark.parametrize(("settings", "given", "message"), [
    (INFLUENCE, {"target": ()}, "influence learns towards what is evaluated: name suites in `target`"),
    (LearningSettings(**SHORT), {}, "tdro looks at no target; leave `target` out"),
    (INFLUENCE, {"reference": "static"}, "influence .*uses no reference model; leave `reference` out"),
    (INFLUENCE, {"reuse": "mix"}, "influence reuses no weights; leave `reuse` out, or take algorithm=search"),
    (LearningSettings(**SHORT), {"reuse": "mix", "target": ()}, "tdro reuses no weights"),
    (replace(INFLUENCE, holdout=0.01), {}, "`holdout` is 0.01, and no collection has 8 rows to hold out"),
])  # fmt: skip
def test_what_does_not_go_together_is_said_at_once(
    learn: Any, settings: LearningSettings, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        learn(settings, **given)


def test_the_command(
    small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, target: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MIXTURE_STORE", str(small_store.work))
    small_store.close()
    command = ["learn-weights", "--mix", "mix", "--proxy", str(static_model), "--name", "won",
               "--algorithm", "influence", "--steps", "12", "--batch-size", "8", "--holdout", "0.3",
               "--target", str(target), "--json"]  # fmt: skip
    for assignment in ("round_steps=6", "probe_steps=2", "temperature=0.05", "max_query_tokens=32"):
        command += ["--set", assignment]
    with pytest.raises(SystemExit, match="0"):
        app(command)
    printed = json.loads(capsys.readouterr().out)
    assert printed["learning"]["target"][0] == "middle-en/learn"
    assert len(printed["learning"]["target"]) == 4
    with pytest.raises(SystemExit, match="2"):
        app([*command[:7], "--algorithm", "influence"])
    assert "name suites in --target, or set --holdout" in capsys.readouterr().err
