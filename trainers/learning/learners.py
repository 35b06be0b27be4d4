"""The algorithms that learn weights, behind one interface: tDRO and what it stands against.

A loop asks its learner for new weights after each batch (`update`), then for what each example of the batch counts in
the proxy's loss (`example_weights`). The mathematics is in `objective.py` and `updates.py`; here only what an algorithm
must remember between steps. Shape legend: B examples of a batch (of all ranks), G collections.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mixture.errors import UsageError, unknown_name
from mixture.weights import bounded
from trainers.learning.updates import cgd_step, chi2_weights, cvar_weights, doremi_step, groupdro_step, running_losses
from trainers.tdro.objective import (
    MEASUREMENTS,
    NEEDS_REFERENCE,
    REFERENCE_FLOOR,
    check_losses,
    example_shares,
    group_mean,
    measure,
    step_weights,
)

ALGORITHMS = ("tdro", "groupdro", "doremi", "cgd", "cvar", "chi2")
# The step sizes of the papers; cvar and chi2 take the worst case itself, not a step towards it.
RATES = {"tdro": 2e-2, "groupdro": 1e-2, "doremi": 1.0, "cgd": 5e-2}
UNITS = ("collection", "example")


@dataclass(frozen=True, kw_only=True)
class AlgorithmOptions:
    """What only some of the algorithms read; the defaults are their papers' or their authors' code's."""

    smoothing: float = 1e-3  # doremi: share of the equal weights in each step
    exponent: float = 0.5  # cgd: how much the losses scale the cosines; 0.25 in COCO-DR
    memory: float = 1.0  # cgd: power of the old weights; 0.1 in COCO-DR
    fraction: float = 0.2  # cvar: share of the data that the worst case is made of
    newest: float = 0.1  # cvar: share of the newest loss in a collection's running loss
    unit: str = "collection"  # cvar: over collections (topic CVaR) or over the batch's examples (batch CVaR)
    radius: float = 1.0  # chi2: ρ, how far the worst case may be from equal weights


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


class WeightLearner(ABC):
    """One algorithm and what it remembers.

    name:                  of `ALGORITHMS`
    average:               which weights the algorithm's authors take as its result: current, or mean over steps
    current_is_a_result:   False where the current weights are those of one batch, with all its noise
    needs_reference:       whether `update` needs the reference's losses
    needs_group_gradients: whether `update` needs the inner products of the collections' gradients
    measured:              (G,) the numbers that drove the last update; None before the first
    """

    name: str
    average: str = "current"
    current_is_a_result: bool = True
    needs_group_gradients: bool = False

    def __init__(self, num_groups: int) -> None:
        if num_groups < 1:
            raise UsageError(f"{num_groups} collections to weigh; allowed: 1 or more")
        self.num_groups = num_groups
        self.needs_reference = False
        self.measured: Tensor | None = None

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
            return self._step(weights.detach().double().cpu(), batch)

    @abstractmethod
    def _step(self, weights: Tensor, batch: Losses) -> Tensor:
        """`update` after its checks, everything on the CPU."""

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
        for name, value in state.items():
            setattr(self, f"_{name}", value)


class Tdro(WeightLearner):
    """Ma et al. 2024 (arXiv 2408.10613), with any measurement; bit for bit what `update_weights` gives."""

    name = "tdro"

    def __init__(self, num_groups: int, lr: float, max_norm: float, measurement: str, floor: float) -> None:
        super().__init__(num_groups)
        if measurement not in MEASUREMENTS:
            raise unknown_name("measurement", measurement, MEASUREMENTS)
        self._lr, self._max_norm, self._measurement, self._floor = lr, max_norm, measurement, floor
        self.needs_reference = measurement in NEEDS_REFERENCE

    def _step(self, weights: Tensor, batch: Losses) -> Tensor:
        self.measured = measure(
            batch.proxy, batch.reference, batch.groups, self.num_groups, self._measurement, floor=self._floor
        )
        return step_weights(weights, self.measured, lr=self._lr, max_norm=self._max_norm)

    def example_weights(self, weights: Tensor, proxy_loss: Tensor, group_ids: Tensor) -> Tensor:
        """As the release: α of the example's collection over the sum of these in the batch."""
        return example_shares(weights.to(proxy_loss), group_ids).detach()


