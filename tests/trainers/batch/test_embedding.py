"""Embedding a batch: in groups, equal texts once, cut where the model ends; prepared in the background."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.feed import Feed
from trainers.batch.gradient_cache import TokenBudget
from trainers.batch.texts import BatchSource, TextBatch
from trainers.finetune import FinetuneSettings
from trainers.loop.steps import TrainingLoop
from trainers.model.encoder import load_encoder

TEXTS = ["the river of the north", "the king", "the capital of the south is x, and more of it", "the king", "y"]
PLENTY = TokenBudget(1_000, 1_000)


@pytest.mark.parametrize("tokens_per_pass", [1, 16, 10_000])
def test_embedding_in_groups_equals_encode(tiny_model: Path, tokens_per_pass: int) -> None:
    encoder = load_encoder(str(tiny_model)).eval()
    tokens = tokenise(encoder.tokenizer, TEXTS, [64] * 5)
    got = embed_across_ranks(encoder, tokens, TokenBudget(tokens_per_pass, 20))
    np.testing.assert_allclose(got.detach().numpy(), encoder.encode(TEXTS), atol=1e-6)
    assert got.requires_grad
    assert tokens.num_distinct == 4
    assert tokens.num_tokens == sum(len(encoder.tokenizer(text).input_ids) for text in set(TEXTS))


def test_tokens_that_are_known_are_not_made_again(tiny_model: Path) -> None:
    tokenizer = load_encoder(str(tiny_model)).tokenizer
    known = tokenise(tokenizer, TEXTS, [64, 64, 6, 64, 64])
    made: list[str] = []

    def noted(texts: list[str], **options: object) -> object:
        made.extend(texts)
        return tokenizer(texts, **options)

    some = [TEXTS[2], "another", TEXTS[1], TEXTS[2]]
    got = tokenise(noted, some, [6, 64, 64, 64], known.by_text)
    assert sorted(made) == ["another", TEXTS[2]]  # the second under a limit that is new
    wanted = tokenise(tokenizer, some, [6, 64, 64, 64])
    assert torch.equal(got.places, wanted.places)
    assert [ids.tolist() for ids in got.ids] == [ids.tolist() for ids in wanted.ids]


def test_equal_texts_are_encoded_once_and_gradients_add_up(tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model)).eval()
    seen: list[int] = []
    encoder[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]["input_ids"])))
    repeated = embed_across_ranks(encoder, tokenise(encoder.tokenizer, ["the king"] * 6, [8] * 6), PLENTY)
    assert sum(seen) == 1
    weights = torch.arange(6.0)[:, None]
    (repeated * weights).sum().backward()
    together = encoder.transformers_model.embed_tokens.weight.grad.clone()  # type: ignore[union-attr, operator]
    encoder.zero_grad()
    (embed_across_ranks(encoder, tokenise(encoder.tokenizer, ["the king"], [8]), PLENTY) * 15.0).sum().backward()
    alone = encoder.transformers_model.embed_tokens.weight.grad  # type: ignore[union-attr]
    torch.testing.assert_close(together, alone)


def test_texts_are_cut_at_their_own_limit_and_at_the_models(tiny_model: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny_model), max_tokens=6).eval()
    loop = TrainingLoop(encoder, FinetuneSettings(steps=1), tmp_path)
    long = "the river of the north and the king of the south"
    tokens = loop.tokens(encoder, [long, long], [4, 500])
    assert sorted(map(len, tokens.ids)) == [4, 6]
    got = loop.embed_tokens(encoder, tokens)[1:]
    np.testing.assert_allclose(got.detach().numpy(), encoder.encode([long]), atol=1e-6)
    assert not np.allclose(got.detach().numpy(), load_encoder(str(tiny_model)).encode([long]), atol=1e-3)


def _source(data: MaterialisedMixture) -> BatchSource:
    return BatchSource(data, BatchPlan(data.spec.weights, data.sizes, 8, 1, positives=data.positives()), negatives=2)


def test_batches_are_prepared_in_another_thread_and_are_the_same(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(str(tiny_model)).eval()
    loop = TrainingLoop(encoder, FinetuneSettings(steps=9, max_query_tokens=16), tmp_path)
    source, threads = _source(mixture_data), set()

    def prepare(step: int) -> TextBatch:
        threads.add(threading.get_ident())
        return loop.prepared(source.homogeneous(step))

    with Feed(prepare, 3, 9) as feed:
        batches = list(feed)
        assert feed.waited >= 0
    assert threads.isdisjoint({threading.get_ident()})
    for step, batch in enumerate(batches, start=3):
        plain = _source(mixture_data).homogeneous(step)
        assert (batch.queries, batch.passages) == (plain.queries, plain.passages)
        assert batch.tokens is not None
        with torch.no_grad():
            for one, two in zip(loop.embed_batch(encoder, batch), loop.embed_batch(encoder, plain), strict=True):
                assert torch.equal(one, two)


def test_what_fails_in_the_background_fails_at_its_step() -> None:
    def prepare(step: int) -> TextBatch:
        if step == 2:
            raise ValueError("row 2")
        return None  # type: ignore[return-value]

    seen = 0
    with pytest.raises(ValueError, match="row 2"), Feed(prepare, 0, 5) as feed:
        for _ in feed:
            seen += 1
    assert seen == 2
