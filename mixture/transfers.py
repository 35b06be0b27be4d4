"""From one mixture to another: select, reweight, blend, floor. Pure functions of specs.

The transfers are those of the tDRO paper (2408.10613, section 3.4) and a few that people make by hand.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mixture.errors import UsageError, unknown_name
from mixture.specs import SUM_TOLERANCE, Component, MixtureSpec
from mixture.weights import bounded, normalise, tempered


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
    return spec.with_weights(dict.fromkeys(spec.weights, 0.0) | tempered(positive, temperature))


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
        raise UsageError(f"dropping {', '.join(sorted(names))} leaves no collection with weight above 0")
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
