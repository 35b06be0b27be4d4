"""A tiny language model for a first look: two Qwen2 layers with random weights, and a tokenizer trained on the data."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from trainers.model.encoder import append_end_token

END = "<|endoftext|>"
PAD = "<|pad|>"


def build_tiny(
    texts: Iterable[str],
    folder: Path,
    *,
    seed: int,
    vocabulary: int = 12_000,
    hidden: int = 128,
    layers: int = 2,
    max_tokens: int = 512,
) -> SentenceTransformer:
    """Build and save it as a sentence-transformers folder: last-token pooling, normalised. Same texts and seed, same
    bits."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "base"
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max(512, max_tokens),
        tie_word_embeddings=True,
        # Qwen2's 0.02 is for deep, wide models; here it leaves all texts alike, and training takes far longer to start.
        initializer_range=0.05,
    )
    tokenizer = _train_tokenizer(texts, vocabulary, max_tokens)
    append_end_token(tokenizer)
    config.vocab_size = len(tokenizer)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen2Model(config).save_pretrained(raw)
    tokenizer.save_pretrained(raw)
    transformer = Transformer(str(raw), max_seq_length=max_tokens)
    encoder = SentenceTransformer(modules=[transformer, Pooling(hidden, "lasttoken"), Normalize()])
    encoder.save(str(folder), create_model_card=False)
    shutil.rmtree(raw)
    return encoder


def _train_tokenizer(texts: Iterable[str], vocabulary: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Qwen's. Ties in pair counts are broken by the library the same way for the same texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=max_tokens, padding_side="right"
    )
