"""The real collections give the row counts that their README states, and the damaged files what theirs states."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mixture.ingest.normalise import build_batches
from mixture.ingest.read import read_file
from mixture.ingest.sources import discover
from mixture.rows import RawExample, Reject

ROWS = {
    "agnews": 5700, "altlex": 20000, "nq": 10, "msmarco": 10, "AllNLI": 10, "sts": 10, "xquad": 7320,
    "cmrc2018": 3162, "tydiqa": 6, "dureader": 147, "pubmedqa": 750, "disflqa": 8092, "asset": 2000, "cose": 7610,
    "covidfaq": 403, "concode": 1499, "covidqa": 980,
}  # fmt: skip
XQUAD_LANGUAGES = ("ar", "de", "en", "es", "hi", "ru", "th", "zh")


@pytest.fixture(scope="module")
def rows(real_data: Path) -> dict[tuple[str, str | None], list[RawExample | Reject]]:
    return {
        (file.collection, file.language): list(read_file(Path(file.location)))
        for file in discover([real_data / "raw"], None)
    }


def test_every_row_of_every_collection_is_an_example(
    rows: dict[tuple[str, str | None], list[RawExample | Reject]],
) -> None:
    counts: Counter[str] = Counter()
    for (collection, _), found in rows.items():
        assert [row for row in found if isinstance(row, Reject)] == []
        counts[collection] += len(found)
    assert counts == ROWS


def test_xquad_is_one_collection_of_eight_languages(
    rows: dict[tuple[str, str | None], list[RawExample | Reject]],
) -> None:
    sizes = {language: len(found) for (collection, language), found in rows.items() if collection == "xquad"}
    assert sizes == dict.fromkeys(XQUAD_LANGUAGES, 915)


def test_the_one_empty_question_is_refused(rows: dict[tuple[str, str | None], list[RawExample | Reject]]) -> None:
    (batch,) = build_batches(rows["cmrc2018", None], file="f", language="zh", fingerprint=None)
    assert batch.rejects["reason"].to_pylist() == ["query is empty"]
    assert batch.examples.num_rows == 3161


def test_shapes_are_understood(rows: dict[tuple[str, str | None], list[RawExample | Reject]]) -> None:
    def sides(collection: str) -> Counter[tuple[int, int]]:
        return Counter(
            (len(row.positives), len(row.negatives)) for row in rows[collection, None] if isinstance(row, RawExample)
        )

    assert sides("asset") == {(10, 0): 2000}
    assert sides("cose") == {(1, 0): 7610}
    assert all(many > 1 for _, many in sides("msmarco"))
    scored = rows["AllNLI", None][0]
    assert isinstance(scored, RawExample)
    assert (scored.positives[0].score, scored.negatives[0].score) == (98.1875, 82.25)
    assert scored.prompt == "Retrieve semantically similar text."
    titled = rows["covidqa", None][0]
    assert isinstance(titled, RawExample)
    assert titled.positives[0].title.startswith("Functional Genetic Variants")
    broken = [row for row in rows["covidfaq", None] if isinstance(row, RawExample) and "\n" in row.positives[0].text]
    assert len(broken) > 100


DAMAGED = {
    "broken-line3.jsonl": (9, [(3, "line is not valid JSON: unterminated string at column 129")]),
    "truncated.jsonl.gz": (169, [(170, "gzip stream ends early")]),
    "latin1.jsonl": (0, [(line, "line is not valid UTF-8: byte 0x") for line in range(1, 11)]),
    "empty.jsonl": (0, [(1, "the file is empty")]),
    "missing-query.jsonl": (7, [(line, "missing key 'query'") for line in (2, 5, 8)]),
    "empty-positives.jsonl": (8, [(line, "'pos' is an empty list") for line in (4, 7)]),
    "wrong-columns.parquet": (0, [(1, "no known columns; found 'text', 'n_words'; say which is which")]),
    # Lines where records 3, 6 and 9 start: answers hold line breaks.
    "ragged.csv": (9, [(24, "record has 1 field;"), (39, "record has 4 fields;"), (42, "line is empty")]),
    "long-text.jsonl": (5, []),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(real_data: Path, name: str) -> None:
    good, expected = DAMAGED[name]
    found = list(read_file(real_data / "corrupt" / name))
    rejects = [row for row in found if isinstance(row, Reject)]
    assert len(found) - len(rejects) == good
    assert [reject.line for reject in rejects] == [line for line, _ in expected]
    for reject, (_, reason) in zip(rejects, expected, strict=True):
        assert reject.reason.startswith(reason)
    if name == "long-text.jsonl":
        assert max(len(row.positives[0].text.encode()) for row in found if isinstance(row, RawExample)) == 2_000_769


def test_no_damaged_file_is_left_untested(real_data: Path) -> None:
    assert {Path(file.location).name for file in discover([real_data / "corrupt"], "damaged")} == set(DAMAGED)
