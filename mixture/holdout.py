"""Rows held out of a training: a share of each component's, which no batch draws.

A hash of the query says which, up to case and punctuation: rows of equal queries are on one side, in every component,
run and seed. The bits of the hash are others than those that halve suites (`mixture.suites.halves`) and that hold rows
out of the learning of weights (`mixture.registry.holdout`): a mixture that leaves the latter out has rows of its own to
hold out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.materialised import ComponentData, MaterialisedMixture
from mixture.text.digests import text_digests
from mixture.text.form import Texts

# With fewer rows a component says too little; it stays whole.
FEWEST = 8
# Of a collection's rows: with more there is little left to learn from.
MOST_HELD_OUT = 0.5


def held_out(queries: Texts, share: float) -> NDArray[np.bool_]:
    """Whether each of n queries is held out, (n,).

    >>> held_out(["Who wrote Faust?", "who wrote faust"], 0.5).tolist() in ([True, True], [False, False])
    True
    """
    from mixture.text.columns import normalise_texts  # loads compiled kernels

    return text_digests(normalise_texts(queries))[:, 1] < share * 2.0**64


def hold_out(mixture: MaterialisedMixture, share: float) -> tuple[MaterialisedMixture, dict[str, ComponentData]]:
    """The mixture without the rows that are held out, and these rows, by component.

    A component of weight 0 stays whole, and one that has fewer than `FEWEST` rows to hold out. A share of 0 holds
    nothing out. Raises `UsageError` for one out of range, and where no component has enough.
    """
    (kept,), out = hold_out_of_all((mixture,), share)
    return kept, out


def hold_out_of_all(
    mixtures: Sequence[MaterialisedMixture], share: float
) -> tuple[list[MaterialisedMixture], dict[str, ComponentData]]:  # fmt: skip
    """`hold_out` of mixtures that one training draws from. A component that holds rows out in one of them does so in
    all; where its rows differ, those of the last are given."""
    if not 0 <= share <= MOST_HELD_OUT:
        raise UsageError(f"`holdout` is {share:g}; allowed: 0 to {MOST_HELD_OUT}")
    if not share:
        return list(mixtures), {}
    chosen = [
        {c.name: held_out(mixture.components[c.name].queries(), share) for c in mixture.spec.components if c.weight > 0}
        for mixture in mixtures
    ]
    names = {name for own in chosen for name, rows in own.items() if FEWEST <= rows.sum() < len(rows)}
    kept, out = [], {}
    for mixture, own in zip(mixtures, chosen, strict=True):
        parts = dict(mixture.components)
        for name, rows in own.items():
            if name in names and 0 < rows.sum() < len(rows):
                parts[name], out[name] = parts[name].only(~rows), parts[name].only(rows)
        kept.append(replace(mixture, components=parts))
    if not out:
        raise UsageError(f"`holdout` is {share:g}, and no collection has {FEWEST} rows to hold out; hold out more")
    return kept, out
