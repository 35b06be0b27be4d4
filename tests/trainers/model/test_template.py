"""What a model sees of a query: the settings' template, the model's own, and that all of the toolkit keeps to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.suites.suite import load_suite
from trainers.batch.texts import BatchSource, check_prompts
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.identity import identity
from trainers.jobs.encode import encode_with
from trainers.learning.config import LearningSettings
from trainers.learning.loop import run_learner
from trainers.loop.steps import TrainingLoop
from trainers.model.encoder import load_encoder
from trainers.model.template import DEFAULT_PROMPT, INSTRUCT, Template, own_template, template_of
from trainers.settings import TrainingSettings

SETTINGS = FinetuneSettings(
    steps=2, batch_size=6, negatives=1, temperature=0.05, max_query_tokens=96, max_passage_tokens=32, tracker="none"
)
OWN = {"query": "query: ", "passage": "passage: "}


def _with_prompts(tiny_model: Path, folder: Path, prompts: dict[str, str]) -> str:
    SentenceTransformer(str(tiny_model), prompts=prompts).save(str(folder))
    return str(folder)


def _texts(data: MaterialisedMixture, template: Template) -> tuple[list[str], list[str]]:
    plan = BatchPlan(data.spec.weights, data.sizes, 6, 1, positives=data.positives())
    batch = BatchSource(data, plan, negatives=1, template=template).homogeneous(0)
    return batch.queries, batch.passages


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries and passages that training tokenises, in order."""
    texts: list[str] = []
    limited = TrainingLoop.limited

    def spy(loop: TrainingLoop, batch: Any) -> Any:
        texts.extend((*batch.queries, *batch.passages))
        return limited(loop, batch)

    monkeypatch.setattr(TrainingLoop, "limited", spy)
    return texts


def test_the_default_is_the_layout_of_all_runs_before(mixture_data: MaterialisedMixture, tiny_model: Path) -> None:
    template = template_of(str(tiny_model), SETTINGS)
    assert (template.query, template.before_passage) == (INSTRUCT, "")
    assert template.deciding == {}
    queries, passages = _texts(mixture_data, template)
    plain, same = _texts(mixture_data, Template("{query}"))
    assert passages == same
    prompts = [part.prompts or (DEFAULT_PROMPT,) for part in mixture_data.components.values()]
    prefixes = {f"Instruct: {prompt}\nQuery: " for some in prompts for prompt in some}
    assert all(any(query == prefix + bare for prefix in prefixes) for query, bare in zip(queries, plain, strict=True))