class GroupDro(WeightLearner):
    """Sagawa et al. 2019 (arXiv 1911.08731)."""

    name = "groupdro"

    def __init__(self, num_groups: int, lr: float) -> None:
        super().__init__(num_groups)
        self._lr = lr

    def _step(self, weights: Tensor, batch: Losses) -> Tensor:
        self.measured = batch.means
        return groupdro_step(weights, self.measured, lr=self._lr)


class DoReMi(WeightLearner):
    """Xie et al. 2023 (arXiv 2305.10429). A collection not seen yet scores 0."""

    name = "doremi"
    average = "mean"

    def __init__(self, num_groups: int, lr: float, smoothing: float) -> None:
        super().__init__(num_groups)
        self._lr, self._smoothing = lr, smoothing
        self._scores = torch.zeros(num_groups, dtype=torch.float64)
        self.needs_reference = True

    def _step(self, weights: Tensor, batch: Losses) -> Tensor:
        scores = measure(batch.proxy, batch.reference, batch.groups, self.num_groups, "excess").double()
        self._scores = torch.where(batch.present, scores, self._scores)
        self.measured = self._scores
        return doremi_step(weights, self._scores, lr=self._lr, smoothing=self._smoothing)

    def example_weights(self, weights: Tensor, proxy_loss: Tensor, group_ids: Tensor) -> Tensor:
        """As the authors' code: α of the example's collection over the sum of these in the batch."""
        return example_shares(weights.to(proxy_loss), group_ids).detach()

    def state(self) -> dict[str, Tensor | float]:
        return {"scores": self._scores}


class Cgd(WeightLearner):
    """Piratla et al. 2022 (arXiv 2110.02619), as COCO-DR uses it (arXiv 2210.15212) with the options named there."""

    name = "cgd"
    needs_group_gradients = True

    def __init__(self, num_groups: int, lr: float, exponent: float, memory: float) -> None:
        super().__init__(num_groups)
        self._lr, self._exponent, self._memory = lr, exponent, memory

    def _step(self, weights: Tensor, batch: Losses) -> Tensor:
        if batch.products is None:
            raise UsageError("cgd needs the inner products of the collections' gradients")
        self.measured = batch.means
        return cgd_step(
            weights, self.measured, batch.products, lr=self._lr, exponent=self._exponent, memory=self._memory
        )


class TopicCvar(WeightLearner):
    """Oren et al. 2019 (arXiv 1909.02060): the worst case over running losses. A collection not seen yet has loss 0."""

    name = "cvar"
    average = "mean"

    def __init__(self, num_groups: int, fraction: float, newest: float) -> None:
        super().__init__(num_groups)
        self._fraction, self._newest = fraction, newest
        self._losses = torch.zeros(num_groups, dtype=torch.float64)
        self._seen = torch.zeros(num_groups, dtype=torch.bool)

    def _step(self, weights: Tensor, batch: Losses) -> Tensor:
        self._losses = running_losses(self._losses, self._seen, batch.means, batch.present, newest=self._newest)
        self._seen = self._seen | batch.present
        self.measured = self._losses
        equal = torch.full_like(self._losses, 1.0 / self.num_groups)
        return cvar_weights(self._losses, equal, fraction=self._fraction)

    def state(self) -> dict[str, Tensor | float]:
        return {"losses": self._losses, "seen": self._seen}


