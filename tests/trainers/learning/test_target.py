"""What weights are learned towards: fixed candidates, their loss by hand, `evaluate`'s nDCG, who has what say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.suites.halves import LEARN, REPORT, half_of, halved
from mixture.suites.suite import Suite, load_suite
from tests.trainers.conftest import write_suite
from trainers.evaluation.evaluate import evaluate_suite
from trainers.finetune.config import FinetuneSettings
from trainers.learning import target as targets
from trainers.learning.target import NEGATIVES, DevSet, Target, held_out_set, suite_set
from trainers.model.encoder import load_encoder
from trainers.model.template import PLAIN

SETTINGS = FinetuneSettings(temperature=0.1, max_query_tokens=64, max_passage_tokens=64)


@pytest.fixture
def suite(mixture_data: MaterialisedMixture, tmp_path: Path) -> Suite:
    return load_suite(write_suite(mixture_data, tmp_path / "middle-en", 30))


def _tiny(**given: object) -> Suite:
    documents = {"d0": "river of the north", "d1": "king of the south", "d2": "capital is x", "q0": "river north"}
    whole = Suite("tiny", list(documents), [("", text) for text in documents.values()], ["q0", "q1"],
                  ["river north", "king south"], {"q0": {"d0": 1}, "q1": {"d1": 2, "d2": 1}})  # fmt: skip
    return replace(whole, **given)  # type: ignore[arg-type]


def test_the_loss_is_info_nce_over_the_candidates_by_hand(static_model: Path) -> None:
    encoder = load_encoder(str(static_model))
    made = suite_set(_tiny(), encoder, PLAIN, 1)
    # The document with the id of the query is the query itself: no negative of it.
    assert made.candidates[0, 0] == 0
    assert set(made.candidates[0, 1:].tolist()) <= {1, 2}
    assert made.candidates[1, 0] == 1  # the better graded
    assert set(made.candidates[1, 1:].tolist()) <= {0, 3}
    target = Target([made], encoder, SETTINGS)
    expected = []
    for query, places in zip(made.queries, made.candidates, strict=True):
        texts = [query, *(made.documents[place] for place in places)]
        vectors = torch.nn.functional.normalize(encoder.encode(texts, convert_to_tensor=True).float(), dim=-1)
        scores = (vectors[1:] @ vectors[0]).numpy() / 0.1
        expected.append(np.log(np.exp(scores).sum()) - scores[0])
    assert target.measure(encoder).loss[0] == pytest.approx(np.mean(expected), abs=1e-5)
    loss = target.loss(encoder)
    assert float(loss) == pytest.approx(np.mean(expected), abs=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("kind", ["whole", "with the queries in the corpus"])
def test_its_ndcg_is_that_of_evaluate(suite: Suite, static_model: Path, kind: str) -> None:
    if kind != "whole":
        suite = replace(suite, corpus_ids=[*suite.corpus_ids, *suite.query_ids],
                        corpus=[*suite.corpus, *(("", query) for query in suite.queries)])  # fmt: skip
    encoder = load_encoder(str(static_model))
    target = Target([suite_set(suite, encoder, PLAIN, 1)], encoder, SETTINGS)
    found = target.measure(encoder).ndcg[0]
    assert found == pytest.approx(evaluate_suite(encoder, suite, prompt=None).metrics["ndcg@10"], abs=1e-9)
    assert 0.05 < found < 0.999


def test_a_large_corpus_is_searched_where_candidates_are(
    suite: Suite, static_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(str(static_model))
    whole = suite_set(suite, encoder, PLAIN, 1)
    monkeypatch.setattr(targets, "MOST_DOCUMENTS", 50)
    made = suite_set(suite, encoder, PLAIN, 1)
    assert len(made.documents) < len(whole.documents)
    texts = [[[s.documents[place] for place in row] for row in s.candidates] for s in (made, whole)]
    assert texts[0] == texts[1]
    losses = [Target([s], encoder, SETTINGS).measure(encoder).loss[0] for s in (made, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_queries_of_the_other_half_are_in_no_set(suite: Suite, static_model: Path) -> None:
    encoder = load_encoder(str(static_model))
    made = suite_set(halved(suite, LEARN), encoder, PLAIN, 1)
    assert made.name == "middle-en/learn"
    assert 0 < len(made.queries) < len(suite.queries)
    assert {half_of(query) for query in made.queries} == {LEARN}
    other = suite_set(halved(suite, REPORT), encoder, PLAIN, 1)
    assert sorted(made.queries + other.queries) == sorted(suite.queries)
    assert made.key != other.key


def test_candidates_are_the_positive_and_others_that_are_none(suite: Suite, static_model: Path) -> None:
    made = suite_set(suite, load_encoder(str(static_model)), PLAIN, 1)
    assert made.candidates.shape == (30, 1 + NEGATIVES)
    for own, row in zip(made.positives, made.candidates.tolist(), strict=True):
        assert row[0] in own
        assert not set(row[1:]) & set(own)
        assert len(set(row)) == len(row)


def test_held_out_rows_bring_their_own_negatives_first(mixture_data: MaterialisedMixture) -> None:
    part = mixture_data.components["middle"]
    made = held_out_set("middle[train]", part, PLAIN, 1)
    assert (made.name, made.group) == ("middle[train]/held out", "middle")
    assert len(made.queries) == part.num_examples
    example = part.example(3)
    own = [made.documents[place] for place in made.candidates[3][1 : 1 + len(example.negatives)]]
    assert own == [part.passage(number) for number in example.negatives]
    assert made.documents[made.candidates[3][0]] == part.passage(example.positives[0])


def test_groups_have_equal_say_whatever_their_number_of_sets(static_model: Path) -> None:
    def of(name: str, group: str) -> DevSet:
        return DevSet(name, group, ["q"], ["a", "b"], [{0: 1}], np.array([[0, 1]]))

    target = Target([of("x-a", "x"), of("y", "y"), of("x-b", "x"), of("x-c", "x")],
                    load_encoder(str(static_model)), SETTINGS)  # fmt: skip
    assert target.weights.tolist() == pytest.approx([1 / 6, 1 / 2, 1 / 6, 1 / 6])
    values = np.array([[1.0, 5.0, 2.0, 6.0]])
    assert target.by_group(values).tolist() == [[3.0, 5.0]]
    assert (values @ target.weights).tolist() == pytest.approx(target.by_group(values).mean(axis=1).tolist())


def test_a_set_is_known_by_all_that_decides_its_scores(suite: Suite, static_model: Path) -> None:
    encoder = load_encoder(str(static_model))
    made = suite_set(suite, encoder, PLAIN, 1)
    assert made.key == suite_set(suite, encoder, PLAIN, 1).key
    others = [replace(made, queries=[*made.queries[1:], "x"]), replace(made, candidates=made.candidates[:, :-1]),
              replace(made, positives=[{0: 1}] * 30), replace(made, barred=[{1}] * 30)]  # fmt: skip
    assert len({made.key, *(other.key for other in others)}) == 5


def test_a_suite_whose_answers_are_all_missing_is_refused(static_model: Path) -> None:
    missing = _tiny(qrels={"q0": {"gone": 1}, "q1": {"d1": 0}})
    with pytest.raises(UsageError, match="tiny: no query has a relevant document in the corpus; leave it out"):
        suite_set(missing, load_encoder(str(static_model)), PLAIN, 1)


def test_measuring_leaves_the_model_as_it_was(suite: Suite, static_model: Path) -> None:
    encoder = load_encoder(str(static_model))
    target = Target([suite_set(suite, encoder, PLAIN, 1)], encoder, SETTINGS)
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    for training in (True, False):
        encoder.train(training)
        target.measure(encoder)
        assert encoder.training is training
    assert all(torch.equal(before[name], p) for name, p in encoder.named_parameters())
    assert all(p.grad is None for p in encoder.parameters())
