"""An encoder as the function that `mixture.mining` searches with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trainers.batch.encoding import encode
from trainers.evaluation.evaluate import document_prompt_for, prompt_for
from trainers.model.encoder import load_encoder


def encode_with(model: str) -> Callable[[Sequence[str], str], np.ndarray]:
    """`encode(texts, kind)` -> (n, D) float32, unit length; kind is "query" or "passage".

    Prompts are the model's own.
    """
    encoder = load_encoder(model)
    prompts = {"query": prompt_for(encoder, "query")[1], "passage": document_prompt_for(encoder)[1]}

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        return encode(encoder, texts, prompts[kind] or "").cpu().numpy()

    return embed
