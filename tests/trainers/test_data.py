"""From row numbers to texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mixture import Store, UsageError, jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.store.materialise import materialise
from trainers.data import DEFAULT_PROMPT, BatchSource


def _source(data: MaterialisedMixture, batch_size: int = 8, negatives: int = 3) -> BatchSource:
    plan = BatchPlan(data.spec.weights, data.sizes, batch_size, 1, positives=data.positives())
    return BatchSource(data, plan, negatives=negatives)


def test_homogeneous_batches_hold_each_examples_own_passages(mixture_data: MaterialisedMixture) -> None:
    source = _source(mixture_data)
    for step in range(20):
        batch = source.homogeneous(step)
        name, rows = source.plan.batch(step)
        part = mixture_data.components[name]
        assert batch.rows.tolist() == rows.tolist()
        for place, row in enumerate(rows):
            example = part.example(int(row))
            assert batch.queries[place] == f"Instruct: {DEFAULT_PROMPT}\nQuery: {example.query}"
            positive, *negatives = batch.passages[place * 4 : place * 4 + 4]
            assert positive in [part.passage(n) for n in example.positives]
            assert len(set(negatives)) == 3
            assert set(negatives) <= {part.passage(n) for n in example.negatives}


def test_mixed_batches_agree_with_the_plan(mixture_data: MaterialisedMixture) -> None:
    source = _source(mixture_data, batch_size=30)
    groups, rows = source.plan.mixed(5)
    batch = source.mixed(5)
    for place, (group, row) in enumerate(zip(groups, rows, strict=True)):
        part = mixture_data.components[source.plan.collections[group]]
        assert batch.queries[place].endswith("Query: " + part.example(int(row)).query)
        assert batch.passages[place * 4] in [part.passage(n) for n in part.example(int(row)).positives]
    assert batch.masked is None


def test_draws_change_with_the_step_and_repeat_with_the_seed(mixture_data: MaterialisedMixture) -> None:
    one, two = _source(mixture_data).mixed(3), _source(mixture_data).mixed(3)
    assert (one.queries, one.passages) == (two.queries, two.passages)
    assert one.passages != _source(mixture_data).mixed(4).passages


@pytest.fixture
def odd_store(tmp_path: Path) -> Store:
    """Two questions that share an answer, one of them as the other's negative; one example without negatives."""
    rows = [
        {"query": "first question", "pos": ["the shared answer", "a second answer"], "neg": ["other one"]},
        {"query": "second question", "pos": ["another answer"], "neg": ["the shared answer", "other two"]},
        {"query": "third question", "pos": ["third answer"]},
    ]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    store = Store.open(tmp_path / "store", create=True)
    jobs.ingest(store, [str(tmp_path / "odd.jsonl")])
    return store


def test_positives_of_an_example_are_masked_wherever_they_stand(odd_store: Store) -> None:
    spec = registry.weighted(registry.pin(odd_store), {"odd": 1.0})
    data = materialise(odd_store, spec)
    source = _source(data, batch_size=3, negatives=2)
    part = data.components["odd"]
    batch = source.homogeneous(0)
    assert batch.masked is not None
    found = 0
    for place, row in enumerate(batch.rows):
        positives = {part.passage(n) for n in part.example(int(row)).positives}
        for column, passage in enumerate(batch.passages):
            assert bool(batch.masked[place, column]) == (passage in positives)
            found += passage in positives
    assert found > len(batch.rows)


def test_an_example_without_negatives_gets_passages_of_others(odd_store: Store) -> None:
    data = materialise(odd_store, registry.weighted(registry.pin(odd_store), {"odd": 1.0}))
    batch = _source(data, batch_size=3, negatives=2).homogeneous(0)
    place = next(p for p, q in enumerate(batch.queries) if q.endswith("third question"))
    positive, *negatives = batch.passages[place * 3 : place * 3 + 3]
    assert positive == "third answer"
    assert len(negatives) == 2
    assert "third answer" not in negatives


def test_a_collection_of_one_passage_has_no_negatives(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"query": "a question", "pos": ["an answer"]}\n')
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "one.jsonl")])
        data = materialise(store, registry.weighted(registry.pin(store), {"one": 1.0}))
    with pytest.raises(UsageError, match="nothing can serve as a negative for some examples of: one"):
        _source(data, negatives=1)


def test_prompts_are_drawn_from_those_of_the_card(tmp_path: Path) -> None:
    rows = [{"query": f"claim number {n}", "pos": [f"fact number {n}"], "neg": ["nothing"]} for n in range(64)]
    (tmp_path / "AllNLI.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "AllNLI.jsonl")])
        data = materialise(store, registry.weighted(registry.pin(store), {"AllNLI": 1.0}))
    queries = _source(data, batch_size=64, negatives=1).homogeneous(0).queries
    counts = np.unique([q.split("\n")[0] for q in queries], return_counts=True)[1]
    assert len(counts) == 2
    assert counts.min() > 16
