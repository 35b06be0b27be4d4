"""Parquet behind a URI: a real object store over loopback where one is installed, and file:// through the same code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest

from mixture.errors import MixtureError, UsageError
from mixture.ingest.sources import SourceUnit, discover
from mixture.ingest.units import read_unit, sha256_of
from mixture.rows import RawExample, Reject

FILES = ("nq/data/train-00000-of-00002.parquet", "nq/data/train-00001-of-00002.parquet", "xquad/xquad.zh.parquet")


def table(start: int, rows: int = 6) -> pa.Table:
    numbers = range(start, start + rows)
    return pa.table({"anchor": [f"q{n}" for n in numbers], "positive": [f"p{n}" for n in numbers]})


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """`s3(path)` is the URI of a path in a bucket that holds `FILES`."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"

    def uri(path: str) -> str:
        return f"s3://the-key:the-secret@bucket/{path}?{options}"

    store, _ = fs.FileSystem.from_uri(uri(""))
    store.create_dir("bucket")
    for number, name in enumerate(FILES):
        pq.write_table(table(10 * number), f"bucket/{name}", filesystem=store, row_group_size=2)
    for name, content in (("xquad/README.md", b"#"), ("xquad/_SUCCESS", b"x"), ("xquad/notes.txt", b"no Parquet")):
        with store.open_output_stream(f"bucket/{name}") as sink:
            sink.write(content)
    yield uri
    server.stop()


@pytest.fixture
def local(tmp_path: Path) -> Callable[[str], str]:
    """The same on this machine: `local(path)` is a file:// URI."""
    for number, name in enumerate(FILES):
        (tmp_path / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(10 * number), tmp_path / "bucket" / name, row_group_size=2)
    for name in ("README.md", "_SUCCESS", ".hidden", "notes.txt"):
        (tmp_path / "bucket/xquad" / name).write_text("no Parquet")
    return lambda path: (tmp_path / "bucket" / path).as_uri()


@pytest.fixture(params=["s3", "local"])
def place(request: pytest.FixtureRequest) -> Callable[[str], str]:
    chosen: Callable[[str], str] = request.getfixturevalue(request.param)
    return chosen


def named(units: list[SourceUnit]) -> list[tuple[str, str, str | None]]:
    return [(unit.location.partition("bucket/")[2], unit.collection, unit.language) for unit in units]


def test_listing(place: Callable[[str], str]) -> None:
    everything = [
        (FILES[0], "nq", None), (FILES[1], "nq", None),
        ("xquad/notes.txt", "xquad", None), (FILES[2], "xquad", "zh"),
    ]  # fmt: skip
    assert named(discover([place("")], None)) == everything
    assert named(discover([place("xquad/")], None)) == everything[2:]
    assert named(discover([place("nq/data")], None)) == everything[:2]
    (shard,) = discover([place("nq/data/train-00001")], None)
    assert named([shard]) == everything[1:2]
    assert next(row.query for row in read_unit(shard) if isinstance(row, RawExample)) == "q10"
    assert named(discover([place(FILES[2])], None)) == [(FILES[2], "xquad", "zh")]
    assert named(discover([place("nq")], "mine")) == [(FILES[0], "mine", None), (FILES[1], "mine", None)]
    with pytest.raises(UsageError, match="one name 'mine' for the 2 collections"):
        discover([place("")], "mine")


def test_reading_by_row_group(place: Callable[[str], str]) -> None:
    units = discover([place("nq"), place("xquad")], None)
    rows = {unit.location.rpartition("/")[2]: list(read_unit(unit)) for unit in units}
    assert [row.query for row in rows["train-00001-of-00002.parquet"] if isinstance(row, RawExample)] == [
        f"q{n}" for n in range(10, 16)
    ]
    assert [row.line for row in rows["xquad.zh.parquet"]] == [1, 2, 3, 4, 5, 6]
    (reject,) = rows["notes.txt"]
    assert isinstance(reject, Reject)
    assert reject.reason.startswith("Parquet file is damaged: ")


def test_secrets_are_not_shown(s3: Callable[[str], str]) -> None:
    (unit,) = discover([s3(FILES[2])], None)
    assert unit.location == f"s3://bucket/{FILES[2]}"
    with pytest.raises(UsageError) as caught:
        discover([s3("nowhere/at/all")], None)
    assert str(caught.value) == (
        "nothing is at s3://bucket/nowhere/at/all; give the URI of a parquet file or of a folder of them"
    )
    assert "secret" not in str(unit) + repr(unit)


def test_hash_follows_the_content(s3: Callable[[str], str], local: Callable[[str], str], tmp_path: Path) -> None:
    def hashes(uri: str) -> list[str]:
        return [sha256_of(unit) for unit in discover([uri], None)]

    assert len({*hashes(s3("nq")), *hashes(s3(FILES[2]))}) == 3
    assert hashes(s3("nq")) == hashes(s3("nq"))
    file = tmp_path / "bucket" / FILES[2]
    assert hashes(local(FILES[2])) == [sha256_of(unit) for unit in discover([file], None)]
    before = hashes(s3(FILES[2]))
    store, _ = fs.FileSystem.from_uri(s3(""))
    pq.write_table(table(20, rows=7), f"bucket/{FILES[2]}", filesystem=store)
    try:
        assert hashes(s3(FILES[2])) != before
    finally:
        pq.write_table(table(20), f"bucket/{FILES[2]}", filesystem=store, row_group_size=2)


def test_damaged_row_group_costs_no_row_of_the_others(local: Callable[[str], str], tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(3000)]
    file = tmp_path / "bucket/damaged.parquet"
    columns = pa.table({"anchor": texts, "positive": texts})
    pq.write_table(columns, file, compression="none", row_group_size=1000, write_statistics=False)
    data = bytearray(file.read_bytes())
    start = data.rindex(b"text number 1000")
    data[start - 60 : start + 2000] = b"\xff" * 2060
    file.write_bytes(data)
    rows = list(read_unit(discover([local("damaged.parquet")], None)[0]))
    assert [row.line for row in rows if isinstance(row, RawExample)] == [*range(1, 1001), *range(2001, 3001)]
    assert [row.line for row in rows if isinstance(row, Reject)] == [1001]


def test_a_store_that_cannot_be_reached_any_more_is_no_damage(place: Callable[[str], str]) -> None:
    (unit,) = discover([place(FILES[2])], None)
    gone = SourceUnit(type(unit.place)(**{**vars(unit.place), "path": unit.place.path + ".gone"}), "x")  # type: ignore[union-attr]
    with pytest.raises(MixtureError, match=r"cannot be reached any more, run the command again"):
        list(read_unit(gone))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s4://bucket/nq", "cannot list s4://bucket/nq: Unrecognized filesystem type"),
        ("file:///nowhere/at/all", "nothing is at file:///nowhere/at/all"),
    ],
)
def test_mistakes(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        discover([uri], None)


def test_only_parquet_is_read(local: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match="only parquet is read from a URI, not jsonl"):
        discover([local("nq")], None, format="jsonl")
    assert len(discover([local("nq")], None, format="parquet")) == 2
