"""Embeddings of one space in a folder: Parquet files, which others read too, and a JSON that says what they are.

`space.json` has the parts of the `Space`. Each `*.parquet` beside it has one row group, uncompressed, of two columns:
`key`, the first 16 bytes of the SHA-256 of the text in UTF-8, without the prompt; and `embedding`, d numbers of unit
length or as the encoder gives them. A file is written under another name and then renamed, and each of its pages has a
checksum: one that a kill cut off counts as not there, and one that is damaged is an error and never a wrong number.

Processes only ever add files of their own, so several may share a folder; what two of them encode at once is there
twice. Whoever reads or writes touches `space.json`, by which `mixture gc` knows what is in use.

Shapes: n texts, N kept ones, d dimensions. Memory: 48 bytes for each kept text, and the vectors of one file.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixture.embeddings.search import Block
from mixture.embeddings.space import PRECISIONS, Space
from mixture.errors import MixtureError, UsageError
from mixture.text.digests import DIGEST_BYTES, DigestIndex, Digests, bytes_of, digests_of

AT_ONCE = 8192
"""Texts of one file. A killed run loses at most so many."""

KEY, EMBEDDING = "key", "embedding"
DAMAGED = (OSError, ValueError, KeyError, pa.ArrowException)  # what pyarrow raises for bytes that are not as written
FACTS, WRITING = "space.json", ".writing-"

logger = logging.getLogger(__name__)


class KeptEmbeddings:
    """The embeddings of a folder, which is made where there is none. dimensions: d; None while it is empty."""

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder, self.space = folder, space
        self.dimensions: int | None = None
        self._files: list[Path] = []
        self._starts = [0]  # the number of the first text of each file, and of the next one
        self._keys: list[Digests] = []
        self._index: DigestIndex | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._describe()
        for file in sorted(folder.glob("[!.]*.parquet")):
            self._open(file)

    def __len__(self) -> int:
        return self._starts[-1]

    def find(self, keys: Digests) -> NDArray[np.int64]:
        """The number of each of n texts among the kept ones, (n,); -1 for one that is not there."""
        if self._index is None:
            self._keys = [np.concatenate([digests_of(b""), *self._keys])]
            self._index = DigestIndex(self._keys[0])
        return self._index.find(keys)

    def read(self, numbers: NDArray[np.int64]) -> Iterator[Block]:
        """The vectors of kept texts, given by their numbers, (n,), in blocks of one file each, at most `AT_ONCE`; a
        file that has none of them is not opened. A block's numbers are places in `numbers`.

        A damaged file is a `MixtureError` that names it.
        """
        order = np.argsort(numbers, kind="stable")
        cuts = np.searchsorted(numbers[order], self._starts)
        for file, start, stop, first, end in zip(
            self._files, self._starts[:-1], self._starts[1:], cuts[:-1], cuts[1:], strict=True
        ):
            if first == end:
                continue
            vectors = self._vectors(file, stop - start)
            for at in range(first, end, AT_ONCE):
                places = order[at : min(at + AT_ONCE, end)]
                rows = numbers[places] - start
                whole = len(rows) == len(vectors) and bool((rows == np.arange(len(rows))).all())
                yield Block(places, np.asarray(vectors if whole else vectors[rows], np.float32))

    def add(self, keys: Digests, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Keep the vectors, (b, d), of texts with these keys, (b, 2), in one file. Returns them as they are read back.

        A UsageError for numbers that the precision cannot hold, or for other dimensions than those of the space.
        """
        if self.dimensions not in (None, vectors.shape[1]):
            raise UsageError(
                f"encode: gave shape {vectors.shape}, but {self.folder} holds embeddings of {self.dimensions} numbers"
            )
        with np.errstate(over="ignore"):
            rounded: NDArray[np.floating] = np.ascontiguousarray(vectors).astype(PRECISIONS[self.space.precision])
        if not np.isfinite(rounded).all():
            raise UsageError(f"an embedding has numbers that {self.space.precision} cannot hold; keep them as float32")
        kinds = self._schema(vectors.shape[1])
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(kinds.types[0], len(keys), [None, pa.py_buffer(bytes_of(keys))]),
            pa.FixedSizeListArray.from_arrays(pa.array(rounded.reshape(-1)), type=kinds.types[1]),
        ]
        table = pa.table(columns, schema=kinds)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"  # names sort by time
        scratch = self.folder / f"{WRITING}{name}"
        try:
            pq.write_table(table, scratch, compression="none", use_dictionary=False, write_statistics=False,
                           row_group_size=len(table), write_page_checksum=True)  # fmt: skip
            scratch.replace(self.folder / name)
        finally:
            scratch.unlink(missing_ok=True)
        self._use()
        self._note(self.folder / name, keys, vectors.shape[1])
        return rounded.astype(np.float32)

    def _schema(self, dimensions: int) -> pa.Schema:
        number = pa.field("element", pa.from_numpy_dtype(PRECISIONS[self.space.precision]), nullable=False)
        return pa.schema(
            [
                pa.field(KEY, pa.binary(DIGEST_BYTES), nullable=False),
                pa.field(EMBEDDING, pa.list_(number, dimensions), nullable=False),
            ]
        )

    def _describe(self) -> None:
        file = self.folder / FACTS
        if not file.is_file():
            facts = {
                "space": self.space.parts,
                KEY: "the first 16 bytes of the SHA-256 of the text in UTF-8, without the prompt",
                EMBEDDING: f"the numbers of the text behind the prompt, in {self.space.precision}",
            }
            scratch = self.folder / f"{WRITING}{uuid.uuid4().hex[:8]}.json"
            scratch.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
            scratch.replace(file)
            return
        try:
            there = json.loads(file.read_text("utf-8"))["space"]
        except (ValueError, KeyError, TypeError) as error:
            raise MixtureError(f"{file} is damaged; delete the folder, and its texts are encoded again") from error
        if there != self.space.parts:
            raise MixtureError(f"{self.folder} holds embeddings of another space: {there}")
        self._use()

    def _use(self) -> None:
        os.utime(self.folder / FACTS)

    def _open(self, file: Path) -> None:
        try:
            with pq.ParquetFile(file, memory_map=True, page_checksum_verification=True) as opened:
                size = opened.schema_arrow.field(EMBEDDING).type.list_size
                column = opened.read([KEY], use_threads=False)[KEY].combine_chunks()
        except (*DAMAGED, AttributeError) as error:
            logger.warning("%s is damaged, and its texts are encoded again: %s", file, error)
            return
        start = DIGEST_BYTES * column.offset
        self._note(file, digests_of(memoryview(column.buffers()[1])[start : start + DIGEST_BYTES * len(column)]), size)

    def _note(self, file: Path, keys: Digests, dimensions: int) -> None:
        if self.dimensions not in (None, dimensions):
            raise MixtureError(f"{file}: embeddings of {dimensions} numbers among those of {self.dimensions}")
        self.dimensions = dimensions
        self._files.append(file)
        self._starts.append(self._starts[-1] + len(keys))
        self._keys.append(keys)
        self._index = None

    def _vectors(self, file: Path, count: int) -> NDArray[np.floating]:
        self._use()
        try:
            with pq.ParquetFile(file, memory_map=True, page_checksum_verification=True) as opened:
                column = opened.read([EMBEDDING], use_threads=False)[EMBEDDING].combine_chunks()
            return np.asarray(column.flatten().to_numpy(zero_copy_only=False).reshape(count, self.dimensions))
        except DAMAGED as error:
            raise MixtureError(f"{file} is damaged; delete it, and its texts are encoded again ({error})") from error
