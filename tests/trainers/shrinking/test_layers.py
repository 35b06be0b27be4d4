"""A model without some of its layers: the same bits with all of them, and the same model when it is saved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from tests.trainers.conftest import layered
from trainers.model.encoder import load_encoder
from trainers.shrinking.architecture import PLACES, architecture_of
from trainers.shrinking.layers import layers_of, with_layers

TEXTS = ["the river of the north", "ba dan", "the king of the south is x and the capital of the north is y"]


def vectors(encoder: SentenceTransformer) -> np.ndarray:
    return encoder.encode(TEXTS, prompt="", show_progress_bar=False)


@pytest.mark.parametrize("kind", PLACES)
def test_every_known_architecture_can_be_cut_saved_and_loaded(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"sliding_window": 8} if kind in ("gemma2", "gemma3_text", "mistral") else {}
    layered(tmp_path / "whole", tiny_model, kind, **more)
    encoder = load_encoder(str(tmp_path / "whole"))
    assert architecture_of(str(tmp_path / "whole")) == (kind, 5)
    before = vectors(encoder)
    assert (vectors(with_layers(encoder, range(5))) == before).all()
    kept = [*architecture_of(str(tmp_path / "whole")).fixed, 1, 4]
    cut = with_layers(encoder, kept)
    masked = vectors(cut)
    assert float(abs(masked - before).max()) > 1e-3
    assert (vectors(encoder) == before).all()
    cut.save(str(tmp_path / "cut"), create_model_card=False)
    loaded = load_encoder(str(tmp_path / "cut"))
    assert vectors(loaded) == pytest.approx(masked, abs=1e-6)
    assert architecture_of(str(tmp_path / "cut")) == (kind, len(kept)) == (kind, len(layers_of(loaded)))
    layers = {
        re.sub(r".*\.layers?\.(\d+)\..*", r"\1", name)
        for name in loaded.state_dict()
        if re.search(r"layers?\.\d", name)
    }
    assert layers == {str(layer) for layer in range(len(kept))}
    assert torch.equal(_first(layers_of(loaded)[-1]), _first(layers_of(encoder)[4]))


def _first(layer: Any) -> torch.Tensor:
    return next(parameter for parameter in layer.parameters() if parameter.ndim == 2)


def test_a_cut_decoder_keeps_the_attention_of_its_layers_and_numbers_its_caches_anew(
    deep_model: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(str(deep_model))
    assert encoder.transformers_model.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 3
    cut = with_layers(encoder, [1, 2, 4])
    cut.save(str(tmp_path / "cut"), create_model_card=False)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    assert config["num_hidden_layers"] == 3
    loaded = load_encoder(str(tmp_path / "cut"))
    assert [layer.self_attn.layer_idx for layer in layers_of(loaded)] == [0, 1, 2]
    assert [layer.self_attn.layer_idx for layer in layers_of(encoder)] == [0, 1, 2, 3, 4]
    model: Any = loaded.transformers_model
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        at_once = model(ids).last_hidden_state
        first = model(ids[:, :3], use_cache=True)
        rest = model(ids[:, 3:], past_key_values=first.past_key_values, use_cache=True).last_hidden_state
    torch.testing.assert_close(rest[:, 0], at_once[:, 3])


def test_a_cut_model_shares_the_weights(bert_model: Path) -> None:
    encoder = load_encoder(str(bert_model))
    cut = with_layers(encoder, [0, 3])
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    assert {parameter.data_ptr() for parameter in cut.parameters()} < own
    loss = cut(encoder.tokenize(TEXTS))["sentence_embedding"].square().mean(dim=0)[0]
    loss.backward()
    with_gradient = [
        any(p.grad is not None and bool(p.grad.any()) for p in layer.parameters()) for layer in layers_of(encoder)
    ]
    assert with_gradient == [True, False, False, True, False]


def test_architectures_that_are_not_known_are_refused_by_name(
    bert_model: Path, static_model: Path, tmp_path: Path, tiny_model: Path
) -> None:
    with pytest.raises(UsageError, match="is a static model: a table of token vectors, without layers"):
        architecture_of(str(static_model))
    with pytest.raises(UsageError, match="tiny-qwen2 has random weights until it is trained"):
        architecture_of("tiny-qwen2")
    layered(tmp_path / "gpt", tiny_model, "gpt2", n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(UsageError, match="is of the architecture gpt2, whose layers are not known here; known: bert, "):
        architecture_of(str(tmp_path / "gpt"))
    with pytest.raises(UsageError, match="the layers of the architecture gpt2 are not known here; known: bert, "):
        layers_of(load_encoder(str(tmp_path / "gpt")))
    with pytest.raises(UsageError, match="the layers of the model, which is no transformer, are not known here"):
        layers_of(load_encoder(str(static_model)))
