"""A cross-encoder as the function that `mixture.mining` rescores candidates with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sentence_transformers import CrossEncoder

from mixture.errors import UsageError
from trainers.model.names import known_model

# Pairs at a time; sentence-transformers sorts them by length first.
BATCH = 64


def rescore_with(model: str) -> Callable[[list[tuple[str, str]]], np.ndarray]:
    """`rescore(pairs)` -> (len(pairs),) float32, higher for the more relevant of (query, passage).

    model: a CrossEncoder of sentence-transformers with one output, by folder or hub name. Its scores are as it gives
           them: within 0 to 1 where its activation is the sigmoid.

    Raises `UsageError` where none loads, or where it has several outputs.
    """
    name = known_model(model)
    try:
        encoder = CrossEncoder(name)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"no cross-encoder loads from {model!r}: {first[:200]}") from error
    if encoder.num_labels != 1:
        raise UsageError(f"{model!r} has {encoder.num_labels} outputs; a rescorer has one, the relevance")

    def rescore(pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.asarray(encoder.predict(pairs, batch_size=BATCH, show_progress_bar=False), dtype=np.float32)

    return rescore