class BatchWorstCase(WeightLearner):
    """Levy et al. 2020 (arXiv 2010.05893): the worst case over the examples of the batch, in a CVaR or a χ² set.

    The paper weighs examples and has no weights of collections. These are read off: the mass that a collection's
    examples get in the batch. Batches are drawn uniformly over collections, so the mean over steps is the mixture that
    the worst case asked for; the current weights are those of one batch, with all its noise.
    """

    average = "mean"
    current_is_a_result = False

    def __init__(self, num_groups: int, name: str, *, fraction: float = 1.0, radius: float = 0.0) -> None:
        super().__init__(num_groups)
        self.name = name
        self._fraction, self._radius = fraction, radius

    def _step(self, weights: Tensor, batch: Losses) -> Tensor:
        if not len(batch.proxy):
            return weights
        self.measured = weights.new_zeros(self.num_groups).index_add(0, batch.groups, self._worst_case(batch.proxy))
        return self.measured / self.measured.sum()

    def example_weights(self, weights: Tensor, proxy_loss: Tensor, group_ids: Tensor) -> Tensor:
        """The worst case itself, whatever the weights."""
        return self._worst_case(proxy_loss.detach().cpu()).to(proxy_loss)

    def _worst_case(self, losses: Tensor) -> Tensor:
        losses = losses.double()
        if self.name == "chi2":
            return chi2_weights(losses, radius=self._radius)
        return cvar_weights(losses, torch.full_like(losses, 1.0 / max(len(losses), 1)), fraction=self._fraction)


def make_learner(
    algorithm: str,
    num_groups: int,
    *,
    lr: float | None = None,
    max_norm: float = 1.0,
    measurement: str = "relative",
    floor: float = REFERENCE_FLOOR,
    options: AlgorithmOptions | None = None,
) -> WeightLearner:
    """The learner of an algorithm by its name.

    lr:                           step size of the weights; None for the paper's own (`RATES`)
    max_norm, measurement, floor: tDRO's, see `update_weights`; `floor` is that of the reference losses, not of weights
    options:                      what only other algorithms read

    An unknown name is a `UsageError` that says the nearest ones, an option out of its range one that says the range.
    """
    chosen = options or AlgorithmOptions()
    _check(chosen)
    rate = RATES.get(algorithm, 0.0) if lr is None else lr
    if algorithm == "tdro":
        return Tdro(num_groups, rate, max_norm, measurement, floor)
    if algorithm == "groupdro":
        return GroupDro(num_groups, rate)
    if algorithm == "doremi":
        return DoReMi(num_groups, rate, chosen.smoothing)
    if algorithm == "cgd":
        return Cgd(num_groups, rate, chosen.exponent, chosen.memory)
    if algorithm == "chi2":
        return BatchWorstCase(num_groups, "chi2", radius=chosen.radius)
    if algorithm != "cvar":
        raise unknown_name("algorithm", algorithm, ALGORITHMS)
    if chosen.unit == "example":
        return BatchWorstCase(num_groups, "cvar", fraction=chosen.fraction)
    return TopicCvar(num_groups, chosen.fraction, chosen.newest)


def _check(options: AlgorithmOptions) -> None:
    ranges = {
        "smoothing": (0 <= options.smoothing <= 1, "0 to 1"),
        "exponent": (0 <= options.exponent < math.inf, "0 or more"),
        "memory": (0 <= options.memory <= 1, "0 to 1"),
        "fraction": (0 < options.fraction <= 1, "above 0 to 1"),
        "newest": (0 < options.newest <= 1, "above 0 to 1"),
        "radius": (0 <= options.radius < math.inf, "0 or more"),
        "unit": (options.unit in UNITS, " or ".join(UNITS)),
    }
    for name, (fits, allowed) in ranges.items():
        if not fits:
            raise UsageError(f"{name} is {getattr(options, name)!r}; allowed: {allowed}")


def constrain(weights: Tensor, floor: float = 0.0, caps: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights (G,) between a floor and caps (G,), as `mixture.weights.bounded` has it, and which were bound.

    Returns the weights (G,) float64, sum 1, and (G,) int8: −1 at the floor, 1 at the cap, 0 free. Caps for a number of
    epochs: `mixture.weights.epoch_caps`. Raises `UsageError` where no weights fit.
    """
    limits = None if caps is None else caps.detach().double().cpu().numpy()
    result, bound = bounded(weights.detach().double().cpu().numpy(), floor, limits)
    return torch.from_numpy(result), torch.from_numpy(bound)
