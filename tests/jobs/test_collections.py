"""Collections removed and renamed: what follows, what comes back, and what mixtures that pin them still can."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, StoreError, UsageError, jobs
from mixture.specs import Part
from mixture.store import read
from mixture.store.change import TABLES, rename_collection
from mixture.store.materialise import materialise


def everything(store: Store, collection: str) -> dict[str, list[Any]]:
    """All that hangs on a collection, but for its name."""
    return {
        table: store.sql(f"SELECT * EXCLUDE (collection) FROM {table} WHERE collection = ? ORDER BY ALL", [collection])
        .to_pylist() for table in TABLES
    }  # fmt: skip


@pytest.fixture
def full(small_store: Store, tmp_path: Path) -> Store:
    """small_store, whose collection easy has something in every table."""
    twin = json.loads((tmp_path / "raw" / "easy.jsonl").read_text().splitlines()[0])
    lines = [json.dumps(twin | {"query": twin["query"] + "."}), "no JSON", json.dumps(twin | {"prompt": "Find it"})]
    (tmp_path / "more.jsonl").write_text("\n".join(lines) + "\n")
    jobs.ingest(small_store, str(tmp_path / "more.jsonl"), name="easy")
    assert sum(r.removed for r in jobs.dedup(small_store, "easy")) == 1
    answer = iter(["positive"])
    jobs.mine(small_store, "easy", per_query=1, judge=lambda pairs: [next(answer, "keep") for _ in pairs])
    assert all(rows for rows in everything(small_store, "easy").values())
    return small_store


def test_every_table_that_has_collections_is_followed_or_is_of_what_was_made(full: Store) -> None:
    made_then = {
        "mixture_weights",
        "weight_history",
        "run_draws",
        "selections",
        "collection_changes",
        "candidates",
        "collection_products",
        "ablations",
        "layer_losses",
    }
    found = full.rows("SELECT table_name FROM duckdb_columns() WHERE column_name = 'collection' "
                      "AND database_name = 'lake' AND NOT internal")  # fmt: skip
    assert {row["table_name"] for row in found} == {*TABLES, *made_then}


def test_a_renamed_collection_keeps_everything_and_its_files(full: Store, tmp_path: Path) -> None:
    before = everything(full, "easy")
    change = jobs.rename(full, "easy", "数据")
    assert (change.collection, change.renamed_to, change.examples) == ("easy", "数据", 40)
    assert not any(everything(full, "easy").values())
    after = everything(full, "数据")
    for rows in (*before["removals"], *after["removals"]):
        assert rows.pop("kept_collection") in ("easy", "数据")
    assert after == before
    assert jobs.ingest(full, str(tmp_path / "raw" / "easy.jsonl"), name="数据")[0].unchanged == 1
    assert [r.put_back for r in jobs.undo(full, "dedup")] == [1]  # by time travel, where it has the other name
    assert jobs.rename(full, undo=True).renamed_to == "easy"
    assert full.sql("FROM examples WHERE collection = 'easy'").num_rows == 41
    with pytest.raises(UsageError, match="nothing to take back"):
        jobs.rename(full, undo=True)


def test_a_removed_collection_comes_back_whole(full: Store, tmp_path: Path) -> None:
    before, digest = everything(full, "easy"), read.digest(full, Part("easy"))
    assert [(c.collection, c.examples) for c in jobs.remove(full, ["easy", "hard"])] == [("easy", 40), ("hard", 40)]
    assert not any(everything(full, "easy").values())
    assert jobs.status(full).removed == ["easy", "hard"]
    jobs.remove(full, undo=True)
    assert everything(full, "easy") == before
    assert read.digest(full, Part("easy")) == digest
    with pytest.raises(UsageError, match="nothing to bring back"):
        jobs.remove(full, undo=True)
    jobs.remove(full, "easy")
    assert jobs.ingest(full, str(tmp_path / "raw" / "easy.jsonl"))[0].counts.stored == 40
    with pytest.raises(UsageError, match="there is a collection 'easy' already; rename or remove that one first"):
        jobs.remove(full, undo=True)


@pytest.mark.parametrize("change", [lambda store: jobs.remove(store, "easy"),
                                    lambda store: jobs.rename(store, "easy", "other")])  # fmt: skip
def test_mixtures_that_pin_it_stay_whole_and_train(
    small_store: Store, tmp_path: Path, change: Callable[[Store], Any]
) -> None:
    mixture = jobs.create(small_store, "pinned", collections=["easy", "hard"])
    sliced = jobs.create(small_store, "sliced", where="collection = 'easy' AND length(query) > 20")
    texts = list(materialise(small_store, mixture.spec, tmp_path / "then").components["easy"].texts())
    change(small_store)
    found = jobs.verify(small_store)
    assert all("is no longer today's; version" in f.says and not f.fault for f in found.findings)
    assert len(found.findings) == 2
    now = materialise(small_store, mixture.spec, tmp_path / "now").components["easy"]
    assert list(now.texts()) == texts
    assert sum(materialise(small_store, sliced.spec, tmp_path / "now").sizes.values()) > 0


@pytest.mark.parametrize("call, says", [
    (lambda store: jobs.remove(store), "name the collections to remove, or give `undo` alone"),
    (lambda store: jobs.remove(store, "easi"), "no collection 'easi'; did you mean 'easy'"),
    (lambda store: jobs.rename(store, "easy"), "give the collection's name and its new one"),
    (lambda store: jobs.rename(store, "easy", "hard"), "there is a collection 'hard' already"),
    (lambda store: jobs.rename(store, "easy", "a:b"), "collection name 'a:b': use a letter or digit, then letters"),
])  # fmt: skip
def test_mistakes_change_nothing(small_store: Store, call: Callable[[Store], Any], says: str) -> None:
    before = read.names(small_store)
    with pytest.raises(UsageError, match=says):
        call(small_store)
    assert read.names(small_store) == before


@pytest.mark.parametrize("name", ["a:b", "my data/../x", "", "-x", "a[b=c]", "a=b"])
def test_names_that_break_the_rule_are_refused_and_old_ones_can_be_renamed(
    small_store: Store, tmp_path: Path, name: str
) -> None:
    file = str(tmp_path / "raw" / "easy.jsonl")
    with pytest.raises(UsageError, match=r"collection name .*: use a letter or digit, then letters, digits"):
        jobs.ingest(small_store, file, name=name)
    assert len(read.names(small_store)) == 3
    rename_collection(small_store, "easy", name)  # as older versions took it
    assert jobs.ingest(small_store, file, name=name)[0].unchanged == 1
    jobs.rename(small_store, name, "हिन्दी-2")
    assert "हिन्दी-2" in read.names(small_store)


def test_a_file_whose_name_cannot_be_a_collections_asks_for_one(small_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "my data (1).jsonl"
    file.write_bytes((tmp_path / "raw" / "easy.jsonl").read_bytes())
    with pytest.raises(UsageError, match=r"would be 'my data \(1\)', as the file or folder is called.*give `name`"):
        jobs.ingest(small_store, file)
    assert jobs.ingest(small_store, file, name="mine")[0].counts.stored == 40


def test_status_says_what_is_in_the_store_within_80_columns(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.create(full, "m")
    rename_collection(full, "hard", "a-name-that-is-much-longer-than-any-table-has-room-for")
    found = jobs.status(full)
    easy = next(c for c in found.collections if c.collection == "easy")
    assert (easy.examples, easy.with_negatives, easy.prompts, easy.files) == (40, 40, ("Find it",), 2)
    assert (easy.rejected, easy.taken_out, easy.languages) == (1, {"duplicate": 1}, {"unknown": 40})
    assert (found.mixtures, found.newest, found.runs, found.suites) == (1, ["m:1"], {}, {})
    assert found.disk["data"] > 1000
    monkeypatch.setenv("COLUMNS", "80")
    printed = CliRunner().invoke(app, ["--store", str(full.work), "status"]).stdout
    table, lines = printed.split("collections ")
    assert max(map(len, table.splitlines())) <= 80
    assert "a-name-that-is-much…" in table
    assert "3 with 120 examples from 4 files; 1 row refused" in lines
    body = json.loads(CliRunner().invoke(app, ["--store", str(full.work), "status", "--json"]).stdout)
    assert [c["collection"] for c in body["collections"]] == [c.collection for c in found.collections]


def test_commands_remove_and_bring_back(small_store: Store) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["--store", str(small_store.work), *words])

    assert json.loads(run("remove", "easy", "--json").stdout) == [{"collection": "easy", "removed": 40}]
    assert "easy; mixture remove --undo brings back" in run("status").stdout
    assert json.loads(run("remove", "--undo", "--json").stdout) == [{"collection": "easy", "back": 40}]
    assert json.loads(run("rename", "easy", "light", "--json").stdout)[0]["renamed_to"] == "light"
    assert run("rename", "--undo").exit_code == 0
    assert run("rename", "easy").exit_code == 2


def test_renamings_there_and_back_are_undone_one_by_one(small_store: Store) -> None:
    for old, new in (("easy", "other"), ("other", "easy"), ("easy", "other")):
        jobs.rename(small_store, old, new)
    assert [jobs.rename(small_store, undo=True).renamed_to for _ in range(3)] == ["easy", "other", "easy"]


def test_what_cannot_be_found_under_its_name_then_is_not_forgotten(full: Store) -> None:
    """Another collection had the name in between."""
    jobs.remove(full, "easy")
    jobs.rename(full, "hard", "easy")
    jobs.rename(full, "easy", "hard")
    jobs.remove(full, undo=True)
    before = everything(full, "easy")
    with pytest.raises(StoreError, match="1 removed examples of easy are in no older version of the store under the"):
        jobs.undo(full, "dedup")
    assert everything(full, "easy") == before
