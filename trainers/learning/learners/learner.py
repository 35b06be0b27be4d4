"""What a learner of weights is, and the dictionary of all of them.

There are two kinds. A `WeightLearner` moves weights while a proxy trains: a loop asks it for new weights after each
batch (`update`), then for what each example of the batch counts in the proxy's loss (`example_weights`). A
`TargetLearner` looks at what is evaluated: it is handed a `Lab`, in which it trains and measures, and finds weights.
Shape legend: B examples of a batch (of all ranks), G collections, T sets of a target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.settings import Checked
from trainers.tdro.objective import check_losses, example_shares, group_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainers.learning.lab import Lab
else:
    torch = Deferred("torch")

# The name of an algorithm -> its learner. The modules beside this one fill it.
LEARNERS: dict[str, type[Learner]] = {}


@dataclass(frozen=True, kw_only=True)
class LearnerOptions(Checked):
    """What one learner reads and others do not: each field is a setting of `learn-weights`, with its default.

    `violations` says which values are out of range; `UsageError` for them.
    """

    def completed(self, batch_size: int) -> Self:
        """The options with those filled in that follow from the batch size where they are None."""
        return self


@dataclass(frozen=True)
class Losses:
    """What `WeightLearner.update` was given about a batch, checked and on the CPU."""

    proxy: Tensor
    reference: Tensor | None
    groups: Tensor
    products: Tensor | None
    num_groups: int

    @property
    def present(self) -> Tensor:
        """Which collections the batch holds, (G,) bool."""
        return torch.bincount(self.groups, minlength=self.num_groups) > 0

    @property
    def means(self) -> Tensor:
        """The proxy's mean loss by collection, (G,) float64, 0 for an absent one."""
        return group_mean(self.proxy.double(), self.groups, self.num_groups)


class Learner(ABC):
    """One algorithm.

    Options:               the settings that it reads and others do not
    rate:                  default step size of the weights; None where it takes no steps
    average:               which weights its authors take as the result: current, or mean over steps
    current_is_a_result:   False where the current weights are those of one batch, with all its noise
    needs_reference:       whether it needs the losses of a reference model
    needs_group_gradients: whether it needs the inner products of the collections' gradients
    needs_target:          whether it looks at queries of suites or held-out rows
    reads_base:            whether it stays near a mixture, `base`
    reuses:                whether it can weigh collections together, in the proportions of a mixture
    forecasts:             whether it forecasts losses, which then stand in for a reference's
    base:                  (G,) float64 the weights to stay near, sum 1; None for equal ones
    steps:                 of the whole run, 0 where nobody said
    """

    name: ClassVar[str]
    Options: ClassVar[type[LearnerOptions]] = LearnerOptions
    rate: ClassVar[float | None] = None
    average: ClassVar[str] = "current"
    current_is_a_result: bool = True
    needs_reference: bool = False
    needs_group_gradients: bool = False
    needs_target: ClassVar[bool] = False
    reads_base: bool = False
    reuses: bool = False
    forecasts: bool = False

    def __init__(self, num_groups: int, options: LearnerOptions | None = None, lr: float | None = None) -> None:
        """Options of None are the defaults, a step size `lr` of None is `rate`."""
        if num_groups < 1:
            raise UsageError(f"{num_groups} collections to weigh; allowed: 1 or more")
        self.num_groups = num_groups
        self.options = self.Options() if options is None else options
        self.lr = (self.rate or 0.0) if lr is None else lr
        self.base: Tensor | None = None
        self.steps = 0

    @classmethod
    def of(
        cls, num_groups: int, options: LearnerOptions, lr: float | None, *, steps: int = 0, base: Tensor | None = None
    ) -> Learner:
        """The learner that these options ask for, of a run of so many steps, near `base` (G,) where one is given."""
        learner = cls.kind(options)(num_groups, options, lr)
        learner.steps = steps
        if base is not None:
            if not learner.reads_base:
                raise UsageError(f"{learner.name} stays near no mixture; leave `base` out")
            if base.shape != (num_groups,) or not bool((base >= 0).all()) or not 0 < float(base.sum()) < float("inf"):
                raise UsageError(f"`base` is {base.tolist()}; allowed: {num_groups} weights, 0 or more, not all 0")
            learner.base = base.detach().double().cpu() / base.double().sum().cpu()
        return learner

    @classmethod
    def kind(cls, options: LearnerOptions) -> type[Learner]:
        """The class that these options ask for, of this one's."""
        return cls

    @property
    def around(self) -> Tensor:
        """`base`, or equal weights, (G,) float64."""
        if self.base is not None:
            return self.base
        return torch.full((self.num_groups,), 1.0 / self.num_groups, dtype=torch.float64)


