"""What a mixture is: its canonical form, its id, and how one mixture is made from another. Pure: no store, no files.

Weights without training: `temperature_weights` (uniform and proportional are its ends), `unimax_weights`. From one
mixture to another: `select_top`, `reweight`, `loss_reweight`, `temper`, `blend`, `with_floor`, `without`, `with_fixed`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mixture.errors import UsageError, unknown_name
from mixture.weights import bounded, epoch_caps

SCHEMA_VERSION = 1
ID_DIGITS = 12
SUM_TOLERANCE = 1e-9
# The averages of learned weights, and what the history of a run calls them.
WEIGHT_COLUMNS = {"current": "weight", "mean": "mean_weight", "ema": "ema_weight"}


@dataclass(frozen=True)
class Component:
    """A collection in a mixture, or a slice of one. `weight` is its sampling probability α; `loss_weight` scales its
    loss.

    slice:     what the slice is called within its collection, such as language=zh; None for a whole collection
    selection: id of the set of examples that the slice is (`mixture.registry.slices`); None for a whole collection

    >>> Component("xquad", "0" * 64, 0.5, slice="language=zh", selection="1" * 64).name
    'xquad[language=zh]'
    """

    collection: str
    digest: str
    weight: float
    loss_weight: float = 1.0
    slice: str | None = None
    selection: str | None = None

    @property
    def name(self) -> str:
        """What weights, histories and batches call it; no two components of a mixture have the same."""
        return self.collection if self.slice is None else f"{self.collection}[{self.slice}]"


@dataclass(frozen=True)
class MixtureSpec:
    """Collections with weights, immutable. Weights are in [0, 1] and sum to 1.

    The id is the first 12 hexadecimal digits of the SHA-256 of the canonical JSON: components in order of name, floats
    in their shortest exact form. So the order in which components are given, and the machine, do not matter.

    >>> a = Component("a", "0" * 64, 0.25)
    >>> b = Component("b", "1" * 64, 0.75)
    >>> MixtureSpec((a, b)).id == MixtureSpec((b, a)).id
    True
    """

    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        if not self.components:
            raise UsageError("a mixture needs at least one collection")
        names = [c.name for c in self.components]
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise UsageError(f"collections named twice in a mixture: {', '.join(repeated)}")
        for c in self.components:
            if not (math.isfinite(c.weight) and 0.0 <= c.weight <= 1.0):
                raise UsageError(f"weight of {c.name!r} is {c.weight}; allowed: 0 to 1")
            if not (math.isfinite(c.loss_weight) and c.loss_weight >= 0.0):
                raise UsageError(f"loss weight of {c.name!r} is {c.loss_weight}; allowed: 0 or more")
            if (c.slice is None) != (c.selection is None):
                raise UsageError(f"component {c.name!r}: a slice needs both a name and a selection of examples")
        total = math.fsum(c.weight for c in self.components)
        if abs(total - 1.0) > SUM_TOLERANCE:
            raise UsageError(f"the weights of a mixture sum to {total!r}; they must sum to 1")
        # -0.0 is a weight of 0, and must not make another id.
        plain = (replace(c, weight=c.weight + 0.0, loss_weight=c.loss_weight + 0.0) for c in self.components)
        object.__setattr__(self, "components", tuple(sorted(plain, key=lambda c: c.name)))

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self._canonical().encode()).hexdigest()[:ID_DIGITS]

    @property
    def weights(self) -> dict[str, float]:
        return {c.name: c.weight for c in self.components}

    def _canonical(self) -> str:
        parts = [
            {"collection": c.collection, "digest": c.digest, "loss_weight": float(c.loss_weight),
             "weight": float(c.weight)}
            # Keys that only slices have: a mixture of whole collections keeps the id that it always had.
            | ({} if c.slice is None else {"slice": c.slice, "selection": c.selection})
            for c in self.components
        ]  # fmt: skip
        return json.dumps({"components": parts}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def to_json(self) -> str:
        """Readable JSON with the schema version and the id; `from_json` checks both."""
        body = json.loads(self._canonical())
        return json.dumps({"schema_version": SCHEMA_VERSION, "id": self.id} | body, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> MixtureSpec:
        try:
            body: dict[str, Any] = json.loads(text)
            version = body["schema_version"]
            if version != SCHEMA_VERSION:
                raise UsageError(f"mixture JSON of schema version {version}; this toolkit reads {SCHEMA_VERSION}")
            spec = cls(tuple(Component(**part) for part in body["components"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"not a mixture's JSON: {error}") from error
        if body.get("id", spec.id) != spec.id:
            raise UsageError(f"the JSON says mixture {body['id']} but its content is {spec.id}: it was edited")
        return spec

    def with_weights(self, weights: Mapping[str, float]) -> MixtureSpec:
        """The same collections with these weights (any positive scale); every collection must be named."""
        if set(weights) != set(self.weights):
            odd = sorted(set(weights) ^ set(self.weights))
            raise UsageError(f"weights and collections of the mixture differ in {', '.join(odd)}")
        scaled = normalise(weights)
        return MixtureSpec(tuple(replace(c, weight=scaled[c.name]) for c in self.components))


def normalise(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights scaled to sum 1. A negative, infinite or all-zero input is a `UsageError`."""
    for name, value in weights.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise UsageError(f"weight of {name!r} is {value}; allowed: 0 or more")
    top = max(weights.values(), default=0.0)
    if top <= 0.0:
        raise UsageError("no weight is above zero")
    # By the largest first, so that a sum of huge weights stays finite; where that is exact it changes no bit.
    scale = 2.0 ** (math.frexp(top)[1] - 1)
    total = math.fsum(value / scale for value in weights.values())
    return {name: value / scale / total for name, value in weights.items()}


