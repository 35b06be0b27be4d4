"""Exact nearest documents by inner product, in blocks, with ties decided the same way every time.

Shapes: Q queries, N documents, D dimensions of an embedding, k results for a query.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mixture.embeddings import Vectors
from mixture.embeddings import top_k as top_k_on_cpu
from mixture.errors import MixtureError, UsageError

# 512 x 16,384 scores and their keys take about 130 MB, whatever the size of the corpus.
QUERY_BLOCK = 512
CORPUS_BLOCK = 16_384

_LOW_BITS = 0xFFFFFFFF


def top_k(
    query_emb: torch.Tensor,
    corpus_emb: torch.Tensor,
    k: int,
    *,
    query_block: int = QUERY_BLOCK,
    corpus_block: int = CORPUS_BLOCK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k documents with the largest inner product, best first; of equal scores the lower index first.

    query_emb (Q, D) and corpus_emb (N, D): float32, finite, on one device. Returns scores (Q, min(k, N)) float32 and
    indices (Q, min(k, N)) int64 on that device. Raises UsageError for shapes, dtypes, k or block sizes out of range,
    MixtureError for values that are not finite.

    >>> top_k(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 5.0], [3.0, 0.0], [1.0, 2.0]]), 2)
    (tensor([[3., 1.]]), tensor([[1, 0]]))
    """
    _check(query_emb, corpus_emb, k, query_block, corpus_block)
    num_documents = corpus_emb.shape[0]
    best = []
    for first_query in range(0, query_emb.shape[0], query_block):
        queries = query_emb[first_query : first_query + query_block]
        keys = torch.empty((queries.shape[0], 0), dtype=torch.int64, device=queries.device)
        for first in range(0, num_documents, corpus_block):
            block = queries @ corpus_emb[first : first + corpus_block].T
            keys = _largest(torch.cat([keys, _largest(_pack(block, first), k)], dim=1), k)
        best.append(keys)
    if not best:
        empty = query_emb.new_empty((0, min(k, num_documents)))
        return empty, empty.to(torch.int64)
    return _unpack(torch.cat(best))


def merge_top_k(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor], k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of two results of `top_k` for the same queries, whose indices already count over the whole corpus.

    Each a pair (scores (Q, a) float32, indices (Q, a) int64); returns such a pair with min(k, a + b) columns.
    """
    keys = [_pack_at(scores, indices) for scores, indices in (first, second)]
    return _unpack(_largest(torch.cat(keys, dim=1), k))


def _check(query_emb: torch.Tensor, corpus_emb: torch.Tensor, k: int, query_block: int, corpus_block: int) -> None:
    shapes = f"{tuple(query_emb.shape)} and {tuple(corpus_emb.shape)}"
    if query_emb.ndim != 2 or corpus_emb.ndim != 2 or query_emb.shape[1] != corpus_emb.shape[1]:
        raise UsageError(f"embeddings must be (queries, D) and (documents, D) with one D, got {shapes}")
    if query_emb.dtype != torch.float32 or corpus_emb.dtype != torch.float32:
        raise UsageError(f"embeddings must be float32, got {query_emb.dtype} and {corpus_emb.dtype}")
    if min(k, query_block, corpus_block) < 1:
        raise UsageError(f"k and block sizes must be 1 or more, got {k}, {query_block} and {corpus_block}")
    if corpus_emb.shape[0] > _LOW_BITS:
        raise UsageError(f"at most {_LOW_BITS} documents fit one search, got {corpus_emb.shape[0]}")
    for name, embeddings in (("query", query_emb), ("document", corpus_emb)):
        bad = int((~torch.isfinite(embeddings)).any(dim=1).sum())
        if bad:
            raise MixtureError(
                f"{bad} of {len(embeddings)} {name} embeddings are not finite numbers; "
                "the model diverged, or overflows in this precision"
            )


def _pack(scores: torch.Tensor, first_index: int) -> torch.Tensor:
    indices = torch.arange(first_index, first_index + scores.shape[1], device=scores.device)
    return _pack_at(scores, indices.expand_as(scores))


def _pack_at(scores: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Score and index in one int64 that sorts by score, then by lower index.

    `torch.topk` picks any of several equal values; no two of these keys are equal, so there is nothing to pick.
    High 32 bits: the score as an integer of the same order. Low 32 bits: the index, complemented.
    """
    # Adding zero turns -0.0 into 0.0: they are equal as scores, but not bit by bit.
    ordered = _flip_negatives((scores + 0.0).view(torch.int32)).to(torch.int64)
    return (ordered << 32) | (_LOW_BITS - indices)


def _unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scores = _flip_negatives((keys >> 32).to(torch.int32)).view(torch.float32)
    return scores, _LOW_BITS - (keys & _LOW_BITS)


def _flip_negatives(bits: torch.Tensor) -> torch.Tensor:
    """Between the bits of a float32 and an int32 of the same order; its own inverse.

    Floats are sign and magnitude, so negative ones sort backwards as integers unless their magnitude is flipped.
    """
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _largest(keys: torch.Tensor, k: int) -> torch.Tensor:
    return torch.topk(keys, min(k, keys.shape[1]), dim=1).values


def nearest(
    queries: Vectors, passages: Vectors, k: int, *, device: torch.device, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k passages with the largest inner product of each query, best first, of equal scores the lower number first:
    scores (Q, k) float32 and numbers (Q, k) int64, with less columns where there are fewer passages.

    A CPU searches with `mixture.embeddings.top_k`; a GPU takes one block of passages after another. progress: called
    with passages done and their number.
    """
    if device.type == "cpu":
        return top_k_on_cpu(queries, passages, k, progress=progress).arrays()
    return nearest_by_blocks(queries, passages, k, device=device, progress=progress)


def nearest_by_blocks(
    queries: Vectors, passages: Vectors, k: int, *, device: torch.device, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`nearest` as a GPU does it."""
    blocks = list(queries.blocks())
    places = np.concatenate([np.empty(0, np.int64), *(numbers for numbers, _ in blocks)])
    asked = torch.cat([torch.from_numpy(vectors).to(device) for _, vectors in blocks])
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    done = 0
    for numbers, vectors in passages.blocks():
        order = np.argsort(numbers)
        block = torch.from_numpy(vectors[order]).to(device)
        scores, rows = top_k(asked, block, k)
        found = (scores, torch.from_numpy(numbers[order]).to(device)[rows])
        best = found if best is None else merge_top_k(best, found, k)
        done += len(numbers)
        progress(done, len(passages))
    if best is None:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    back = np.argsort(places)
    return best[0].cpu().numpy()[back], best[1].cpu().numpy()[back]
