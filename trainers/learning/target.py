"""What weights are learned towards: queries of suites and held-out rows, each set with fixed candidates.

A model is measured by its loss on a set's fixed candidates, which is smooth, and by nDCG@10 on the set's documents. All
texts are tokenised once; a measurement embeds each of them once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

from mixture.errors import UsageError
from mixture.materialised import ComponentData
from mixture.mining.bm25 import ranked
from mixture.sampling import generator
from mixture.suites.families import family
from mixture.suites.suite import Suite
from mixture.text.form import normalise_text
from trainers.batch.embedding import token_ids
from trainers.batch.gradient_cache import TokenBudget, embed_within_budget
from trainers.batch.memory import PER_PASS
from trainers.evaluation.evaluate import prompt_for
from trainers.evaluation.metrics import ndcg_at_10
from trainers.evaluation.search import top_k
from trainers.losses import info_nce
from trainers.model.template import Template

if TYPE_CHECKING:
    from trainers.settings import TrainingSettings

NEGATIVES = 15
# Of a set for the loss; nDCG is measured on all of a suite's.
MOST_QUERIES = 256
# nDCG of every candidate needs all documents embedded; of a larger corpus only those that are candidates are searched.
MOST_DOCUMENTS = 20_000
DEPTH = 10


@dataclass(frozen=True)
class DevSet:
    """Queries with fixed candidates.

    name:       a suite's title (xquad-en/learn) or a component's name with /held out
    group:      sets of one group, a family (`mixture.suites.families`), have one say together
    queries:    as the model sees them, with their prompt
    documents:  the texts that are searched, likewise
    positives:  of each query the places of the relevant documents, with their grades
    candidates: (Q', 1 + N) places of documents, the positive first, for the first Q' queries
    barred:     of each query the documents that are no answer to be searched for, where there are such: the query
                itself, as in `evaluate_suite`
    """

    name: str
    group: str
    queries: list[str]
    documents: list[str]
    positives: list[dict[int, int]]
    candidates: np.ndarray
    barred: list[set[int]] | None = None

    @cached_property
    def key(self) -> str:
        """A hash of all that decides what a model scores on it."""
        grades = [sorted(of_query.items()) for of_query in self.positives]
        barred = [sorted(of_query) for of_query in self.barred or ()]
        body = json.dumps([self.name, self.queries, self.documents, grades, self.candidates.tolist(), barred])
        return hashlib.sha256(body.encode()).hexdigest()[:16]


class Measured(NamedTuple):
    """The loss, in nats, and nDCG@10 of a model on each set of a target: (T,) each."""

    loss: np.ndarray
    ndcg: np.ndarray


def suite_set(suite: Suite, encoder: SentenceTransformer, template: Template, seed: int) -> DevSet:
    """A suite's queries, behind the prompt that `encoder` has for it, and its documents. The negatives are the best of
    BM25 that are not judged relevant; where BM25 finds too few, random ones."""
    prompt = prompt_for(encoder, suite.name)[1] or ""
    place = {key: i for i, key in enumerate(suite.corpus_ids)}
    texts = list(suite.documents)
    queries, positives, barred = [], [], []
    for key, query in zip(suite.query_ids, suite.queries, strict=True):
        grades = {place[d]: g for d, g in suite.qrels[key].items() if g > 0 and d in place}
        if grades:
            queries.append(query)
            positives.append(grades)
            barred.append({place[d] for d in suite.unranked(key) if d in place} - set(grades))
    if not queries:
        raise UsageError(f"{suite.title}: no query has a relevant document in the corpus; leave it out of `target`")
    sampled = min(MOST_QUERIES, len(queries))
    best = ranked(texts, queries[:sampled], NEGATIVES + 1 + max(map(len, positives)))
    candidates = _candidates(positives[:sampled], best, len(texts), (seed, "target", suite.title), barred)
    if len(texts) > MOST_DOCUMENTS:  # only what is a candidate or relevant is searched
        used = sorted({int(d) for d in candidates.flat} | {d for grades in positives for d in grades})
        at = {d: i for i, d in enumerate(used)}
        texts, positives = [texts[d] for d in used], [{at[d]: g for d, g in grades.items()} for grades in positives]
        candidates = np.vectorize(at.__getitem__)(candidates)
        barred = [{at[d] for d in own if d in at} for own in barred]
    before = template.before_passage
    return DevSet(suite.title, family(suite.name), [prompt + query for query in queries],
                  [before + text for text in texts], positives, candidates, barred)  # fmt: skip


def held_out_set(
    name: str, part: ComponentData, template: Template, seed: int, *, mined: bool = True, most: int = MOST_QUERIES
) -> DevSet:
    """Held-out rows of a component, at most `most`. The documents are these rows' positives and negatives; a
    row's negatives are its own first, then other rows' passages. With `mined` off they are other rows' best positives
    alone, so that nothing but the row's query tells them from its own."""
    prefix = template.prefixes(part.prompts)[0]
    order = generator(seed, "held out", name).permutation(part.num_examples)[:most]
    rows = [part.example(int(row)) for row in np.sort(order)]
    used = ((*row.positives, *row.negatives) if mined else row.positives for row in rows)
    numbers = sorted({n for passages in used for n in passages})
    at = {number: i for i, number in enumerate(numbers)}
    positives = [dict.fromkeys((at[n] for n in row.positives), 1) for row in rows]
    if mined:
        ranking = [np.array([at[n] for n in row.negatives], dtype=np.int64) for row in rows]
    else:
        best = np.array(sorted({min(own) for own in positives}), dtype=np.int64)
        ranking = [generator(seed, "others", name, row).permutation(best) for row in range(len(rows))]
    answers: dict[str, set[int]] = {}  # an equal query's answers are this one's, too
    queries = [normalise_text(row.query) for row in rows]
    for query, own in zip(queries, positives, strict=True):
        answers.setdefault(query, set()).update(own)
    candidates = _candidates(positives, ranking, len(numbers), (seed, "target", name), [answers[q] for q in queries])
    before = template.before_passage
    return DevSet(f"{name}/held out", family(name), [prefix + row.query for row in rows],
                  [before + part.passage(n) for n in numbers], positives, candidates)  # fmt: skip


def _candidates(
    positives: Sequence[Mapping[int, int]], ranked_documents: Sequence[np.ndarray], num_documents: int,
    key: tuple[int | str, ...], barred: Sequence[set[int]] | None = None,
) -> np.ndarray:  # fmt: skip
    """(Q, 1 + N): of each query its best positive, then the first of its ranking that are none and not barred, then
    random ones. N is `NEGATIVES`, or what the documents have."""
    taken = [set(own) | (barred[number] if barred else set()) for number, own in enumerate(positives)]
    most = max(0, min(NEGATIVES, num_documents - max(map(len, taken))))
    rows = []
    for number, (own, ranking) in enumerate(zip(positives, ranked_documents, strict=True)):
        hard = [int(d) for d in ranking if int(d) not in taken[number]][:most]
        if len(hard) < most:
            rest = generator(*key, number).permutation(num_documents)
            hard += [int(d) for d in rest if int(d) not in taken[number] and int(d) not in hard][: most - len(hard)]
        rows.append([max(own, key=lambda d: (own[d], -d)), *hard])
    return np.array(rows, dtype=np.int64)


class Target:
    """Sets to measure on, tokenised once for `encoder` and others with its tokenizer.

    grouped: sets of one group have one say together; otherwise each has its own
    """

    def __init__(
        self, sets: Sequence[DevSet], encoder: SentenceTransformer, settings: TrainingSettings, *, grouped: bool = True
    ) -> None:
        self.sets = list(sets)
        self._groups = [s.group if grouped else s.name for s in sets]
        self._temperature = settings.temperature
        longest = encoder.max_seq_length or settings.max_passage_tokens
        of_query, of_document = (min(n, longest) for n in (settings.max_query_tokens, settings.max_passage_tokens))
        place: dict[tuple[str, int], int] = {}

        def placed(texts: Sequence[str], limit: int) -> np.ndarray:
            return np.array([place.setdefault((text, limit), len(place)) for text in texts], dtype=np.int64)

        self._places = [(placed(s.queries, of_query), placed(s.documents, of_document)) for s in sets]
        self.token_ids = token_ids(encoder.tokenizer, list(place))

    @property
    def keys(self) -> list[str]:
        return [s.key for s in self.sets]

    @cached_property
    def weights(self) -> np.ndarray:
        """The say of each set, (T,), sum 1: groups have equal ones, and so have the sets of a group."""
        groups = self._groups
        return np.array([1.0 / (len(set(groups)) * groups.count(group)) for group in groups])

    def by_group(self, values: np.ndarray) -> np.ndarray:
        """Means over the sets of each group, (N, number of groups), of values (N, T)."""
        groups = self._groups
        places = [[t for t, g in enumerate(groups) if g == group] for group in dict.fromkeys(groups)]
        return np.stack([values[:, place].mean(axis=1) for place in places], axis=1)

    def measure(self, encoder: SentenceTransformer) -> Measured:
        """Loss and nDCG@10 on each set; the encoder is left as it was."""
        parts = self._unit(encoder)
        ndcg = [self._ndcg(s, q, d) for s, q, d in parts]
        return Measured(self._mean_losses(parts), np.array(ndcg))

    def losses(self, encoder: SentenceTransformer) -> np.ndarray:
        """The loss alone on each set, (T,)."""
        return self._mean_losses(self._unit(encoder))

    def above(self, encoder: SentenceTransformer) -> list[np.ndarray]:
        """Of each set, (Q',): the share of a query's other candidates that the encoder ranks below its positive; a tie
        counts half. 1/2 is chance."""
        found = []
        for s, queries, documents in self._unit(encoder):
            candidates = documents[torch.from_numpy(s.candidates)]
            scores = torch.einsum("qd,qcd->qc", queries[: len(s.candidates)], candidates)
            own, others = scores[:, :1], scores[:, 1:]
            below = (own > others).float() + (own == others).float() / 2
            found.append(below.mean(dim=1).double().numpy())
        return found

    def loss(self, encoder: SentenceTransformer) -> Tensor:
        """The mean loss over the sets, weighed by their say, with gradients."""
        parts = [self._losses(*part).mean() for part in self._parted(self._embed(encoder))]
        return torch.stack(parts) @ torch.from_numpy(self.weights).to(parts[0])

    def _unit(self, encoder: SentenceTransformer) -> list[tuple[DevSet, Tensor, Tensor]]:
        """Each set with its queries and documents as vectors of length 1; the encoder is left as it was."""
        was_training = encoder.training
        encoder.eval()
        with torch.no_grad():
            embeddings = normalize(self._embed(encoder), dim=-1)
        encoder.train(was_training)
        return self._parted(embeddings)

    def _parted(self, embeddings: Tensor) -> list[tuple[DevSet, Tensor, Tensor]]:
        return [(s, embeddings[torch.from_numpy(q)], embeddings[torch.from_numpy(d)])
                for s, (q, d) in zip(self.sets, self._places, strict=True)]  # fmt: skip

    def _mean_losses(self, parts: Sequence[tuple[DevSet, Tensor, Tensor]]) -> np.ndarray:
        return np.array([float(self._losses(*part).mean()) for part in parts])

    def _embed(self, encoder: SentenceTransformer) -> Tensor:
        per_pass = PER_PASS.get(encoder.device.type, PER_PASS["cuda"])
        return embed_within_budget(encoder, self.token_ids, TokenBudget(per_pass, per_pass)).float().cpu()

    def _losses(self, dev: DevSet, queries: Tensor, documents: Tensor) -> Tensor:
        candidates = torch.from_numpy(dev.candidates)
        with torch.autocast("cpu", enabled=False):  # a loss in bf16 would be off by a nat at τ = 0.002
            return info_nce(queries[: len(candidates)], documents[candidates], temperature=self._temperature)

    @staticmethod
    def _ndcg(dev: DevSet, queries: Tensor, documents: Tensor) -> float:
        indices = top_k(queries, documents, DEPTH + 1 if dev.barred else DEPTH)[1].tolist()
        if dev.barred:
            indices = [[d for d in row if d not in own][:DEPTH] for row, own in zip(indices, dev.barred, strict=True)]
        return ndcg_at_10(dev.positives, indices)
