"""Vectors of a corpus that many searches go over: encoded once, then read block by block as they came."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mixture.embeddings import Block, Vectors


class HeldBlocks:
    """Called with vectors it gives these, encoded the first time and read from then on.

    Blocks stay as they were: the last bits of a product of matrices hang on their shapes, so that a search finds to the
    bit what it would have found. They lie in a file without a name, which a killed process leaves no trace of; memory
    has one block at a time, and what the system caches of the file.

    folder: where that file is
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  it lives as long as this object
        self._shapes: list[tuple[np.ndarray, tuple[int, ...]]] = []
        self._vectors: Vectors | None = None
        self._whole = False

    def __call__(self, vectors: Vectors) -> HeldBlocks:
        if not self._whole:
            self._vectors = vectors
        return self

    def __len__(self) -> int:
        return 0 if self._vectors is None else len(self._vectors)

    @property
    def encoded(self) -> int:
        """Vectors that are held."""
        return sum(len(numbers) for numbers, _ in self._shapes)

    def blocks(self) -> Iterator[Block]:
        if self._whole:
            self._file.seek(0)
            for numbers, shape in self._shapes:
                read = self._file.read(4 * int(np.prod(shape)))
                yield Block(numbers, np.frombuffer(read, np.float32).reshape(shape))
            return
        assert self._vectors is not None
        self._shapes.clear()
        self._file.seek(0)
        for numbers, vectors in self._vectors.blocks():
            self._file.write(np.ascontiguousarray(vectors, np.float32).data)
            self._shapes.append((numbers, vectors.shape))
            yield Block(numbers, vectors)
        self._whole = True

    def close(self) -> None:
        """Free the room of the file."""
        self._file.close()
