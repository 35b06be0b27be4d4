"""What prompts score on suites: each corpus is encoded once, each prompt is scored once, and the store keeps it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixture.progress import Progress
from mixture.store import Store
from mixture.store.write import append
from mixture.suites.suite import Suite
from trainers.finetune.scores import METRIC

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from trainers.evaluation.held import HeldBlocks
    from trainers.jobs.dense import DenseModel

logger = logging.getLogger(__name__)
# The round of scores for the report.
REPORTED = 0
# Seconds of work that a kill may cost.
WRITTEN_EVERY = 10.0


class Scored(NamedTuple):
    """Of P prompts on T suites. of_queries: T arrays (P, Q_t), in the order of the suite's queries; means: (P, T), to
    the last digit those that `evaluate` gives."""

    of_queries: list[np.ndarray]
    means: np.ndarray


class PromptScores:
    """Scores prompts, or finds what the store has of them. On leaving it writes what is not written yet."""

    def __init__(self, store: Store, dense: DenseModel, model: str, choice: str) -> None:
        self._store, self._dense, self._model, self._choice = store, dense, model, choice
        self._held: dict[int, HeldBlocks] = {}  # by the corpus, which parts of a suite share
        self._new: list[dict[str, Any]] = []
        self._written = time.monotonic()
        self._warned: set[tuple[str, str]] = set()
        self._num_queries = 0

    def __enter__(self) -> PromptScores:
        return self

    def __exit__(self, *_: object) -> None:
        for held in self._held.values():
            held.close()
        self._write()

    @property
    def encoded(self) -> dict[str, int]:
        """Passages and queries that were encoded."""
        return {"passages": sum(held.encoded for held in self._held.values()), "queries": self._num_queries}

    def on(
        self, suites: Sequence[Suite], parts: Sequence[Suite], texts: Sequence[str], round: int, progress: Progress
    ) -> Scored:  # fmt: skip
        """Scores of prompts on parts of suites. A prompt is the text before a query, "" for none; one text may be
        given twice."""
        keys = [
            {text: self._key(suite, part, text) for text in texts} for suite, part in zip(suites, parts, strict=True)
        ]
        known = self._known([key for row in keys for key in row.values()], round)
        missing = [[text for text, key in row.items() if key not in known] for row in keys]
        total, done = sum(self._to_encode(part, len(some)) for part, some in zip(parts, missing, strict=True)), 0
        for part, row, some in zip(parts, keys, missing, strict=True):
            self._warn_of_cut(part, some)
            for text, key in row.items():
                if key not in known:
                    most = self._to_encode(part, 1)
                    show = partial(_counts, progress, part.title, done, most, total)
                    known[key] = self._score(part, text, show)
                    done += most
                if not known[key].pop("there"):
                    self._new.append({"round": round, "suite": part.title, "half": part.half, "prompt": text,
                                      "num_queries": len(part.queries), "score": key, **known[key]})  # fmt: skip
                if time.monotonic() - self._written > WRITTEN_EVERY:
                    self._write()
        progress(done, total, "done")
        self._write()
        rows = [[known[row[text]] for text in texts] for row in keys]
        return Scored([np.array([one["query_values"] for one in row]) for row in rows],
                      np.array([[one["value"] for one in row] for row in rows]).T)  # fmt: skip

    def _key(self, suite: Suite, part: Suite, text: str) -> str:
        """A hash of all that decides a score."""
        query = self._dense.behind(text, self._dense.document_prompt or "").space("query").id
        body = [query, space_of(self._dense), suite.digest, part.query_ids if part is not suite else None, METRIC]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:20]

    def _known(self, keys: Sequence[str], round: int) -> dict[str, dict[str, Any]]:
        """By key; `there`: as a row of this choice and round."""
        rows = self._store.rows(
            """SELECT score, value, query_values, scored_at, choice = $choice AND round = $round AS there
               FROM prompt_scores WHERE list_contains($keys, score) ORDER BY there""",
            {"keys": list(keys), "choice": self._choice, "round": round},
        )
        return {row.pop("score"): row for row in rows}

    def _to_encode(self, part: Suite, prompts: int) -> int:
        """Texts that so many prompts still need on a suite."""
        held = self._held.get(id(part.corpus))
        passages = len(part.corpus_ids) if held is None or not held.encoded else 0
        return (prompts > 0) * (passages + prompts * len(part.queries))

    def _score(self, part: Suite, text: str, progress: Any) -> dict[str, Any]:
        from trainers.evaluation.evaluate import score_suite
        from trainers.evaluation.held import HeldBlocks

        if id(part.corpus) not in self._held:
            self._held[id(part.corpus)] = HeldBlocks(self._store.work)
        ranker = self._dense.ranker(text, hold=self._held[id(part.corpus)])
        result = score_suite(ranker, part, progress=progress)
        self._num_queries += len(part.queries)
        return {"value": result.metrics[METRIC], "there": False, "scored_at": datetime.now(UTC),
                "query_values": [result.per_query[query][METRIC] for query in part.query_ids]}  # fmt: skip

    def _warn_of_cut(self, part: Suite, texts: Sequence[str]) -> None:
        for text in texts:
            if (text, part.name) in self._warned:
                continue
            self._warned.add((text, part.name))
            if cut := num_cut(self._dense.texts.encoder, text, part.queries):
                logger.warning("%d of %d queries of %s have more than the model's %d tokens behind %r: cut off",
                               cut, len(part.queries), part.title, self._dense.texts.encoder.max_seq_length,
                               text)  # fmt: skip

    def _write(self) -> None:
        common = {"choice": self._choice, "model": self._model, "metric": METRIC}
        rows, self._new, self._written = [common | row for row in self._new], [], time.monotonic()
        if rows:
            self._store.transaction(lambda connection: append(connection, "prompt_scores", rows))


def _counts(show: Progress, what: str, before: int, most: int, total: int, done: int, _: int) -> None:
    show(before + min(done, most), total, what)


def space_of(dense: DenseModel) -> str:
    """What the passages' embeddings and their comparison depend on."""
    space = dense.behind("", dense.document_prompt or "").space("passage").id
    return f"{space} {dense.texts.encoder.similarity_fn_name}"


def num_cut(encoder: SentenceTransformer, prompt: str, queries: Sequence[str]) -> int:
    """How many queries a prompt makes longer than the model reads, which it reads whole without."""
    from trainers.batch.embedding import UNCUT, token_ids

    limit, tokenizer = getattr(encoder, "max_seq_length", None), getattr(encoder, "tokenizer", None)
    if not prompt or not isinstance(limit, int) or not 0 < limit < UNCUT or tokenizer is None:
        return 0

    def lengths(texts: Sequence[str]) -> np.ndarray:
        return np.array([len(ids) for ids in token_ids(tokenizer, [(text, UNCUT) for text in texts])])

    alone = lengths(queries)
    if alone.max() + lengths([prompt])[0] <= limit:
        return 0
    return int(((lengths([prompt + query for query in queries]) > limit) & (alone <= limit)).sum())
