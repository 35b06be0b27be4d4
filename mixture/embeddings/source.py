"""From texts to vectors: by an encoder alone, or by what is kept and the encoder for the rest.

Shapes: n texts, d dimensions.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mixture.embeddings.indexes.base import EXACT
from mixture.embeddings.kept import AT_ONCE, KeptEmbeddings
from mixture.embeddings.search import Block, InMemory, Pairs, Vectors
from mixture.embeddings.space import Space
from mixture.embeddings.standing import Standing
from mixture.errors import UsageError
from mixture.text.digests import Digests, digests_of, numbered, text_digests
from mixture.text.strings import Strings, arrow_texts

Kind: TypeAlias = Literal["query", "passage"]
Encode: TypeAlias = Callable[[list[str], Kind], NDArray[np.floating[Any]]]
"""Texts and what they are to embeddings, shape (len(texts), d). The score is the dot product of what it returns."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

IN_MEMORY = 2**28
"""Bytes of vectors that are gone over again and again which are held rather than read each time."""

_DIGESTED = 65_536  # texts at a time


@runtime_checkable
class Encoder(Protocol):
    """An `Encode` that says what its embeddings depend on, so that they can be kept."""

    def __call__(self, texts: list[str], kind: Kind) -> NDArray[np.floating[Any]]: ...

    def space(self, kind: Kind) -> Space:
        """What the embeddings of texts of this kind depend on."""
        ...


class Source(ABC):
    """Vectors for texts.

    encoded: texts that the encoder was given
    reused:  texts whose embeddings were kept before
    keeps:   whether vectors are read, not encoded, when they are gone over again
    index:   how they are to be searched, a name of `INDEXES`
    recall:  of the last search, where it was approximate
    """

    keeps = False

    def __init__(self, encode: Encode) -> None:
        self.encoded, self.reused = 0, 0
        self.index = EXACT
        self.recall: float | None = None
        self._encode = encode
        self._dimensions: int | None = None

    @abstractmethod
    def vectors(
        self, texts: Strings, kind: Kind, *, again: bool = False, progress: Progress | None = None
    ) -> Vectors:  # fmt: skip
        """The vectors of n texts. again: whether they will be gone over more than once, as a search does with queries;
        their blocks then come in the same order each time.

        Without `again` texts are encoded as their blocks are asked for. With it they are encoded now; progress is
        called with texts encoded and their number. A broken encoder is a UsageError, then or now.
        """

    def standing(self, queries: Strings, passages: Strings, k: int, pairs: Pairs) -> Standing | None:
        """Where an exact search of these notes how far it is; None where embeddings are not kept."""
        return None

    def forget_searches(self) -> None:  # noqa: B027  what keeps nothing has nothing to forget
        """Remove what searches noted: what they found is used."""

    def __call__(self, texts: Sequence[str], kind: Kind) -> NDArray[np.float32]:
        """The vectors as one array, (n, d)."""
        return _gathered(self.vectors(Strings(arrow_texts(texts)), kind, again=True))

    def _run(self, texts: list[str], kind: Kind) -> NDArray[np.float32]:
        """Embeddings as float32, (len(texts), d); a UsageError where `encode` returns another shape or a NaN."""
        vectors = np.asarray(self._encode(texts, kind), dtype=np.float32)
        size = self._dimensions
        if vectors.ndim != 2 or len(vectors) != len(texts) or (size is not None and vectors.shape[1] != size):
            wanted = f"({len(texts)}, {'d' if size is None else size})"
            raise UsageError(f"encode: {len(texts)} {kind} texts gave shape {vectors.shape}, expected {wanted}")
        if not np.isfinite(vectors).all():
            raise UsageError(f"encode: an embedding of a {kind} has infinite or undefined numbers")
        self._dimensions = vectors.shape[1]
        self.encoded += len(texts)
        return vectors


class Passing(Source):
    """Each text is encoded, and nothing kept. size: texts encoded at a time."""

    def __init__(self, encode: Encode, size: int = AT_ONCE) -> None:
        super().__init__(encode)
        self._size = size

    def vectors(
        self, texts: Strings, kind: Kind, *, again: bool = False, progress: Progress | None = None
    ) -> Vectors:  # fmt: skip
        passing = _Passing(self, texts, kind, self._size)
        return InMemory(_gathered(passing, progress)) if again else passing


class _Passing:
    def __init__(self, source: Passing, texts: Strings, kind: Kind, size: int) -> None:
        self._source, self._texts, self._kind, self._size = source, texts, kind, size

    def __len__(self) -> int:
        return len(self._texts)

    def blocks(self) -> Iterator[Block]:
        start = 0
        for part in self._texts.parts(self._size):
            vectors = self._source._run(part.to_pylist(), self._kind)
            yield Block(np.arange(start, start + len(vectors)), vectors)
            start += len(vectors)


