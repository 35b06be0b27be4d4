"""From a plan's row numbers to the texts of a batch: prompts on queries, one positive and H negatives an example."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from mixture.errors import UsageError
from mixture.materialised import ComponentData, Example, MaterialisedMixture
from mixture.sampling import BatchPlan, draw_passages, generator
from trainers.batch.embedding import UNCUT, Tokens, token_ids
from trainers.model.template import Template
from trainers.parallel import ranks
from trainers.settings import TrainingSettings

# How many queries of a collection are looked at for its prompt's length, and the share of them that may be cut by it.
SAMPLED = 256
CUT = 0.1
# Of the query that is shown when training starts.
SHOWN_WORDS = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextBatch:
    """B examples as texts.

    collections: for each example its collection as an index into the plan's names, (B,)
    queries:     B texts with their prompts
    passages:    B · N texts, N = 1 + H; each example's positive comes first
    masked:      (B, B·N) bool: candidates that are a positive of the row's example; None for a batch of tDRO
    rows:        row numbers within the collections, (B,)
    examples:    the examples' ids, B texts
    names:       the plan's collections
    teacher:     (B, N) float32, what a teacher scores each example's passages, NaN where one has no score; None where
                 nobody asked for it
    tokens:      queries and then passages, tokenised in the background for the model that is trained; else None
    """

    collections: np.ndarray
    queries: list[str]
    passages: list[str]
    masked: Tensor | None
    rows: np.ndarray
    examples: list[str]
    names: tuple[str, ...]
    tokens: Tokens | None = None
    teacher: Tensor | None = None

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
    """Batches of a materialised mixture under a plan; a pure function of (mixture, plan, negatives, template, step)."""

    def __init__(
        self, mixture: MaterialisedMixture, plan: BatchPlan, *, negatives: int | Mapping[str, int],
        symmetric_prompts: bool = False, template: Template = Template(), taught: bool = False,
    ) -> None:  # fmt: skip
        self.mixture = mixture
        self.taught = taught
        self.plan = plan
        self.negatives = negatives
        self.symmetric_prompts = symmetric_prompts
        self.template = template
        stuck = [n for n, part in mixture.components.items() if plan.weights[n] > 0 and part.without_candidates()]
        if stuck:
            raise UsageError(
                f"nothing can serve as a negative for some examples of: {', '.join(stuck)}; leave these collections out"
            )

    def _negatives(self, name: str) -> int:
        return self.negatives if isinstance(self.negatives, int) else self.negatives[name]

    def homogeneous(self, step: int) -> TextBatch:
        """A batch of one collection (fine-tuning)."""
        name, rows = self.plan.batch(step)
        index = self.plan.collections.index(name)
        part = self.mixture.components[name]
        examples = [part.example(int(row)) for row in rows]
        queries, passages, numbers = self._texts(part, examples, self._negatives(name), ("batch", step))
        drawn = np.array(numbers).reshape(len(rows), -1)
        answers: dict[str, list[int]] = {}  # an equal query's answers are this one's, too
        for example in examples:
            answers.setdefault(example.query, []).extend(example.positives)
        masked = np.stack([np.isin(drawn, answers[example.query]).reshape(-1) for example in examples])
        ids = [example.example_id for example in examples]
        groups = np.full(len(rows), index)
        teacher = torch.from_numpy(_scores_of(part, rows, drawn)) if self.taught else None
        return TextBatch(groups, queries, passages, torch.from_numpy(masked), rows, ids, self.plan.collections,
                         teacher=teacher)  # fmt: skip

    def mixed(self, step: int) -> TextBatch:
        """A batch over all collections, each example from a collection drawn uniformly (tDRO)."""
        return self._over_all(*self.plan.mixed(step), ("mixed", step))[0]

    def shared(self, step: int) -> TextBatch:
        """A batch that all collections share by their weights, with its mask (fine-tuning with mixed batches)."""
        batch, drawn, examples = self._over_all(*self.plan.shared(step), ("shared", step))
        parts = [self.mixture.components[batch.names[group]] for group in batch.collections]
        # Passages by their ids, which are the same in every collection.
        codes: dict[str, int] = {}
        candidates = np.array([
            codes.setdefault(key, len(codes))
            for part, own in zip(parts, drawn, strict=True) for key in part.passage_ids(own)
        ])  # fmt: skip
        answers: dict[str, set[int]] = {}
        for part, example in zip(parts, examples, strict=True):
            known = (codes.get(key, -1) for key in part.passage_ids(example.positives))
            answers.setdefault(example.query, set()).update(known)
        masked = np.stack([np.isin(candidates, list(answers[example.query])) for example in examples])
        scores = (_scores_of(part, [row], own[None])
                  for part, row, own in zip(parts, batch.rows, drawn, strict=True))  # fmt: skip
        teacher = torch.from_numpy(np.concatenate(list(scores))) if self.taught else None
        return replace(batch, masked=torch.from_numpy(masked), teacher=teacher)

    def _over_all(
        self, groups: np.ndarray, rows: np.ndarray, key: tuple[str, int]
    ) -> tuple[TextBatch, np.ndarray, list[Example]]:
        """A batch over collections, without a mask; the row numbers of its passages, (B, N); and its examples."""
        per_example = 1 + self._negatives(self.plan.collections[groups[0]])  # all have as many
        queries = [""] * len(rows)
        passages = [""] * (len(rows) * per_example)
        found: list[Example | None] = [None] * len(rows)
        drawn = np.empty((len(rows), per_example), dtype=np.int64)
        for index in np.unique(groups):
            name = self.plan.collections[index]
            part = self.mixture.components[name]
            places = np.flatnonzero(groups == index)
            examples = [part.example(int(row)) for row in rows[places]]
            texts, candidates, numbers = self._texts(part, examples, per_example - 1, (*key, name))
            drawn[places] = np.array(numbers).reshape(-1, per_example)
            for k, place in enumerate(places):
                queries[place] = texts[k]
                found[place] = examples[k]
                passages[place * per_example : (place + 1) * per_example] = candidates[
                    k * per_example : (k + 1) * per_example
                ]
        whole = [example for example in found if example is not None]
        ids = [example.example_id for example in whole]
        return TextBatch(groups, queries, passages, None, rows, ids, self.plan.collections), drawn, whole

    def _texts(
        self, part: ComponentData, examples: Sequence[Example], count: int, key: tuple[int | str, ...]
    ) -> tuple[list[str], list[str], list[int]]:
        """Queries with prompts; passages example by example, with `count` negatives, and their row numbers in the
        component."""
        seed = self.plan.seed
        positives = draw_passages([e.positives for e in examples], 1, (seed, "positive", *key))
        negatives = draw_passages([e.negatives for e in examples], count, (seed, "negative", *key))
        random = generator(seed, "fill", *key)
        numbers: list[int] = []
        for example, positive, hard in zip(examples, positives, negatives, strict=True):
            numbers += positive + (hard or _random_passages(part, example, count, random))
        before = self.template.prefixes(part.prompts)
        choice = generator(seed, "prompt", *key).integers(0, len(before), size=len(examples))
        prefixes = [before[c] for c in choice]
        queries = [prefix + e.query for prefix, e in zip(prefixes, examples, strict=True)]
        passages = [part.passage(n) for n in numbers]
        if self.symmetric_prompts and part.symmetric:
            # As the tDRO release does: an example's passages get the prompt of its query.
            passages = [prefixes[i // (1 + count)] + text for i, text in enumerate(passages)]
        elif self.template.before_passage:
            passages = [self.template.before_passage + text for text in passages]
        return queries, passages, numbers


def _scores_of(part: ComponentData, rows: Sequence[int] | np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """What a teacher scores the passages drawn for examples, (B, N) float32; NaN where one has no score."""
    known = [part.scores(int(row)) for row in rows]
    return np.array([[of.get(n, np.nan) for n in own] for of, own in zip(known, drawn.tolist(), strict=True)],
                    np.float32)  # fmt: skip


def _random_passages(part: ComponentData, example: Example, count: int, random: np.random.Generator) -> list[int]:
    """Passages of the collection that are not the example's, for an example that came without negatives."""
    drawn: list[int] = []
    while len(drawn) < count:
        number = int(random.integers(part.num_passages))
        if number not in example.positives:
            drawn.append(number)
    return drawn


