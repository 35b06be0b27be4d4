"""Data that would be stored wrong without a word: each is stored right, or refused."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from mixture import jobs
from mixture.cards.draft import draft_card, write_card
from mixture.errors import UsageError
from mixture.ingest.read import read_items
from mixture.ingest.reading import Reading
from mixture.ingest.sources import discover
from mixture.rows import Reject
from mixture.store import Store
from tests.ingest.reading import Texts, examples_of

PAIR = {"query": "q", "positive": "p"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def queries(store: Store) -> list[str]:
    return [row["query"] for row in store.rows("SELECT query FROM examples ORDER BY query")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "columns", "found"),
    [
        ("question,answer,label,lang", "language=lang", [("q", ["one"], ["zero"])]),
        ("question,answer,label,worst", "negative=worst", None),
        ("sentence1,sentence2,label,lang", "language=lang", None),
        ("query,pos,label,lang", "language=lang", None),
        ("question,answer,lang,label", "label=label", [("q", ["one"], ["zero"])]),
    ],
)
def test_a_label_beside_a_mapping_that_leaves_query_and_positive_out(
    tmp_path: Path, header: str, columns: str, found: list[Texts] | None
) -> None:
    label = header.split(",").index("label")
    rows = [["q", text, "de", "de"] for text in ("zero", "one")]
    for value, row in enumerate(rows):
        row[label] = str(value)
    path = csv(tmp_path / "f.csv", "\n".join([header, *map(",".join, rows)]) + "\n")
    items = list(read_items(path, reading=Reading(columns)))
    assert examples_of(items) == (found or [])
    assert found or all(isinstance(item, Reject) and "label" in item.reason for item in items)


@pytest.mark.parametrize("name", ["UserRating", "RelevanceGrade", "rel", "accepted", "qrels"])
def test_more_names_of_labels_in_tables(tmp_path: Path, name: str) -> None:
    path = csv(tmp_path / "f.csv", f"query,answer,{name}\nq,zero,0\nq,one,1\n")
    assert examples_of(list(read_items(path))) == [("q", ["one"], ["zero"])]


@pytest.mark.parametrize("name", ["is_wrong", "IsIncorrect", "incorrect", "irrelevant", "bad"])
def test_a_column_that_may_say_that_its_row_is_wrong_is_refused(tmp_path: Path, name: str) -> None:
    path = csv(tmp_path / "f.csv", f"query,answer,{name}\nq,right,0\nr,wrong,1\n")
    (reject,) = read_items(path)
    assert isinstance(reject, Reject)
    assert f"`columns=negative={name.lower()}`" in reject.reason
    told = list(read_items(path, reading=Reading(f"negative={name}")))
    assert examples_of(told) == [("q", ["right"], ["0"]), ("r", ["wrong"], ["1"])]


def test_unknown_columns_beside_a_label_are_refused_with_the_label_in_the_advice(tmp_path: Path) -> None:
    (reject,) = read_items(csv(tmp_path / "f.csv", "ask,doc,label\nq,p,0\n"))
    assert isinstance(reject, Reject)
    assert "`columns=query=NAME,positive=NAME,label=label`" in reject.reason


@pytest.mark.parametrize("header", ["question_type,answer", "question,answer_count", "question_language,document"])
def test_a_column_about_a_side_is_not_that_side(tmp_path: Path, header: str) -> None:
    (reject,) = read_items(csv(tmp_path / "f.csv", f"{header}\na,b\n"))
    assert isinstance(reject, Reject)


def test_reasons_count_the_rows_that_a_refused_query_had(tmp_path: Path, store: Store) -> None:
    rows = "".join(f"q{query},p{query}{n},0\n" for query in range(4) for n in range(3))
    (result,) = jobs.ingest(store, csv(tmp_path / "f.csv", f"query,passage,label\n{rows}good,p,1\n,p,1\n"))
    assert (result.counts.rows_read, result.counts.stored, result.counts.rejected) == (14, 1, 13)
    assert "13 refused: 12 rows, the first on line 2: no row of this query" in str(result.read[0])


def test_a_line_names_a_dozen_columns_of_two_thousand_and_says_what_is_a_label(tmp_path: Path) -> None:
    reading = Reading()
    names = [f"negative_{n}" for n in range(2000)]
    list(read_items(csv(tmp_path / "f.csv", f"query,positive,{','.join(names)}\n"), reading=reading))
    assert str(reading).endswith("negative_11, … (2,000 in all)")
    reading = Reading()
    list(read_items(csv(tmp_path / "g.csv", "query,passage,label,lang\nq,p,1,de\n"), reading=reading))
    assert str(reading) == "query ← query, positive ← passage, label ← label (0: a negative), language ← lang"


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "other"),
    [("train_faq", "test_faq"), ("train_en", "test_en"), ("train1", "test1"), ("faq_train_en", "faq_validation_en"),
     ("train/faq", "test/faq"), ("nq-train/data", "nq-test/data")],
)  # fmt: skip
def test_what_is_not_for_training_is_left_out_of_a_folder_wherever_its_name_says_it(
    tmp_path: Path, train: str, other: str
) -> None:
    for name in (train, other):
        jsonl(tmp_path / f"all/{name}.jsonl", PAIR)
    notes: list[str] = []
    (unit,) = discover([tmp_path / "all"], None, note=notes.append)
    assert unit.location.endswith(f"{train}.jsonl")
    assert f"left out {'/'.join(f'all/{other}'.split('/')[-2:])}.jsonl" in notes[0]
    assert len(discover([tmp_path / "all"], None, split="all")) == 2


def test_a_part_that_may_be_something_else_is_asked_for_and_left_out_under_one_name(tmp_path: Path) -> None:
    for name in ("train_faq", "dev_faq"):
        jsonl(tmp_path / f"all/{name}.jsonl", PAIR)
    with pytest.raises(UsageError, match=r"their names are different: dev_faq\.jsonl, train_faq\.jsonl"):
        discover([tmp_path / "all"], None)
    (unit,) = discover([tmp_path / "all"], "faq")
    assert unit.location.endswith("train_faq.jsonl")


def test_files_given_one_by_one_are_parts_of_one_thing(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / f"nq-{part}.jsonl", PAIR) for part in ("train", "dev", "test")]
    notes: list[str] = []
    (unit,) = discover(files, None, note=notes.append)
    assert unit.collection == "nq-train"
    assert "nq-dev.jsonl" in notes[0]
    assert "nq-test.jsonl" in notes[0]


def test_a_folder_that_is_called_test(tmp_path: Path) -> None:
    jsonl(tmp_path / "faq/test/data.jsonl", PAIR)
    for source in (tmp_path / "faq/test", tmp_path / "faq/test/data.jsonl"):
        with pytest.raises(UsageError, match="named as test data"):
            discover([source], None)
        assert [unit.collection for unit in discover([source], None, split="test")] == ["faq"]


def test_a_part_that_is_asked_for_comes_alone(tmp_path: Path) -> None:
    for name in ("nq", "nq-test"):
        jsonl(tmp_path / f"all/{name}.jsonl", PAIR)
    (unit,) = discover([tmp_path / "all"], None, split="test")
    assert unit.location.endswith("nq-test.jsonl")


def test_saved_datasets_of_test_rows_alone(tmp_path: Path, store: Store) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")
    saved = datasets.DatasetDict({"test": datasets.Dataset.from_dict({"query": ["q"], "answer": ["a"]})})
    saved.save_to_disk(str(tmp_path / "saved"))
    for source, name in ((tmp_path / "saved", None), (saved, "saved")):
        with pytest.raises(UsageError, match="the only split is test, which is not to be trained on"):
            jobs.ingest(store, source, name=name)
    (result,) = jobs.ingest(store, tmp_path / "saved", split="test")
    assert result.counts.stored == 1


# -- files that failed, and files of the hub ---------------------------------------------------------------------------


def test_nothing_stored_is_said_also_beside_files_that_were(tmp_path: Path, store: Store) -> None:
    junk = jsonl(tmp_path / "junk.jsonl", {"a": 1})
    with pytest.raises(jobs.NothingStored, match=r"junk\.jsonl: line 1: no known keys"):
        jobs.ingest(store, junk)
    with pytest.raises(jobs.NothingStored, match="1 of 2 files; the others are stored"):
        jobs.ingest(store, [junk, jsonl(tmp_path / "good.jsonl", PAIR)])
    assert queries(store) == ["q"]


CARD = """---
language: [en]
license: unknown
pretty_name: F
mixture:
  name: faq
  prompts: []
  source: {{hub_id: me/faq, {source}}}
