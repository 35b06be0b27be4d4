"""Fewer inner channels: what carries nothing goes first, what it carried on average stays, and the folder is plain."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.trainers.conftest import layered
from tests.trainers.shrinking.test_layers import TEXTS, vectors
from trainers.batch.embedding import token_ids
from trainers.model.encoder import load_encoder
from trainers.shrinking.architecture import PLACES
from trainers.shrinking.layers import layers_of
from trainers.shrinking.width import GATED, INNER, _moments, narrow

DEAD = torch.arange(1, 48, 2)  # every other channel


def ids_of(encoder: SentenceTransformer) -> list[np.ndarray]:
    return token_ids(encoder.tokenizer, [(text, 64) for text in TEXTS])


def down_of(encoder: SentenceTransformer, layer: int) -> Any:
    inner = INNER.get(encoder.transformers_model.config.model_type, GATED)
    return layers_of(encoder)[layer].get_submodule(inner.down)


@pytest.mark.parametrize("kind", PLACES)
def test_channels_that_go_nowhere_go_first_and_nothing_changes(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    encoder = layered(tmp_path / "whole", tiny_model, kind)
    for layer in range(5):
        down_of(encoder, layer).weight.data[:, DEAD] = 0
    before, count = vectors(encoder), sum(p.numel() for p in encoder.parameters())
    assert narrow(encoder, 0.5, ids_of(encoder)) == 24
    assert vectors(encoder) == pytest.approx(before, abs=1e-6)
    encoder.save(str(tmp_path / "narrow"), create_model_card=False)
    loaded = load_encoder(str(tmp_path / "narrow"))
    assert vectors(loaded) == pytest.approx(before, abs=1e-6)
    config = json.loads((tmp_path / "narrow" / "config.json").read_text())
    assert config["hidden_dim" if kind == "distilbert" else "intermediate_size"] == 24
    assert sum(p.numel() for p in loaded.parameters()) < count


def test_what_a_channel_carried_always_goes_into_the_bias(bert_model: Path) -> None:
    encoder = load_encoder(str(bert_model))
    for layer in layers_of(encoder):  # these channels are 1.5 for every token: large, but without variance
        layer.intermediate.dense.weight.data[DEAD] = 0
        layer.intermediate.dense.bias.data[DEAD] = 1.5
        layer.output.dense.weight.data[:, DEAD] *= 3
    before = vectors(encoder)
    without = copy.deepcopy(encoder)
    for layer in layers_of(without):
        layer.output.dense.weight.data[:, DEAD] = 0
    assert float(abs(vectors(without) - before).max()) > 1e-2  # they do carry something
    narrow(encoder, 0.5, ids_of(encoder))
    assert vectors(encoder) == pytest.approx(before, abs=1e-5)


def test_importance_is_variance_times_the_squared_norm_of_what_it_goes_to(bert_model: Path) -> None:
    encoder = load_encoder(str(bert_model))
    inputs: list[torch.Tensor] = []
    down = down_of(encoder, 0)
    hook = down.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        for ids in ids_of(encoder):  # a text at a time: nothing is padded
            encoder({"input_ids": torch.from_numpy(ids)[None].long(), "attention_mask": torch.ones(1, len(ids))})
    hook.remove()
    tokens = torch.cat([part.flatten(0, 1) for part in inputs]).double()
    mean, variance = _moments(encoder, [down], ids_of(encoder))[0]
    torch.testing.assert_close(mean, tokens.mean(dim=0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(variance, tokens.var(dim=0, correction=0), rtol=1e-4, atol=1e-7)
    carries = tokens.var(dim=0, correction=0) * down.weight.double().square().sum(dim=0)
    kept = carries.topk(12).indices.sort().values
    expected = down.weight[:, kept].detach().clone()
    assert narrow(encoder, 0.25, ids_of(encoder)) == 12
    assert torch.equal(down_of(encoder, 0).weight, expected)