def temperature_weights(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Weights ∝ size^(1/T): T = 1 is proportional to size, T → ∞ uniform (Arivazhagan et al. 2019, 1907.05019, §4.2).

    >>> {name: round(weight, 12) for name, weight in temperature_weights({"a": 100, "b": 300}, 1.0).items()}
    {'a': 0.25, 'b': 0.75}
    >>> temperature_weights({"a": 100, "b": 300}, math.inf)
    {'a': 0.5, 'b': 0.5}
    """
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}; allowed: above 0")
    empty = sorted(name for name, size in sizes.items() if size < 1)
    if empty:
        raise UsageError(f"collections without examples: {', '.join(empty)}")
    return _tempered(sizes, temperature)


def _tempered(values: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Positive values to the power of 1/T, scaled to sum 1."""
    # In logarithms: sizes of 10^7 to the power of 1/T overflow at a small T.
    logs = {name: math.log(value) / temperature for name, value in values.items()}
    top = max(logs.values())
    return normalise({name: math.exp(value - top) for name, value in logs.items()})


def unimax_weights(sizes: Mapping[str, int], budget: int, max_epochs: float) -> dict[str, float]:
    """Equal weights, but no collection repeated more than `max_epochs` times (UniMax, Chung et al. 2023, 2304.09151).

    sizes:  collection -> examples
    budget: examples that the training draws in all, steps × batch size

    Small collections are held at their cap, and what they leave is shared equally by the others. Where the budget is
    more than all collections at their caps, every one is capped, and the weights are proportional to the sizes.

    >>> unimax_weights({"a": 10, "b": 100, "c": 1000}, budget=100, max_epochs=2)
    {'a': 0.2, 'b': 0.4, 'c': 0.4}
    """
    names = sorted(sizes)
    caps = epoch_caps(np.array([sizes[name] for name in names], dtype=np.float64), budget, max_epochs)
    if caps.sum() <= 1.0:
        return temperature_weights(sizes, 1.0)
    weights, _ = bounded(np.full(len(names), 1.0 / len(names)), 0.0, caps)
    return normalise(dict(zip(names, weights.tolist(), strict=True)))


def select_top(spec: MixtureSpec, percent: float) -> MixtureSpec:
    """The heaviest `percent` of the collections, equally weighted (the paper's top-70 %: 25 → 17).

    The count is rounded down, at least one; among equal weights the name decides.
    """
    if not 0 < percent <= 100:
        raise UsageError(f"`top` is {percent}; allowed: above 0 to 100 (percent of the collections)")
    count = max(1, math.floor(len(spec.components) * percent / 100 + 1e-9))
    _sampled(spec, "a selection of the heaviest")
    kept = sorted(spec.components, key=lambda c: (-c.weight, c.name))[:count]
    return uniform(kept)


def drawn_only(spec: MixtureSpec) -> MixtureSpec:
    """The mixture with every loss counted alike."""
    return MixtureSpec(tuple(replace(c, loss_weight=1.0) for c in spec.components))


def uniform(components: Sequence[Component]) -> MixtureSpec:
    """The same collections with equal weights."""
    return MixtureSpec(tuple(replace(c, weight=1.0 / len(components)) for c in components))


def reweight(spec: MixtureSpec, weights_of: MixtureSpec) -> MixtureSpec:
    """The content of `spec` with the weights of another mixture of the same collections (the paper's reweighting)."""
    for mixture in (spec, weights_of):
        _sampled(mixture, "a reweighting")
    return spec.with_weights(weights_of.weights)


def loss_reweight(spec: MixtureSpec) -> MixtureSpec:
    """Weights moved from sampling to the loss: collections drawn equally, each loss times G · α (the paper's ablation).

    The expected loss is that of sampling by α, and the mean of the loss weights is 1, so that the learning rate keeps
    its meaning. Loss weights that `spec` has already are multiplied.
    """
    count = len(spec.components)
    return MixtureSpec(
        tuple(replace(c, weight=1.0 / count, loss_weight=c.loss_weight * c.weight * count) for c in spec.components)
    )


def temper(spec: MixtureSpec, temperature: float) -> MixtureSpec:
    """Weights to the power of 1/T: T above 1 flattens them, T below 1 sharpens. A weight of 0 stays 0."""
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}; allowed: above 0")
    _sampled(spec, "a temperature")
    positive = {name: weight for name, weight in spec.weights.items() if weight > 0}
    return spec.with_weights(dict.fromkeys(spec.weights, 0.0) | _tempered(positive, temperature))


