"""Static models: loaded, trained, saved; what they have not is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

import trainers
from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import load_suite
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.encoding import encode
from trainers.batch.gradient_cache import TokenBudget
from trainers.batch.texts import TextBatch
from trainers.finetune import FinetuneSettings, finetune
from trainers.learning.config import LearningSettings
from trainers.loop.steps import TrainingLoop
from trainers.model.encoder import load_encoder, load_for_training
from trainers.model.fitting import fitted
from trainers.model.identity import STATIC_FILES, is_static, model_identity
from trainers.model.names import known_model
from trainers.model.static import MeanOfRows
from trainers.model.template import template_of

SETTINGS = FinetuneSettings(steps=12, batch_size=8, temperature=0.05, negatives=2, max_query_tokens=96,
                            max_passage_tokens=32, checkpoint_every=4, tracker="none")  # fmt: skip
TEXTS = ["How do I reset my password?", "", "Größe, 你好", "  two  spaces\nand a line", "word " * 300]
BUDGET = TokenBudget(100, 100)


@pytest.fixture
def package() -> Path:
    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        pytest.skip("wordllama is not installed (extra demo)")
    return Path(found.origin).parent


def test_static_is_the_mean_of_the_packages_token_vectors(package: Path) -> None:
    encoder = load_encoder("static")
    table = load_file(package / STATIC_FILES[0])["embedding.weight"].astype(np.float64)
    tokenizer = Tokenizer.from_file(str(package / STATIC_FILES[1]))
    for text, got in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        mean = table[ids].mean(axis=0) if ids else np.zeros(table.shape[1])
        np.testing.assert_allclose(got, mean / max(float(np.linalg.norm(mean)), 1e-12), atol=1e-6)
    assert encoder.get_embedding_dimension() == 256
    near = encoder.encode(["the doctor treats a patient", "a physician in a hospital", "share prices fell"])
    assert near[0] @ near[1] > near[0] @ near[2] + 0.2  # the rows belong to the tokens


def test_a_missing_package_is_one_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)  # as where it is not installed
    for door in (known_model, load_encoder, model_identity):
        with pytest.raises(UsageError, match=r"needs the files of wordllama: pip install 'retrieval-mixture\[demo\]'"):
            door("static")


def test_a_model_folder_called_static_must_be_written_as_a_folder(
    static_model: Path, tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "static").mkdir()  # of a web site, say
    assert known_model("static") == "static"
    assert load_encoder("static").get_embedding_dimension() == 256
    (tmp_path / "static" / "modules.json").write_text("[]")
    with pytest.raises(UsageError, match=r"write \./static"):
        known_model("static")
    assert known_model("./static") == "./static"


def test_which_models_are_static_is_told_before_loading(static_model: Path, tiny_model: Path, package: Path) -> None:
    assert [is_static(str(model)) for model in ("static", static_model, tiny_model)] == [True, True, False]
    assert model_identity("static") not in ("static", model_identity(str(static_model)))


def test_gradients_have_the_rows_of_the_batch_alone_and_are_torchs(static_model: Path) -> None:
    encoder = load_for_training(str(static_model), SETTINGS)
    bag: Any = encoder[0].embedding
    tokens = tokenise(encoder.tokenizer, ["the king", "", "the river of the north", "the king"], [16] * 4)
    weights = torch.linspace(-1, 1, 4 * 48).reshape(4, 48)
    (embed_across_ranks(encoder, tokens, BUDGET) * weights).sum().backward()
    got = bag.weight.grad
    assert got.is_sparse
    rows = got._indices()[0].tolist()
    assert rows == sorted({int(i) for ids in tokens.ids for i in ids})
    plain = torch.nn.EmbeddingBag.from_pretrained(bag.weight.detach().clone(), freeze=False)
    ids = [torch.from_numpy(one.astype(np.int64)) for one in tokens.ids]
    offsets = torch.tensor([0, *np.cumsum([len(one) for one in ids])[:-1]])
    (plain(torch.cat(ids), offsets)[tokens.places] * weights).sum().backward()
    torch.testing.assert_close(got.to_dense(), plain.weight.grad)
    assert type(bag) is MeanOfRows


def test_training_cuts_texts_to_our_limits_and_the_saved_model_sees_all(static_model: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, max_query_tokens=4, max_passage_tokens=9)
    loop = TrainingLoop(load_for_training(str(static_model), settings), settings, tmp_path)
    long = TextBatch(np.zeros(1, int), ["king " * 50], ["king " * 50, "king"], None, np.zeros(1, int), ["e"], ("c",))
    tokens = loop.prepared(long).tokens
    assert tokens is not None
    lengths = [len(tokens.ids[place]) for place in tokens.places]
    assert lengths[:2] == [4, 9]
    assert 0 < lengths[2] < 4
    # A mean needs no limit: cutting what it is of costs points.
    loop.encoder.save(str(tmp_path / "saved"), create_model_card=False)
    saved = SentenceTransformer(str(tmp_path / "saved"))
    one, other = saved.encode(["king " * 50 + "bake", "king " * 50 + "dan"])
    assert float(np.abs(one - other).max()) > 1e-3


def test_encoding_is_that_of_sentence_transformers(static_model: Path) -> None:
    encoder = load_encoder(str(static_model))
    wanted = encoder.encode(TEXTS, prompt="the king: ", normalize_embeddings=True)
    np.testing.assert_allclose(encode(encoder, TEXTS, "the king: ").numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pooling", "cls"), ("attention", "sdpa"), ("lora_rank", 8), ("activation_checkpointing", True), ("bf16", True),
     ("fsdp", True)],
)  # fmt: skip
def test_what_a_table_has_not_is_refused(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path, name: str, value: Any
) -> None:
    settings = replace(SETTINGS, **{name: value})
    with pytest.raises(UsageError, match=f"{name} is {value}; allowed with a static model: "):
        trainers.train_on_folder(mixture_data, static_model, out=tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_rate_and_template_suit_the_model_where_nothing_is_said(static_model: Path, tiny_model: Path) -> None:
    assert fitted(SETTINGS, str(static_model)).learning_rate == 0.01
    assert fitted(SETTINGS, str(tiny_model)).learning_rate == 1e-4
    assert fitted(replace(SETTINGS, learning_rate=0.5), str(static_model)).learning_rate == 0.5
    assert template_of(str(static_model), SETTINGS).query == "{query}"
    assert template_of(str(static_model), replace(SETTINGS, query_template="instruct")).uses_prompt
    assert template_of(str(tiny_model), SETTINGS).uses_prompt


def _losses(out: Path) -> list[dict[str, Any]]:
    return list(json.loads((out / "training.json").read_text())["losses"])


def test_it_learns_from_the_batches_of_other_models_and_loads_anywhere(
    mixture_data: MaterialisedMixture, static_model: Path, tiny_model: Path, tmp_path: Path, suite: Path
) -> None:
    before = trainers_score(str(static_model), suite)
    settings = replace(SETTINGS, steps=200, learning_rate=0.02, query_template="query: {query}", checkpoint_every=100)
    finetune(mixture_data, str(static_model), settings, tmp_path / "out")
    assert trainers_score(str(tmp_path / "out"), suite) > before + 0.1
    finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "tiny")
    drawn = [[(row["step"], row["collection"], row["examples"]) for row in _losses(tmp_path / name)[:12]]
             for name in ("out", "tiny")]  # fmt: skip
    assert drawn[0] == drawn[1]
    saved = SentenceTransformer(str(tmp_path / "out"))
    assert saved.prompts["query"] == "query: "
    np.testing.assert_array_equal(saved.encode_query(["bake dan"]), saved.encode(["query: bake dan"]))
    ours = encode(load_encoder(str(tmp_path / "out")), TEXTS).numpy()
    np.testing.assert_allclose(saved.encode(TEXTS, normalize_embeddings=True), ours, atol=1e-6)
    folders = static_model, tmp_path / "out"
    one, two = (load_file(folder / "model.safetensors")["embedding.weight"] for folder in folders)
    still = (one == two).all(axis=1)
    assert 0 < still.sum() < len(still)  # tokens that no text has


def trainers_score(model: str, suite: Path) -> float:
    from trainers.evaluation.evaluate import evaluate_suite, prompt_for

    encoder = load_encoder(model)
    return evaluate_suite(encoder, load_suite(suite), prompt=prompt_for(encoder, "query")[1]).metrics["ndcg@10"]


def test_stopped_at_a_checkpoint_or_between_it_ends_with_the_same_bits(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path
) -> None:
    finetune(mixture_data, str(static_model), SETTINGS, tmp_path / "whole")
    for last in (4, 7):
        with pytest.raises(InterruptedError):
            finetune(mixture_data, str(static_model), SETTINGS, tmp_path / "parts", progress=_stop_at(last))
    finetune(mixture_data, str(static_model), SETTINGS, tmp_path / "parts")
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert _losses(tmp_path / "whole") == _losses(tmp_path / "parts")


def _stop_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, line: str) -> None:
        if done == step:
            raise InterruptedError

    return progress


@pytest.mark.parametrize("chosen", [{"algorithm": "tdro"}, {"algorithm": "cgd"}, {"algorithm": "rb", "refresh": 2}])
def test_weights_are_learned_with_it(
    small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, chosen: dict[str, Any]
) -> None:
    settings = LearningSettings(steps=6, batch_size=12, temperature=0.05, negatives=2, max_query_tokens=32,
                                max_passage_tokens=32, **chosen)  # fmt: skip
    learned = trainers.learn_weights(small_store, "mix", proxy=static_model, name="w", settings=settings)
    weights = {c.name: c.weight for c in learned.first.spec.components}
    assert sum(weights.values()) == pytest.approx(1)
    assert len(set(weights.values())) == 3
    configs = [json.loads(row["config"]) for row in small_store.rows("SELECT config FROM runs")]
    assert {config["learning_rate"] for config in configs} == {0.01}
    assert trainers.learn_weights(small_store, "mix", proxy=static_model, name="w", settings=settings) == learned


def test_it_mines_and_is_evaluated_by_its_name(small_store: Store, package: Path, suite: Path) -> None:
    (found,) = jobs.mine(small_store, "middle", miner="static", encoder=trainers.encode_with, per_query=2)
    assert found.negatives + found.known == 80
    assert small_store.sql("SELECT DISTINCT miner FROM negatives WHERE miner = 'static'").num_rows == 1
    (result,) = trainers.evaluate(small_store, "static", str(suite))
    assert result.metrics["ndcg@10"] > 0.2
    assert small_store.sql("SELECT DISTINCT model FROM evaluations").to_pylist() == [{"model": "static"}]