---
# F
"""


def test_a_file_of_the_hub_is_read_again_when_the_card_says_something_else(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXTURE_HUB_MIRROR", str(tmp_path / "mirror"))
    jsonl(tmp_path / "mirror/me/faq/f.jsonl", {"a": "q", "b": "bad", "c": 0.3}, {"a": "q", "b": "good", "c": 0.8})
    card = tmp_path / "cards/faq.md"
    card.parent.mkdir()
    card.write_text(CARD.format(source="files: [f.jsonl], columns: {query: a, positive: b, label: c}, min_label: 0.5"))
    assert _ingest(store, card) == (0, [1])
    assert _ingest(store, card) == (1, [1])
    card.write_text(card.read_text().replace("0.5", "0.2"))
    assert _ingest(store, card) == (0, [2])
    assert _ingest(store, card, min_label=0.5) == (0, [1])


def test_a_hub_id_is_read_again_when_the_collections_card_changes(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    monkeypatch.setenv("MIXTURE_HUB_MIRROR", str(tmp_path / "mirror"))
    jsonl(tmp_path / "mirror/me/faq/train.jsonl", {"a": "first", "b": "second"})
    card = tmp_path / "cards/faq.md"
    card.parent.mkdir()
    for columns, query in (("query: a, positive: b", "first"), ("query: b, positive: a", "second")):
        card.write_text(CARD.format(source=f"columns: {{{columns}}}"))
        jobs.ingest(store, "me/faq", cards=card.parent)
        assert queries(store) == [query]


def _ingest(store: Store, card: Path, **given: Any) -> tuple[int, list[int]]:
    (result,) = jobs.ingest(store, card="faq", cards=card.parent, **given)
    return result.unchanged, [row["n"] for row in store.rows("SELECT len(positives) AS n FROM examples")]


# -- drafted cards -----------------------------------------------------------------------------------------------------

CONTEXT = {"title": "t", "text": "p", "score": 1000}


@pytest.mark.parametrize(
    "rows",
    [
        [PAIR, {**PAIR, "query": "r", "negative": "n"}],
        [{"query": "q", "passage": "p", "label": 1}, {"query": "q", "passage": "n", "label": 0}],
        [{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [3.0], "neg_scores": [0.5]}],
        [{"question": "q", "positive_ctxs": [CONTEXT], "hard_negative_ctxs": [{"text": "n"}], "negative_ctxs": []}],
        [{"query": "q", "pos": ["p"]}, {"question": "r", "answer": "a"}],
        [{"question": "r", "answer": "a", "lang": "de", "id": 7}],
    ],
    ids=["negatives in some rows", "labels", "scores", "contexts", "two layouts", "a pair"],
)
def test_a_drafted_card_changes_nothing_about_how_its_file_is_read(
    tmp_path: Path, store: Store, rows: list[Any]
) -> None:
    file = jsonl(tmp_path / "faq.jsonl", *rows)
    write_card(draft_card("faq", file), tmp_path / "cards")
    jobs.ingest(store, file, name="plain")
    jobs.ingest(store, file, cards=tmp_path / "cards")
    contents = [
        store.rows(f"SELECT {what} FROM {table} WHERE collection = ? ORDER BY ALL", [name])
        for name in ("plain", "faq")
        for what, table in (("example_id, language, positives", "examples"), ("* EXCLUDE collection", "negatives"))
    ]
    assert contents[:2] == contents[2:]
    assert contents[0]


# -- rows in memory ----------------------------------------------------------------------------------------------------


def test_a_frame_whose_categories_changed_is_another_one(store: Store) -> None:
    frame = pd.DataFrame({"query": pd.Categorical(["a", "b"]), "positive": ["p", "p"]})
    jobs.ingest(store, frame, name="faq")
    (again,) = jobs.ingest(store, frame, name="faq")
    assert again.unchanged == 1
    jobs.ingest(store, frame.assign(query=frame["query"].cat.rename_categories(["c", "d"])), name="faq")
    assert queries(store) == ["c", "d"]


def test_of_two_tables_for_one_collection_none_is_dropped(store: Store) -> None:
    tables = [pa.table({"query": [query], "positive": ["p"]}) for query in "ab"]
    with pytest.raises(UsageError, match="two tables in memory for collection 'faq'"):
        jobs.ingest(store, tables, name="faq")
    jobs.ingest(store, tables[0], name="faq")
    jobs.ingest(store, tables[1], name="faq", append=True)
    assert queries(store) == ["a", "b"]


@pytest.mark.parametrize("given", [{"query": 0}, {"query": "a", "negative": None}])
def test_columns_that_are_no_names(given: Any) -> None:
    with pytest.raises(UsageError, match="give a name, or a list of names"):
        Reading(given)


# -- Excel -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mend",
    [lambda text: text, lambda text: re.sub("<dimension[^>]*/>", "", text),
     lambda text: re.sub("<dimension[^>]*/>", '<dimension ref="A1"/>', text)],
    ids=["as it is", "without its size", "with a wrong size"],
)  # fmt: skip
def test_rows_of_excel_are_read_whatever_the_workbook_says_about_its_size(
    tmp_path: Path, mend: Callable[[str], str]
) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    book = openpyxl.Workbook()
    for row in (["question", "answer", "bad_answer"], ["q", "a", "b"], ["r"], ["s", "c"]):
        book.active.append(row)
    book.save(tmp_path / "first.xlsx")
    path = tmp_path / "f.xlsx"
    with zipfile.ZipFile(tmp_path / "first.xlsx") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, mend(data.decode()) if name.endswith("sheet1.xml") else data)
    rows = list(read_items(path))
    assert examples_of(rows) == [("q", ["a"], ["b"]), ("s", ["c"], [])]
    assert [row.line for row in rows if isinstance(row, Reject)] == [3]
