"""Near-duplicate texts by MinHash, where shared n-grams count and not the bits of a fingerprint.

Source: Broder, "On the resemblance and containment of documents" (SEQUENCES 1997): of two sets, the chance that a
random order puts the same element first is their Jaccard similarity. Here `datasketch` makes the signatures' index
(MinHashLSH, bands of equal values); the n-grams are SimHash's, the signatures are computed as datasketch's scheme
"affine32" computes them, for whole columns, and the pairs it proposes are verified with their true similarity.

Shapes: n texts, u distinct ones, k permutations, p pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from datasketch import LeanMinHash, MinHash, MinHashLSH
from numpy.typing import NDArray

from mixture.dedup.methods.minhash import checked_similarity
from mixture.dedup.neighbours import Distinct, Pairs, listed
from mixture.dedup.second_look import Verifier
from mixture.dedup.simhash import gram_hashes, text_hash
from mixture.engine import in_threads
from mixture.errors import UsageError
from mixture.text.columns import Tables, normal_codes, normalise_texts, parts_of, room, tables
from mixture.text.form import Column, Texts, one_column
from mixture.text.kernels import compiled

_SCHEME, _SEED = "affine32", 1
_WEIGHTS = (0.1, 0.9)  # what is proposed wrongly is verified, what is missed is lost
_CANDIDATES = 2**20  # proposed pairs that are verified at a time


@compiled
def _scatter(gram: np.uint64) -> np.uint32:
    """Finaliser of MurmurHash3 (Appleby) on the low half: the bijection that datasketch has before the permutations."""
    value = np.uint32(gram)
    value = np.uint32((value ^ value >> 16) * 0x85EBCA6B)  # numba multiplies in 64 bits
    value = np.uint32((value ^ value >> 13) * 0xC2B2AE35)
    return np.uint32(value ^ value >> 16)


@compiled
def _sign(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], t: Tables, permutations: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> None:  # fmt: skip
    """Fill out[i] with the least value of each permutation a * h + b over the n-grams of text i."""
    codes = np.empty(room(offsets) + 1, dtype=np.uint32)
    grams = np.empty(len(codes), dtype=np.uint64)
    out[:] = 0xFFFFFFFF
    for row in range(len(out)):
        count = normal_codes(data, offsets[row], offsets[row + 1], t, codes)
        size = gram_hashes(codes, count, t, grams)
        if size == 0:  # no n-gram: the text itself is the only element
            grams[0], size = text_hash(codes, count), 1
        for gram in grams[:size]:
            value = _scatter(gram)
            for k in range(out.shape[1]):
                out[row, k] = min(out[row, k], np.uint32(permutations[0, k] * value + permutations[1, k]))


def _signed(column: Column, permutations: NDArray[np.uint32], first: int, end: int) -> NDArray[np.uint32]:
    out = np.empty((end - first, permutations.shape[1]), dtype=np.uint32)
    _sign(column[0][first : end + 1], column[1], tables(), permutations, out)
    return out


def signatures(texts: Texts, num_perm: int) -> NDArray[np.uint32]:
    """The MinHash of each text's n-grams, as datasketch computes it; shape (n, num_perm), dtype uint32."""
    column, permutations = one_column(texts), MinHash(num_perm, seed=_SEED, scheme=_SCHEME).permutations
    tasks = (partial(_signed, column, permutations, first, end) for first, end in parts_of(column[0]))
    return np.concatenate([np.empty((0, num_perm), dtype=np.uint32), *in_threads(tasks)])


def _proposed(signed: NDArray[np.uint32], index: MinHashLSH) -> Iterator[Pairs]:
    """Pairs i < j of rows that share a band, in parts of about `_CANDIDATES`, each pair once."""
    waiting: list[tuple[int, int]] = []
    for row, values in enumerate(signed):
        minhash = LeanMinHash(seed=_SEED, hashvalues=values, scheme=_SCHEME)
        waiting += [(other, row) for other in index.query(minhash)]
        index.insert(row, minhash, check_duplication=False)
        if len(waiting) >= _CANDIDATES:
            yield np.array(waiting, dtype=np.int64)
            waiting = []
    yield np.array(waiting, dtype=np.int64).reshape(-1, 2)


def _verified(signed: NDArray[np.uint32], index: MinHashLSH, verifier: Verifier) -> Iterator[NDArray[np.uint64]]:
    for pairs in _proposed(signed, index):
        packed = pairs[verifier.accept_pairs(pairs)].astype(np.uint64)
        yield packed[:, 0] << np.uint64(32) | packed[:, 1]


def minhash_pairs(texts: Texts, threshold: float = 0.8, num_perm: int = 128) -> Pairs:
    """Pairs i < j of rows whose n-grams have at least this Jaccard similarity; some may be missing, none is wrong.

    texts: n strings, a sequence of str or an Arrow string array. threshold: 0.1 to 0.95; num_perm: permutations, 16 to
    1024, more of them miss less (UsageError otherwise). By default a pair of similarity 0.8 is missed with a chance of
    13 %, of 0.9 with 0.1 %; texts with equal normal forms never. Returns shape (p, 2), dtype int64, sorted by i, then
    j; more than `MAX_PAIRS` pairs are a MixtureError. The index is in memory, some kB for each distinct text.

    >>> minhash_pairs(["What is dense retrieval?", "how so", "what is  DENSE retrieval"])
    array([[0, 2]])
    """
    checked_similarity("threshold", threshold)
    if isinstance(num_perm, bool) or not isinstance(num_perm, int) or not 16 <= num_perm <= 1024:
        raise UsageError(f"`num_perm` is {num_perm!r}; allowed: whole numbers from 16 to 1024")
    forms = normalise_texts(texts).combine_chunks().dictionary_encode()
    distinct = Distinct(forms.indices.to_numpy(zero_copy_only=False).astype(np.uint64))
    index = MinHashLSH(threshold, num_perm, weights=_WEIGHTS)
    verifier = Verifier(forms.dictionary, threshold, same_numbers=False)
    return listed(_verified(signatures(forms.dictionary, num_perm), index, verifier), distinct, distinct, same=True)
