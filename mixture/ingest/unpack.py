"""Unpacking gzip and zstandard: whatever can be read before a damage is handed over first."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from mixture.ingest.damage import StreamDamaged

if TYPE_CHECKING:
    import zstandard

BLOCK_BYTES = 1 << 16
# A block of zstandard can unpack to many thousand times its size; small pieces keep what one call returns small.
ZSTD_PIECE_BYTES = 1 << 9
ZSTD_WINDOW_BYTES = 1 << 31  # the largest that the zstd command writes (--long=31)
GZIP_WINDOW = 31  # zlib's way to say: a gzip header and trailer, with the checksum verified

Unpacker = Callable[[BinaryIO], Iterator[bytes]]


def packing(magic: bytes) -> str | None:
    """The name of the packing that the first bytes of a file say: a key of `UNPACKERS`; None for a plain file."""
    return next((name for name, (start, _) in UNPACKERS.items() if magic.startswith(start)), None)


def _gzip(file: BinaryIO) -> Iterator[bytes]:
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
        raise _damaged("gzip", str(error).rpartition(": ")[2]) from None
    if not member.eof:
        raise _cut("gzip")


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    import zstandard  # a machine that trains from a folder may lack it

    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    frame_start = fed_bytes = 0  # where this frame begins in the file, and how much of it was unpacked
    pending = b""
    while data := pending or file.read(ZSTD_PIECE_BYTES):
        if frame.eof:
            frame_start, fed_bytes = frame_start + fed_bytes, 0
            frame = decompressor.decompressobj()
        try:
            block = frame.decompress(data)
        except zstandard.ZstdError as error:
            file.seek(frame_start)
            yield from _last_before_damage(file, decompressor.decompressobj(), fed_bytes)
            raise _damaged("zstandard", str(error).rpartition(": ")[2]) from None
        pending = frame.unused_data if frame.eof else b""
        fed_bytes += len(data) - len(pending)
        if block:
            yield block
    if not frame.eof:
        raise _cut("zstandard")


def _last_before_damage(file: BinaryIO, frame: zstandard.ZstdDecompressionObj, fed_bytes: int) -> Iterator[bytes]:
    """What the piece that failed holds before the damage: the library drops it, so the frame is unpacked once more,
    this piece byte by byte."""
    import zstandard

    while fed_bytes:
        data = file.read(min(fed_bytes, ZSTD_PIECE_BYTES))
        frame.decompress(data)
        fed_bytes -= len(data)
    try:
        while byte := file.read(1):
            if block := frame.decompress(byte):
                yield block
    except zstandard.ZstdError:
        return


def _damaged(name: str, detail: str) -> StreamDamaged:
    return StreamDamaged(f"{name} data is damaged here ({detail}); the rest of the file cannot be read")


def _cut(name: str) -> StreamDamaged:
    return StreamDamaged(f"{name} stream ends early: the file is cut off in this line")


UNPACKERS: dict[str, tuple[bytes, Unpacker]] = {
    "gzip": (b"\x1f\x8b", _gzip),
    "zstandard": (b"\x28\xb5\x2f\xfd", _zstd),
}
