"""MS MARCO: triples of texts, and folders whose triples or qrels name texts by id."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from mixture.errors import UsageError
from mixture.ingest.detect import detect, folder_format
from mixture.ingest.read import read_file
from mixture.rows import RawExample, RawPassage, Reject

QUERY = "what is the boiling point of water"
POSITIVE = "Water boils at 100 degrees Celsius at sea level, and lower on mountains."
NEGATIVE = "Ice is the solid form of water; it floats, which most solids do not."
FILES = {
    "collection.tsv": "0\tfirst passage\n1\tsecond passage\n2\tthird passage\n",
    "queries.train.tsv": "10\tfirst query\n11\tsecond query\n",
    "queries.dev.tsv": "12\tthird query\n",
    "qrels.train.tsv": "11\t0\t2\t1\n10\t0\t0\t1\n10\t0\t1\t0\n",
    "qrels.dev.tsv": "12\t0\t2\t1\n",
}
TRIPLES = "10\t0\t1\n10\t0\t2\n12\t2\t0\n"


def folder_of(path: Path, files: Mapping[str, str]) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_bytes(text.encode())
    return path


def triple(line: int, query: str, positive: str, negative: str) -> RawExample:
    return RawExample(line, query, (RawPassage(positive),), (RawPassage(negative),))


@pytest.mark.parametrize("packed", [False, True])
def test_triples_of_texts_have_no_header(tmp_path: Path, packed: bool) -> None:
    content = f"{QUERY}\t{POSITIVE}\t{NEGATIVE}\n" * 2
    path = tmp_path / "rows.csv"
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert detect(path) == "triples"
    assert list(read_file(path)) == [triple(1, QUERY, POSITIVE, NEGATIVE), triple(2, QUERY, POSITIVE, NEGATIVE)]


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (f"anchor\tpositive\tnegative\n{QUERY}\t{POSITIVE}\t{NEGATIVE}\n", "tsv"),
        (f"frage\tantwort\tfalsch\n{QUERY}\t{POSITIVE}\t{NEGATIVE}\n", "tsv"),
        (f"{QUERY}\t{POSITIVE}\tentailment\n" * 3, "tsv"),
        (f"{POSITIVE}\t{NEGATIVE}\t0.7\n" * 3, "tsv"),
        (f"17\t{POSITIVE}\t{NEGATIVE}\n" * 3, "tsv"),
        (f"{QUERY}\t{POSITIVE}\n" * 3, "tsv"),
    ],
    ids=["known header", "unknown header", "label", "score", "id", "two columns"],
)
def test_what_only_looks_like_triples(tmp_path: Path, content: str, format: str) -> None:
    path = tmp_path / "rows"
    path.write_text(content)
    assert detect(path) == format


def test_short_triples_are_read_when_the_format_is_given(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"q\tp\tn\nq\tp\nq\tM\xfc\tn\n\nlong\t" + b"wort " * 400_000 + b"\tn\r\n")
    rows = list(read_file(path, format="triples"))
    assert [row.line for row in rows if isinstance(row, RawExample)] == [1, 5]
    assert isinstance(rows[4], RawExample)
    assert (len(rows[4].positives[0].text), rows[4].negatives[0].text) == (2_000_000, "n")
    assert [(row.line, row.reason) for row in rows if isinstance(row, Reject)] == [
        (2, "line has 2 columns; expected query, positive and negative"),
        (3, "line is not valid UTF-8: byte 0xfc at offset 3"),
        (4, "line is empty"),
    ]


def test_cut_triples(tmp_path: Path) -> None:
    content = "".join(f"{QUERY} {n}\t{POSITIVE} {n * 7919}\t{NEGATIVE}\n" for n in range(5000)).encode()
    packed = gzip.compress(content)
    path = tmp_path / "rows"
    path.write_bytes(packed[: len(packed) // 2])
    *good, reject = read_file(path)
    assert len(good) > 1000
    assert [row.line for row in good] == list(range(1, len(good) + 1))
    assert isinstance(reject, Reject)
    assert reject.reason.startswith("gzip stream ends early")


def test_triples_of_ids_alone_say_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "qidpidtriples.train.tsv"
    path.write_text(TRIPLES)
    (reject,) = read_file(path)
    assert isinstance(reject, Reject)
    assert (
        "triples of ids; give the folder that holds it together with collection.tsv and queries*.tsv" in reject.reason
    )


def test_folder_with_qrels(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "msmarco", FILES)
    assert folder_format(folder) == "msmarco"
    assert list(read_file(folder)) == [
        RawExample(1, "second query", (RawPassage("third passage", "", 1.0),)),
        RawExample(2, "first query", (RawPassage("first passage", "", 1.0),)),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_folder_with_triples_of_ids(tmp_path: Path, packed: bool) -> None:
    folder = folder_of(tmp_path / "msmarco", {**FILES, "qidpidtriples.train.small.tsv": TRIPLES})
    if packed:
        for name in ("collection.tsv", "qidpidtriples.train.small.tsv"):
            (folder / (name + ".gz")).write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
    assert list(read_file(folder)) == [
        triple(1, "first query", "first passage", "second passage"),
        triple(2, "first query", "first passage", "third passage"),
        triple(3, "third query", "third passage", "first passage"),
    ]


def test_each_damage_is_one_reject_with_its_file_and_line(tmp_path: Path) -> None:
    files = {
        **FILES,
        "collection.tsv": FILES["collection.tsv"] + "3 no tab\n4\t \n",
        "triples.tsv": TRIPLES + "10\t9\t1\n13\t0\t1\n10\t0\t4\n10\t0\n",
    }
    rows = list(read_file(folder_of(tmp_path / "msmarco", files)))
    assert sum(isinstance(row, RawExample) for row in rows) == 3
    assert [(row.file, row.line, row.reason) for row in rows if isinstance(row, Reject)] == [
        ("collection.tsv", 4, "line has no tab; expected an id and a text"),
        ("triples.tsv", 4, "document '9' is not in collection.tsv"),
        ("triples.tsv", 5, "query '13' is not in queries.dev.tsv, queries.train.tsv"),
        ("triples.tsv", 6, "document '4' has no text (collection.tsv line 5)"),
        ("triples.tsv", 7, "line has 2 columns; expected query, positive and negative"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("collection.tsv", "queries.train.tsv"), "expected collection.tsv, queries.train.tsv and qrels.train.tsv"),
        (
            ("collection.tsv", "queries.dev.tsv", "qrels.dev.tsv", "qrels.test.tsv"),
            "the splits are test, validation; exp",
        ),
        (("collection.tsv", "queries.dev.tsv", "triples.train.a.tsv", "triples.train.b.tsv"), "the splits are triples"),
    ],
)
def test_folders_that_leave_the_choice_open(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder = folder_of(tmp_path / "msmarco", {name: FILES.get(name, TRIPLES) for name in names})
    with pytest.raises(UsageError, match=message):
        read_file(folder)
