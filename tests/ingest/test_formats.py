"""What follows from a format's own words: how it is found, by whom, and what a file is known by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.ingest import detect, remote
from mixture.ingest.columns import Columns
from mixture.ingest.format import Format, Head, Seen, Sure
from mixture.ingest.formats import FORMATS, READERS, delimited, jsonl
from mixture.ingest.read import read_file
from mixture.ingest.sources import discover, split_name
from mixture.ingest.units import read_unit, sha256_of
from mixture.rows import RawExample, Reject

CSV = "question,answer\na,b\n"


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_format_is_whole(format: Format) -> None:
    assert format.read or format.folder
    # Nobody could find a file's format otherwise.
    assert not format.read or format.magic or format.sniff
    for extension in format.extensions:
        assert re.fullmatch(r"\.[a-z]+", extension)
        assert split_name(Path(f"nq.zh{extension}.gz")) == ("nq", "zh")
    assert all(0 < len(start) <= detect.MAGIC_BYTES for start in format.magic)


def test_each_ending_belongs_to_one_format() -> None:
    endings = [extension for format in FORMATS.values() for extension in format.extensions]
    assert len(endings) == len(set(endings)) > 8


@pytest.mark.parametrize(("first", "expected"), [(True, "ini"), (False, "jsonl")])
def test_of_formats_that_are_equally_sure_the_first_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool, expected: str
) -> None:
    def sniff(head: Head) -> Seen | None:
        return Seen(Sure.START, "a section") if re.fullmatch(r"\[\w+\]", head.first) else None

    ini = {"ini": Format("ini", read_file, sniff=sniff)}
    monkeypatch.setattr(detect, "FORMATS", {**ini, **FORMATS} if first else {**FORMATS, **ini})
    file = tmp_path / "rows"
    file.write_text("[faq]\nq = a\n")
    assert detect.detect(file) == expected
    file.write_text("[faq\nq = a\n")
    assert detect.detect(file) == "jsonl"


@pytest.mark.parametrize(
    ("sniff", "lines", "sure"),
    [
        (jsonl.sniff, ["{}"], Sure.START),
        (jsonl.sniff, ["}", "{}"], Sure.LINE),
        (delimited.sniff_csv, ["question,answer"], Sure.HEADER),
        (delimited.sniff_csv, ["frage,antwort"], Sure.DELIMITER),
        (delimited.sniff_tsv, ["question\tanswer"], Sure.HEADER),
        (delimited.sniff_tsv, ["question,answer"], None),
    ],
)
def test_how_sure_a_format_is(sniff: Callable[[Head], Seen | None], lines: list[str], sure: Sure | None) -> None:
    seen = sniff(Head(lines))
    assert (seen and seen.sure) == sure
    assert Sure.DELIMITER < Sure.LAYOUT < Sure.LINE < Sure.HEADER < Sure.START


def test_discovery_decides_and_nobody_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "all"
    (folder / "suite/qrels").mkdir(parents=True)
    (folder / "suite/corpus.jsonl").write_text('{"_id": "d", "text": "b"}\n')
    (folder / "suite/queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
    (folder / "suite/qrels/train.tsv").write_text("q\td\t1\n")
    (folder / "a.jsonl").write_text('["a", "b"]\n')
    (folder / "b.jsonl").write_text(CSV)
    (folder / "c").write_text("prose")
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), folder / "d.csv")
    units = {unit.location.removeprefix(f"{folder}/"): unit for unit in discover(sorted(folder.iterdir()), None)}
    assert {name: unit.format for name, unit in units.items()} == {
        "a.jsonl": "jsonl", "b.jsonl": "csv", "c": None, "d.csv": "parquet", "suite": "beir",
    }  # fmt: skip

    def look(*_: object) -> None:
        raise AssertionError("looked again")

    (reject,) = read_unit(units.pop("c"))
    assert isinstance(reject, Reject) and reject.reason.startswith("neither JSON nor columns")
    monkeypatch.setattr("mixture.ingest.read.look", look)
    monkeypatch.setattr("mixture.ingest.read.folder_format", look)
    for unit in units.values():
        assert len(sha256_of(unit)) == 64
        # Under the name of another format the rows would be rejects.
        (row,) = read_unit(unit)
        assert isinstance(row, RawExample)
        assert (row.query, row.positives[0].text) == ("a", "b")


def test_blocks_of_columns_are_taken_where_the_format_has_them(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('["a", "b"]\n' * 100)
    (unit,) = discover([tmp_path / "rows"], None)
    assert [type(item) for item in read_unit(unit)] == [Columns]


def test_a_stored_file_is_known_by_its_bytes_and_by_the_format_that_the_user_gave(tmp_path: Path) -> None:
    """These are the hashes in stores of today: a file that was ingested must be known again."""
    file = tmp_path / "rows.csv"
    file.write_text(CSV)
    plain = hashlib.sha256(CSV.encode()).hexdigest()
    with Store.open(tmp_path / "s", create=True) as store:
        for format, known, unchanged in ((None, {plain}, 0), (None, {plain}, 1), ("csv", {f"{plain}:csv"}, 0),
                                         ("csv", {f"{plain}:csv"}, 1)):  # fmt: skip
            (result,) = jobs.ingest(store, [str(file)], format=format)
            assert result.unchanged == unchanged
            assert set(store.sql("SELECT sha256 FROM sources")["sha256"].to_pylist()) == known


def test_a_format_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(CSV)
    for ask in (lambda: discover([tmp_path / "rows"], None, format="cvs"),
                lambda: read_file(tmp_path / "rows", format="cvs")):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            ask()
        assert str(caught.value) == f"`format` is 'cvs'; allowed: {', '.join(sorted(FORMATS))}"


def test_files_behind_a_uri_are_read_in_the_format_that_their_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Format("orc", extensions=(".orc",), read_remote=lambda *_: iter(()))
    monkeypatch.setattr(remote, "FORMATS", {**FORMATS, "orc": table})
    monkeypatch.setattr(remote, "REMOTE", {**remote.REMOTE, "orc": table.read_remote})
    assert [remote.format_of(Path(name)) for name in ("x.orc", "x.ORC", "x.pq", "x.jsonl", "x")] == [
        "orc", "orc", "parquet", "parquet", "parquet",
    ]  # fmt: skip
    assert "orc" not in READERS