def blend(spec: MixtureSpec, other: MixtureSpec, share: float) -> MixtureSpec:
    """(1 − share) of `spec` and `share` of `other`: the weights are those of drawing from one or the other.

    A collection that only one of them has keeps its part. One that both have must have the same content and the same
    loss weight in both.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share of a blend is {share}; allowed: above 0 and below 1")
    ours = {c.name: c for c in spec.components}
    theirs = {c.name: c for c in other.components}
    both = ours.keys() & theirs.keys()
    changed = sorted(n for n in both if _content(ours[n]) != _content(theirs[n]))
    if changed:
        raise UsageError(
            f"the two mixtures hold different content of {', '.join(changed)}; make both anew from the same store"
        )
    unequal = sorted(name for name in both if ours[name].loss_weight != theirs[name].loss_weight)
    if unequal:
        raise UsageError(f"the two mixtures weigh the loss of {', '.join(unequal)} differently; blend before that")
    weights = {
        name: (1 - share) * (ours[name].weight if name in ours else 0.0)
        + share * (theirs[name].weight if name in theirs else 0.0)
        for name in ours | theirs
    }
    scaled = normalise(weights)
    return MixtureSpec(tuple(replace(c, weight=scaled[n]) for n, c in (ours | theirs).items()))


def _content(c: Component) -> tuple[str, str, str | None]:
    return c.collection, c.digest, c.selection


def with_floor(spec: MixtureSpec, floor: float) -> MixtureSpec:
    """No collection under `floor`; the others are scaled down together to make room (`mixture.weights.bounded`)."""
    _sampled(spec, "a floor")
    weights, _ = bounded(np.array([c.weight for c in spec.components]), floor)
    return spec.with_weights(dict(zip((c.name for c in spec.components), weights.tolist(), strict=True)))


def without(spec: MixtureSpec, names: Collection[str]) -> MixtureSpec:
    """The mixture without these collections or slices; the others keep their proportions."""
    _known(spec, names)
    kept = {name: weight for name, weight in spec.weights.items() if name not in names}
    if not any(kept.values()):
        raise UsageError(f"nothing with a weight is left without {', '.join(sorted(names))}")
    scaled = normalise(kept)
    return MixtureSpec(tuple(replace(c, weight=scaled[c.name]) for c in spec.components if c.name in scaled))


def with_fixed(spec: MixtureSpec, fixed: Mapping[str, float]) -> MixtureSpec:
    """These collections or slices at these weights; the others share what is left in their proportions.

    >>> spec = MixtureSpec((Component("a", "", 0.5), Component("b", "", 0.3), Component("c", "", 0.2)))
    >>> with_fixed(spec, {"a": 0.0}).weights
    {'a': 0.0, 'b': 0.6, 'c': 0.4}
    """
    _known(spec, fixed)
    for name, weight in fixed.items():
        if not 0.0 <= weight <= 1.0:
            raise UsageError(f"the weight of {name!r} is set to {weight}; allowed: 0 to 1")
    left = 1.0 - math.fsum(fixed.values())
    if left < -SUM_TOLERANCE:
        raise UsageError(f"the weights that are set sum to {1.0 - left:g}; allowed: up to 1")
    left = max(0.0, left)
    others = {name: weight for name, weight in spec.weights.items() if name not in fixed}
    if left > SUM_TOLERANCE and not any(others.values()):
        raise UsageError(f"nothing with a weight is left to share the other {left:g}; set weights that sum to 1")
    shares = {name: left * share for name, share in normalise(others).items()} if any(others.values()) else others
    weights = {**shares, **fixed}
    return MixtureSpec(tuple(replace(c, weight=weights[c.name]) for c in spec.components))


def _sampled(spec: MixtureSpec, what: str) -> None:
    """Raise where the weights are (partly) in the loss: what acts on sampling weights would miss them."""
    weighed = [c.name for c in spec.components if c.loss_weight != 1.0]
    if weighed:
        raise UsageError(
            f"mixture {spec.id} weighs the loss of {len(weighed)} collections, which {what} would not see; make it from"
            " the mixture that this one was made from, and weigh the loss last"
        )


def _known(spec: MixtureSpec, names: Collection[str]) -> None:
    for name in names:
        if name not in spec.weights:
            raise unknown_name("component", name, spec.weights)
