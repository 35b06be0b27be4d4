"""Settings of tDRO and of the algorithms it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from mixture.specs import WEIGHT_COLUMNS
from trainers.learning.learners import ALGORITHMS, RATES, AlgorithmOptions, make_learner
from trainers.settings import TrainingSettings
from trainers.tdro.objective import MEASUREMENTS, REFERENCE_FLOOR

# The release's floor is a share of the loss summed over what it gathers at once, 64 examples of 8 GPUs (a step of
# 2048 is four of these): a twentieth of the mean. Left to itself the floor stays that share at any batch size.
RELEASE_GATHERED = 512
# Which algorithms read what, of the settings that not all of them do.
READERS = {
    "weights_learning_rate": tuple(RATES), "weights_max_norm": ("tdro",), "measurement": ("tdro",),
    "reference_floor": ("tdro",), "smoothing": ("doremi",), "exponent": ("cgd",), "memory": ("cgd",),
    "fraction": ("cvar",), "newest": ("cvar",), "unit": ("cvar",), "radius": ("chi2",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LearningSettings(AlgorithmOptions, TrainingSettings):
    """`TrainingSettings` of the proxy, and the weights' own."""

    algorithm: str = "tdro"
    weights_learning_rate: float | None = None  # η_α; None: the algorithm's own, tDRO's is 0.02
    weights_max_norm: float = 1.0
    measurement: str = "relative"
    reference_floor: float | None = None  # share of the batch's reference loss; None: see RELEASE_GATHERED
    average: str | None = (
        None  # which weights become the mixture: current, mean, ema, or all; None: the algorithm's own
    )
    min_weight: float = 0.0  # no collection weighs less
    max_epochs: float = 0.0  # no collection is repeated more often in `epoch_budget` examples; 0: no cap
    epoch_budget: int = 0  # examples of the fine-tuning that the mixture is for, steps × batch size
    seeds: int = 1  # runs with seed, seed + 1, ...; the mixture is their mean
    reference_cache_mb: int = 1024  # memory and disk for the reference's embeddings, on each rank; 0: none are kept

    def __post_init__(self) -> None:
        if self.weights_learning_rate is None:
            object.__setattr__(self, "weights_learning_rate", RATES.get(self.algorithm))
        if self.reference_floor is None and self.batch_size > 0 and self._reads_floor:
            object.__setattr__(self, "reference_floor", REFERENCE_FLOOR * RELEASE_GATHERED / self.batch_size)
        if self.average is None and self.algorithm in ALGORITHMS:
            object.__setattr__(self, "average", make_learner(self.algorithm, 1, options=self).average)
        super().__post_init__()

    def _violations(self) -> list[tuple[str, str]]:
        found = super()._violations()
        if self.algorithm not in ALGORITHMS:
            return [*found, ("algorithm", ", ".join(ALGORITHMS))]
        found += self._unread()
        if self.algorithm in RATES and not 0 < (self.weights_learning_rate or 0.0) < float("inf"):
            found.append(("weights_learning_rate", "above 0"))
        if not self.weights_max_norm > 0:
            found.append(("weights_max_norm", "above 0"))
        if self._reads_floor and not 0 < (self.reference_floor or 0.0) < 1:
            found.append(("reference_floor", "above 0 to below 1"))
        if self.measurement not in MEASUREMENTS:
            found.append(("measurement", ", ".join(MEASUREMENTS)))
        if self.average not in (*WEIGHT_COLUMNS, "all"):
            found.append(("average", "current, mean, ema or all"))
        elif self.average == "current" and not make_learner(self.algorithm, 1, options=self).current_is_a_result:
            found.append(("average", f"mean, ema or all with {self.algorithm}, whose current weights are one batch's"))
        if not 0 <= self.min_weight < 1:
            found.append(("min_weight", "0 to below 1"))
        if not 0 <= self.max_epochs < float("inf"):
            found.append(("max_epochs", "0 or more"))
        if self.max_epochs > 0 and self.epoch_budget < 1:
            found.append(("epoch_budget", "1 or more with max_epochs: steps × batch size of the fine-tuning"))
        if self.max_epochs == 0 and self.epoch_budget != 0:
            found.append(("epoch_budget", "0 without max_epochs"))
        if self.fsdp and self.algorithm == "cgd":
            found.append(("fsdp", "false with cgd, which compares the gradients of collections"))
        if self.seeds < 1:
            found.append(("seeds", "1 or more"))
        if self.reference_cache_mb < 0:
            found.append(("reference_cache_mb", "0 or more"))
        return found

    @property
    def _reads_floor(self) -> bool:
        return self.algorithm == "tdro" and self.measurement in ("relative", "relative_group")

    def _unread(self) -> list[tuple[str, str]]:
        """Settings that were changed and that the algorithm does not read."""
        defaults = {field.name: field.default for field in fields(self)}
        unread = {name for name, algorithms in READERS.items() if self.algorithm not in algorithms}
        if not self._reads_floor:
            unread.add("reference_floor")
        if self.unit == "example":
            unread.add("newest")
        with_ = self.algorithm if self.algorithm != "tdro" else f"tdro and measurement={self.measurement}"
        return [
            (name, f"{'nothing' if defaults[name] is None else defaults[name]} with {with_}, which does not read it")
            for name in READERS
            if name in unread and getattr(self, name) != defaults[name]
        ]

    @property
    def averages(self) -> tuple[str, ...]:
        """The averages that become mixtures; of all of them, the algorithm's own first."""
        if self.average != "all":
            return (str(self.average),)
        learner = make_learner(self.algorithm, 1, options=self)
        found = [name for name in WEIGHT_COLUMNS if name != "current" or learner.current_is_a_result]
        return tuple(sorted(found, key=lambda name: name != learner.average))

    def of_seed(self, number: int) -> LearningSettings:
        """The settings of one seed's run, which keeps all averages."""
        return replace(self, seed=self.seed + number, seeds=1, average="all")

    @property
    def identity(self) -> LearningSettings:
        """What decides the weights: not which average is taken at the end, nor how much is cached."""
        return replace(self, average="all", reference_cache_mb=0)
