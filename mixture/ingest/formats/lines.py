"""Bytes and lines of a text file, plain or gzip, without holding more than one line and one block in memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mixture.ingest.formats.damage import StreamDamaged, start_of

BLOCK_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_WINDOW = 31  # zlib's way to say: a gzip header and trailer, with the checksum verified


def blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, unpacked when its first bytes say gzip.

    Raises StreamDamaged after the last block that could be read when the gzip data ends early or is damaged.
    """
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if packed:
            yield from _unpacked(file)
        else:
            while block := file.read(BLOCK_BYTES):
                yield block


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    # Not gzip.open: at a cut it raises and drops the lines that it has unpacked but not yet handed over.
    member = zlib.decompressobj(GZIP_WINDOW)
    between_members = False
    pending = b""
    try:
        while data := pending or file.read(BLOCK_BYTES):
            if between_members:
                data = data.lstrip(b"\0")  # tape and disk tools pad with zeros
                if not data:
                    pending = b""
                    continue
                member, between_members = zlib.decompressobj(GZIP_WINDOW), False
            if block := member.decompress(data, BLOCK_BYTES):
                yield block
            pending = member.unconsumed_tail
            if member.eof:
                pending, between_members = member.unused_data, True
        while not between_members and (block := member.decompress(b"", BLOCK_BYTES)):
            yield block
    except zlib.error as error:
        detail = str(error).rpartition(": ")[2]
        raise StreamDamaged(f"gzip data is damaged here ({detail}); the rest of the file cannot be read") from None
    if not member.eof:
        raise StreamDamaged("gzip stream ends early: the file is cut off in this line")


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines from 1, without their line end (LF or CRLF) and without a byte order mark.

    Raises StreamDamaged, with the number and start of the line that is cut, after all whole lines.
    """
    number = 1
    parts: list[
        bytes
    ] = []  # of the line that is not complete yet; joined once, so a long line costs no more than its length
    try:
        for block in blocks(path):
            first, *rest = block.split(b"\n")
            parts.append(first)
            for piece in rest:
                yield number, _trimmed(b"".join(parts), number)
                number += 1
                parts = [piece]
    except StreamDamaged as damage:
        raise StreamDamaged(damage.reason, number, start_of(b"".join(parts))) from None
    if last := b"".join(parts):
        yield number, _trimmed(last, number)


def _trimmed(line: bytes, number: int) -> bytes:
    return (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).removesuffix(b"\r")
