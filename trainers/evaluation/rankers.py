"""Who ranks a suite's documents: a dense model, BM25, or two of them fused. All decide ties as trec_eval does.

Shapes: Q queries, N documents, k results for a query. Documents are numbered by their ids, the largest first, so that
of equal scores the lower number is the one that trec_eval ranks first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.embeddings import Block, Encode, Kind, Source, Vectors, source_of
from mixture.errors import MixtureError, UsageError
from mixture.mining.bm25 import Index
from mixture.suites.suite import Suite
from mixture.text.strings import Strings, arrow_texts
from trainers.evaluation.search import nearest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Progress = Callable[[int, int], None]
"""Called with texts done and their number."""

CHUNK_DOCUMENTS = 16_384
"""Documents embedded between two searches: bounds memory to one chunk of embeddings, whatever the corpus."""

RANK_CONSTANT = 60  # of reciprocal rank fusion, Cormack, Clarke and Büttcher (SIGIR 2009)
# Documents that each ranker gives to a fusion, whatever is measured: a document's rank hangs on how many there are.
FUSED = 1_000


class Best(NamedTuple):
    """Scores, (Q, k) float32, and numbers, (Q, k) int64, of documents, the best first; -inf and -1 where there are
    fewer than k."""

    scores: NDArray[np.float32]
    numbers: NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What a ranking depends on beside the suite. A prompt of None means plain text."""

    prompt: str | None = None
    document_prompt: str | None = None
    similarity: str = ""
    max_tokens: int | None = None
    precision: str | None = None


