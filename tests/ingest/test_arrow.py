"""Arrow files, streams, and the folders of `datasets.save_to_disk`."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixture.errors import UsageError
from mixture.ingest.detect import detect, folder_format
from mixture.ingest.read import read_file
from mixture.rows import RawExample, RawPassage, Reject

COLUMNS: dict[str, list[Any]] = {"query": ["q1", "q2", "q3"], "pos": [["a"], ["b", "c"], ["d"]], "id": [1, 2, 3]}
EXPECTED = [
    RawExample(1, "q1", (RawPassage("a"),)),
    RawExample(2, "q2", (RawPassage("b"), RawPassage("c"))),
    RawExample(3, "q3", (RawPassage("d"),)),
]


def written(path: Path, table: pa.Table, layout: str, batch_rows: int = 2) -> Path:
    new = pa.ipc.new_file if layout == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


@pytest.mark.parametrize("layout", ["file", "stream"])
def test_file_and_stream(tmp_path: Path, layout: str) -> None:
    path = written(tmp_path / "rows.jsonl", pa.table(COLUMNS), layout)
    assert detect(path) == "arrow"
    assert list(read_file(path)) == EXPECTED


@pytest.mark.parametrize("layout", ["file", "stream"])
def test_other_text_types_and_two_megabytes_in_one_text(tmp_path: Path, layout: str) -> None:
    long = "wort " * 400_000
    table = pa.table({"anchor": pa.array(["q"], pa.large_string()), "positive": pa.array([long]).dictionary_encode()})
    assert list(read_file(written(tmp_path / "rows", table, layout))) == [RawExample(1, "q", (RawPassage(long),))]


@pytest.mark.parametrize("layout", ["file", "stream"])
def test_other_columns_are_one_reject(tmp_path: Path, layout: str) -> None:
    (reject,) = read_file(written(tmp_path / "rows", pa.table({"a": [1], "b": ["x"]}), layout))
    assert isinstance(reject, Reject)
    assert (reject.line, reject.raw) == (1, "a, b")
    assert "found 'a', 'b'; say which is which" in reject.reason


def test_cut_stream_gives_the_batches_before_the_cut(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(1000)]
    path = written(tmp_path / "rows", pa.table({"anchor": texts, "positive": texts}), "stream", batch_rows=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    *good, reject = read_file(path)
    assert len(good) in (600, 700)
    assert [row.line for row in good] == list(range(1, len(good) + 1))
    assert isinstance(reject, Reject)
    assert reject.line == len(good) + 1
    assert reject.reason.startswith("Arrow stream is damaged or ends early, no row from here on can be read")


def test_cut_file(tmp_path: Path) -> None:
    path = written(tmp_path / "rows", pa.table(COLUMNS), "file")
    path.write_bytes(path.read_bytes()[:-20])
    (reject,) = read_file(path)
    assert isinstance(reject, Reject)
    assert reject.reason.startswith("Arrow file is damaged: ")


def test_damaged_offsets_in_a_file_cost_one_batch(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(300)]
    path = written(tmp_path / "rows", pa.table({"anchor": texts, "positive": texts}), "file", batch_rows=100)
    data = bytearray(path.read_bytes())
    # The offsets stand right before the text: set some in the middle of the second batch far out of bounds.
    start = data.index(b"text number 100text number 101")
    data[start - 204 : start - 104] = b"\x7f" * 100
    path.write_bytes(data)
    rows = list(read_file(path))
    assert [row.line for row in rows if isinstance(row, RawExample)] == [*range(1, 101), *range(201, 301)]
    (reject,) = [row for row in rows if isinstance(row, Reject)]
    assert reject.line == 101
    assert reject.reason.startswith("Arrow data is damaged, batch 2 cannot be read")


@pytest.mark.parametrize("layout", ["file", "stream"])
def test_text_that_is_not_utf8_costs_one_row(tmp_path: Path, layout: str) -> None:
    path = written(
        tmp_path / "rows", pa.table({"anchor": ["first", "M_ller", "third"], "positive": list("abc")}), layout
    )
    path.write_bytes(path.read_bytes().replace(b"M_ller", b"M\xfcller"))
    rows = list(read_file(path))
    assert [row.line for row in rows if isinstance(row, RawExample)] == [1, 3]
    assert [row for row in rows if isinstance(row, Reject)] == [Reject(2, "row is not valid UTF-8")]


def test_packed_arrow_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(written(path, pa.table(COLUMNS), "file").read_bytes()))
    with pytest.raises(UsageError, match="gzip around an Arrow IPC file"):
        detect(path)


def test_a_large_file_is_read_by_the_batch(tmp_path: Path) -> None:
    texts = pa.array(["x" * 1000] * 20_000)
    path = written(tmp_path / "rows", pa.table({"anchor": texts, "positive": texts}), "stream", batch_rows=1000)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    assert sum(1 for _ in read_file(path)) == 20_000
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000  # of 40 MB
    assert pa.total_allocated_bytes() - before < 5_000_000


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dataset of two files (`set`), and a DatasetDict of train and test (`dict`)."""
    import datasets

    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("saved")
    whole = datasets.Dataset.from_dict(COLUMNS)
    whole.save_to_disk(str(folder / "set"), num_shards=2)
    part = datasets.Dataset.from_dict({"query": ["t"], "pos": [["x"]], "id": [9]})
    datasets.DatasetDict({"train": whole, "test": part}).save_to_disk(str(folder / "dict"))
    datasets.DatasetDict({"dev": whole, "test": part}).save_to_disk(str(folder / "no_train"))
    return folder


def sides(rows: list[RawExample | Reject]) -> list[tuple[str, int]]:
    return [(row.query, len(row.positives)) for row in rows if isinstance(row, RawExample)]


@pytest.mark.parametrize("name", ["set", "dict", "dict/train"])
def test_saved_datasets(saved: Path, name: str) -> None:
    assert folder_format(saved / name) == "arrow"
    rows = list(read_file(saved / name))
    assert sides(rows) == [("q1", 1), ("q2", 2), ("q3", 1)]
    assert len(rows) == 3


def test_saved_splits_without_train_are_an_error(saved: Path) -> None:
    with pytest.raises(UsageError, match=r"no_train: the splits are dev, test; expected 'train' or a single one"):
        read_file(saved / "no_train")


def test_damage_in_a_saved_dataset_names_the_file(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for file in (saved / "set").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    first, second = sorted(folder.glob("*.arrow"))
    first.write_bytes(first.read_bytes()[:100])
    second_rows = len(list(read_file(second)))
    rows = list(read_file(folder))
    assert len(sides(rows)) == second_rows
    (reject,) = [row for row in rows if isinstance(row, Reject)]
    assert reject.file == first.name
    first.unlink()
    assert Reject(1, "the file is missing", file=first.name) in list(read_file(folder))
    (folder / "state.json").write_text("{")
    with pytest.raises(UsageError, match=r"state.json: cannot be read"):
        read_file(folder)
