"""Bytes and lines of a text file, plain or packed, without holding more than one line and one block in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixture.ingest.damage import StreamDamaged, start_of
from mixture.ingest.unpack import BLOCK_BYTES, UNPACKERS, packing

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, unpacked when its first bytes say gzip or zstandard.

    Raises StreamDamaged after the last block that could be read when the packed data ends early or is damaged.
    """
    with path.open("rb") as file:
        packed = packing(file.read(16))
        file.seek(0)
        if packed:
            yield from UNPACKERS[packed][1](file)
        else:
            while block := file.read(BLOCK_BYTES):
                yield block


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines from 1, without their line end (LF or CRLF) and without a byte order mark.

    Raises StreamDamaged, with the number and start of the line that is cut, after all whole lines.
    """
    for number, _, line in placed_lines(path):
        yield number, line


def placed_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """`byte_lines` with the place of each line: (number, bytes of unpacked text before the line, line)."""
    number, offset = 1, 0
    # Of the line that is not complete yet; joined once, so that a long line costs no more than its length.
    parts: list[bytes] = []
    try:
        for block in blocks(path):
            *whole, rest = block.split(b"\n")
            if whole:
                whole[0], parts = b"".join([*parts, whole[0]]), []
            for line in whole:
                yield number, offset, trimmed(line, number)
                number, offset = number + 1, offset + len(line) + 1
            parts.append(rest)
    except StreamDamaged as damage:
        raise StreamDamaged(damage.reason, number, start_of(b"".join(parts))) from None
    if last := b"".join(parts):
        yield number, offset, trimmed(last, number)


def trimmed(line: bytes, number: int) -> bytes:
    """A line without CR and, if it is the first, without byte order mark."""
    return (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).removesuffix(b"\r")