class Corpus:
    """A suite's documents by number. texts: as they lie in the suite; order: (N,) the place there of each number."""

    def __init__(self, suite: Suite) -> None:
        self.texts: Strings = suite.documents
        ids = arrow_texts(suite.corpus_ids, what="corpus_ids")
        self.order = pc.sort_indices(ids, sort_keys=[("", "descending")]).to_numpy().astype(np.int64)
        self._ids = ids

    def __len__(self) -> int:
        return len(self.order)

    def ids(self, numbers: NDArray[np.int64]) -> list[str]:
        """The ids of documents, (n,)."""
        return list(self._ids.take(self.order[numbers]).to_pylist())

    def texts_of(self, numbers: NDArray[np.int64]) -> Strings:
        """The texts of documents, (n,)."""
        return self.texts.take(self.order[numbers])

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(N,) the number of the document at each place of the suite."""
        found = np.empty(len(self.order), np.int64)
        found[self.order] = np.arange(len(self.order))
        return found


class Ranker(Protocol):
    """Finds the best documents of each query."""

    def __call__(self, suite: Suite, documents: Corpus, top: int, progress: Progress) -> Best: ...

    def facts(self, suite: Suite) -> Facts: ...


class Dense:
    """Embeddings by one model for both sides, searched exactly.

    prompt:    of the queries of a suite, for plain text None or ""
    encode:    in place of the model's own encoding, such as `trainers.jobs.encode.TextEncoder`
    keep:      from a space's id to the folder of its embeddings; None keeps none
    precision: of kept embeddings
    hold:      from the vectors of a suite's documents to those that are gone over, such as `held.HeldBlocks`
    """

    def __init__(
        self, encoder: SentenceTransformer, prompt: Callable[[Suite], str | None],
        document_prompt: str | None = None, *, encode: Callable[[str, str], Encode] | None = None,
        keep: Callable[[str], Path] | None = None, precision: str = "float32", batch_size: int | None = None,
        hold: Callable[[Vectors], Vectors] | None = None,
    ) -> None:  # fmt: skip
        check_similarity(encoder)
        self._encoder, self._prompt, self._document_prompt = encoder, prompt, document_prompt
        self._encode, self._keep, self._precision, self._batch_size = encode, keep, precision, batch_size
        self._hold = hold

    def facts(self, suite: Suite) -> Facts:
        longest = getattr(self._encoder, "max_seq_length", None)
        cut = isinstance(longest, int) and longest > 0  # a table of tokens says that it has no end
        return Facts(self._prompt(suite) or None, self._document_prompt or None, self._encoder.similarity_fn_name,
                     longest if cut else None, self._precision)  # fmt: skip

    def __call__(self, suite: Suite, documents: Corpus, top: int, progress: Progress) -> Best:
        total = len(suite.queries) + len(documents)
        source = self._source(suite)
        queries = source.vectors(Strings(arrow_texts(suite.queries)), "query", again=True)
        progress(len(suite.queries), total)
        passages = source.vectors(documents.texts, "passage")
        numbered = _Numbered(passages if self._hold is None else self._hold(passages), documents.numbers)
        return Best(*nearest(queries, numbered, top, device=self._encoder.device,
                             progress=lambda done, _: progress(len(suite.queries) + done, total)))  # fmt: skip

    def _source(self, suite: Suite) -> Source:
        before = {"query": self._prompt(suite) or "", "passage": self._document_prompt or ""}
        given = None if self._encode is None else self._encode(before["query"], before["passage"])

        def encode(texts: list[str], kind: Kind) -> NDArray[np.floating[Any]]:
            from trainers.batch.encoding import encode as encoded

            unit = self._encoder.similarity_fn_name == "cosine"
            vectors = encoded(self._encoder, texts, before[kind], kind=kind, unit=unit, batch_size=self._batch_size)
            found: NDArray[np.floating[Any]] = vectors.cpu().numpy()
            bad = int((~np.isfinite(found)).any(axis=1).sum())
            if bad:
                raise MixtureError(
                    f"{bad} of {len(found)} {kind} embeddings are not finite numbers; "
                    "the model diverged, or overflows in this precision"
                )
            return found

        return source_of(given or encode, CHUNK_DOCUMENTS, keep=self._keep, precision=self._precision)


def check_similarity(model: SentenceTransformer) -> None:
    """Raise `UsageError` for a model whose embeddings are compared in a way that `search` cannot."""
    if model.similarity_fn_name not in ("cosine", "dot"):
        raise UsageError(f"the model compares by {model.similarity_fn_name!r}; cosine and dot can be searched")


class Lexical:
    """BM25, as `mixture.mining.bm25` has it. A document that shares no token with the query is not found."""

    def facts(self, suite: Suite) -> Facts:
        return Facts(similarity="bm25")

    def __call__(self, suite: Suite, documents: Corpus, top: int, progress: Progress) -> Best:
        total = len(suite.queries) + len(documents)
        index = Index(documents.texts_of(np.arange(len(documents))))
        progress(len(documents), total)
        found = _empty(len(suite.queries), min(top, len(documents)))
        for query, (numbers, scores) in enumerate(index.search(suite.queries, top)):
            found.numbers[query, : len(numbers)] = numbers
            found.scores[query, : len(numbers)] = scores[numbers]
        progress(total, total)
        return found


class Fused:
    """Reciprocal rank fusion: a document scores the sum of 1 / (60 + its rank) over the rankers that find it among
    their best `FUSED`, of those that are ranked for the query (`Suite.unranked`)."""

    def __init__(self, rankers: Sequence[Ranker]) -> None:
        self._rankers = rankers

    def facts(self, suite: Suite) -> Facts:
        parts = [ranker.facts(suite) for ranker in self._rankers]
        dense = next((part for part in parts if part.precision is not None), parts[0])
        return replace(dense, similarity="rrf of " + " and ".join(part.similarity for part in parts))

    def __call__(self, suite: Suite, documents: Corpus, top: int, progress: Progress) -> Best:
        total = len(self._rankers) * (len(suite.queries) + len(documents))
        each = total // len(self._rankers)

        def after(number: int) -> Progress:
            return lambda done, _: progress(number * each + done, total)

        unranked = [suite.unranked(query) for query in suite.query_ids]
        deep = FUSED + max(map(len, unranked), default=0)
        lists = [ranker(suite, documents, deep, after(number)) for number, ranker in enumerate(self._rankers)]
        found = _empty(len(suite.queries), min(top, len(documents)))
        for query, left_out in enumerate(unranked):
            ranked = [self._ranked(documents, one.numbers[query], left_out) for one in lists]
            shares = np.concatenate([1 / (RANK_CONSTANT + 1.0 + np.arange(len(numbers))) for numbers in ranked])
            own, where = np.unique(np.concatenate(ranked), return_inverse=True)
            scores = np.bincount(where, shares, len(own)).astype(np.float32)
            best = np.lexsort((own, -scores))[: found.numbers.shape[1]]
            found.numbers[query, : len(best)], found.scores[query, : len(best)] = own[best], scores[best]
        return found

    @staticmethod
    def _ranked(documents: Corpus, numbers: NDArray[np.int64], left_out: set[str]) -> NDArray[np.int64]:
        there = numbers[numbers >= 0]
        kept = [document not in left_out for document in documents.ids(there)]
        return there[np.array(kept, np.bool_)][:FUSED]


def _empty(queries: int, k: int) -> Best:
    return Best(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64))


class _Numbered:
    """Vectors under other numbers, (N,)."""

    def __init__(self, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
        self._vectors, self._numbers = vectors, numbers

    def __len__(self) -> int:
        return len(self._vectors)

    def blocks(self) -> Iterator[Block]:
        for numbers, vectors in self._vectors.blocks():
            yield Block(self._numbers[numbers], vectors)
