"""Models of real shape with random weights, for what does not depend on the weights: time and memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from mixture.materialised import MaterialisedMixture
from trainers.model.encoder import append_end_token
from trainers.model.tiny import _train_tokenizer

MAX_TOKENS = 512
# As the models' own configurations have it; but for the vocabulary, which is the tokenizer's.
QWEN2_05B = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "max_position_embeddings": 32_768, "tie_word_embeddings": True}  # fmt: skip
MINILM = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12,
          "max_position_embeddings": MAX_TOKENS}  # fmt: skip
SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPES: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "0.5b": (Qwen2Config, Qwen2Model, QWEN2_05B, "lasttoken"),
    "minilm": (BertConfig, BertModel, MINILM, "mean"),
    "tiny": (Qwen2Config, Qwen2Model, SMALL | {"num_key_value_heads": 1}, "lasttoken"),
    "tiny-minilm": (BertConfig, BertModel, SMALL, "mean"),
}


def train_tokenizer(data: MaterialisedMixture, vocabulary: int = 32_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the mixture's passages, 20,000 at most of each collection, that ends texts with its end
    token."""
    texts = [part.passage(n) for part in data.components.values() for n in range(min(part.num_passages, 20_000))]
    tokenizer = _train_tokenizer(texts, vocabulary, MAX_TOKENS)
    append_end_token(tokenizer)
    return tokenizer


def build(shape: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """A sentence-transformers folder of a shape (`SHAPES`), weights drawn with seed 0."""
    config, model, sizes, pooling = SHAPES[shape]
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    base = folder / "base"
    model(config(vocab_size=len(tokenizer), **sizes, **special)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=MAX_TOKENS), Pooling(sizes["hidden_size"], pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / shape), create_model_card=False)
    shutil.rmtree(base)
    return folder / shape
