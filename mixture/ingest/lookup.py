"""Lines of a text file by their id, read from the file when they are asked for."""

from __future__ import annotations

import itertools
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mixture.ingest.damage import EMPTY_LINE, BadRow, StreamDamaged, start_of
from mixture.ingest.lines import placed_lines, trimmed
from mixture.ingest.unpack import packing
from mixture.rows import Reject

# A line's id and its content: (title, text).
Parse = Callable[[bytes], tuple[str, tuple[str, str]]]
HASH_BITS = 2**64 - 1


class Lookup:
    """Random access to the lines of a file by id. Use as a context manager; call `build` once before `get`.

    Memory: 24 bytes a line (hash and offset of 8 bytes each, and their order), whatever the length of the texts; 34
    while it is built. A packed file is unpacked into a temporary file on disk, which is gone at the end. A hash is
    only a hint: the line itself says whether it is the right one.
    """

    def __init__(self, file: Path, name: str, parse: Parse) -> None:
        self.name = name
        self._file = file
        self._parse = parse
        self._stream: BinaryIO | None = None
        self._offsets = np.zeros(0, np.uint64)  # of each line, in file order
        self._order = np.zeros(0, np.int64)  # line numbers - 1, by hash
        self._hashes = np.zeros(0, np.uint64)  # sorted

    def __enter__(self) -> Lookup:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def build(self) -> Iterator[Reject]:
        """Read the file once. Yields a Reject for each line that has no id, or one that was there before."""
        hashes, offsets = array("Q"), array("Q")
        with self._file.open("rb") as file:
            packed = packing(file.read(16)) is not None
        copy = tempfile.TemporaryFile() if packed else None  # noqa: SIM115 - closed with the lookup
        self._stream = copy or self._file.open("rb")
        place = 0
        try:
            for number, offset, line in placed_lines(self._file):
                offsets.append(place if copy else offset)
                if copy:
                    place += copy.write(line + b"\n")
                try:
                    hashes.append(hash(self._parse(line)[0]) & HASH_BITS)
                except BadRow as bad:
                    hashes.append(0)
                    if str(bad) != EMPTY_LINE:
                        yield Reject(number, str(bad), start_of(line), self.name)
        except StreamDamaged as damage:
            yield Reject(damage.line, damage.reason, damage.raw, self.name)
        self._offsets = np.frombuffer(offsets, np.uint64) if offsets else self._offsets
        found = np.frombuffer(hashes, np.uint64) if hashes else self._hashes
        self._order = np.argsort(found, kind="stable")
        self._hashes = found[self._order]
        yield from self._repeated()

    def get(self, identifier: str) -> tuple[int, tuple[str, str]] | None:
        """Line number and (title, text) of the first line with this id; None when there is none."""
        wanted = np.uint64(hash(identifier) & HASH_BITS)
        first = int(np.searchsorted(self._hashes, wanted))
        for index in itertools.takewhile(lambda i: self._hashes[i] == wanted, range(first, len(self._hashes))):
            number = int(self._order[index]) + 1
            if (found := self._line(number)) and found[0] == identifier:
                return number, found[1]
        return None

    def _line(self, number: int) -> tuple[str, tuple[str, str]] | None:
        if self._stream is None:
            raise ValueError("build the lookup first")
        self._stream.seek(int(self._offsets[number - 1]))
        try:
            return self._parse(trimmed(self._stream.readline().removesuffix(b"\n"), number))
        except BadRow:
            return None

    def _repeated(self) -> Iterator[Reject]:
        for index in np.flatnonzero((self._hashes[1:] == self._hashes[:-1]) & (self._hashes[1:] != 0)):
            number = int(self._order[index + 1]) + 1
            again = self._line(number)
            if again is not None and (first := self.get(again[0])) and first[0] != number:
                reason = f"id {again[0]!r} is there more than once; line {first[0]} is used"
                yield Reject(number, reason, start_of(" ".join(again[1])), self.name)
