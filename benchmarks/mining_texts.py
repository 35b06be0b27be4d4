"""What `mining.py` measures on texts: encoding beside sentence-transformers, BM25 beside bm25s."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

# Of 3,000 texts: questions, news, and passages of which most are cut at the model's 256 tokens.
SHARES = {"disflqa": 1_500, "agnews": 1_000, "covidqa": 250, "pubmedqa": 250}
MODEL = "all-MiniLM-L6-v2"
VOCABULARY, DEPTH, COMPARED = 200_000, 100, 1_000


def zipf_texts(queries: int, passages: int) -> tuple[list[str], list[str]]:
    """Texts of made-up words by Zipf's law: 8 words a query, 50 to 80 a passage."""
    rng = np.random.default_rng(0)
    share = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    syllables = [first + second for first in "bcdfghjklmnpqrstvwxz" for second in "aeiou"]
    words = np.array([syllables[n % 100] + syllables[n // 100 % 100] + syllables[n // 10_000] for n in
                      range(VOCABULARY)], object)  # fmt: skip

    def texts(lengths: np.ndarray) -> list[str]:
        drawn = words[np.searchsorted(share, rng.random(lengths.sum()) * share[-1])]
        ends = np.cumsum(lengths)
        return [" ".join(drawn[end - length : end]) for end, length in zip(ends, lengths, strict=True)]

    return texts(np.full(queries, 8)), texts(rng.integers(50, 81, passages))


def ours(queries: int, passages: int) -> Iterator[Any]:
    import pyarrow as pa

    from mixture.mining import MINERS, MiningPool, bm25

    asked, texts = (pa.array(some) for some in zipf_texts(queries, passages))
    names = pa.array([f"{number:08d}" for number in range(max(queries, passages))])
    positives = pa.ListArray.from_arrays(np.arange(queries + 1, dtype=np.int32), names[:queries])
    pool = MiningPool.build(names[:queries], asked, positives, names[:passages], texts)
    assert len(pool.passages) == passages
    del asked, texts
    bm25.ranked(["one two"], ["one"], 1)  # kernels are loaded before the clock runs
    yield
    found = MINERS["bm25"].search(pool, DEPTH, None, lambda done, total: None)
    first = next(found)
    yield
    rest = list(found)
    yield
    yield [some.scores for some in [first, *rest][:COMPARED]]


def bm25s(queries: int, passages: int, backend: str) -> Iterator[Any]:
    import bm25s

    asked, texts = zipf_texts(queries, passages)
    if backend == "numba":  # compiled before the clock runs
        small = bm25s.BM25(method="lucene", backend=backend)
        small.index(bm25s.tokenize(texts[:1_000], show_progress=False), show_progress=False)
        small.retrieve(bm25s.tokenize(texts[:2], show_progress=False), k=DEPTH, show_progress=False)
    yield
    index = bm25s.BM25(method="lucene", backend=backend)
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    yield
    found = index.retrieve(bm25s.tokenize(asked, show_progress=False), k=DEPTH, show_progress=False)
    yield
    yield [row[row > 0] for row in found.scores[:COMPARED]]


SIDES: dict[str, Callable[[int, int], Iterator[Any]]] = {
    "ours": ours,
    "bm25s_numpy": lambda queries, passages: bm25s(queries, passages, "numpy"),
    "bm25s_numba": lambda queries, passages: bm25s(queries, passages, "numba"),
}


def real_texts(data: Path, count: int) -> list[str]:
    """Distinct passages of real collections, in a mixed order."""
    from mixture import Store, jobs

    texts: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store", create=True) as store:
        for name, share in SHARES.items():
            jobs.ingest(store, str(data / "raw" / name), name=name)
            rows = store.rows("SELECT text FROM passages ORDER BY passage_id")
            new = [row["text"] for row in rows if row["text"] not in texts]
            texts |= dict.fromkeys(new[: share * count // sum(SHARES.values())])
    found = list(texts)
    return [found[place] for place in np.random.default_rng(0).permutation(len(texts))]


def encode(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import torch

    from mixture.embeddings import Keeping
    from mixture.embeddings.source import Passing
    from trainers import encode_with

    texts, rounds = real_texts(options.data, options.texts), options.rounds
    model = encode_with(MODEL)
    encoder = model._encoder
    lengths = [
        len(ids) for ids in encoder.tokenizer(texts, truncation=True, max_length=encoder.max_seq_length)["input_ids"]
    ]

    def kept(some: list[str]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            return Keeping(model, lambda name: Path(folder) / name)(some, "passage")

    sides: dict[str, Callable[[list[str]], np.ndarray]] = {
        "theirs": lambda some: encoder.encode(some, show_progress_bar=False),
        "ours": lambda some: Passing(model)(some, "passage"),
        "kept": kept,
    }
    result: dict[str, Any] = {"model": MODEL, "threads": torch.get_num_threads(), "rounds": rounds}
    for side in sides.values():
        side(texts[:64])
    for name, some in {"distinct": texts, "thrice": texts[: len(texts) // 3] * 3}.items():
        wall: dict[str, list[float]] = {side: [] for side in sides}
        busy: dict[str, list[float]] = {side: [] for side in sides}
        found = {}
        for _ in range(rounds):
            for side, encoded in sides.items():
                started, before = time.perf_counter(), time.process_time()
                found[side] = encoded(some)
                wall[side].append(time.perf_counter() - started)
                busy[side].append(time.process_time() - before)
                print(name, side, round(wall[side][-1], 1), round(busy[side][-1], 1), flush=True)
        ratios = {side: [a / b for a, b in zip(busy["theirs"], busy[side], strict=True)] for side in ("ours", "kept")}
        result[name] = {"texts": len(some), "different": len(set(some))} | {
            side: {
                "texts_per_s": round(len(some) / median(wall[side]), 1),
                "texts_per_processor_s": round(len(some) / median(busy[side]), 1),
            } for side in sides
        } | {
            f"{side}_to_theirs": [round(ratio, 2) for ratio in sorted(ratios[side])] for side in ratios
        } | {f"{side}_difference": float(np.abs(found[side] - found["theirs"]).max()) for side in ratios}  # fmt: skip
    percentiles = np.percentile(lengths, [5, 50, 90, 99]).round().astype(int).tolist()
    return result | {"tokens_mean": round(float(np.mean(lengths)), 1), "tokens_percentiles": percentiles}
