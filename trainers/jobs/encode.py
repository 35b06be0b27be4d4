"""An encoder as the function that mining and dedup search with."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mixture.embeddings import Kind, Space
from mixture.engine import Elsewhere, Engine, engine_of
from mixture.errors import UsageError
from trainers.batch.encoding import encode, in_groups
from trainers.evaluation.evaluate import document_prompt_for, prompt_for
from trainers.jobs.workers import ClusterWorkers, LocalWorkers, Workers
from trainers.model.encoder import load_encoder
from trainers.model.identity import loaded_identity, locate
from trainers.model.instructions import Instructions, known_instructions
from trainers.model.template import RECORD


class TextEncoder:
    """`encode(texts, kind)` -> (n, D) float32, unit length; kind is "query" or "passage".

    It says what its embeddings depend on (`space`), so that they can be kept. unit: False for a model that compares by
    inner product, and whose embeddings stay as long as they are.
    """

    def __init__(self, model: str, processes: int = 1, engine: str | Engine = "local") -> None:
        if processes < 1:
            raise UsageError(f"`processes` is {processes}; allowed: 1 or more")
        runs = engine_of(engine)
        self.encoder = load_encoder(model)
        self.unit = True
        self._workers: Workers | None = None
        if isinstance(runs, Elsewhere):
            self._workers = ClusterWorkers(model, processes, runs, loaded_identity(self.encoder, model))
        elif processes > 1:
            self._workers = LocalWorkers(model, processes)
        self._model = model
        self.instructions = instructions_of(self.encoder, model)

    def behind(self, instructions: Instructions, *, unit: bool = True) -> TextEncoder:
        """The same model, and the same processes, with other instructions before its texts."""
        other = copy(self)
        other.instructions, other.unit = instructions, unit
        return other

    def __call__(self, texts: Sequence[str], kind: Kind) -> NDArray[np.floating[Any]]:
        prompt = self._before(kind)
        if self._workers is None or len(texts) <= self._workers.few:
            return np.asarray(encode(self.encoder, texts, prompt, kind=kind, unit=self.unit).cpu().numpy())
        groups, places = in_groups(texts)  # so that a text gets the same numbers whoever encodes it
        return np.asarray(np.concatenate(list(self._workers.encode(groups, prompt, kind, self.unit)))[places])

    def space(self, kind: Kind) -> Space:
        """The space of the embeddings of queries, or of passages."""
        name = loaded_identity(self.encoder, self._model) + " as given" * (not self.unit)
        return Space(model=name, prompt=self._before(kind), max_tokens=self.encoder.max_seq_length or None)

    def _before(self, kind: Kind) -> str:
        return self.instructions.query if kind == "query" else self.instructions.passage


def encode_with(model: str, *, processes: int = 1, engine: str | Engine = "local") -> TextEncoder:
    """The model of a folder or hub name as a function of texts and their kind.

    Prompts are the model's own. One that carries none, and was not trained here without, gets those that models of its
    name are known to be trained with (`trainers.model.instructions`).

    processes: that encode, for more than a thousand texts at once; with several GPUs one each. They are started from
               the program's main module, which must therefore do its work under `if __name__ == "__main__"`
    engine:    where they are: a name of `ENGINES`, or an `Engine`; on a cluster one does all of the encoding too
    """
    return TextEncoder(model, processes, engine)


def instructions_of(encoder: SentenceTransformer, model: str) -> Instructions:
    """What stands before a model's texts when it is used: its own prompts, or what its name tells."""
    own = Instructions(prompt_for(encoder, "query")[1] or "", document_prompt_for(encoder)[1] or "")
    if any(encoder.prompts.values()) or (Path(locate(model)) / RECORD).is_file():
        return own
    return known_instructions(model)
