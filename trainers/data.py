"""From a plan's row numbers to the texts of a batch: prompts on queries, one positive and H negatives an example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixture.errors import UsageError
from mixture.materialised import ComponentData, Example, MaterialisedMixture
from mixture.sampling import BatchPlan, draw_passages, generator

DEFAULT_PROMPT = "Given a query, retrieve relevant passages that answer the query"


def query_prefix(prompt: str) -> str:
    """What stands before a query (the paper's form); passages stand alone."""
    return f"Instruct: {prompt}\nQuery: "


@dataclass(frozen=True)
class TextBatch:
    """B examples as texts.

    collections: for each example its collection as an index into the plan's names, (B,)
    queries:     B texts with their prompts
    passages:    B · N texts, N = 1 + H; each example's positive comes first
    masked:      (B, B·N) bool: candidates that are a positive of the row's example; None for a mixed batch
    rows:        row numbers within the collections, (B,)
    examples:    the examples' ids, B texts
    names:       the plan's collections
    """

    collections: np.ndarray
    queries: list[str]
    passages: list[str]
    masked: Tensor | None
    rows: np.ndarray
    examples: list[str]
    names: tuple[str, ...]

    def describe(self, places: Sequence[int] | None = None) -> str:
        """Collections and example ids of some of the batch (default: all), for an error message."""
        chosen = range(len(self.examples)) if places is None else places
        groups = list(dict.fromkeys(self.names[self.collections[i]] for i in chosen))
        ids = [self.examples[i] for i in chosen]
        return f"{_some('collection', groups, 3)}; {_some('example', ids, 4)}"


def _some(kind: str, names: Sequence[str], shown: int) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{kind}{'s' * (len(names) > 1)} {', '.join(names[:shown])}{more}"


class BatchSource:
    """Batches of a materialised mixture under a plan; a pure function of (mixture, plan, negatives, step)."""

    def __init__(self, mixture: MaterialisedMixture, plan: BatchPlan, *, negatives: int) -> None:
        self.mixture = mixture
        self.plan = plan
        self.negatives = negatives
        stuck = [name for name, part in mixture.components.items() if part.without_candidates()]
        if stuck:
            raise UsageError(
                f"nothing can serve as a negative for some examples of: {', '.join(stuck)}; leave these collections out"
            )

    def homogeneous(self, step: int) -> TextBatch:
        """A batch of one collection (fine-tuning)."""
        name, rows = self.plan.batch(step)
        index = self.plan.collections.index(name)
        part = self.mixture.components[name]
        examples = [part.example(int(row)) for row in rows]
        queries, passages, numbers = self._texts(part, examples, ("batch", step))
        per_example = 1 + self.negatives
        drawn = np.array(numbers).reshape(len(rows), per_example)
        masked = np.stack([np.isin(drawn, example.positives).reshape(-1) for example in examples])
        ids = [example.example_id for example in examples]
        groups = np.full(len(rows), index)
        return TextBatch(groups, queries, passages, torch.from_numpy(masked), rows, ids, self.plan.collections)

    def mixed(self, step: int) -> TextBatch:
        """A batch over all collections, each example from a collection drawn uniformly (tDRO)."""
        groups, rows = self.plan.mixed(step)
        per_example = 1 + self.negatives
        queries = [""] * len(rows)
        passages = [""] * (len(rows) * per_example)
        ids = [""] * len(rows)
        for index in np.unique(groups):
            name = self.plan.collections[index]
            part = self.mixture.components[name]
            places = np.flatnonzero(groups == index)
            examples = [part.example(int(row)) for row in rows[places]]
            texts, candidates, _ = self._texts(part, examples, ("mixed", step, name))
            for k, place in enumerate(places):
                queries[place] = texts[k]
                ids[place] = examples[k].example_id
                passages[place * per_example : (place + 1) * per_example] = candidates[
                    k * per_example : (k + 1) * per_example
                ]
        return TextBatch(groups, queries, passages, None, rows, ids, self.plan.collections)

    def _texts(
        self, part: ComponentData, examples: Sequence[Example], key: tuple[int | str, ...]
    ) -> tuple[list[str], list[str], list[int]]:
        """Queries with prompts; passages example by example, and their row numbers in the component."""
        seed = self.plan.seed
        positives = draw_passages([e.positives for e in examples], 1, (seed, "positive", *key))
        negatives = draw_passages([e.negatives for e in examples], self.negatives, (seed, "negative", *key))
        random = generator(seed, "fill", *key)
        numbers: list[int] = []
        for example, positive, hard in zip(examples, positives, negatives, strict=True):
            numbers += positive + (hard or _random_passages(part, example, self.negatives, random))
        prompts = part.prompts or (DEFAULT_PROMPT,)
        choice = generator(seed, "prompt", *key).integers(0, len(prompts), size=len(examples))
        queries = [query_prefix(prompts[c]) + e.query for c, e in zip(choice, examples, strict=True)]
        return queries, [part.passage(n) for n in numbers], numbers


def _random_passages(part: ComponentData, example: Example, count: int, random: np.random.Generator) -> list[int]:
    """Passages of the collection that are not the example's, for an example that came without negatives."""
    drawn: list[int] = []
    while len(drawn) < count:
        number = int(random.integers(part.num_passages))
        if number not in example.positives:
            drawn.append(number)
    return drawn
