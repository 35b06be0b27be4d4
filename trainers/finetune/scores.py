"""Evaluation while a model is trained: on suites, every so many steps and at the end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from mixture.arguments import Names, listed
from mixture.errors import UsageError
from mixture.suites.layout import find_suites
from mixture.suites.suite import Suite, load_suite
from trainers.evaluation.evaluate import check_similarity, document_prompt_for, evaluate_suite, prompt_for
from trainers.evaluation.metrics import require_pytrec_eval
from trainers.finetune.config import FinetuneSettings
from trainers.parallel import ranks

METRIC = "ndcg@10"


def load_suites(folders: Names, settings: FinetuneSettings) -> list[Suite]:
    """The suites in these folders. What does not fit the settings is said now, before anything long starts."""
    given = listed(folders)
    loaded = [load_suite(folder) for folder in (find_suites(given) if given else ())]
    Scores(loaded, settings)
    return loaded


@dataclass
class Scores:
    """What the suites said so far: a row for each step, suite and metric; of the best and the last step also the value
    of each query, a row for each step and suite. Travels in the checkpoint.

    The best step is the one with the highest mean nDCG@10 over the suites, of equal ones the earliest.

    Raises `UsageError` for suites that the settings do not use, and for settings that need suites.
    """

    suites: Sequence[Suite]
    settings: FinetuneSettings
    rows: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.suites and (self.settings.evaluate_every or self.settings.needs_best):
            raise UsageError("evaluate_every, keep_best and final=best need something to evaluate on: `suite`")
        if self.suites:
            require_pytrec_eval()

    def check(self, encoder: SentenceTransformer) -> None:
        """Raise `UsageError` for a model that cannot be scored."""
        if self.suites:
            check_similarity(encoder)

    def due(self, step: int) -> bool:
        every = self.settings.evaluate_every
        return bool(self.suites) and (step == self.settings.steps or (every > 0 and step % every == 0))

    def score(self, encoder: SentenceTransformer, step: int) -> dict[str, float]:
        """Evaluate the model after `step` steps, and leave it and all random states as they were, so that training
        goes on as it would have. A collective: every rank encodes everything, the first one's numbers count. Returns
        nDCG@10 by suite.
        """
        was_training = encoder.training
        devices = [encoder.device] if encoder.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            found = [self._rows(encoder, suite, step) for suite in self.suites]
        encoder.train(was_training)
        agreed = ranks.on_main(lambda: found)
        new = [row for rows, _ in agreed for row in rows]
        self.rows += new
        self.queries = [row for row in self.queries if row["step"] == self.best] + [row for _, row in agreed]
        return {row["suite"]: row["value"] for row in new if row["metric"] == METRIC}

    def _rows(
        self, encoder: SentenceTransformer, suite: Suite, step: int
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        prompt, document_prompt = prompt_for(encoder, suite.name)[1], document_prompt_for(encoder)[1]
        result = evaluate_suite(encoder, suite, prompt=prompt, document_prompt=document_prompt)
        queries = {"step": step, "suite": suite.name, "corpus": result.corpus, "values": result.by_metric}
        return [{"step": step, **row} for row in result.rows], queries

    @property
    def means(self) -> dict[int, float]:
        """Step -> mean nDCG@10 over the suites."""
        steps = dict.fromkeys(row["step"] for row in self.rows)
        return {step: statistics.fmean(row["value"] for row in self.of(step) if row["metric"] == METRIC)
                for step in steps}  # fmt: skip

    @property
    def best(self) -> int:
        """The best step so far."""
        means = self.means
        return max(means, key=lambda step: (means[step], -step))

    def of(self, step: int) -> list[dict[str, Any]]:
        """The rows of one step."""
        return [row for row in self.rows if row["step"] == step]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "queries": self.queries}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.queries = state["rows"], state["queries"]
