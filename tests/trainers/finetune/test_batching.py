"""Mixed batches, and settings of single collections."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainers
from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store.materialise import materialise
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.by_collection import with_prompts
from trainers.finetune.loop import _source, batch_losses
from trainers.loop.steps import TrainingLoop
from trainers.losses import info_nce
from trainers.model.encoder import load_encoder
from trainers.settings import resolve

SETTINGS = FinetuneSettings(steps=6, batch_size=12, temperature=0.05, negatives=2, max_query_tokens=40,
                            max_passage_tokens=32, learning_rate=1e-3, checkpoint_every=2, tracker="none")  # fmt: skip
MIXED = replace(SETTINGS, batching="mixed")


def _set(*texts: str) -> FinetuneSettings:
    return resolve(FinetuneSettings, None, {"batch_size": 8, "temperature": 0.05}, texts)


@pytest.fixture
def overlapping(tmp_path: Path) -> MaterialisedMixture:
    """Two collections that share a question, with an answer each, and a passage, which answers in one alone."""
    rows = {
        "one": [{"query": "shared question", "pos": ["first answer"], "neg": ["common passage"]},
                {"query": "question two", "pos": ["answer two"], "neg": ["wrong two"]}],
        "two": [{"query": "shared question", "pos": ["second answer"], "neg": ["wrong three"]},
                {"query": "question four", "pos": ["common passage"], "neg": ["first answer"]}],
    }  # fmt: skip
    for name, own in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    with Store.open(tmp_path / "overlapping", create=True) as store:
        jobs.ingest(store, [tmp_path / "one.jsonl", tmp_path / "two.jsonl"])
        return materialise(store, jobs.create(store, "both").spec)


def test_masks_reach_across_collections(overlapping: MaterialisedMixture) -> None:
    batch = _source(overlapping, replace(MIXED, batch_size=4, negatives=1)).shared(0)
    assert Counter(batch.collections.tolist()) == {0: 2, 1: 2}
    answers = {"shared question": {"first answer", "second answer"}, "question two": {"answer two"},
               "question four": {"common passage"}}  # fmt: skip
    assert batch.masked is not None
    for query, masked in zip(batch.queries, batch.masked.tolist(), strict=True):
        out = {passage for passage, hidden in zip(batch.passages, masked, strict=True) if hidden}
        assert out == answers[query.split("Query: ")[1]]


def test_the_loss_of_a_mixed_batch_is_over_all_its_passages(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(str(tiny_model)).eval()
    batch = _source(mixture_data, MIXED).shared(3)
    assert len(set(batch.collections.tolist())) == 3
    alone = batch.names[0]
    with torch.no_grad():
        found = {
            what: batch_losses(TrainingLoop(encoder, settings, tmp_path), batch)
            for what, settings in {
                "plain": MIXED, "one alone": replace(MIXED, hard_only=(alone,)),
                "as table": replace(MIXED, collection={alone: {"hard_only": True}}),
                "all alone": replace(MIXED, hard_only=batch.names),
            }.items()
        }  # fmt: skip
        query, passages = TrainingLoop(encoder, MIXED, tmp_path).embed_batch(encoder, batch)
    own = info_nce(query, passages, temperature=0.05)
    torch.testing.assert_close(
        found["plain"], info_nce(query, passages, temperature=0.05, in_batch=True, masked=batch.masked)
    )
    torch.testing.assert_close(found["all alone"], own)
    first = torch.from_numpy(batch.collections == 0)
    torch.testing.assert_close(found["one alone"], torch.where(first, own, found["plain"]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["one alone"], found["as table"])
    assert not torch.allclose(own, found["plain"])


def test_training_on_mixed_batches_goes_on_exactly_and_says_what_it_drew(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    weights = {c.name: w for c, w in zip(mixture_data.spec.components, (2.0, 1.0, 1.0), strict=True)}
    spec = replace(mixture_data.spec, components=tuple(
        replace(c, loss_weight=weights[c.name]) for c in mixture_data.spec.components))  # fmt: skip
    data = replace(mixture_data, spec=spec)

    def cut_short(step: int, *_: Any) -> None:
        if step == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        finetune(data, str(tiny_model), MIXED, tmp_path / "resumed", progress=cut_short)
    records = {}
    for name, settings in {"whole": MIXED, "resumed": MIXED, "homogeneous": SETTINGS}.items():
        finetune(data, str(tiny_model), settings, tmp_path / name)
        records[name] = json.loads((tmp_path / name / "training.json").read_text())
    whole, other = records["whole"], records["homogeneous"]
    cards = {name: (tmp_path / name / "README.md").read_text() for name in ("whole", "homogeneous")}
    assert "each batch from all collections" in cards["whole"]
    assert "each batch from one collection" in cards["homogeneous"]
    assert ["export --batches" in card for card in cards.values()] == [False, True]
    assert whole["losses"] == records["resumed"]["losses"]
    assert len(whole["losses"]) == 6 * 3
    for step in range(1, 7):
        assert sum(row["examples"] for row in whole["losses"] if row["step"] == step) == 12
    drawn = {row["collection"]: row for row in whole["drawn"]}
    for name, row in drawn.items():
        assert row["examples_drawn"] == sum(r["examples"] for r in whole["losses"] if r["collection"] == name)
        assert row["epochs"] == pytest.approx(row["examples_drawn"] / data.sizes[name])
        assert row["batches"] == 6
    assert whole["run_id"] != other["run_id"]
    # The first losses are those of the untrained model: one collection's are scaled by its loss weight.
    (tmp_path / "plain").mkdir()
    finetune(mixture_data, str(tiny_model), MIXED, tmp_path / "plain")
    plain = json.loads((tmp_path / "plain" / "training.json").read_text())["losses"]
    for ours, theirs in zip(whole["losses"][:3], plain[:3], strict=True):
        assert ours["loss"] == pytest.approx(weights[ours["collection"]] * theirs["loss"], rel=1e-5)


def test_a_collections_settings_are_those_of_its_batches(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    names = list(mixture_data.components)
    own = {"temperature": 0.2, "negatives": 4, "batch_size": 5, "max_passage_tokens": 8, "hardness": 3.0,
           "prompts": ("find it",)}  # fmt: skip
    settings = replace(SETTINGS, collection={names[0]: own, names[1]: {"loss": "expected_ndcg", "ndcg_cut": 3}})
    mixture = with_prompts(mixture_data, settings)
    source = _source(mixture, settings)
    encoder = load_encoder(str(tiny_model)).eval()
    loop = TrainingLoop(encoder, settings, tmp_path)
    plain = _source(mixture_data, SETTINGS)
    seen = set()
    for step in range(30):
        batch = source.homogeneous(step)
        name = batch.names[int(batch.collections[0])]
        texts, limits = loop.limited(batch)
        per_example = len(batch.passages) // len(batch.queries)
        with torch.no_grad():
            found, (query, passages) = batch_losses(loop, batch), loop.embed_batch(encoder, batch)
        assert set(limits[: len(batch.queries)]) == {40}
        assert len(texts) == len(limits)
        if name == names[0]:
            assert (len(batch.queries), per_example) == (5, 5)
            assert set(limits[5:]) == {8}
            assert all(query.startswith("Instruct: find it\nQuery: ") for query in batch.queries)
            expected = info_nce(query, passages, temperature=0.2, in_batch=True, masked=batch.masked, hardness=3.0)
            torch.testing.assert_close(found, expected)
        else:
            usual = plain.homogeneous(step)
            assert (batch.queries, batch.passages) == (usual.queries, usual.passages)
            assert set(limits[len(batch.queries) :]) == {32}
            if name == names[1]:
                assert float(found.max()) <= 1
        seen.add(name)
    assert seen == set(names)


def test_settings_of_collections_are_read_from_recipes_and_options_and_checked(tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text('temperature = 0.1\n[collection."xquad[language=zh]"]\ntemperature = 1\n[collection.nq]\n'
                      'negatives = 3\nprompts = ["a", "b"]\n')  # fmt: skip
    read = resolve(FinetuneSettings, recipe, {}, ["collection.nq.hard_only=true", "collection.nq.negatives=5",
                                                  "collection.xquad[language=zh].margin=0.1"])  # fmt: skip
    assert read.collection == {"xquad[language=zh]": {"temperature": 1.0, "margin": 0.1},
                               "nq": {"negatives": 5, "prompts": ("a", "b"), "hard_only": True}}  # fmt: skip
    nq = read.of("nq")
    assert (nq.negatives, nq.in_batch, nq.temperature) == (5, False, 0.1)
    assert (read.of("xquad[language=zh]").margin, read.of("other")) == (0.1, read)
    for text, said in {
        "collection.nq.temprature=1": "no setting of a collection 'temprature'",
        "collection.nq.steps=3": "no setting of a collection 'steps'",
        "collection.nq.negatives=x": "setting negatives is 'x'; it must be of type int",
        "collection.nq.negatives=0": "negatives is 0; allowed: 1 or more",
        "collection.nq.ndcg_cut=3": "which does not take it",
        "collection=3": "collection holds tables of settings",
        "colection.nq.negatives=3": "no setting 'colection'",
        "batching=both": "batching is both; allowed: homogeneous, mixed",
    }.items():
        with pytest.raises(UsageError, match=re.escape(said)):
            _set(text)
    with pytest.raises(UsageError, match=re.escape("only with batching=homogeneous")):
        _set("collection.nq.temperature=0.1", "batching=mixed")
    assert _set("collection.nq.max_passage_tokens=900", "batching=mixed").longest == 900
    assert _set("collection.nq.negatives = 3").of("nq").negatives == 3
    for table, said in (
        ({"nq": {"learning_rate": 1e-3}}, "no setting of a collection 'learning_rate'"),
        ({"nq": {"temperature": "0.1"}}, "setting temperature is '0.1'; it must be of type float"),
        ({"nq": {"prompts": "abc"}}, "setting prompts is 'abc'; it must be a list"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            FinetuneSettings(collection=table)
    for more in ({"symmetric_loss": True}, {"directions": ("qd", "dq")},
                 {"loss": "expected_ndcg", "ndcg_positives": "all"}):  # fmt: skip
        with pytest.raises(UsageError, match="with mixed batches and hard_only"):
            replace(MIXED, hard_only=("nq",), **more)
        with pytest.raises(UsageError, match="with mixed batches and hard_only"):
            replace(MIXED, collection={"nq": {"hard_only": True}}, **more)
        assert replace(MIXED, **more)


def test_another_collections_setting_is_another_run_and_an_unknown_collection_an_error(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, small_store: Store
) -> None:
    settings = replace(SETTINGS, steps=2, collection={"easy": {"temperature": 0.5}})
    first = trainers.train(small_store, "mix", tiny_model, out=tmp_path / "a", settings=settings)
    plain = trainers.train(small_store, "mix", tiny_model, out=tmp_path / "b", settings=replace(SETTINGS, steps=2))
    assert first.run != plain.run
    assert trainers.train(small_store, "mix", tiny_model, out=tmp_path / "a", settings=settings).finished_at is not None
    with pytest.raises(UsageError, match="no collection 'esay'"):
        finetune(mixture_data, str(tiny_model), replace(SETTINGS, collection={"esay": {}}), tmp_path / "c")
    assert np.isfinite(first.loss)
