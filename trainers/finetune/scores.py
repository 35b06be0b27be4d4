"""Evaluation while a model is trained: on suites and held-out rows, every so many steps and at the end."""

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

    from trainers.finetune.holdout import HeldOut
else:
    torch = Deferred("torch")

METRIC = "ndcg@10"
LOSS = "holdout_loss"


def load_suites(given: Sequence[Given], half: str | None = None) -> list[Suite]:
    """The suites, read, whole or one `half` of each (`mixture.suites.halves`)."""
    return [halved(one.load(), half) for one in given]


def check_suites(suites: Sequence[Any], settings: FinetuneSettings) -> None:
    """Raise `UsageError` for suites, read or not, that the settings do not use, and for settings that need suites or
    held-out rows."""
    if not suites and not settings.holdout and (settings.evaluate_every or settings.needs_best):
        raise UsageError(
            "evaluate_every, keep_best and final=best need something to evaluate on: `suite`, or `holdout=0.01`"
        )
    if suites:
        require_pytrec_eval()


def check_judged(suites: Sequence[Suite]) -> None:
    """Raise `UsageError` for a suite that has no nDCG@10, where models are compared by it."""
    if asked := [suite.title for suite in suites if suite.answers is not None]:
        raise UsageError(f"`suite` has {asked[0]}, which says answers and has no nDCG@10, by which models are compared "
                         "here; leave it out")  # fmt: skip


@dataclass
class Scores:
    """What the suites said so far: a row for each step, suite and metric; of the last step, and of the best where it is
    kept, also the value of each query, a row for each step and suite. What the loss on held-out rows was: a row for
    each step and component (`HeldOut.losses`), of step 0 too. Travels in the checkpoint.

    The best step is the one with the highest mean nDCG@10 over the suites; with `best_by` holdout, and without suites,
    the one with the lowest mean held-out loss over the components. Of equal ones it is the earliest. The model before
    training is not among them.

    Raises `UsageError` for suites that the settings do not use, and for settings that need suites or held-out rows.
    """

    suites: Sequence[Suite]
    settings: FinetuneSettings
    rows: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    held_out: HeldOut | None = None

    def __post_init__(self) -> None:
        check_suites(self.suites, self.settings)
        if self.settings.needs_best and self.settings.best_by == "suites":
            check_judged(self.suites)

    def check(self, encoder: SentenceTransformer) -> None:
        """Raise `UsageError` for a model that cannot be scored."""
        from trainers.evaluation.rankers import check_similarity

        if self.suites:
            check_similarity(encoder)

    def due(self, step: int) -> bool:
        every = self.settings.evaluate_every
        return bool(self.suites or self.settings.holdout) and (
            step == self.settings.steps or (every > 0 and step % every == 0)
        )

    def score(self, encoder: SentenceTransformer, step: int) -> dict[str, float]:
        """Evaluate the model after `step` steps, and leave it and all random states as they were, so that training
        goes on as it would have. A collective: every rank encodes everything, the first one's numbers count. At step 0
        held-out rows alone count. Returns what trackers show: nDCG@10 by suite, losses by component and their mean.
        """
        was_training = encoder.training
        devices = [encoder.device] if encoder.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            losses = [] if self.held_out is None else self.held_out.losses(encoder)
            found = [self._rows(encoder, suite, step) for suite in self.suites if step]
        encoder.train(was_training)
        losses, agreed = ranks.on_main(lambda: (losses, found))
        self.losses += [{"step": step, **row} for row in losses]
        new = [row for rows, _ in agreed for row in rows]
        self.rows += new
        if agreed:
            best = self.best if self.settings.needs_best else step
            self.queries = [row for row in self.queries if row["step"] == best] + [row for _, row in agreed]
        shown = {f"{METRIC}/{row['suite']}": row["value"] for row in new if row["metric"] == METRIC}
        shown |= {f"{LOSS}/{row['collection']}": row["loss"] for row in losses}
        return shown | ({LOSS: self.mean_losses[step]} if losses else {})

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
    def mean_losses(self) -> dict[int, float]:
        """Step -> mean held-out loss over the components."""
        steps = dict.fromkeys(row["step"] for row in self.losses)
        return {step: statistics.fmean(row["loss"] for row in self.losses if row["step"] == step) for step in steps}

    @property
    def best(self) -> int:
        """The best step so far."""
        if self.suites and self.settings.best_by == "suites":
            means = self.means
        else:
            means = {step: -loss for step, loss in self.mean_losses.items() if step}
        return max(means, key=lambda step: (means[step], -step))

    def of(self, step: int) -> list[dict[str, Any]]:
        """The rows of one step."""
        return [row for row in self.rows if row["step"] == step]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "queries": self.queries, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.queries = state["rows"], state["queries"]
        self.losses = state.get("losses", [])  # checkpoints of older versions have none
