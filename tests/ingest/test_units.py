"""The same rows in every format give the same examples; each unit is known again by its hash."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.ingest.sources import SourceUnit, discover
from mixture.ingest.units import read_unit, sha256_of
from mixture.rows import RawExample, Reject, clean

Row = tuple[str, str, str]  # query, positive, negative


def json_lines(values: Iterable[object]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def named(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [{"query": q, "pos": [p], "neg": [n]} for q, p, n in rows]


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.table(dict(zip(("anchor", "positive", "negative"), map(list, zip(*rows, strict=True)), strict=True)))


def delimited(rows: Sequence[Row], sign: str) -> bytes:
    if sign == "\t":
        return "".join("\t".join(row) + "\n" for row in [("anchor", "positive", "negative"), *rows]).encode()
    text = io.StringIO()
    csv.writer(text, delimiter=sign).writerows([("anchor", "positive", "negative"), *rows])
    return text.getvalue().encode()


def arrow_file(path: Path, rows: Sequence[Row], new: Callable[..., pa.RecordBatchWriter]) -> None:
    with pa.OSFile(str(path), "wb") as sink, new(sink, table(rows).schema) as writer:
        writer.write_table(table(rows), max_chunksize=2)


def saved_dataset(path: Path, rows: Sequence[Row]) -> None:
    path.mkdir()
    arrow_file(path / "data-00000-of-00001.arrow", rows, pa.ipc.new_stream)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (path / "dataset_info.json").write_text("{}")


def msmarco(path: Path, rows: Sequence[Row]) -> None:
    path.mkdir()
    texts = [text for row in rows for text in row[1:]]
    (path / "collection.tsv").write_bytes("".join(f"{i}\t{text}\n" for i, text in enumerate(texts)).encode())
    (path / "queries.train.tsv").write_bytes("".join(f"{i}\t{row[0]}\n" for i, row in enumerate(rows)).encode())
    (path / "triples.tsv").write_text("".join(f"{i}\t{2 * i}\t{2 * i + 1}\n" for i in range(len(rows))))


def beir(path: Path, rows: Sequence[Row]) -> None:
    (path / "qrels").mkdir(parents=True)
    texts = [text for row in rows for text in row[1:]]
    (path / "corpus.jsonl").write_bytes(json_lines({"_id": str(i), "text": text} for i, text in enumerate(texts)))
    (path / "queries.jsonl").write_bytes(json_lines({"_id": str(i), "text": row[0]} for i, row in enumerate(rows)))
    lines = ["query-id\tcorpus-id\tscore", *(f"{i}\t{2 * i}\t1" for i in range(len(rows)))]
    (path / "qrels/train.tsv").write_text("\n".join(lines))


def content(write: Callable[[Sequence[Row]], bytes]) -> Callable[[Path, Sequence[Row]], object]:
    return lambda path, rows: path.write_bytes(write(rows))


WRITERS: dict[str, Callable[[Path, Sequence[Row]], object]] = {
    "lists": content(json_lines),
    "objects": content(lambda rows: json_lines(named(rows))),
    "gzip": content(lambda rows: gzip.compress(json_lines(named(rows)))),
    "zstandard": content(lambda rows: zstandard.ZstdCompressor().compress(json_lines(named(rows)))),
    "array": content(lambda rows: json.dumps(rows).encode()),
    "pretty array": content(lambda rows: json.dumps(named(rows), indent=2, ensure_ascii=False).encode()),
    "csv": content(lambda rows: delimited(rows, ",")),
    "semicolons": content(lambda rows: delimited(rows, ";")),
    "bars": content(lambda rows: delimited(rows, "|")),
    "tsv": content(lambda rows: delimited(rows, "\t")),
    "parquet": lambda path, rows: pq.write_table(table(rows), path),
    "arrow file": lambda path, rows: arrow_file(path, rows, pa.ipc.new_file),
    "arrow stream": lambda path, rows: arrow_file(path, rows, pa.ipc.new_stream),
    "saved dataset": saved_dataset,
    "msmarco": msmarco,
    "beir": beir,
}
FOLDERS = ("saved dataset", "msmarco", "beir")
# What every format can hold: no line break or tab (TSV), and no text that normalisation would refuse.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t\0\ufeff"), min_size=1, max_size=30)
rows_of_texts = st.lists(st.tuples(*[texts.filter(lambda text: bool(clean(text)))] * 3), min_size=1, max_size=5)


def unit_of(path: Path, format: str | None = None) -> SourceUnit:
    (unit,) = discover([path], None, format=format)
    return unit


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", WRITERS)
@given(rows=rows_of_texts)
def test_the_same_rows_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: Sequence[Row]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    WRITERS[name](folder / "thing.xyz", rows)
    found = list(read_unit(unit_of(folder / "thing.xyz")))
    shutil.rmtree(folder)
    assert [row for row in found if isinstance(row, Reject)] == []
    examples = [row for row in found if isinstance(row, RawExample)]
    assert [(row.query, [p.text for p in row.positives]) for row in examples] == [(q, [p]) for q, p, _ in rows]
    if name != "beir":  # it has no place for negatives
        assert [[p.text for p in row.negatives] for row in examples] == [[n] for _, _, n in rows]


ROWS = [("q1", "p1", "n1"), ("q2", "p2", "n2")]


@pytest.mark.parametrize("name", WRITERS)
def test_hash_is_that_of_the_content(tmp_path: Path, name: str) -> None:
    for place in ("one", "two", "three"):
        (tmp_path / place).mkdir()
    WRITERS[name](tmp_path / "one" / "thing", ROWS)
    WRITERS[name](tmp_path / "two" / "thing", [*ROWS[:1], ("q2", "p2", "other")])
    WRITERS[name](tmp_path / "three" / "renamed", ROWS)
    first, other, same = (
        sha256_of(unit_of(path))
        for path in (tmp_path / "one/thing", tmp_path / "two/thing", tmp_path / "three/renamed")
    )
    assert len(first) == 64
    assert first == same
    assert first != other


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_read_as_a_whole_is_one_unit(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / "all/inner", ROWS)
    (tmp_path / "all/deep/er").mkdir(parents=True)
    WRITERS[name](tmp_path / "all/deep/er/still", ROWS)
    (tmp_path / "all/loose").mkdir()
    (tmp_path / "all/loose/rows.jsonl").write_bytes(json_lines(ROWS))
    assert [(unit.location, unit.collection) for unit in discover([tmp_path / "all"], None)] == [
        (str(tmp_path / "all/deep/er/still"), "deep"),
        (str(tmp_path / "all/inner"), "inner"),
        (str(tmp_path / "all/loose/rows.jsonl"), "loose"),
    ]
    (unit,) = discover([tmp_path / "all/inner"], "mine")
    assert unit == SourceUnit(tmp_path / "all/inner", "mine", format="arrow" if name == "saved dataset" else name)


@pytest.fixture(autouse=True)
def parents(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()


def test_a_readme_beside_the_data_changes_no_hash(tmp_path: Path) -> None:
    beir(tmp_path / "suite", ROWS)
    before = sha256_of(unit_of(tmp_path / "suite"))
    (tmp_path / "suite/README.md").write_text("#")
    (tmp_path / "suite/qrels/test.tsv").write_text("0\t0\t1\n")
    assert sha256_of(unit_of(tmp_path / "suite")) == before
    (tmp_path / "suite/qrels/test.tsv").unlink()
    (tmp_path / "suite/qrels/train.tsv").rename(tmp_path / "suite/qrels/dev.tsv")
    assert sha256_of(unit_of(tmp_path / "suite")) != before
    (tmp_path / "suite/qrels/train.tsv").write_text("0\t0\t1\n")
    assert sha256_of(unit_of(tmp_path / "suite")) != before


def test_format_goes_through_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"q\tp\tn\n")
    unit = unit_of(path, "triples")
    assert unit.format == "triples"
    assert [type(row) for row in read_unit(unit)] == [RawExample]
    assert [type(row) for row in read_unit(unit_of(path))] == [Reject]
    beir(tmp_path / "suite", ROWS)
    assert len(discover([tmp_path / "suite"], None, format="jsonl")) == 3
    assert len(list(read_unit(unit_of(tmp_path / "suite", "beir")))) == 2


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        (
            "suite",
            "bier",
            "`format` is 'bier'; allowed: arrow, beir, csv, excel, json, jsonl, msmarco, parquet, triples, tsv",
        ),
        ("suite", "msmarco", r"suite: expected collection.tsv, queries.train.tsv"),
        ("all", "beir", r"all: expected corpus.jsonl, queries.jsonl and qrels"),
        ("suite/corpus.jsonl", "beir", "is a file; format 'beir' is one of folders"),
    ],
)
def test_wrong_formats(tmp_path: Path, path: str, format: str, message: str) -> None:
    beir(tmp_path / "suite", ROWS)
    with pytest.raises(UsageError, match=message):
        list(read_unit(discover([tmp_path / path], None, format=format)[0]))


def test_an_unclear_split_is_said_before_anything_is_read(tmp_path: Path) -> None:
    beir(tmp_path / "all/suite", ROWS)
    (tmp_path / "all/suite/qrels/train.tsv").rename(tmp_path / "all/suite/qrels/dev.tsv")
    (tmp_path / "all/suite/qrels/test.tsv").write_text("0\t0\t1\n")
    with pytest.raises(UsageError, match="the splits are dev, test"):
        discover([tmp_path / "all"], None)