def say_texts(mixture: MaterialisedMixture, template: Template) -> None:
    """A line to the log: a query as the model will see it, whose layout that is, and who gets a default prompt."""
    drawn = [c.name for c in mixture.spec.components if c.weight > 0] or list(mixture.components)
    bare = [name for name in drawn if not mixture.components[name].prompts]
    name = (bare if template.uses_prompt and bare else drawn)[0]
    part = mixture.components[name]
    query = " ".join(part.example(0).query.split()[:SHOWN_WORDS])
    seen = template.prefixes(part.prompts)[0] + query
    passages = f"passages after {template.before_passage!r}" if template.before_passage else "passages alone"
    line = f"queries go in as {seen!r} ({name}; {template.source}), {passages}"
    if template.uses_prompt and bare:
        have = "have no prompts of their own and get" if len(bare) > 1 else "has no prompt of its own and gets"
        line += f"; {_some('collection', bare, 3)} {have} the default one; without any: `query_template=none`"
    if ranks.is_main():
        logger.info("%s", line)


def say_small(
    mixture: MaterialisedMixture, batch_size: int, *, mixed: bool = False, own: Mapping[str, int] | None = None
) -> None:
    """A line to the log where batches hold fewer rows than asked for, since there are no more.

    mixed: batches are drawn over all collections; else each is of one
    own:   batch sizes of single collections
    """
    sizes = {c.name: mixture.sizes[c.name] for c in mixture.spec.components if c.weight > 0}
    total = sum(sizes.values())
    small = [f"{name} ({size:,})" for name, size in sorted(sizes.items(), key=lambda item: item[1])
             if size < (own or {}).get(name, batch_size)]  # fmt: skip
    if not ranks.is_main() or not (total < batch_size if mixed else small):
        return
    if total < batch_size:
        logger.warning("`batch_size` is %s, but the mixture has %s rows: no batch holds more", f"{batch_size:,}",
                       f"{total:,}")  # fmt: skip
    else:
        logger.info("`batch_size` is %s; a batch holds all rows, and no more, of the smaller %s",
                    f"{batch_size:,}", _some("collection", small, 3))  # fmt: skip


