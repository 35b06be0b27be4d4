"""Evaluation while a model is trained: on suites, every so many steps and at the end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mixture.errors import UsageError
from mixture.suites.given import Given
from mixture.suites.halves import halved
from mixture.suites.suite import Suite
from trainers.deferred import Deferred
from trainers.evaluation.metrics import require_pytrec_eval
from trainers.finetune.config import FinetuneSettings
from trainers.parallel import ranks

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
else:
    torch = Deferred("torch")

METRIC = "ndcg@10"


def load_suites(given: Sequence[Given], half: str | None = None) -> list[Suite]:
    """The suites, read, whole or one `half` of each (`mixture.suites.halves`)."""
    return [halved(one.load(), half) for one in given]


def check_suites(suites: Sequence[Any], settings: FinetuneSettings) -> None:
    """Raise `UsageError` for suites, read or not, that the settings do not use, and for settings that need
    suites."""
    if not suites and (settings.evaluate_every or settings.needs_best):
        raise UsageError("evaluate_every, keep_best and final=best need something to evaluate on: `suite`")
    if suites:
        require_pytrec_eval()


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
        check_suites(self.suites, self.settings)

    def check(self, encoder: SentenceTransformer) -> None:
        """Raise `UsageError` for a model that cannot be scored."""
        from trainers.evaluation.rankers import check_similarity

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
        from trainers.evaluation.evaluate import evaluate_as_is

        result = evaluate_as_is(encoder, suite)
        queries = {"step": step, "suite": suite.title, "corpus": result.corpus, "values": result.by_metric}
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
