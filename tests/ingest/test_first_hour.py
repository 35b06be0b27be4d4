"""The files of a new user's first hour: each is stored right, or refused with the option that makes it right.

docs/ingest.md has what comes of them as a table. `python -m tests.ingest.test_first_hour --write` writes it again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixture import jobs
from mixture.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs/ingest.md"
START, END = "<!-- first hour -->\n", "<!-- end -->"
Pair = tuple[str, list[str], list[str]]
ONE: list[Pair] = [("q", ["p"], [])]
THREE: list[Pair] = [("q", ["p"], ["n"])]


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _parquet(path: Path) -> None:
    pq.write_table(pa.table({"user_query": ["q"], "relevant_doc": ["p"], "irrelevant_doc": ["n"]}), path)


def _excel(path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    book = openpyxl.Workbook()
    for row in (["id", "question", "answer"], [1, "q", "p"]):
        book.active.append(row)
    book.save(path)


def _saved(path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {split: datasets.Dataset.from_list([{"question": f"q{mark}", "answer": "p"}])
            for split, mark in (("train", ""), ("test", " of the test"))}  # fmt: skip
    datasets.DatasetDict(rows).save_to_disk(path)


Content = str | bytes | Callable[[Path], None] | dict[str, str]
# The file or folder, its content, what is stored of it as it is (None: it is refused), the options that make it right,
# and what is stored then.
CASES: list[tuple[str, Content, list[Pair] | None, dict[str, Any], list[Pair] | None]] = [
    ("pairs.jsonl", jsonl(["q", "p", "n"]), THREE, {}, None),
    ("anchors.jsonl", jsonl({"anchor": "q", "positive": "p", "hard_negative": "n"}), THREE, {}, None),
    ("tevatron.jsonl", jsonl({"query": "q", "positive_passages": [{"title": "", "text": "p"}],
                              "negative_passages": [{"title": "", "text": "n"}]}), THREE, {}, None),
    ("flag.jsonl", jsonl({"query": "q", "pos": ["p"], "neg": ["n"]}), THREE, {}, None),
    ("numbered.csv", "query,positive,negative1\nq,p,n\n", THREE, {}, None),
    ("semicolons.csv", "question;answer\nq;p\n", ONE, {}, None),
    ("tabs.tsv", "question\tanswer\nq\tp\n", ONE, {}, None),
    ("helpdesk.csv", "id,question,answer,bad_answer,source\n1,q,p,n,web\n", THREE, {}, None),
    ("titles.csv", "title,body,category\nq,p,news\n", ONE, {}, None),
    ("faq.parquet", _parquet, None,
     {"columns": "query=user_query,positive=relevant_doc,negative=irrelevant_doc"}, THREE),
    ("swapped.csv", "answer_text,question_text\np,q\n", ONE, {}, None),
    ("contacts.csv", "name,email\nq,p\n", None, {"columns": "query=name,positive=email"}, ONE),
    ("labels.jsonl", jsonl({"query": "q", "passage": "n", "label": 0}, {"query": "q", "passage": "p", "label": 1}),
     THREE, {}, None),
    ("scores.csv", "query,document,score\nq,n,0.03\nq,p,0.91\n", None, {"min_label": 0.5}, THREE),
    ("nli.csv", "sentence1,sentence2,label\nq,n,0\nq,p,1\n", None,
     {"columns": "query=sentence1,positive=sentence2,label=label"}, THREE),
    ("nested.jsonl", jsonl({"data": {"ask": "q", "docs": [{"body": "p"}]}}), None,
     {"columns": "query=data.ask,positive=data.docs.body"}, ONE),
    ("alpaca.jsonl", jsonl({"instruction": "q", "input": "", "output": "p"}), ONE, {}, None),
    ("dpo.jsonl", jsonl({"prompt": "q", "chosen": "p", "rejected": "n"}), THREE, {}, None),
    ("dpr.json", json.dumps([{"question": "q", "positive_ctxs": [{"title": "", "text": "p"}], "negative_ctxs": [],
                              "hard_negative_ctxs": [{"title": "", "text": "n"}]}], indent=1), THREE, {}, None),
    ("texts.jsonl", jsonl({"texts": ["q", "p", "n"]}), THREE, {}, None),
    ("lists.jsonl", jsonl({"question": "q", "positives": ["p"], "negatives": ["n"]}), THREE, {}, None),
    ("sheet.xlsx", _excel, ONE, {}, None),
    ("splits/", {"train.jsonl": jsonl(["q", "p"]), "validation.jsonl": jsonl(["dev", "p"]),
                 "test.jsonl": jsonl(["test", "p"])}, ONE, {}, None),
    ("foldered/", {"train/data.jsonl": jsonl(["q", "p"]), "test/data.jsonl": jsonl(["test", "p"])}, ONE, {}, None),
    ("saved/", _saved, ONE, {}, None),
    ("only.test.jsonl", jsonl(["q", "p"]), None, {"split": "test"}, ONE),
    ("many/", {"nq.jsonl": jsonl(["q", "p"]), "fiqa.jsonl": jsonl(["q", "p"])}, None, {"name": "many"}, ONE * 2),
    ("junk.jsonl", "not json\nat all\n", None, {}, None),
    ("empty.jsonl", "", None, {}, None),
    ("header.csv", "question,answer\n", None, {}, None),
    ("random.bin", bytes(range(256)) * 8, None, {}, None),
    ("latin1.csv", "question,answer\nq,caf\u00e9\n".encode("latin-1"), None, {}, None),
]  # fmt: skip
BY_HAND = {"latin1.csv": "`iconv -f latin1 -t utf-8 latin1.csv > utf8.csv`"}
IDS = [case[0] for case in CASES]


def build(folder: Path, name: str, content: Content) -> Path:
    path = folder / name
    if isinstance(content, dict):
        for file, text in content.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(text)
    elif callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    return path


def outcome(path: Path, options: dict[str, Any]) -> tuple[list[Pair], list[str]]:
    """The examples as they would be stored, and what was said."""
    notes: list[str] = []
    try:
        found = jobs.preview(path, examples=10, note=notes.append, **options)
    except UsageError as error:
        return [], [str(error)]
    texts = [(e["query"], e["positives"], e["negatives"]) for one in found for e in one.examples]
    return texts, [*notes, *(str(one.read) for one in found)]


@pytest.mark.parametrize(("name", "content", "stored", "options", "then"), CASES, ids=IDS)
def test_a_file_is_right_or_refused_with_what_makes_it_right(
    tmp_path: Path, name: str, content: Content, stored: list[Pair] | None, options: dict[str, Any],
    then: list[Pair] | None,
) -> None:  # fmt: skip
    path = build(tmp_path, name, content)
    found, said = outcome(path, {})
    assert found == (stored or [])
    if stored is None:
        assert " refused: " in said[-1] or options, said
    for option in options:  # the message names it
        assert f"`{option}" in " ".join(said)
    if then is not None:
        assert outcome(path, options)[0] == then


def _line(case: tuple[str, Content, list[Pair] | None, dict[str, Any], list[Pair] | None]) -> str:
    name, content, _, options, _ = case
    with tempfile.TemporaryDirectory() as folder:
        path = build(Path(folder), name, content)
        said = " ".join(outcome(path, {})[1]).replace(f"{folder}/", "")
        right = BY_HAND.get(name, "") + "".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items())
        if options and "--columns" not in right:
            right += "; " + " ".join(outcome(path, options)[1][-1:]).replace(f"{folder}/", "")
    return f"| `{name}` | {said.replace('|', chr(92) + '|')} | {right} |\n"


def table() -> str:
    return "| file | what comes of it | what makes it right |\n|---|---|---|\n" + "".join(map(_line, CASES))


def test_the_table_in_the_docs_is_what_comes_of_them() -> None:
    pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    assert DOCS.read_text("utf-8").partition(START)[2].partition(END)[0] == table()


if __name__ == "__main__" and "--write" in sys.argv:
    text = DOCS.read_text("utf-8")
    before, start, rest = text.partition(START)
    DOCS.write_text(before + start + table() + END + rest.partition(END)[2])
