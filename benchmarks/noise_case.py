"""The noise case: a mixture to which copies of some of its collections are added, their positives shuffled.

In a shuffled copy every query has the positives of another one, so nothing of it can be learned that holds for a new
row. What looks for harmful collections must find these, and no other.
"""

from __future__ import annotations

import numpy as np

from mixture import jobs, registry, transfers
from mixture.registry import SavedMixture
from mixture.store import Store, read

SHUFFLED = ("agnews", "cmrc2018", "cose")
SUFFIX = "-shuffled"


def add_noise(
    store: Store, mixture: str = "uniform", names: tuple[str, ...] = SHUFFLED, *, name: str = "noisy", seed: int = 42
) -> SavedMixture:  # fmt: skip
    """Add shuffled copies of the collections `names` to the store, mine their negatives as for any other, and save
    the mixture of `mixture` and these, all of equal weight, as `name`. Called again, it finds all that."""
    there = read.names(store)
    for place, collection in enumerate(names):
        if collection + SUFFIX in there:
            continue
        pairs, passages = read.pairs(store, collection), read.passages(store, collection)
        text = dict(zip(passages["passage_id"].to_pylist(), passages["text"].to_pylist(), strict=True))
        queries = pairs["query"].to_pylist()
        positives = [[text[key] for key in keys] for keys in pairs["positives"].to_pylist()]
        prompt = read.collections(store, [collection])[0].prompts[0]
        # The next one of a random order has another's positive in every row.
        order = np.random.default_rng((seed, place)).permutation(len(queries))
        rows = [{"query": queries[a], "pos": positives[b], "neg": [], "prompt": prompt}
                for a, b in zip(order, np.roll(order, 1), strict=True)]  # fmt: skip
        jobs.ingest(store, rows, name=collection + SUFFIX)
    jobs.mine(store)
    noise = registry.pin(store, [collection + SUFFIX for collection in names]).values()
    parts = [*registry.resolve(store, mixture).spec.components, *noise]
    return registry.save(store, transfers.uniform(parts), name, note=f"{mixture} and shuffled {', '.join(names)}")
