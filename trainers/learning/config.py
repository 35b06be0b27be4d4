"""Settings of learning weights: those that all learners share, and every learner's own options."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from mixture.errors import UsageError
from mixture.holdout import MOST_HELD_OUT
from mixture.specs import WEIGHT_COLUMNS
from trainers.finetune.config import FinetuneSettings
from trainers.learning.learners import LEARNERS, Learner, LearnerOptions, TargetLearner
from trainers.settings import TrainingSettings, later, setting

if TYPE_CHECKING:
    from torch import Tensor

# The options of the first learners are in every run id, whatever the algorithm; later ones where they are changed.
FIRST = ("weights_max_norm", "measurement", "reference_floor", "smoothing", "exponent", "cgd_memory", "fraction",
         "newest", "unit", "radius")  # fmt: skip

# Setting -> the algorithms that read it, of those that not all do.
READERS: dict[str, list[str]] = {
    "weights_learning_rate": [name for name, learner in LEARNERS.items() if learner.rate is not None]
}


def _every_option() -> Any:
    """A dataclass of all learners' options; notes who reads them."""
    members: dict[str, tuple[Any, Any, str]] = {}
    for algorithm, learner in LEARNERS.items():
        hints = get_type_hints(learner.Options)
        for option in fields(learner.Options):
            member = hints[option.name], option.default, option.metadata.get("does", "")
            if members.setdefault(option.name, member) != member:
                raise UsageError(f"{algorithm} and another learner have an option {option.name}, not alike; rename it")
            READERS.setdefault(option.name, []).append(algorithm)
    typed = [
        (name, kind, (setting if name in FIRST else later)(default, f"{does} ({', '.join(READERS[name])})".lstrip()))
        for name, (kind, default, does) in members.items()
    ]
    return make_dataclass("EveryOption", typed, frozen=True, kw_only=True)


EveryOption: Any = _every_option()


