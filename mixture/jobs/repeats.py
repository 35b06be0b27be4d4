"""How often training sees a collection, in words."""

from __future__ import annotations

from collections.abc import Mapping

from mixture.weights import MANY_EPOCHS, ROUNDING, USUAL_BATCH, USUAL_STEPS

MOST = 4  # of the collections that are seen most often, how many are named
SO_WHAT = "from where on repeats teach less (Muennighoff et al. 2023)"


def seen(weights: Mapping[str, float], sizes: Mapping[str, int], budget: int | None = None) -> str:
    """The collections that a run repeats most, and how many it repeats too often to learn much from that.

    budget: examples that the run draws; None: the usual run

    >>> seen({"nq": 0.5, "faq": 0.5}, {"nq": 100_000, "faq": 800})
    'in the usual 1,000 steps of 64, 1 of 2 collections is seen more than 4 times, from where on repeats teach less \
(Muennighoff et al. 2023): faq 40 times; UniMax keeps to a number of epochs'
    """
    run = f"{budget:,} examples" if budget else f"the usual {USUAL_STEPS:,} steps of {USUAL_BATCH}"
    drawn = budget or USUAL_STEPS * USUAL_BATCH
    epochs = {name: drawn * weights[name] / size for name, size in sizes.items() if weights[name] > 0}
    ranked = sorted(epochs.items(), key=lambda item: (-item[1], item[0]))
    often = [item for item in ranked if item[1] > MANY_EPOCHS + ROUNDING]
    named = ", ".join(f"{name} {times:,.{1 if times < 10 else 0}f} times" for name, times in (often or ranked)[:MOST])
    named += ", …" if len(often or ranked) > MOST else ""
    if not often:
        return f"in {run}, training sees most often: {named}"
    which = f"{len(often)} of {len(ranked)} collections {'is' if len(often) == 1 else 'are'} seen"
    cap = "" if budget else "; UniMax keeps to a number of epochs"
    return f"in {run}, {which} more than {MANY_EPOCHS} times, {SO_WHAT}: {named}{cap}"
