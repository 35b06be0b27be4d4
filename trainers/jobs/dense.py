"""A dense model that is loaded to be scored, with what its training here says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixture.embeddings import Vectors
from mixture.engine import LOCAL, Engine
from mixture.suites.suite import Suite
from trainers.evaluation.evaluate import document_prompt_for, prompt_of
from trainers.evaluation.rankers import Dense
from trainers.finetune.output import mixtures_of, record_if_any
from trainers.jobs.encode import TextEncoder
from trainers.model.instructions import Instructions
from trainers.model.prompted import CHOSEN


@dataclass(frozen=True)
class DenseModel:
    """texts: the model; record: of its training here, empty for others."""

    texts: TextEncoder
    record: Mapping[str, Any]

    @classmethod
    def load(cls, name: str, processes: int = 1, engine: Engine = LOCAL) -> DenseModel:
        """A model by folder or name; processes and engine are `TextEncoder`'s."""
        return cls(TextEncoder(name, processes, engine), record_if_any(Path(name)))

    @property
    def trained_on(self) -> list[str]:
        """The collections that it was trained on here."""
        found = [part["collection"] for one in mixtures_of(self.record) for part in one["mixture"]["components"]]
        return found + [name for part in self.record.get("soup", ()) for name in part["collections"]]

    @property
    def document_prompt(self) -> str | None:
        return document_prompt_for(self.texts.encoder)[1]

    def own_prompt(self, suite: Suite) -> str | None:
        """Its own for the queries of a suite; that of the suite before a general one, unless that was chosen for the
        model (`trainers.model.prompted`)."""
        of_suite = bool(self.record) and CHOSEN not in self.record
        return prompt_of(self.texts.encoder, suite, of_suite=of_suite)

    def behind(self, query_prompt: str, document_prompt: str) -> TextEncoder:
        """Its texts behind these prompts, as long as its similarity has them."""
        unit = self.texts.encoder.similarity_fn_name == "cosine"
        return self.texts.behind(Instructions(query_prompt, document_prompt), unit=unit)

    def ranker(
        self, prompt: str | None = None, *, keep: Callable[[str], Path] | None = None, precision: str = "float32",
        batch_size: int | None = None, hold: Callable[[Vectors], Vectors] | None = None,
    ) -> Dense:  # fmt: skip
        """It as a ranker of documents (`Dense` has the options); prompt: of queries, None: its own."""
        return Dense(
            self.texts.encoder, self.own_prompt if prompt is None else lambda _: prompt, self.document_prompt,
            encode=None if batch_size else self.behind, keep=keep, precision=precision, batch_size=batch_size,
            hold=hold,
        )  # fmt: skip
