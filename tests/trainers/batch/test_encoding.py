"""Encoding without gradients gives what `SentenceTransformer.encode` gives, in other portions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

from trainers.batch import encoding, memory
from trainers.batch.encoding import encode
from trainers.jobs.encode import encode_with
from trainers.model.encoder import load_encoder

TEXTS = ["the river of the north", " the king ", "the capital of the south is x, and more of it", "the king", "", "y"]


def _theirs(encoder: SentenceTransformer, prompt: str) -> np.ndarray:
    return encoder.encode(TEXTS, prompt=prompt, normalize_embeddings=True)


@pytest.mark.parametrize("prompt", ["", "the king of "])
@pytest.mark.parametrize("include", [True, False])
def test_texts_are_encoded_as_sentence_transformers_encodes_them(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, include: bool
) -> None:
    """In portions of three texts and few tokens too; also where pooling leaves the prompt out."""
    encoder = load_encoder(str(tiny_model), max_tokens=12, pooling="mean").train()
    encoder[1] = Pooling(64, "mean", include_prompt=include)
    wanted = _theirs(encoder, prompt)
    encoder.train()
    for at_once, tokens in ((1_000, 1_000), (3, 16)):
        monkeypatch.setattr(encoding, "AT_ONCE", at_once)
        monkeypatch.setitem(memory.PER_PASS, "cpu", tokens)
        got = encode(encoder, TEXTS, prompt)
        assert got.dtype == torch.float32
        assert not encoder.training
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-6)


def test_a_micro_batch_has_as_many_texts_as_have_the_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(str(tiny_model))
    seen: list[tuple[int, ...]] = []
    encoder[0].register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0]["input_ids"].shape)))
    texts = [f"the king {number:02d}" for number in range(100)]
    encode(encoder, texts)
    assert [count for count, _ in seen] == [100]
    seen.clear()
    monkeypatch.setitem(memory.PER_PASS, "cpu", 40)
    encode(encoder, texts)
    assert sum(count for count, _ in seen) == 100
    assert max(count * width for count, width in seen) <= 40


def test_equal_texts_are_encoded_once(tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model))
    seen: list[int] = []
    encoder[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]["input_ids"])))
    got = encode(encoder, ["the king", "y", "the king", "y", "the king"]).numpy()
    assert sum(seen) == 2
    assert (got[[0, 0, 1]] == got[[2, 4, 3]]).all()
    np.testing.assert_allclose(got[:2], encoder.encode(["the king", "y"], normalize_embeddings=True), atol=1e-6)


def test_static_models_and_no_texts(tiny_model: Path, tmp_path: Path) -> None:
    words = StaticEmbedding(load_encoder(str(tiny_model)).tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[words]).save(str(tmp_path), create_model_card=False)
    encoder = load_encoder(str(tmp_path))
    np.testing.assert_allclose(encode(encoder, TEXTS[:4]).numpy(), _theirs(encoder, "")[:4], atol=1e-6)
    assert encode(load_encoder(str(tiny_model)), []).numel() == 0


def test_miners_get_the_prompts_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny_model))
    encoder.prompts = {"query": "find the king: ", "document": ""}
    encoder.save(str(tmp_path), create_model_card=False)
    embed = encode_with(str(tmp_path))
    np.testing.assert_allclose(embed(TEXTS, "query"), _theirs(encoder, "find the king: "), atol=1e-6)
    np.testing.assert_allclose(embed(TEXTS, "passage"), _theirs(encoder, ""), atol=1e-6)


def test_a_tokenizer_without_a_limit_is_none(tiny_model: Path) -> None:
    """transformers says 10^30 then, which is no number for the tokenizer's own code."""
    encoder = load_encoder(str(tiny_model))
    encoder.max_seq_length = int(1e30)
    encoder.tokenizer.model_max_length = int(1e30)
    assert encoder.max_seq_length == int(1e30)
    np.testing.assert_allclose(
        encode(encoder, TEXTS[2:3]).numpy(), _theirs(load_encoder(str(tiny_model)), "")[2:3], atol=1e-6
    )


PRODUCTS = """
import torch
{first}

def products(threads):
    torch.set_num_threads(threads)
    return [torch.nn.functional.linear(*pair) for pair in pairs]

drawn = torch.Generator().manual_seed(0)
pairs = [(torch.randn(m, 1536, generator=drawn), torch.randn(384, 1536, generator=drawn)) for m in range(8, 200, 8)]
print(sum(not torch.equal(one, two) for one, two in zip(products(1), products(2))))
"""


def test_products_do_not_depend_on_the_number_of_threads() -> None:
    """In processes of their own, for MKL reads its mode once."""
    kept = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    theirs, ours = (
        int(subprocess.check_output([sys.executable, "-c", PRODUCTS.format(first=first)], env=kept, text=True))
        for first in ("", "import trainers.model.encoder")
    )
    if not theirs:
        pytest.skip("on this machine they never do")
    assert ours == 0
