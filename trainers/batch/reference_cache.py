"""Embeddings of a frozen model, kept on disk: seeds and ablations over the same texts encode each of them once.

Layout: `<folder>/<time>-<process>.arrows`, one Arrow stream for each process that wrote, a record batch for each call.
A stream that a kill cut off is read up to its last whole batch. Runs only ever add files of their own, so several may
share the folder.

An embedding depends on what it was encoded together with, in its last bits. So a run that finds some by another run
agrees with one that found none to rounding (1e-6); one that was killed and resumed finds its own, and agrees in every
bit.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainers.parallel import ranks

KEY_BYTES = 16
# Embeds texts with their limits in tokens: (n, D) float32; a collective of all ranks.
Embed = Callable[[Sequence[str], Sequence[int]], Tensor]


class EmbeddingCache:
    """(text, limit in tokens) -> embedding, up to `max_bytes` of them in memory, and the same on disk.

    folder: of one model in one precision; whoever calls sees to that
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.encoded, self.found = 0, 0  # texts, over all calls
        self._places: dict[bytes, int] = {}
        self._vectors = np.empty((0, 0), dtype=np.float32)
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        self._sink: pa.OSFile | None = None
        # All ranks must know the same texts, whatever others write meanwhile.
        for file, size in ranks.on_main(self._files):
            for keys, vectors in _read(file, size):
                self._add(keys, vectors)

    def __len__(self) -> int:
        return len(self._places)

    def embeddings(self, texts: Sequence[str], limits: Sequence[int], embed: Embed) -> Tensor:
        """(len(texts), D) float32 on CPU; what is not known goes to `embed`, each text once, and is kept."""
        wanted = dict(zip(map(_key, texts, limits), zip(texts, limits, strict=True), strict=True))
        missing = [key for key in wanted if key not in self._places]
        fresh: dict[bytes, int] = {}
        vectors = np.empty((0, 0), dtype=np.float32)
        if missing:
            vectors = embed([wanted[k][0] for k in missing], [wanted[k][1] for k in missing]).cpu().numpy()
            fresh = {key: place for place, key in enumerate(missing)}
        self.encoded += len(missing)
        self.found += len(wanted) - len(missing)
        keys = [_key(text, limit) for text, limit in zip(texts, limits, strict=True)]
        rows = [vectors[fresh[k]] if k in fresh else self._vectors[self._places[k]] for k in keys]
        result = torch.from_numpy(np.stack(rows))
        added = self._add(missing, vectors)
        if added and ranks.is_main():
            self._write(missing[:added], vectors[:added])
        return result

    def close(self) -> None:
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
            self._writer = self._sink = None

    def _files(self) -> list[tuple[Path, int]]:
        return [(file, file.stat().st_size) for file in sorted(self.folder.glob("*.arrows"))]

    def _add(self, keys: Sequence[bytes], vectors: np.ndarray) -> int:
        """Keep the first of these that have room; their number."""
        if not len(keys):
            return 0
        room = self.max_bytes // (4 * vectors.shape[1]) - len(self._places)
        kept = min(len(keys), max(0, room))
        start = len(self._places)
        if start + kept > len(self._vectors):
            rows = min(max(1024, 2 * (start + kept)), self.max_bytes // (4 * vectors.shape[1]))
            grown = np.empty((rows, vectors.shape[1]), dtype=np.float32)
            if start:
                grown[:start] = self._vectors[:start]
            self._vectors = grown
        place = start
        for key, vector in zip(keys[:kept], vectors[:kept], strict=True):
            if key not in self._places:  # two runs may have written it
                self._vectors[place] = vector
                self._places[key] = place
                place += 1
        return kept

    def _write(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        values = pa.array(vectors.reshape(-1), pa.float32())
        columns = [pa.array(keys, pa.binary(KEY_BYTES)), pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])]
        batch = pa.record_batch(columns, names=["key", "embedding"])
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sink = pa.OSFile(str(self.folder / f"{time.time_ns()}-{os.getpid()}.arrows"), "wb")
            self._writer = pa.ipc.new_stream(self._sink, batch.schema)
        self._writer.write_batch(batch)


def _key(text: str, limit: int) -> bytes:
    return hashlib.blake2b(f"{limit} {text}".encode(), digest_size=KEY_BYTES).digest()


def _read(file: Path, size: int) -> list[tuple[list[bytes], np.ndarray]]:
    """The whole batches in the first `size` bytes."""
    found = []
    with file.open("rb") as stream:
        content = pa.BufferReader(stream.read(size))
    try:
        for batch in pa.ipc.open_stream(content):
            vectors = batch["embedding"].values.to_numpy().reshape(batch.num_rows, -1)
            found.append((batch["key"].to_pylist(), vectors))
    except (pa.ArrowInvalid, OSError):
        pass  # cut off by a kill, or being written
    return found