@pytest.mark.parametrize(
    ("wanted", "query", "passage"),
    [
        ({"query_template": "none"}, "", ""),
        ({"query_template": "query: {query}"}, "query: ", ""),
        ({"query_template": "query: {query}", "passage_template": "passage: {passage}"}, "query: ", "passage: "),
        ({"query_template": "<{prompt}> {query}"}, "<Find it> ", ""),
        ({"query_template": r"{prompt}\n{query}"}, "Find it\n", ""),  # as a command line hands it over
        ({"query_template": "instruct", "passage_template": "none"}, "Instruct: Find it\nQuery: ", ""),
    ],
)
def test_templates_of_every_form(tiny_model: Path, wanted: dict[str, str], query: str, passage: str) -> None:
    template = template_of(str(tiny_model), TrainingSettings(**wanted))
    assert (template.before_query("Find it"), template.before_passage) == (query, passage)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("query_template", "query: {qury}", "{qury} is neither; did you mean {query}?"),
        ("query_template", "query: {}{query}", "{} is neither"),
        ("query_template", "query: ", "never behind"),
        ("query_template", "{query} ?", "never behind"),
        ("query_template", "{query}{query}", "never behind"),
        ("query_template", "{ {query}", "lone brace"),
        ("query_template", "instrukt", "ends in {query}"),
        ("passage_template", "p: {query}", "{query} is neither"),
        ("passage_template", "instruct", "ends in {passage}"),
    ],
)
def test_a_template_that_cannot_be_is_an_error(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainingSettings(**{name: value})  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{name} is {value}; allowed: auto, none, ")


def test_an_empty_prompt_is_no_prompt() -> None:
    assert Template().prefixes(("", "Find it")) == ["", "Instruct: Find it\nQuery: "]
    assert Template().prefixes(()) == [f"Instruct: {DEFAULT_PROMPT}\nQuery: "]
    assert Template("query: {query}").prefixes(("",)) == ["query: "]  # the model's, whatever the collection wants


@pytest.mark.parametrize(
    ("prompts", "query", "passage"),
    [
        (OWN, "query: {query}", "passage: {passage}"),
        ({"query": "Represent this: ", "document": ""}, "Represent this: {query}", "{passage}"),
        ({"query": "Instruct: Given a search\nQuery:"}, "Instruct: {prompt}\nQuery:{query}", "{passage}"),
    ],
)
def test_a_models_own_prompts_are_taken(
    tiny_model: Path, tmp_path: Path, prompts: dict[str, str], query: str, passage: str
) -> None:
    model = _with_prompts(tiny_model, tmp_path / "base", prompts)
    template = template_of(model, SETTINGS)
    assert (template.query, template.passage, template.source) == (query, passage, "the model's own prompts")
    if template.uses_prompt:
        assert template.prompt == "Given a search"
    assert template_of(model, replace(SETTINGS, query_template="instruct")).before_passage == ""
    assert own_template(str(tiny_model)) is None


def test_ids_of_runs_change_where_their_texts_do(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    """A model is known by its prompts too; without that it is these ids that tell the runs apart."""
    own = _with_prompts(tiny_model, tmp_path / "own", OWN)
    assert template_of(own, SETTINGS).deciding != {}
    settings = [SETTINGS, *(replace(SETTINGS, query_template=t) for t in ("none", "instruct", "q: {query}"))]
    assert len({identity(mixture_data, own, one) for one in settings}) == len(settings)
    trained = {"query": f"Instruct: {DEFAULT_PROMPT}\nQuery: ", "document": ""}  # by an older version of this toolkit
    before = _with_prompts(tiny_model, tmp_path / "before", trained)
    assert template_of(before, SETTINGS).deciding == {}


def test_training_scoring_and_mining_see_the_same_template_and_the_saved_model_keeps_it(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path, seen: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    base = _with_prompts(tiny_model, tmp_path / "base", OWN)
    with caplog.at_level(logging.INFO, logger="trainers"):
        finetune(mixture_data, base, SETTINGS, tmp_path / "out", suites=[load_suite(suite)])
    assert sum(text.startswith("query: ") for text in seen) == 2 * 6
    assert sum(text.startswith("passage: ") for text in seen) == len(seen) - 2 * 6 > 0
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("queries go in as")]
    assert "'query: " in line
    assert "the model's own prompts" in line
    assert "passages after 'passage: '" in line
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["template"]["query"] == "query: {query}"
    assert {row["prompt"] for row in record["evaluations"]} == {"query: "}
    assert "`query: {query}`" in (tmp_path / "out" / "README.md").read_text()
    model = SentenceTransformer(str(tmp_path / "out"))
    np.testing.assert_allclose(model.encode_query("the king"), model.encode("query: the king"), atol=1e-6)
    np.testing.assert_allclose(model.encode_document("the king"), model.encode("passage: the king"), atol=1e-6)
    mined = encode_with(str(tmp_path / "out"))
    np.testing.assert_allclose(mined(["the king"], "query")[0], model.encode_query("the king"), atol=1e-5)
    np.testing.assert_allclose(mined(["the king"], "passage")[0], model.encode_document("the king"), atol=1e-5)


def test_a_model_trained_without_prompts_goes_on_without(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, seen: list[str]
) -> None:
    finetune(mixture_data, str(tiny_model), replace(SETTINGS, query_template="none"), tmp_path / "first")
    assert not any(text.startswith("Instruct: ") for text in seen)
    assert set(SentenceTransformer(str(tmp_path / "first")).prompts.values()) == {""}
    assert template_of(str(tmp_path / "first"), SETTINGS).before_query() == ""


def test_proxy_and_reference_see_the_proxys_template(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, seen: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    proxy = _with_prompts(tiny_model, tmp_path / "proxy", OWN)
    shared = {"steps": 2, "batch_size": 6, "negatives": 1, "max_query_tokens": 96, "temperature": 0.05}
    run_learner(mixture_data, proxy, str(tiny_model), LearningSettings(**shared), tmp_path / "runs" / "run")
    queries = [text for text in seen if text.startswith("query: ")]
    assert len(queries) == 2 * 2 * 6  # both steps, for the proxy and for the reference
    assert all(text.startswith(("query: ", "passage: ")) for text in seen)


def test_room_for_the_prompt_is_that_of_the_template(mixture_data: MaterialisedMixture, tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model))
    few = TrainingSettings(max_query_tokens=4)
    with pytest.raises(UsageError, match="max_query_tokens is 4, which the prompt alone fills"):
        check_prompts(encoder, mixture_data, few)
    check_prompts(encoder, mixture_data, few, Template("{query}"))


@pytest.mark.parametrize("written", ["[]", '[""]'])
def test_a_card_may_say_that_there_is_no_prompt(
    tmp_path: Path, write_collection: Callable[..., Path], written: str
) -> None:
    from mixture import Store, jobs, registry
    from mixture.store.materialise import materialise

    (tmp_path / "cards").mkdir()
    mixture = f"mixture:\n  name: plain\n  prompts: {written}"
    (tmp_path / "cards" / "plain.md").write_text(
        f"---\npretty_name: Plain\nlanguage: [en]\nlicense: mit\n{mixture}\n---\n\nA."
    )
    file = write_collection(tmp_path, "plain")
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, file, name="plain", cards=tmp_path / "cards")
        jobs.create(store, "m")
        data = materialise(store, registry.resolve(store, "m").spec)
        assert data.components["plain"].prompts == ("",)
        jobs.export(store, "m", hf_dataset=tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "prompts.json").read_text()) == {"plain": {"anchor": ""}}
    queries, _ = _texts(data, Template())
    assert not any(query.startswith("Instruct:") for query in queries)