@dataclass(frozen=True, kw_only=True)
class LearningSettings(EveryOption, TrainingSettings):
    """`TrainingSettings` of the proxy, the weights' own, and the options of every learner (`learners/`), of which
    only the algorithm's own may be changed."""

    renamed: ClassVar = {"memory": "cgd_memory"}

    algorithm: str = setting("tdro", "what moves the weights: a learner of trainers.learning.learners")
    weights_learning_rate: float | None = setting(None, "of the weights; none: the algorithm's own, tDRO's is 0.02")
    average: str | None = setting(
        None, "which weights become the mixture: current, mean, ema or all; none: the algorithm's own"
    )
    min_weight: float = setting(0.0, "no collection weighs less")
    max_epochs: float = setting(0.0, "no collection is repeated more often in epoch_budget examples; 0: no cap")
    epoch_budget: int = setting(0, "examples of the fine-tuning that the mixture is for: steps × batch size")
    holdout: float = later(0.0, "the share of each collection's rows that is held out, as one more target each")
    group_sets: bool = later(
        True, "a target's sets of one family, as the languages of one suite, have one say together; false: one each"
    )
    seeds: int = setting(1, "runs with seed, seed + 1, ...; the mixture is their mean")
    reference_cache_mb: int = setting(
        1024, "memory and disk for the reference's embeddings, on each rank; 0: none are kept"
    )

    def __post_init__(self) -> None:
        if self.algorithm in LEARNERS:
            learner = LEARNERS[self.algorithm]
            if self.weights_learning_rate is None:
                object.__setattr__(self, "weights_learning_rate", learner.rate)
            if self.average is None:
                object.__setattr__(self, "average", learner.average)
            for name, value in vars(self.options.completed(max(1, self.batch_size))).items():
                object.__setattr__(self, name, value)
        super().__post_init__()

    def violations(self) -> list[tuple[str, str]]:
        faults = super().violations()
        if self.algorithm not in LEARNERS:
            return [*faults, ("algorithm", ", ".join(LEARNERS))]
        faults += self._unread()
        learner = self.learner(1)
        if learner.rate is not None and not 0 < (self.weights_learning_rate or 0.0) < float("inf"):
            faults.append(("weights_learning_rate", "above 0"))
        if self.average not in (*WEIGHT_COLUMNS, "all"):
            faults.append(("average", "current, mean, ema or all"))
        elif self.average == "current" and not learner.current_is_a_result:
            faults.append(("average", f"mean, ema or all with {self.algorithm}, whose last weights say little"))
        if not 0 <= self.min_weight < 1:
            faults.append(("min_weight", "0 to below 1"))
        if not 0 <= self.max_epochs < float("inf"):
            faults.append(("max_epochs", "0 or more"))
        if self.max_epochs > 0 and self.epoch_budget < 1:
            faults.append(("epoch_budget", "1 or more with max_epochs: steps × batch size of the fine-tuning"))
        if self.max_epochs == 0 and self.epoch_budget != 0:
            faults.append(("epoch_budget", "0 without max_epochs"))
        if self.fsdp and self.looks_at_target:
            faults.append(("fsdp", f"false with {self.algorithm}, which holds several models at once"))
        if not 0 <= self.holdout <= MOST_HELD_OUT:
            faults.append(("holdout", f"0 to {MOST_HELD_OUT}"))
        elif self.holdout and not self.looks_at_target:
            faults.append(("holdout", f"0 with {self.algorithm}, which looks at no target"))
        if self.fsdp and learner.needs_group_gradients:
            faults.append(("fsdp", f"false with {self.algorithm}, which compares the gradients of collections"))
        if self.seeds < 1:
            faults.append(("seeds", "1 or more"))
        if self.reference_cache_mb < 0:
            faults.append(("reference_cache_mb", "0 or more"))
        return faults

    def _unread(self) -> list[tuple[str, str]]:
        """Settings that were changed and that the algorithm does not read."""
        faults = []
        for field in fields(self):
            readers = READERS.get(field.name, [self.algorithm])
            if self.algorithm not in readers and getattr(self, field.name) != field.default:
                usual = "nothing" if field.default is None else field.default
                read = f"{', '.join(readers)} {'do' if len(readers) > 1 else 'does'}"
                faults.append((field.name, f"{usual} with {self.algorithm}, which does not read it ({read})"))
        return faults

    @property
    def options(self) -> LearnerOptions:
        """The algorithm's own options. Raises `UsageError` for values out of range."""
        kind = LEARNERS[self.algorithm].Options
        return kind(**{option.name: getattr(self, option.name) for option in fields(kind)})

    def learner(self, num_groups: int, base: Tensor | None = None) -> Learner:
        """A learner of the weights of so many collections, near the weights `base` (G,) where it reads some."""
        kind = LEARNERS[self.algorithm]
        return kind.of(num_groups, self.options, self.weights_learning_rate, steps=self.steps, base=base)

    @property
    def of_fine_tuning(self) -> FinetuneSettings:
        """The same of a fine-tuning: what both share."""
        return FinetuneSettings(**{f.name: getattr(self, f.name) for f in fields(TrainingSettings)})

    @property
    def uses_reference(self) -> bool:
        """Whether the learner reads the losses of a reference model."""
        return self.learner(1).needs_reference

    @property
    def looks_at_target(self) -> bool:
        """Whether the learner trains and measures on a target."""
        return issubclass(LEARNERS[self.algorithm], TargetLearner)

    @property
    def forecasts(self) -> bool:
        """Whether the learner forecasts losses in place of a reference model."""
        return self.learner(1).forecasts

    @property
    def reads_base(self) -> bool:
        """Whether the learner can stay near another mixture."""
        return self.learner(1).reads_base

    @property
    def reuses(self) -> bool:
        """Whether the learner can weigh collections together, in the proportions of a mixture."""
        return self.learner(1).reuses

    @property
    def described(self) -> str:
        """The algorithm and what was changed of its options, such as tdro with measurement=loss."""
        options = self.options
        changed = [
            f"{o.name}={getattr(options, o.name)}" for o in fields(options) if getattr(options, o.name) != o.default
        ]
        return self.algorithm + (f" with {', '.join(changed)}" if changed else "")

    @property
    def averages(self) -> tuple[str, ...]:
        """The averages that become mixtures; of all of them, the algorithm's own first."""
        if self.average != "all":
            return (str(self.average),)
        learner = self.learner(1)
        found = [name for name in WEIGHT_COLUMNS if name != "current" or learner.current_is_a_result]
        return tuple(sorted(found, key=lambda name: name != learner.average))

    def of_seed(self, number: int) -> LearningSettings:
        """The settings of one seed's run, which keeps all averages."""
        return replace(self, seed=self.seed + number, seeds=1, average="all")

    @property
    def identity(self) -> LearningSettings:
        """What decides the weights: not which average is taken at the end, nor how much is cached."""
        return replace(self, average="all", reference_cache_mb=0)


for _name in EveryOption.__dataclass_fields__:
    if _name in TrainingSettings.__dataclass_fields__ or _name in LearningSettings.__annotations__:
        raise UsageError(f"{READERS[_name][0]} has an option {_name}, which is a setting of every learner; rename it")
