"""A copy of a model with another prompt: evaluate, train and sentence-transformers take it, all else is as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import trainers
from mixture import Store
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import load_suite
from trainers.jobs.dense import DenseModel
from trainers.model.prompted import write_prompted
from trainers.model.template import CONFIG, RECORD, own_template

pytest.importorskip("pytrec_eval")
PROMPT = "Instruct: Find the king\nQuery: "


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_only_the_prompts_are_others(tiny_model: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_model))
    model.prompts = {"nq": "old: ", "document": "passage: "}
    model.save(str(tmp_path / "model"), create_model_card=False)
    before = _files(tmp_path / "model")
    write_prompted(str(tmp_path / "model"), PROMPT, tmp_path / "copy")
    after = _files(tmp_path / "copy")
    config, old = json.loads(after.pop(CONFIG)), json.loads(before.pop(CONFIG))
    assert after == before and _files(tmp_path / "model").keys() == {*before, CONFIG}
    assert config.pop("prompts") == {"nq": PROMPT, "document": "passage: ", "query": PROMPT}
    old.pop("prompts")
    assert config == old
    copy = SentenceTransformer(str(tmp_path / "copy"))
    asked, plain = ["the capital of the north"], SentenceTransformer(str(tmp_path / "model"))
    np.testing.assert_array_equal(copy.encode_query(asked), plain.encode(asked, prompt=PROMPT))
    np.testing.assert_array_equal(copy.encode_document(asked), plain.encode_document(asked))
    template = own_template(str(tmp_path / "copy"))
    assert template is not None and template.before_query() == PROMPT and template.before_passage == "passage: "
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_folder_that_holds_something_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "notes").touch()
    with pytest.raises(UsageError, match="is not empty; name a new folder in `out`"):
        write_prompted(str(tiny_model), PROMPT, tmp_path / "copy")


def test_what_sentence_transformers_did_not_save_is_saved_by_it(
    small_store: Store, suite: Path, tmp_path: Path
) -> None:
    pytest.importorskip("wordllama")
    write_prompted("static", PROMPT, tmp_path / "copy")
    (given,) = trainers.evaluate(small_store, "static", suite, prompt=PROMPT)
    (own,) = trainers.evaluate(small_store, tmp_path / "copy", suite)
    assert own.prompt == PROMPT and own.per_query == given.per_query


@pytest.mark.parametrize("prompt", [PROMPT, "find {x}: ", ""])
def test_of_a_model_that_was_trained_here_the_template_goes_along(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, suite: Path, tmp_path: Path, prompt: str
) -> None:
    settings = trainers.FinetuneSettings(steps=2, batch_size=8, negatives=1)
    trainers.train(small_store, "mix", tiny_model, out=tmp_path / "model", settings=settings)
    write_prompted(str(tmp_path / "model"), prompt, tmp_path / "copy")
    before, after = (json.loads((tmp_path / name / RECORD).read_text()) for name in ("model", "copy"))
    assert after["chosen_prompt"] == {"prompt": prompt, "run_id": before["run_id"]} and after["run_id"] is None
    left_out = ("chosen_prompt", "run_id", "template")
    assert {k: v for k, v in after.items() if k not in left_out} == {
        k: v for k, v in before.items() if k not in left_out
    }
    if "{" in prompt:
        with pytest.raises(UsageError, match=r"copy'.*braces.*query_template=none"):
            own_template(str(tmp_path / "copy"))
    else:
        template = own_template(str(tmp_path / "copy"))
        assert template is not None and template.before_query() == prompt
    (given,) = trainers.evaluate(small_store, tmp_path / "model", suite, prompt=prompt)
    (own,) = trainers.evaluate(small_store, tmp_path / "copy", suite)
    assert (own.prompt or "") == prompt and own.per_query == given.per_query
    with pytest.raises(UsageError, match="holds another finished model"):  # it is not what the run made
        trainers.train(small_store, "mix", tiny_model, out=tmp_path / "copy", settings=settings)
    # The prompt that was chosen goes before one that a suite brings.
    from dataclasses import replace

    brought = replace(load_suite(suite), name="other", prompt="the suite's: ")
    assert (DenseModel.load(str(tmp_path / "copy")).own_prompt(brought) or "") == prompt
    assert DenseModel.load(str(tmp_path / "model")).own_prompt(brought) == "the suite's: "