def say_taught(mixture: MaterialisedMixture, names: Sequence[str]) -> None:
    """A line to the log: how many examples of these components a teacher scored. Raises `UsageError` where none is."""
    drawn = [c.name for c in mixture.spec.components if c.weight > 0 and c.name in names]
    scored = {name: mixture.components[name].num_scored() for name in drawn}
    if not any(scored.values()):
        raise UsageError(
            f"no example of {_some('collection', drawn or list(names), 3)} has a teacher's scores of a positive and a "
            "negative; mine with a model, or bring scores with the rows"
        )
    total = sum(mixture.sizes[name] for name in drawn)
    bare = [name for name in drawn if not scored[name]]
    none = f"; none in {_some('collection', bare, 3)}" if bare else ""
    if ranks.is_main():
        logger.info("a teacher's scores: %s of %s examples%s", f"{sum(scored.values()):,}", f"{total:,}", none)


def check_prompts(
    encoder: SentenceTransformer, mixture: MaterialisedMixture, settings: TrainingSettings,
    template: Template = Template(),
) -> None:  # fmt: skip
    """Whether `max_query_tokens` leaves room for the queries behind their prompts, in the tokens of `encoder`.

    Raises `UsageError` where a collection's prompt alone fills the limit. Where a prompt costs more than a tenth of the
    queries their end, a line to the log says so, once a collection; queries that are too long by themselves do not
    count.
    """
    full: dict[str, int] = {}
    limits = {name: settings.of(name).max_query_tokens for name in mixture.components}
    for name, part in mixture.components.items():
        limit = limits[name] = min(limits[name], encoder.max_seq_length or limits[name])
        lengths = {p: _num_tokens(encoder, [p.rstrip()])[0] for p in template.prefixes(part.prompts)}
        prompt = max(lengths, key=lambda p: lengths[p])
        if not prompt:
            continue
        if lengths[prompt] >= limit:
            full[name] = lengths[prompt]
            continue
        rows = np.linspace(0, part.num_examples - 1, min(SAMPLED, part.num_examples)).astype(int)
        queries = [part.example(int(row)).query for row in rows]
        alone = _num_tokens(encoder, queries)
        together = _num_tokens(encoder, [prompt + query for query in queries])
        cut = sum(one <= limit < both for one, both in zip(alone, together, strict=True))
        if cut > CUT * len(queries) and ranks.is_main():
            logger.warning(
                "%s: the prompt takes %d of the %d tokens of a query, and %d %% of the queries lose their end; "
                "`max_query_tokens=%d` would keep them",
                name, lengths[prompt], limit, round(100 * cut / len(queries)), max(together),
            )  # fmt: skip
    if full:
        longest = max(full, key=lambda name: full[name])
        raise UsageError(
            f"max_query_tokens is {limits[longest]}, which the prompt alone fills in "
            f"{_some('collection', list(full), 3)} "
            f"({full[longest]} tokens in {longest}); `max_query_tokens={2 * full[longest]}` would leave room"
        )


def _num_tokens(encoder: SentenceTransformer, texts: list[str]) -> list[int]:
    return [len(ids) for ids in token_ids(encoder.tokenizer, [(text, UNCUT) for text in texts])]
