"""Coresets over a store: which rows become the mixture, what the store keeps of it, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture import Store, jobs, registry
from mixture.embeddings import Space
from mixture.errors import StoreError, UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store.materialise import materialise
from mixture.suites.halves import half_of


class Model:
    """A bag of letters, of unit length, that counts what it was given."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, texts: Any, kind: str) -> np.ndarray:
        self.given += len(texts)
        counts = np.array([[text.count(letter) for letter in "abcdefghiklmnorstuv"] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)

    def space(self, kind: str) -> Space:
        return Space(model="letters", prompt="query: " if kind == "query" else "")


def choose(store: Store, name: str = "core", **options: Any) -> jobs.MadeCoreset:
    options = {"target": "aim", "budget": 12, "encode": Model()} | options
    return jobs.coreset(store, "all", name, **options)


@pytest.fixture
def store(small_store: Store, tmp_path: Path) -> Store:
    """Beside the three collections a target, apart: rows whose letters are those of `kel`."""
    rows = [{"query": f"kel {'kel ' * n}ba", "pos": [f"kel kel {'le ' * n}"], "neg": []} for n in range(20)]
    (tmp_path / "aim.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs.create(small_store, "all")
    jobs.ingest(small_store, tmp_path / "aim.jsonl", name="aim")
    jobs.create(small_store, "aim", collections="aim")
    return small_store


def write_suite(
    folder: Path, queries: dict[str, str], documents: dict[str, str], qrels: list[tuple[str, str, int]]
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("queries", queries), ("corpus", documents)):
        lines = (json.dumps({"_id": key, "title": "", "text": text}) + "\n" for key, text in texts.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    rows = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in qrels)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    queries = {f"q{n}": f"ba ba dan number {n}" for n in range(30)}
    documents = {f"d{n}": f"ba dan {n}" for n in range(30)} | {"best": "ba ba ba"}
    qrels = [(f"q{n}", f"d{n}", 1) for n in range(30)] + [("q3", "best", 2), ("q3", "gone", 3)]
    return write_suite(tmp_path / "desk", queries, documents, qrels)


def test_each_collection_gives_by_its_weight_and_keeps_it(store: Store) -> None:
    jobs.create(store, "all", weights={"easy": 0.5, "middle": 0.3, "hard": 0.2})
    made = choose(store, budget=20)
    parts = {c.name: c for c in made.mixture.spec.components}
    assert {name: c.weight for name, c in parts.items()} == pytest.approx(
        {"easy[core]": 0.5, "middle[core]": 0.3, "hard[core]": 0.2}
    )
    assert {row["collection"]: row["chosen"] for row in made.rows} == {"easy": 10, "middle": 6, "hard": 4}
    materialise(store, made.mixture.spec)
    data = MaterialisedMixture.open(store.work / "materialised", made.mixture.spec.id)
    assert data.sizes == {"easy[core]": 10, "middle[core]": 6, "hard[core]": 4}


def test_free_shares_are_what_is_near(store: Store, tmp_path: Path) -> None:
    """Eight rows of the target's kind are put into one collection: they are all chosen, and it gets the weight."""
    rows = [{"query": f"kel kel {'kel ' * n}", "pos": [f"kel kel {'el ' * n}"], "neg": []} for n in range(8)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs.ingest(store, tmp_path / "more.jsonl", name="hard")
    jobs.create(store, "all", collections=["easy", "middle", "hard"])
    made = choose(store, budget=8, shares="free")
    near = store.rows("SELECT example_id FROM examples WHERE query LIKE 'kel kel%' AND collection = 'hard'")
    chosen = store.rows("SELECT * FROM coreset_examples ORDER BY example_id")
    assert {row["example_id"] for row in chosen} == {row["example_id"] for row in near}
    assert {c.name: c.weight for c in made.mixture.spec.components} == {"hard[core]": 1.0}
    assert made.distance is not None and made.random is not None and made.whole is not None
    assert made.distance < made.random
    assert made.distance < made.whole
    assert made.remarks == ("no row is chosen of easy, middle",)


def test_a_collection_of_which_all_rows_are_chosen_stays_whole(store: Store) -> None:
    jobs.create(store, "all", weights={"easy": 0.8, "middle": 0.2})
    made = choose(store, budget=50)
    assert {c.name: c.slice for c in made.mixture.spec.components} == {"easy": None, "middle[core]": "core"}


def test_the_store_keeps_where_it_comes_from(store: Store) -> None:
    made = choose(store)
    saved = registry.resolve(store, "core")
    assert saved.parents == tuple(registry.resolve(store, name).spec.id for name in ("all", "aim"))
    assert saved.note == "coreset of all:1: 12 of 120 rows, towards aim:1"
    (run,) = store.rows("SELECT * FROM runs WHERE kind = 'coreset'")
    assert (run["run_id"], run["status"], run["result"]) == (saved.run_id, "finished", "core:1")
    (facts,) = store.rows("SELECT * FROM coresets")
    assert (facts["run_id"], facts["mixture"], facts["source"]) == (made.run_id, made.mixture.spec.id, saved.parents[0])
    assert (facts["num_examples"], facts["num_candidates"], facts["num_target_rows"]) == (12, 120, 20)
    assert facts["distance"] == made.distance
    rows = store.rows("SELECT * FROM coreset_examples")
    assert len(rows) == 12
    assert {row["nearest_of"] for row in rows} == {"aim"}
    assert {row["nearest_id"] for row in rows} <= set(
        store.read("FROM examples WHERE collection = 'aim'")["example_id"].to_pylist()
    )
    assert all(row["gradient"] is None for row in rows)
    selected = store.rows("SELECT example_id FROM selected_examples")
    assert sorted(row["example_id"] for row in rows) == sorted(row["example_id"] for row in selected)


def test_the_same_call_finds_the_same_and_encodes_nothing(store: Store) -> None:
    first = choose(store)
    again = Model()
    second = choose(store, encode=again)
    assert second.mixture.reference == first.mixture.reference == "core:1"
    assert (again.given, second.encoded, first.reused) == (0, 0, 0)
    assert second.rows == first.rows
    assert len(store.rows("SELECT * FROM coresets")) == 1
    assert len(store.rows("SELECT * FROM coreset_examples")) == 12


def test_the_distance_said_is_that_of_the_rows(store: Store) -> None:
    """Computed anew, from the texts that the mixture and the target have."""
    import ot

    made = choose(store, budget=30)
    pairs = []
    of_rows = "e.example_id IN (SELECT example_id FROM coreset_examples)"
    for those in (of_rows, "e.collection = 'aim'"):
        table = store.read(
            f"""SELECT e.query, p.text FROM examples e JOIN passages p
                ON p.collection = e.collection AND p.passage_id = e.positives[1].passage_id WHERE {those}"""
        )
        pairs.append(np.concatenate([Model()(table[name].to_pylist(), "query") for name in ("query", "text")], axis=1))
    costs = np.linalg.norm(pairs[0][:, None] - pairs[1][None], axis=2) / (2 * np.sqrt(2))
    expected = ot.emd2(np.full(30, 1 / 30), np.full(20, 1 / 20), costs.astype(np.float64))
    assert made.distance == pytest.approx(expected, abs=1e-5)
    cost = store.rows("SELECT min(distance) AS low, max(distance) AS high FROM coreset_examples")[0]
    assert cost["low"] == pytest.approx(costs.min(axis=1).min(), abs=1e-3)
    assert cost["high"] == pytest.approx(costs.min(axis=1).max(), abs=1e-3)


def test_random_rows_are_the_baseline(store: Store) -> None:
    chance = choose(store, "chance", random=True)
    assert chance.distance == chance.random
    assert choose(store).random == chance.random
    assert choose(store, "chance", random=True).mixture.reference == "chance:1"
    assert choose(store, "chance", random=True, seed=1).mixture.reference == "chance:2"
    assert chance.mixture.note == "coreset of all:1: 12 of 120 rows, drawn at random"


def test_of_a_suite_the_learn_half_counts_with_what_is_judged_best(store: Store, suite: Path) -> None:
    made = choose(store, target=suite, budget=40)
    learn = {f"q{n}" for n in range(30) if half_of(f"ba ba dan number {n}") == "learn"}
    assert 5 < made.target_rows == len(learn) < 25
    assert made.target == ("desk/learn",)
    rows = store.rows("SELECT DISTINCT nearest_of, nearest_id FROM coreset_examples")
    assert {row["nearest_of"] for row in rows} == {"desk/learn"}
    assert {row["nearest_id"] for row in rows} <= learn


def test_the_best_judged_document_is_the_positive(tmp_path: Path) -> None:
    from mixture.jobs.coreset_rows import _judged
    from mixture.suites.suite import load_suite

    qrels = [("q1", "d1", 1), ("q1", "d2", 2), ("q1", "gone", 3), ("q2", "d1", 0), ("q3", "d2", 1), ("q3", "d1", 1)]
    folder = write_suite(tmp_path / "s", {"q1": "a", "q2": "b", "q3": "c"}, {"d1": "one", "d2": "two"}, qrels)
    found = _judged(load_suite(folder))
    assert found.select(["id", "positive"]).to_pylist() == [
        {"id": "q1", "positive": "two"}, {"id": "q3", "positive": "one"}
    ]  # fmt: skip


def test_a_suite_that_was_scored_whole_is_remarked(store: Store, suite: Path) -> None:
    row = "INSERT INTO evaluations (model, suite, metric, value, num_queries, num_documents, corpus, evaluated_at)"
    store.transaction(lambda c: c.execute(f"{row} VALUES ('m', 'desk', 'ndcg@10', 0.5, 30, 31, 'full', now())"))
    (remark,) = choose(store, target=suite).remarks
    assert remark.startswith("evaluated whole before: desk")


def test_target_rows_are_drawn_by_seed(store: Store) -> None:
    def nearest(seed: int) -> set[str]:
        made = choose(store, target_rows=5, seed=seed, budget=60)
        assert made.target_rows == 5
        rows = store.rows("SELECT DISTINCT nearest_id FROM coreset_examples WHERE run_id = ?", [made.run_id])
        return {row["nearest_id"] for row in rows}

    drawn = [nearest(seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({frozenset(rows) for rows in drawn}) == 3


def test_a_target_among_the_candidates_is_remarked(store: Store) -> None:
    jobs.create(store, "easy", collections="easy")
    assert choose(store, target="easy").remarks == ("40 of the 40 target rows are candidates themselves",)


def test_a_coreset_of_a_coreset_has_both_names(store: Store) -> None:
    choose(store, budget=30)
    made = jobs.coreset(store, "core", "smaller", target="aim", budget=6, encode=Model())
    assert sorted(c.slice or "" for c in made.mixture.spec.components) == ["core, smaller"] * 3
    of = "SELECT example_id FROM selected_examples JOIN selections USING (selection) WHERE slice = ?"
    inner, outer = (store.rows(of, [name]) for name in ("core, smaller", "core"))
    assert {row["example_id"] for row in inner} < {row["example_id"] for row in outer}


def test_what_rows_would_teach_can_count(store: Store) -> None:
    taught = choose(store, "taught", gradient_weight=1.0)
    plain = choose(store)
    gradients = store.rows("SELECT gradient FROM coreset_examples WHERE run_id = ?", [taught.run_id])
    assert all(0 <= row["gradient"] <= 1 for row in gradients)
    assert taught.distance is not None and plain.distance is not None
    assert taught.distance > plain.distance  # it is the transport alone that is said
    distances = store.rows("SELECT distance FROM coreset_examples WHERE run_id = ?", [taught.run_id])
    assert all(0 <= row["distance"] <= 1 for row in distances)
    assert all(0 <= row["distance"] <= 1 for row in taught.rows)


def test_two_names_are_two_runs_and_two_models_are(store: Store) -> None:
    one, two = choose(store, "one"), choose(store, "two")
    other = choose(store, "two", encode=lambda texts, kind: Model()(texts, kind)[:, ::-1], keep_embeddings=False)
    assert len({one.run_id, two.run_id, other.run_id}) == 3
    rows = store.rows("SELECT mixture, model FROM coresets ORDER BY chosen_at")
    assert [row["mixture"] for row in rows] == [made.mixture.spec.id for made in (one, two, other)]
    assert {row["model"] for row in rows} == {"a function"}


def test_rows_of_slices_join_to_their_examples(store: Store) -> None:
    jobs.create(store, "all", where="length(query) > 0 AND collection IN ('easy', 'middle', 'hard')")
    choose(store)
    joined = store.rows("FROM coreset_examples JOIN examples USING (collection, example_id)")
    assert len(joined) == 12


def test_rows_that_go_while_they_are_read_are_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixture.jobs import coreset_rows

    read_pairs = coreset_rows.read.first_pairs

    def fewer(store: Store, part: Any) -> Any:
        table = read_pairs(store, part)
        return table.slice(1) if part.collection == "middle" else table

    monkeypatch.setattr("mixture.store.read.first_pairs", fewer)
    with pytest.raises(StoreError, match="middle had 40 rows and has 39 now; run the command again"):
        choose(store)
    assert not store.rows("SELECT 1 FROM mixtures WHERE name = 'core'")


def test_long_vectors_count_as_short_ones(store: Store) -> None:
    def long(texts: Any, kind: str) -> np.ndarray:
        found = Model()(texts, kind)
        return found * (1 + np.arange(len(found))[:, None])

    plain, scaled = choose(store), choose(store, encode=long, keep_embeddings=False)
    assert scaled.distance == pytest.approx(plain.distance, abs=1e-6)
    assert scaled.whole == pytest.approx(plain.whole, abs=1e-6)


def test_negatives_of_named_miners_stay_so(store: Store) -> None:
    jobs.create(store, "all", miners="provided", collections=["easy", "middle"])
    assert {c.miners for c in choose(store).mixture.spec.components} == {("provided",)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": ()}, "`target` is missing"),
        ({"target": "aims"}, "no mixture 'aims'; did you mean 'aim'"),
        ({"target": "./nowhere/desk"}, "no folder nowhere/desk"),
        ({"target": "beir/nfcorpus/report"}, "`target` is beir/nfcorpus/report: models are reported on that half"),
        ({"budget": 0}, "`budget` is 0; allowed: 1 to 120 rows, or a share"),
        ({"budget": 121}, "`budget` is 121; allowed"),
        ({"budget": 1.5}, "`budget` is 1.5; allowed"),
        ({"budget": 0.001}, "`budget` is 0.001; allowed"),
        ({"budget": float("nan")}, "`budget` is nan; allowed"),
        ({"shares": "fre"}, "`shares` is 'fre'; allowed: mixture, free"),
        ({"gradient_weight": -1}, "`gradient_weight` is -1; allowed: 0 or more"),
        ({"target_rows": 0}, "`target_rows` is 0; allowed: 1 or more"),
        ({"solve": 0}, "`solve` is 0; allowed: 1 or more"),
        ({"precision": "int8"}, "`precision` is 'int8'"),
        ({"encode": None}, "`encode` is missing"),
        ({"name": "a:b"}, "mixture name 'a:b'"),
        ({"name": "prod"}, "'prod' is a tag; give the mixture another name"),
        ({"seed": -1}, "`seed` is -1; allowed: 0 or more"),
    ],
)
def test_mistakes_are_said_before_any_work(store: Store, change: dict[str, Any], message: str) -> None:
    registry.tag(store, "all", "prod")
    model = Model()
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        choose(store, **({"encode": model} | change))
    assert model.given == 0
    assert not store.rows("SELECT 1 FROM coresets")


def test_the_report_half_of_a_folder_is_refused(store: Store, suite: Path) -> None:
    with pytest.raises(UsageError, match=f"name {suite}, of which the half `learn` is taken"):
        choose(store, target=f"{suite}/report")
    assert choose(store, target=f"{suite}/learn").target == ("desk/learn",)


def test_a_collection_that_changed_is_refused(store: Store, tmp_path: Path) -> None:
    rows = [{"query": "new", "pos": ["one"], "neg": []}]
    (tmp_path / "new.jsonl").write_text(json.dumps(rows[0]))
    jobs.ingest(store, tmp_path / "new.jsonl", name="easy")
    with pytest.raises(UsageError, match="easy has changed since all:1 was made; create the mixture anew"):
        choose(store)


def test_a_suite_without_judged_documents_is_refused(store: Store, tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "empty", {"q": "ba dan"}, {"d": "ba"}, [("q", "d", 0)])
    shutil.copytree(folder, tmp_path / "other")
    texts = next(f"ba dan {n}" for n in range(9) if half_of(f"ba dan {n}") == "learn")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": texts}))
    with pytest.raises(UsageError, match="empty/learn: no query has a relevant document in the corpus"):
        choose(store, target=folder)


def test_without_the_library_it_says_how_to_install_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    model = Model()
    with pytest.raises(UsageError, match=r"pip install 'retrieval-mixture\[coreset\]'"):
        choose(store, encode=model)
    assert model.given == 0
