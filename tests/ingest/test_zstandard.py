"""Zstandard is read like gzip: all of it, and of a damaged file all that comes before the damage."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.ingest.damage import StreamDamaged
from mixture.ingest.detect import detect
from mixture.ingest.lines import blocks
from mixture.ingest.read import read_file
from mixture.rows import RawExample, Reject


def lines(count: int) -> bytes:
    return b"".join(b'["question %d", "answer %d"]\n' % (number, number * 7919) for number in range(1, count + 1))


def packed(data: bytes, level: int = 3) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(data)


def read(path: Path, content: bytes) -> tuple[list[int], list[Reject]]:
    path.write_bytes(content)
    rows = list(read_file(path))
    return [row.line for row in rows if isinstance(row, RawExample)], [row for row in rows if isinstance(row, Reject)]


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (b'["q", "p"]\n', "jsonl"),
        (b'[["q", "p"]]\n', "json"),
        (b"query,passage\nq,p\n", "csv"),
        (b"query\tpassage\nq\tp\n", "tsv"),
    ],
)
def test_every_text_format(tmp_path: Path, content: bytes, format: str) -> None:
    path = tmp_path / "misleading.gz"
    path.write_bytes(packed(content))
    assert detect(path) == format
    (row,) = read_file(path)
    assert isinstance(row, RawExample)
    assert (row.query, row.positives[0].text) == ("q", "p")


def test_several_frames_and_a_stream_of_unknown_length(tmp_path: Path) -> None:
    writer = zstandard.ZstdCompressor().compressobj()  # writes no content size
    streamed = writer.compress(lines(2)) + writer.flush()
    good, rejects = read(tmp_path / "rows", packed(b'["a", "b"]\n["c",') + packed(b' "d"]\n') + streamed)
    assert (good, rejects) == ([1, 2, 3, 4], [])


@pytest.mark.parametrize("kept_share", [0.3, 0.6, 0.99])
def test_cut_file_gives_every_whole_line_of_its_whole_blocks(tmp_path: Path, kept_share: float) -> None:
    data = packed(lines(40_000))
    cut = data[: int(len(data) * kept_share)]
    whole = zstandard.ZstdDecompressor().decompressobj().decompress(cut).count(b"\n")
    good, rejects = read(tmp_path / "rows", cut)
    assert whole > 1000
    assert good == list(range(1, whole + 1))
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (whole + 1, "zstandard stream ends early: the file is cut off in this line")
    ]


def test_wrong_checksum_costs_no_line(tmp_path: Path) -> None:
    data = bytearray(packed(b'["first", "frame"]\n') + packed(lines(40_000)))
    data[-2] ^= 0xFF
    good, (reject,) = read(tmp_path / "rows", bytes(data))
    assert good == list(range(1, 40_002))
    assert reject.line == 40_002
    assert reject.reason.startswith("zstandard data is damaged here (Restored data doesn't match checksum)")


def test_text_after_the_last_frame_is_damage(tmp_path: Path) -> None:
    good, (reject,) = read(tmp_path / "rows", packed(lines(3)) + b"something else")
    assert good == [1, 2, 3]
    assert "zstandard data is damaged here" in reject.reason


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_comes_before_any_damage_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = lines(30_000)
    whole = packed(text, level=1)
    place = data.draw(st.integers(20, len(whole) - 1))
    path = tmp_path_factory.mktemp("zstd") / "rows"
    path.write_bytes(whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :])
    found = b""
    with pytest.raises(StreamDamaged):
        for block in blocks(path):
            found += block
    # A wrong byte within a block can unpack to wrong text; every block before it is right.
    blocks_before = zstandard.ZstdDecompressor().decompressobj().decompress(whole[:place])
    assert found.startswith(blocks_before)


def test_reading_streams(tmp_path: Path) -> None:
    random = Random(1)
    path = tmp_path / "rows"
    path.write_bytes(
        packed(b"".join(b'["query", "%s"]\n' % random.randbytes(500).hex().encode() for _ in range(20_000)))
    )
    tracemalloc.start()
    count = sum(1 for _ in read_file(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak_bytes < 2_000_000  # of 20 MB
