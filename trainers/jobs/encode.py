"""An encoder as the function that mining and dedup search with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mixture.embeddings import Kind, Space
from trainers.batch.encoding import encode
from trainers.evaluation.evaluate import document_prompt_for, prompt_for
from trainers.model.encoder import load_encoder
from trainers.model.identity import locate, model_identity
from trainers.model.instructions import Instructions, known_instructions
from trainers.model.template import RECORD


class TextEncoder:
    """`encode(texts, kind)` -> (n, D) float32, unit length; kind is "query" or "passage".

    It says what its embeddings depend on (`space`), so that they can be kept.
    """

    def __init__(self, model: str) -> None:
        self._encoder = load_encoder(model)
        self._model = model
        self.instructions = _instructions(self._encoder, model)

    def __call__(self, texts: Sequence[str], kind: Kind) -> NDArray[np.floating[Any]]:
        return np.asarray(encode(self._encoder, texts, self._before(kind)).cpu().numpy())

    def space(self, kind: Kind) -> Space:
        """The space of the embeddings of queries, or of passages."""
        config = getattr(self._encoder.transformers_model, "config", None)
        revision = None if Path(locate(self._model)).is_dir() else getattr(config, "_commit_hash", None)
        name = model_identity(self._model) + (f"@{revision}" if revision else "")
        return Space(model=name, prompt=self._before(kind), max_tokens=self._encoder.max_seq_length or None)

    def _before(self, kind: Kind) -> str:
        return self.instructions.query if kind == "query" else self.instructions.passage


def encode_with(model: str) -> TextEncoder:
    """The model of a folder or hub name as a function of texts and their kind.

    Prompts are the model's own. One that carries none, and was not trained here without, gets those that models of its
    name are known to be trained with (`trainers.model.instructions`).
    """
    return TextEncoder(model)


def _instructions(encoder: SentenceTransformer, model: str) -> Instructions:
    own = Instructions(prompt_for(encoder, "query")[1] or "", document_prompt_for(encoder)[1] or "")
    if any(encoder.prompts.values()) or (Path(locate(model)) / RECORD).is_file():
        return own
    return known_instructions(model)
