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
from trainers.batch.texts import BatchSource, check_prompts
from trainers.finetune import FinetuneSettings, finetune
from trainers.learning.config import LearningSettings
from trainers.learning.loop import run_learner
from trainers.model.encoder import load_encoder
from trainers.model.template import DEFAULT_PROMPT
from trainers.settings import TrainingSettings, run_id


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


def test_answers_of_an_equal_query_are_masked(tmp_path: Path) -> None:
    """Pair files have a row for each answer; another answer in the batch is no negative."""
    rows = [{"query": "one question", "pos": [f"answer {n}"], "neg": ["no answer"]} for n in range(3)]
    rows.append({"query": "other question", "pos": ["its answer"], "neg": ["no answer"]})
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "c.jsonl")])
        data = materialise(store, registry.weighted(registry.pin(store), {"c": 1.0}))
    batch = _source(data, batch_size=4, negatives=1).homogeneous(0)
    assert batch.masked is not None
    for place, query in enumerate(batch.queries):
        masked = {passage for passage, out in zip(batch.passages, batch.masked[place].tolist(), strict=True) if out}
        wanted = {"answer 0", "answer 1", "answer 2"} if query.endswith("one question") else {"its answer"}
        assert masked == wanted


def test_a_collection_that_is_never_drawn_needs_no_negatives(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"query": "a question", "pos": ["the only passage"]}\n')
    rows = [{"query": f"question {n}", "pos": [f"answer {n}"]} for n in range(4)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "c.jsonl"), str(tmp_path / "one.jsonl")])
        data = materialise(store, registry.weighted(registry.pin(store), {"c": 1.0, "one": 0.0}))
        both = materialise(store, registry.weighted(registry.pin(store), {"c": 0.5, "one": 0.5}))
    assert _source(data, batch_size=2, negatives=1).homogeneous(0).queries
    with pytest.raises(UsageError, match="nothing can serve as a negative for some examples of: one"):
        _source(both, batch_size=2, negatives=1)


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


@pytest.fixture
def symmetric_data(tmp_path: Path) -> MaterialisedMixture:
    """`AllNLI`, whose card says symmetric, and `plain`, which has no card."""
    rows = [{"query": f"claim number {n}", "pos": [f"fact number {n}"], "neg": ["nothing"]} for n in range(16)]
    for name in ("AllNLI", "plain"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / f"{name}.jsonl") for name in ("AllNLI", "plain")])
        return materialise(store, registry.weighted(registry.pin(store), {"AllNLI": 0.5, "plain": 0.5}))


@pytest.mark.parametrize("symmetric", [False, True])
def test_passages_of_symmetric_collections_get_their_querys_prompt_when_asked(
    symmetric_data: MaterialisedMixture, symmetric: bool
) -> None:
    plan = BatchPlan(symmetric_data.spec.weights, symmetric_data.sizes, 8, 1, positives=symmetric_data.positives())
    source = BatchSource(symmetric_data, plan, negatives=2, symmetric_prompts=symmetric)
    batches = [source.homogeneous(step) for step in range(8)] + [source.mixed(0)]
    prefixed = set()
    for batch in batches:
        for place, query in enumerate(batch.queries):
            prefix, _ = query.split("claim")
            name = batch.names[batch.collections[place]]
            given = symmetric and name == "AllNLI"
            prefixed.add((name, given))
            for passage in batch.passages[place * 3 : place * 3 + 3]:
                assert passage.startswith(prefix if given else ("fact", "nothing"))
    assert prefixed == {("AllNLI", symmetric), ("plain", False)}


def test_symmetric_prompts_make_another_run() -> None:
    plain, asked = (run_id("finetune", "m", TrainingSettings(symmetric_prompts=value)) for value in (False, True))
    assert plain != asked


def test_a_folder_of_an_older_version_is_not_symmetric_until_materialised_again(
    symmetric_data: MaterialisedMixture, tmp_path: Path
) -> None:
    part = symmetric_data.components["AllNLI"]
    assert part.symmetric
    assert not symmetric_data.components["plain"].symmetric
    facts = json.loads((part.folder / "component.json").read_text())
    del facts["symmetric"]
    (part.folder / "component.json").write_text(json.dumps(facts))
    assert not MaterialisedMixture.open(symmetric_data.folder, symmetric_data.spec.id).components["AllNLI"].symmetric
    with Store.open(tmp_path / "store") as store:
        assert materialise(store, symmetric_data.spec).components["AllNLI"].symmetric


def test_a_prompt_that_leaves_no_room_for_the_query_is_an_error(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    message = r"max_query_tokens is 6, .* fills in collections easy, hard, middle \((\d+) tokens in easy\); `max_query"
    few = {"max_query_tokens": 6, "max_passage_tokens": 32, "steps": 1, "batch_size": 4, "negatives": 1}
    with pytest.raises(UsageError, match=message) as error:
        finetune(mixture_data, str(tiny_model), FinetuneSettings(**few), tmp_path / "out")
    with pytest.raises(UsageError, match=message):
        run_learner(mixture_data, str(tiny_model), None, LearningSettings(**few), tmp_path / "checkpoints")
    # The number it gives is exact: one token more than the prompt is enough.
    encoder = load_encoder(str(tiny_model))
    prompt = int(str(error.value).partition(" tokens in")[0].rpartition("(")[2])
    with pytest.raises(UsageError, match="alone fills"):
        check_prompts(encoder, mixture_data, TrainingSettings(max_query_tokens=prompt))
    check_prompts(encoder, mixture_data, TrainingSettings(max_query_tokens=prompt + 1))
    text = f"Instruct: {DEFAULT_PROMPT}\nQuery: "
    limits = [encoder.tokenizer(text + q, truncation=True, max_length=prompt + 1).input_ids for q in ("ba", "ke")]
    assert limits[0] != limits[1]


def test_a_prompt_that_costs_queries_their_end_is_said_once_a_collection(
    mixture_data: MaterialisedMixture, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = load_encoder(str(tiny_model))
    queries = [mixture_data.components["easy"].example(row).query for row in range(40)]
    longest = max(len(encoder.tokenizer(query).input_ids) for query in queries)
    prefix = len(encoder.tokenizer(f"Instruct: {DEFAULT_PROMPT}\nQuery:").input_ids)
    check_prompts(encoder, mixture_data, TrainingSettings(max_query_tokens=prefix + 3))
    assert [record.message.split(":")[0] for record in caplog.records] == ["easy", "hard", "middle"]
    assert f"easy: the prompt takes {prefix} of the {prefix + 3} tokens of a query, and 100 %" in caplog.text
    room = int(caplog.records[0].message.rpartition("max_query_tokens=")[2].partition("`")[0])
    caplog.clear()
    check_prompts(encoder, mixture_data, TrainingSettings(max_query_tokens=max(room, prefix + longest)))
    assert not caplog.records


def test_queries_that_are_too_long_by_themselves_are_not_the_prompts_fault(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"query": f"{n} " + "ba ke lo " * 100, "pos": [f"fact {n}"], "neg": ["nothing"]} for n in range(8)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "long.jsonl")])
        data = materialise(store, registry.weighted(registry.pin(store), {"long": 1.0}))
    check_prompts(load_encoder(str(tiny_model)), data, TrainingSettings(max_query_tokens=128))
    assert not caplog.records
