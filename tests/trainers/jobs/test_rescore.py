"""A cross-encoder scores pairs for mining."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

import trainers
from mixture import Store, jobs
from mixture.errors import UsageError


def build(folder: Path, labels: int) -> Path:
    """A random cross-encoder of one layer."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase, *(f"##{c}" for c in ascii_lowercase)]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=16, num_labels=labels)  # fmt: skip
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_cross_encoder_rescores_what_bm25_finds(small_store: Store, tmp_path: Path) -> None:
    model = str(build(tmp_path / "judge", 1))
    (result,) = jobs.mine(small_store, "easy", per_query=3, rescore=model, rescorer=trainers.rescore_with)
    assert result.negatives + result.known == 3 * 40
    rows = small_store.rows(
        """SELECT e.query, p.text, n.score, n.miner FROM negatives n JOIN examples e USING (collection, example_id)
           JOIN passages p USING (collection, passage_id) WHERE n.miner LIKE 'bm25+%'"""
    )
    assert {row["miner"] for row in rows} == {f"bm25+{model}"}
    scores = CrossEncoder(model).predict([(row["query"], row["text"]) for row in rows])
    np.testing.assert_allclose([row["score"] for row in rows], scores, atol=1e-5)


def test_what_is_no_rescorer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 3 outputs; a rescorer has one, the relevance"):
        trainers.rescore_with(str(build(tmp_path / "three", 3)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no cross-encoder loads from"):
        trainers.rescore_with(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="no model folder"):
        trainers.rescore_with("./nowhere")
