"""JSON lines by the chunk give what a reading line by line gives, whatever is in the lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixture.engine import in_order
from mixture.ingest import chunks
from mixture.ingest.columns import Columns, Side
from mixture.ingest.damage import StreamDamaged
from mixture.ingest.formats import jsonl
from mixture.ingest.reading import Reading
from mixture.rows import RawExample, RawPassage, Reject


def by_line(items: Any) -> tuple[list[RawExample | Reject], set[str]]:
    """Single rows and rows of columns alike, in the order of their lines; and their prompts, which columns unite."""
    found: list[RawExample | Reject] = []
    prompts: set[str] = set()
    for item in items:
        if isinstance(item, Columns):
            prompts |= set(item.prompts)
            found += _rows(item)
        elif isinstance(item, Reject):
            found.append(item)
        else:
            prompts |= {item.prompt} if item.prompt is not None else set()
            found.append(RawExample(item.line, item.query, tuple(item.positives), tuple(item.negatives), item.language,
                                    label=item.label))  # fmt: skip
    return sorted(found, key=lambda row: row.line), prompts


def _rows(columns: Columns) -> list[RawExample | Reject]:
    languages = columns.languages.to_pylist() if columns.languages is not None else [None] * len(columns)
    return [
        RawExample(int(line), query, positives, negatives, language)
        for line, query, positives, negatives, language in zip(
            columns.lines, columns.queries.to_pylist(), _passages(columns.positives), _passages(columns.negatives),
            languages, strict=True,
        )
    ]  # fmt: skip


def _passages(side: Side) -> list[tuple[RawPassage, ...]]:
    flat = [
        RawPassage(text, title or "", score)
        for text, title, score in zip(
            side.texts.to_pylist(), side.titles.to_pylist(), side.scores.to_pylist(), strict=True
        )
    ]
    return [tuple(flat[start:end]) for start, end in zip(side.offsets, side.offsets[1:], strict=False)]


TEVATRON = {
    "query_id": "7",
    "query": "q",
    "positive_passages": [{"docid": "1", "title": "T", "text": "p"}],
    "negative_passages": [{"docid": "2", "text": "n", "score": 2}, {"docid": 3, "title": None, "text": "m"}],
}
FLAG = {"query": "q", "pos": ["p", "p2"], "neg": ["n"], "pos_scores": [1, 0.5], "neg_scores": [0.25], "prompt": "find",
        "language": "de", "type": "normal"}  # fmt: skip
SHAPES: dict[str, Any] = {
    "tevatron": TEVATRON,
    "flag": FLAG,
    "list": ["q", "p", "n1", "n2"],
    "set": {"set": ["a", "b", "c"]},
    "pair": {"anchor": "q", "positive": "p", "negative": "n"},
    "answers": {"question": "q", "answer": "p", "lang": "fr", "id": 7},
}
DAMAGED = [
    b"", b"{", b'{"query": "q"}', b"[1, 2]", b'["only"]', b'"text"', b"7", b"{}", b"null",
    b'{"query": null, "pos": ["p"]}',
    b'{"query": "q", "pos": [null]}', b'{"query": "q", "pos": []}', b'{"query": "q", "pos": "p", "neg": null}',
    b'{"query": "q", "pos": ["p"], "pos_scores": [1, 2]}', b'{"query": "q", "pos": ["p"], "pos_scores": ["1"]}',
    b'{"query": "q", "positive_passages": [{"title": "t"}]}', b'{"query": "q", "positive_passages": ["p"]}',
    b'{"query": "q", "positive_passages": [{"text": "p", "score": NaN}]}', b'{"query": "q"} {"query": "r"}',
    b'{"query": "\xff", "pos": ["p"]}', b'{"query": "\\ud83d", "pos": ["p"]}', b'{"query": "\\u0000", "pos": ["p"]}',
    b'{"query": "q", "query": "r", "pos": ["p"]}', b'["q", "p", null]', b'["q", {"text": "p"}]', b'{"set": ["a"]}',
    b'{"set": ["a", 3]}', b'{"anchor": "q", "positive": 7}',
    b'{"anchor": "q", "positive": ["p1", "p2"], "language": ""}',
    b'{"question": "q", "answer": "p", "language": "nl", "lang": "fr"}', b'{"question": "", "answer": ""}',
    b'{"query": "q", "pos": ["p"], "neg_scores": [1]}', b'{"query": "q", "pos": ["p"], "neg": ["n"], "neg_scores": []}',
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clean_file_is_read_as_columns_only(tmp_path: Path, shape: str) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text("".join(json.dumps(SHAPES[shape]) + "\n" for _ in range(40)))
    items = list(chunks.read(file, Reading()))
    assert [type(item) for item in items] == [Columns]
    assert by_line(items) == by_line(jsonl.read(file))
    assert len(by_line(items)[0]) == 40


GOOD = [json.dumps(value).encode() for value in SHAPES.values()]
lines = st.lists(st.sampled_from(GOOD + DAMAGED), min_size=1, max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    st.sampled_from(list(SHAPES)),
    lines,
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.sampled_from([150, 10**6]),
)
def test_damaged_files_give_the_same_rows_and_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: str, some: list[bytes], end: bytes, closed: bool, size: int
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", size)
    monkeypatch.setattr(chunks, "FEW_LINES", 2)
    file = tmp_path / "f.jsonl"
    usual = [json.dumps(SHAPES[main]).encode()] * 12
    mixed = usual[:5] + some[: len(some) // 2] + usual[5:] + some[len(some) // 2 :]
    file.write_bytes(b"\xef\xbb\xbf" + end.join(mixed) + (end if closed else b""))
    assert by_line(chunks.read(file, Reading())) == by_line(jsonl.read(file))


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"anchor": "a", "positive": "p"}, {"anchor": "a", "positive": "p", "negative": "n"}),
        ({"anchor": "a", "positive": "p"}, {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": "m"}),
        ({"anchor": "a", "positive": "p"}, {"anchor": "a", "positive": "p", "negatives": ["n", "m"]}),
        ({"query": "a", "pos": ["p"]}, {"query": "a", "pos": ["p"], "prompt": "find it"}),
        ({"sentence1": "a", "sentence2": "p"}, {"sentence1": "a", "sentence2": "p", "label": 1}),
        ({"query": "a", "passage": "p"}, {"query": "a", "passage": "p", "answer": "x"}),
        ({"query": "a", "passage": "p"}, {"query": "a", "passage": "p", "is_correct": 0}),
        ({"query": "a", "passage": "p"}, {"query": "a", "passage": "p", "human relevance": 0}),
        ({"question": "a", "answer": "p"}, {"question": "a", "answer": "p", "bad_answer": "n"}),
        (
            {"question": "a", "answer": [{"text": "p", "score": 2}]},
            {"question": "a", "answer": [{"text": "p", "score": 2}], "score": 0},
        ),
        ({"title": "a", "body": "p"}, {"title": "a", "body": "p", "question": "q", "answer": "x"}),
    ],
)
def test_a_key_that_comes_late_counts(tmp_path: Path, first: dict[str, Any], later: dict[str, Any]) -> None:
    """The layout is that of the first lines; what later ones have beyond it must not be lost, nor let pass."""
    count = chunks.SAMPLE_LINES + 60
    rows = [first] * count + [later] * 60 + [{**first, "id": 7, "note": 'a "key": in a text'}] * 60
    numbered = [{k: f"{v} {n}" if isinstance(v, str) else v for k, v in row.items()} for n, row in enumerate(rows)]
    file = tmp_path / "f.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in numbered))
    found = by_line(chunks.read(file, Reading()))
    assert found == by_line(jsonl.read(file))
    assert len(found[0]) >= count


def test_a_key_that_comes_late_and_means_nothing_costs_no_speed(tmp_path: Path) -> None:
    first, later = {"question": "q", "answer": "p"}, {"question": "q", "answer": "p", "source": {"url": "u"}}
    file = tmp_path / "f.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [first] * 150 + [later] * 150))
    assert [type(item) for item in chunks.read(file, Reading())] == [Columns]


def test_a_cut_gzip_file_gives_every_whole_line_and_the_line_of_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5000)
    rows = [json.dumps({"query": f"q{i} " + "x" * (i % 83), "pos": [f"p{i}"]}) for i in range(3000)]
    file = tmp_path / "f.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(rows).encode())[:-4000])
    found, damage = [], None
    for reader in (chunks.read, jsonl.read):
        got: list[Any] = []
        with pytest.raises(StreamDamaged) as caught:
            for item in reader(file, Reading()):
                got.append(item)
        found.append(by_line(got))
        assert damage in (None, (caught.value.line, caught.value.reason, caught.value.raw))
        damage = (caught.value.line, caught.value.reason, caught.value.raw)
    assert found[0] == found[1]
    assert len(found[0][0]) > 100


def test_one_text_of_two_megabytes_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 100_000)
    file = tmp_path / "f.jsonl"
    rows = [["q", "p"]] * 50 + [["long", "é" * 10**6]] + [["q", "p"]] * 50
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert by_line(chunks.read(file, Reading())) == by_line(jsonl.read(file))
    assert len(by_line(chunks.read(file, Reading()))[0]) == 101


def test_results_come_in_the_order_of_the_items_and_an_error_reaches_the_caller() -> None:
    assert list(in_order(lambda n: n * n, range(50), 3)) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda n: 1 // (n - 20), range(50), 3))
