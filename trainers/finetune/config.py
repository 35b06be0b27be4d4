"""Settings of fine-tuning."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mixture.holdout import MOST_HELD_OUT
from trainers.finetune import by_collection
from trainers.losses import LOSSES
from trainers.losses.contrastive import JUDGES, MARGINS, fault_of_directions
from trainers.losses.distil import KINDS
from trainers.losses.ndcg import LONGEST_CUT, POSITIVES
from trainers.settings import TrainingSettings, default_of, later, setting, tables, typed

BATCHINGS = ("homogeneous", "mixed")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """`TrainingSettings`, whether the other examples' passages are negatives too (equation 7), and evaluation during
    training."""

    loss: str = later("info_nce", "info_nce, distil, expected_ndcg, or another of trainers.losses")
    info_nce_first: float = later(0.0, "the share of the steps, the first ones, that train with info_nce instead")
    margin: float | None = later(
        None,
        "info_nce: candidates that score above the positive's score less this are left out, as likely false negatives; "
        "none: no candidate is",
    )
    margin_strategy: str = later("absolute", "absolute: margin is in cosine; relative: a share of the positive's score")
    margin_by: str = later(
        "model", "whose scores the margin looks at: model, or teacher, of an example's own negatives"
    )
    hardness: float = later(
        0.0, "info_nce: an example's own hard negatives weigh exp(hardness * score); 5 in EmbeddingGemma, 0: as others"
    )
    distil_by: str = later("kl", "distil: kl, or margin_mse")
    distil_weight: float = later(0.5, "distil: the share of the teacher in the loss; the rest is info_nce")
    teacher_temperature: float | None = later(
        None, "distil: the teacher's scores are divided by it; none: as `temperature`, which suits cosines, 1 logits"
    )
    directions: tuple[str, ...] = later(
        ("qd",),
        "info_nce, with in_batch: what the positive competes with: qd: the query's passages; qq: its other queries; "
        "dq, dd: the positive's queries and other positives; GTE has all",
    )
    ndcg_cut: int = later(10, "expected_ndcg: the ranks that count")
    ndcg_positives: str = later(
        "one",
        "expected_ndcg: one: of the batch's other passages that answer the query none counts; all: they are right",
    )
    ndcg_samples: int = later(0, "expected_ndcg: 0: exact; 2 or more: by so many rankings drawn")
    spread_out: float = later(0.0, "weight of the spread-out regulariser, added to any loss")
    batching: str = later(
        "homogeneous",
        "homogeneous: each batch is of one collection; mixed: of all, each with its weight's share",
    )
    collection: Mapping[str, Mapping[str, Any]] = tables(
        "settings of single collections, in place of the run's: tables [collection.NAME], or "
        "collection.NAME.SETTING=VALUE"
    )
    in_batch: bool = setting(True, "the other examples' passages are negatives too (equation 7)")
    cross_device: bool = setting(True, "with in_batch: passages of the other ranks' examples too")
    hard_only: tuple[str, ...] = setting((), "collections whose examples see their own passages only, in_batch or not")
    symmetric_loss: bool = setting(False, "with in_batch: the loss from passage to query too")
    matryoshka_dims: tuple[int, ...] = setting(
        (), "the loss is the mean over these many first dimensions; []: all only"
    )
    elastic_layers: tuple[int, ...] = later(
        (), "depths that become models, too: their first layers learn the whole model's scores; []: none"
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

    def __post_init__(self) -> None:
        if self.collection != {}:
            hints = typing.get_type_hints(FinetuneSettings)
            object.__setattr__(self, "collection", by_collection.check(self.collection, hints, typed))
        super().__post_init__()

    def violations(self) -> list[tuple[str, str]]:
        fault = fault_of_directions(self.directions, in_batch=self.in_batch, symmetric=self.symmetric_loss)
        return (
            super().violations()
            + [("evaluate_every", "0 or more")] * (self.evaluate_every < 0)
            + by_collection.faults(self)
            + [("batching", ", ".join(BATCHINGS))] * (self.batching not in BATCHINGS)
            + [("symmetric_loss", "false without in_batch")] * (self.symmetric_loss and not self.in_batch)
            + [("matryoshka_dims", "1 or more, each once")]
            * (min(self.matryoshka_dims, default=1) < 1 or len(set(self.matryoshka_dims)) < len(self.matryoshka_dims))
            + [("elastic_layers", "1 or more, each once")]
            * (min(self.elastic_layers, default=1) < 1 or len(set(self.elastic_layers)) < len(self.elastic_layers))
            + [("elastic_layers", "() with fsdp")] * (bool(self.elastic_layers) and self.fsdp)
            + [("final", "last, best")] * (self.final not in ("last", "best"))
            + [("holdout", f"0 to {MOST_HELD_OUT}")] * (not 0 <= self.holdout <= MOST_HELD_OUT)
            + [("best_by", "suites, holdout")] * (self.best_by not in ("suites", "holdout"))
            + [("best_by", "suites without holdout")] * (self.best_by == "holdout" and not self.holdout)
            + [("info_nce_first", "0 or more, less than 1")] * (not 0 <= self.info_nce_first < 1)
            + [("margin", "none, or -1 to 1")] * (self.margin is not None and not -1 <= self.margin <= 1)
            + [("margin_strategy", ", ".join(MARGINS))] * (self.margin_strategy not in MARGINS)
            + [("margin_strategy", "absolute without margin")]
            * (self.margin is None and self.margin_strategy == "relative")
            + [("margin_by", ", ".join(JUDGES))] * (self.margin_by not in JUDGES)
            + [("margin_by", "model without margin")] * (self.margin is None and self.margin_by == "teacher")
            + [("distil_by", ", ".join(KINDS))] * (self.distil_by not in KINDS)
            + [("distil_weight", "0 to 1")] * (not 0 <= self.distil_weight <= 1)
            + [("teacher_temperature", "none, or above 0")]
            * (self.teacher_temperature is not None and not 0 < self.teacher_temperature < math.inf)
            + [("hardness", "0 or more")] * (not 0 <= self.hardness < math.inf)
            + [("directions", fault or "")] * (fault is not None)
            + [("ndcg_positives", ", ".join(POSITIVES))] * (self.ndcg_positives not in POSITIVES)
            + [("ndcg_positives", "one without in_batch")] * (self.ndcg_positives == "all" and not self.in_batch)
            + [("ndcg_samples", "0, or 2 or more")] * (self.ndcg_samples < 0 or self.ndcg_samples == 1)
            + [("spread_out", "0 or more")] * (not 0 <= self.spread_out < math.inf)
            + [("ndcg_cut", f"1 to {LONGEST_CUT}")] * (not 1 <= self.ndcg_cut <= LONGEST_CUT)
            + ([("loss", ", ".join(LOSSES))] if self.loss not in LOSSES else self._unsuited())
        )

    def value_of(self, name: str) -> Any:
        return by_collection.value_of(self, name) if name.startswith("collection.") else super().value_of(name)

    def loss_at(self, step: int) -> str:
        """The name of the loss of a step, from 0."""
        return "info_nce" if step < round(self.info_nce_first * self.steps) else self.loss

    def _unsuited(self) -> list[tuple[str, str]]:
        """Settings that the loss has no form for, or does not take."""
        loss = LOSSES[self.loss]
        default = {f.name: default_of(f) for f in fields(self)}
        taken = {name for used in {self.loss, self.loss_at(0)} for name in LOSSES[used].takes}
        others = [name for other in LOSSES.values() for name in other.takes if name not in taken]
        return (
            [
                (name, f"{type(value)()} with {self.loss}, which has no such form")
                for name in loss.cannot
                if (value := getattr(self, name))
            ]
            + [
                (name, f"{default[name]} with {self.loss}, which does not take it")
                for name in dict.fromkeys(others)
                if getattr(self, name) != default[name]
            ]
            + [("temperature", f"{loss.least_temperature:g} or more with {self.loss}: under it the gradient is 0")]
            * (self.temperature < loss.least_temperature)
        )

    def of(self, collection: str) -> FinetuneSettings:
        return by_collection.own(self, collection)

    @property
    def longest(self) -> int:
        return (
            max(super().longest, *(self.of(name).longest for name in self.collection))
            if self.collection
            else (super().longest)
        )

    @property
    def taught(self) -> bool:
        """Whether a teacher's scores decide what is trained, in some collection."""
        return self._asks_a_teacher or any(self.of(name)._asks_a_teacher for name in self.collection)

    def taught_in(self, names: Iterable[str]) -> list[str]:
        """Those of the collections in whose batches a teacher's scores decide what is trained."""
        return [name for name in names if self.of(name)._asks_a_teacher]

    @property
    def _asks_a_teacher(self) -> bool:
        return self.loss == "distil" or self.margin_by == "teacher"

    @property
    def needs_best(self) -> bool:
        """Whether the best step's weights are kept."""
        return self.keep_best or self.final == "best"
