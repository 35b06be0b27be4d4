"""Settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from mixture.holdout import MOST_HELD_OUT
from trainers.losses import LOSSES
from trainers.settings import TrainingSettings, later, setting


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """`TrainingSettings`, whether the other examples' passages are negatives too (equation 7), and evaluation during
    training."""

    loss: str = later("info_nce", "a loss of trainers.losses")
    in_batch: bool = setting(True, "the other examples' passages are negatives too (equation 7)")
    cross_device: bool = setting(True, "with in_batch: passages of the other ranks' examples too")
    hard_only: tuple[str, ...] = setting((), "collections whose examples see their own passages only, in_batch or not")
    symmetric_loss: bool = setting(False, "with in_batch: the loss from passage to query too")
    matryoshka_dims: tuple[int, ...] = setting(
        (), "the loss is the mean over these many first dimensions; []: all only"
    )
    evaluate_every: int = setting(
        0, "steps between evaluations on the suites given and on held-out rows; 0: at the end only"
    )
    holdout: float = later(0.0, "the share of each collection's rows that no batch draws; the loss on them is reported")
    keep_best: bool = setting(False, "the best step's model is saved too, in the folder best/ of the final one")
    final: str = setting("last", "which step becomes the final model: last, or best")
    best_by: str = later(
        "suites",
        "what the best step is best by: suites (mean nDCG@10; without suites as holdout), or holdout (mean loss)",
    )

    def violations(self) -> list[tuple[str, str]]:
        return (
            super().violations()
            + [("evaluate_every", "0 or more")] * (self.evaluate_every < 0)
            + [("symmetric_loss", "false without in_batch")] * (self.symmetric_loss and not self.in_batch)
            + [("matryoshka_dims", "1 or more, each once")]
            * (min(self.matryoshka_dims, default=1) < 1 or len(set(self.matryoshka_dims)) < len(self.matryoshka_dims))
            + [("final", "last, best")] * (self.final not in ("last", "best"))
            + [("holdout", f"0 to {MOST_HELD_OUT}")] * (not 0 <= self.holdout <= MOST_HELD_OUT)
            + [("best_by", "suites, holdout")] * (self.best_by not in ("suites", "holdout"))
            + [("best_by", "suites without holdout")] * (self.best_by == "holdout" and not self.holdout)
            + ([("loss", ", ".join(LOSSES))] if self.loss not in LOSSES else self._without_form())
        )

    def _without_form(self) -> list[tuple[str, str]]:
        """Settings that are on and that the loss has no form for."""
        values = {name: getattr(self, name) for name in LOSSES[self.loss].cannot}
        return [
            (name, f"{type(value)()} with {self.loss}, which has no such form")
            for name, value in values.items()
            if value
        ]

    @property
    def needs_best(self) -> bool:
        """Whether the best step's weights are kept."""
        return self.keep_best or self.final == "best"