class Keeping(Source):
    """What is kept is read; the rest is encoded, each different text once, and kept, file by file.

    encode:    says its space
    folder_of: from a space's id to its folder
    precision: of `space.PRECISIONS`
    """

    keeps = True

    def __init__(self, encode: Encoder, folder_of: Callable[[str], Path], precision: str = "float32") -> None:
        super().__init__(encode)
        self._encoder, self._folder_of, self._precision = encode, folder_of, precision
        self._opened: dict[Space, KeptEmbeddings] = {}
        self._standings: list[Standing] = []

    def vectors(
        self, texts: Strings, kind: Kind, *, again: bool = False, progress: Progress | None = None
    ) -> Vectors:  # fmt: skip
        kept = self._kept(kind)
        self._dimensions = self._dimensions or kept.dimensions
        found = _Kept(self, kept, texts, _keys(texts), kind)
        if not again:
            return found
        found.encode_missing(progress)
        small = 4 * len(texts) * (kept.dimensions or 0) <= IN_MEMORY
        return InMemory(_gathered(found)) if small else found

    def standing(self, queries: Strings, passages: Strings, k: int, pairs: Pairs) -> Standing | None:
        folder = self._kept("passage").folder
        id = hashlib.sha256(json.dumps([self._kept("query").space.id, folder.name, k]).encode())
        for array in (_keys(queries), _keys(passages), *pairs):
            id.update(np.ascontiguousarray(array).data)
        self._standings.append(Standing(folder, id.hexdigest()[:16]))
        return self._standings[-1]

    def forget_searches(self) -> None:
        while self._standings:
            self._standings.pop().drop()

    def _kept(self, kind: Kind) -> KeptEmbeddings:
        space = replace(self._encoder.space(kind), precision=self._precision)
        if space not in self._opened:
            self._opened[space] = KeptEmbeddings(self._folder_of(space.id), space)
        return self._opened[space]


def _keys(texts: Strings) -> Digests:
    return np.concatenate([digests_of(b""), *(text_digests(part) for part in texts.parts(_DIGESTED))])


class _Kept:
    """Vectors of n texts with these keys, (n, 2), of which some are kept already."""

    def __init__(self, source: Keeping, kept: KeptEmbeddings, texts: Strings, keys: Digests, kind: Kind) -> None:
        self._source, self._kept, self._texts, self._keys, self._kind = source, kept, texts, keys, kind
        places = kept.find(keys)
        source.reused += len(np.unique(places[places >= 0]))

    def __len__(self) -> int:
        return len(self._texts)

    def blocks(self) -> Iterator[Block]:
        places = self._kept.find(self._keys)
        there = np.flatnonzero(places >= 0)
        for numbers, vectors in self._kept.read(places[there]):
            yield Block(there[numbers], vectors)
        yield from self._encoded(np.flatnonzero(places < 0))

    def encode_missing(self, progress: Progress | None) -> None:
        """Have all of them kept."""
        missing, done = np.flatnonzero(self._kept.find(self._keys) < 0), 0
        for numbers, _ in self._encoded(missing):
            done += len(numbers)
            if progress is not None:
                progress(done, len(missing))

    def _encoded(self, missing: NDArray[np.int64]) -> Iterator[Block]:
        """The vectors of texts that are not kept, given by their numbers; each block is kept before it is given."""
        copies, firsts = numbered(self._keys[missing])
        order = np.argsort(copies, kind="stable")  # equal texts stand side by side
        for start in range(0, len(firsts), AT_ONCE):
            rows = missing[firsts[start : start + AT_ONCE]]
            found = self._source._run(self._texts.take(rows).arrow.to_pylist(), self._kind)
            found = self._kept.add(self._keys[rows], found)
            first, end = np.searchsorted(copies[order], [start, start + AT_ONCE])
            for at in range(first, end, AT_ONCE):
                mine = order[at : min(at + AT_ONCE, end)]
                yield Block(missing[mine], found[copies[mine] - start])


def source_of(
    encode: Encode, size: int = AT_ONCE, *, keep: Callable[[str], Path] | None = None, precision: str = "float32"
) -> Source:
    """A source as it is; an encoder that says its space as one that keeps, where `keep` leads from a space's id to its
    folder; a plain function, or without `keep`, as one that keeps nothing and encodes `size` texts at a time."""
    if isinstance(encode, Source):
        return encode
    if keep is not None and isinstance(encode, Encoder):
        return Keeping(encode, keep, precision)
    return Passing(encode, size)


def _gathered(vectors: Vectors, progress: Progress | None = None) -> NDArray[np.float32]:
    found: NDArray[np.float32] | None = None
    done = 0
    for numbers, part in vectors.blocks():
        if found is None:
            found = np.empty((len(vectors), part.shape[1]), np.float32)
        found[numbers] = part
        done += len(numbers)
        if progress is not None:
            progress(done, len(vectors))
    return np.empty((0, 0), np.float32) if found is None else found