class WeightLearner(Learner):
    """An algorithm that moves weights while a proxy trains, and what it remembers.

    measured: (G,) the numbers that drove the last update; None before the first
    forecast: (G,) the losses forecast for the end of the run, NaN where not yet; None without forecasts
    """

    measured: Tensor | None = None
    forecast: Tensor | None = None

    def update(
        self,
        weights: Tensor,
        proxy_loss: Tensor,
        reference_loss: Tensor | None,
        group_ids: Tensor,
        gradient_products: Tensor | None = None,
    ) -> Tensor:
        """The weights after this batch, (G,) float64 on the CPU, sum 1; `weights` (G,) are those before it.

        proxy_loss, reference_loss: (B,) finite; the reference's may be None unless `needs_reference`
        gradient_products:          (G, G) inner products of the gradients of the collections' mean losses, rows and
                                    columns of absent ones 0; only where `needs_group_gradients`

        Raises `UsageError` for arguments that do not fit, `MixtureError` for losses that are not finite.
        """
        if len(weights) != self.num_groups:
            raise UsageError(f"{len(weights)} weights; this learner has {self.num_groups} collections")
        if self.needs_reference and reference_loss is None:
            raise UsageError(f"{self.name} needs the losses of a reference model; name one in `reference`")
        check_losses("proxy", proxy_loss, group_ids, self.num_groups)
        batch = Losses(
            proxy_loss.detach().cpu(),
            None if reference_loss is None else reference_loss.detach().cpu(),
            group_ids.long().cpu(),
            None if gradient_products is None else gradient_products.detach().double().cpu(),
            self.num_groups,
        )
        with torch.no_grad():
            return self.step(weights.detach().double().cpu(), batch)

    @abstractmethod
    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        """`update` after its checks: the weights after this batch, (G,), from those before it, (G,) float64 on the CPU.

        It sets `measured`. A learner that remembers something returns it from `state`, by the names of its attributes
        without their underscore.
        """

    def example_weights(self, weights: Tensor, proxy_loss: Tensor, group_ids: Tensor) -> Tensor:
        """What each example counts in the proxy's loss, (B,), sum 1: the loss is the dot product with `proxy_loss`.

        Of the losses' type and device, without a gradient. All 0 where all collections of the batch weigh 0. Here the
        objective Σ_g α_g · mean loss_g over the collections of the batch, α scaled to sum 1 over these (in the code of
        Sagawa et al. it is not scaled: the same where a batch holds every collection).
        """
        counts = torch.bincount(group_ids, minlength=self.num_groups).clamp(min=1)
        return example_shares(weights.to(proxy_loss) / counts.to(proxy_loss), group_ids).detach()

    def state(self) -> dict[str, Tensor | float]:
        """What a checkpoint must carry."""
        return {}

    def load_state(self, state: dict[str, Tensor | float]) -> None:
        """Take over what `state` of the same algorithm returned."""
        if set(state) != set(self.state()):
            raise UsageError(
                f"the checkpoint's {self.name} state has {', '.join(sorted(state)) or 'nothing'}; expected:"
                f" {', '.join(sorted(self.state())) or 'nothing'}; start the run anew"
            )
        self.restore(state)

    def restore(self, state: dict[str, Tensor | float]) -> None:
        """`load_state` after its check."""
        for name, value in state.items():
            setattr(self, f"_{name}", value)


@dataclass(frozen=True)
class Tried:
    """A mixture that a learner tried: its weights (G,), and what it scored on each set of the target, (T,) or None."""

    kind: str
    weights: np.ndarray
    loss: np.ndarray | None = None
    ndcg: np.ndarray | None = None


class Round(NamedTuple):
    """Weights that were trained with up to a step, what drove them, and on how many examples of each it was seen."""

    step: int
    weights: np.ndarray
    measured: np.ndarray
    num_examples: int


def mean_of_later_half(history: Sequence[Round]) -> np.ndarray:
    """The mean weights (G,) of the later half of the rounds, of one round its own."""
    return np.mean([one.weights for one in history[len(history) // 2 :]], axis=0)


@dataclass(frozen=True)
class Found:
    """What a `TargetLearner` found.

    weights:  (G,), sum 1, in the order of the lab's `names`
    history:  where weights move on the way, round by round; `weights` are then `mean_of_later_half`
    tried:    mixtures with their scores
    products: (G, G) inner products of what the collections teach, where it took them
    lines:    what a reader must know to trust the weights or not
    facts:    numbers to keep with the run
    """

    weights: np.ndarray
    history: tuple[Round, ...] = ()
    tried: tuple[Tried, ...] = ()
    products: np.ndarray | None = None
    lines: tuple[str, ...] = ()
    facts: dict[str, Any] | None = None


class TargetLearner(Learner):
    """An algorithm that trains and measures on a target, and from that finds weights."""

    needs_target = True
    reads_base = True

    @abstractmethod
    def find(self, lab: Lab) -> Found:
        """The weights. All that the lab measures is kept, so a run that was killed goes on when it is called again."""
