"""A file that changed replaces what it gave: the collection equals one that is made afresh of the file as it is now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mixture import Store, UsageError, jobs, registry
from mixture.specs import Part
from mixture.store import read
from mixture.store.materialise import materialise

Row = dict[str, Any]
NUMBERS = count()


def row(query: int, positive: int = 0, negatives: Sequence[int] = (), prompt: str | None = None) -> Row:
    made: Row = {
        "query": f"query {query}",
        "pos": [f"answer {query} {positive}"],
        "neg": [f"wrong {n}" for n in negatives],
    }
    return made | ({"prompt": prompt} if prompt else {})


def write(file: Path, rows: Sequence[Row]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    return str(file)


def whole(store: Store, collection: str) -> dict[str, Any]:
    """All that a collection holds, but for its name and times."""
    tables = {
        "examples": "example_id, query, language, positives, simhash", "passages": "passage_id, title, text, simhash",
        "negatives": "example_id, passage_id, rank, score, miner", "collections": "prompts",
        "sources": "file, sha256, rows_read, rejected", "rejects": "file, line, reason",
        "file_examples": "place, turn, part, example_id, negatives",
    }  # fmt: skip
    found = {
        table: store.sql(f"SELECT {columns} FROM {table} WHERE collection = ? ORDER BY ALL", [collection]).to_pylist()
        for table, columns in tables.items()
    }
    return found | {"digest": read.digest(store, Part(collection))}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("givers") / "store", create=True) as made:
        yield made


rows = st.lists(
    st.builds(row, st.integers(0, 4), st.integers(0, 1), st.lists(st.integers(0, 4), max_size=3),
              st.sampled_from([None, "ask", "find"])), min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=5, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # each try takes long
@given(first=rows, second=rows, edits=st.lists(st.tuples(st.booleans(), rows), min_size=1, max_size=3))
def test_after_any_edits_a_collection_is_what_its_files_are(
    store: Store, tmp_path_factory: pytest.TempPathFactory, first: list[Row], second: list[Row],
    edits: list[tuple[bool, list[Row]]],
) -> None:  # fmt: skip
    """Rows come, go and change, in one of two files that may give the same rows with other negatives."""
    folder, number = tmp_path_factory.getbasetemp() / "edited", next(NUMBERS)
    files = [write(folder / f"{number}-{name}.jsonl", body) for name, body in (("a", first), ("b", second))]
    edited, fresh = f"edited{number}", f"fresh{number}"
    for file in files:
        jobs.ingest(store, file, name=edited)
    for to_second, body in edits:
        jobs.ingest(store, write(Path(files[to_second]), body), name=edited)
    for file in files:
        jobs.ingest(store, file, name=fresh)
    assert whole(store, edited) == whole(store, fresh)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as made:
        yield made


def test_what_went_is_recorded_and_what_comes_back_is_not(lake: Store, tmp_path: Path) -> None:
    before = [row(1, negatives=[1, 2]), row(2, negatives=[1]), row(3)]
    file = write(tmp_path / "c.jsonl", before)
    jobs.ingest(lake, file)
    write(tmp_path / "c.jsonl", [row(1, negatives=[2, 3]), row(2, positive=1, negatives=[1]), row(4)])
    (result,) = jobs.ingest(lake, file)
    assert (result.counts.stored, result.counts.repeated, result.counts.replaced) == (2, 1, 2)
    gone = lake.sql("SELECT query, reason FROM removals ORDER BY query").to_pylist()
    assert gone == [{"query": "query 2", "reason": "replaced"}, {"query": "query 3", "reason": "replaced"}]
    wrong = "SELECT text, rank FROM negatives JOIN passages USING (collection, passage_id) ORDER BY rank"
    assert [tuple(one.values()) for one in lake.sql(wrong).to_pylist()] == [
        ("wrong 1", 1),
        ("wrong 2", 1),
        ("wrong 3", 2),
    ]
    write(tmp_path / "c.jsonl", before)
    (result,) = jobs.ingest(lake, file)
    assert result.unchanged == 0, "this content is not what the store holds, though it was once"
    assert lake.sql("SELECT query FROM examples ORDER BY query")["query"].to_pylist() == [
        "query 1",
        "query 2",
        "query 3",
    ]
    assert lake.sql("SELECT query FROM removals ORDER BY query")["query"].to_pylist() == ["query 2", "query 4"]


def test_mined_negatives_of_rows_that_stay_stay(lake: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [row(n, negatives=[n]) for n in range(6)])
    jobs.ingest(lake, file)
    jobs.mine(lake, "c", per_query=2)
    mined = "SELECT example_id, passage_id, rank FROM negatives WHERE miner <> 'provided' AND example_id IN "
    stays = "(SELECT example_id FROM examples WHERE query IN ('query 0', 'query 1')) ORDER BY ALL"
    before = lake.sql(mined + stays).to_pylist()
    assert before
    jobs.ingest(lake, write(tmp_path / "c.jsonl", [row(0, negatives=[7]), row(1, negatives=[1]), row(9)]))
    assert lake.sql(mined + stays).to_pylist() == before
    lost = "SELECT count(*) AS n FROM negatives ANTI JOIN passages USING (collection, passage_id)"
    assert lake.sql(lost)["n"].to_pylist() == [0]


def test_append_keeps_both_and_a_later_change_replaces_both(lake: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [row(1), row(2)])
    jobs.ingest(lake, file)
    (result,) = jobs.ingest(lake, write(tmp_path / "c.jsonl", [row(2), row(3)]), append=True)
    assert (result.counts.stored, result.counts.replaced) == (1, 0)
    assert lake.sql("FROM examples").num_rows == 3
    (result,) = jobs.ingest(lake, write(tmp_path / "c.jsonl", [row(3), row(4)]))
    assert (result.counts.stored, result.counts.replaced) == (1, 2)


def test_what_dedup_took_out_stays_out_and_comes_back_as_the_file_has_it_now(lake: Store, tmp_path: Path) -> None:
    text = "the same long question about one thing and another, asked in so many words "
    twins = [{"query": text + end, "pos": ["the same long answer, given in so many words"], "neg": [f"wrong {end}"]}
             for end in ("a", "b", "c")]  # fmt: skip
    file = write(tmp_path / "c.jsonl", [*twins, row(1)])
    jobs.ingest(lake, file)
    assert [r.removed for r in jobs.dedup(lake)] == [2]
    kept, *gone = sorted(twins, key=lambda one: not lake.sql("FROM examples WHERE query = ?", [one["query"]]).num_rows)
    changed = gone[0] | {"neg": ["another wrong one"]}
    jobs.ingest(lake, write(tmp_path / "c.jsonl", [kept, changed, row(2)]))  # the other twin is gone from the file
    queries = lake.sql("SELECT query FROM examples ORDER BY query")["query"].to_pylist()
    assert queries == sorted([kept["query"], "query 2"])
    jobs.undo(lake, "dedup")
    fresh = tmp_path / "fresh"
    with Store.open(fresh, create=True) as other:
        jobs.ingest(other, file)
        wanted = whole(other, "c")
        passages = read.passages(other, "c").to_pylist()
    kept_for_undo = ("sources", "passages")  # those that only what was taken out used stay
    found = whole(lake, "c")
    assert {k: found[k] for k in wanted if k not in kept_for_undo} == {
        k: wanted[k] for k in wanted if k not in kept_for_undo
    }
    assert read.passages(lake, "c").to_pylist() == passages


def test_an_old_mixture_still_trains_on_what_it_pins(lake: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [row(n, negatives=[n]) for n in range(4)])
    jobs.ingest(lake, file)
    old = jobs.create(lake, "old")
    texts = set(materialise(lake, old.spec, tmp_path / "then").components["c"].texts())
    jobs.ingest(lake, write(tmp_path / "c.jsonl", [row(7)]))
    assert registry.pin(lake)["c"].digest != old.spec.components[0].digest
    assert set(materialise(lake, old.spec, tmp_path / "now").components["c"].texts()) == texts
    assert [f.fault for f in jobs.verify(lake).findings] == [False]


def test_the_same_file_from_elsewhere_is_the_same_and_a_moved_one_is_known(
    lake: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "c.jsonl", [row(1), row(2)])
    monkeypatch.chdir(tmp_path / "here")
    jobs.ingest(lake, "c.jsonl")
    jobs.ingest(lake, write(tmp_path / "here" / "c.jsonl", [row(2)]))  # in full
    assert lake.sql("SELECT query FROM examples")["query"].to_pylist() == ["query 2"]
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert jobs.ingest(lake, "c.jsonl")[0].unchanged == 1
    jobs.ingest(lake, write(tmp_path / "there" / "c.jsonl", [row(3)]))
    assert lake.sql("SELECT query FROM examples")["query"].to_pylist() == ["query 3"]


def forget(store: Store) -> None:
    """Make the store one of a version without links."""
    for statement in ("DELETE FROM file_examples", "UPDATE sources SET place = NULL, prompts = NULL"):
        store.connection.execute(statement)


def test_the_only_file_of_an_older_stores_collection_replaces_what_it_gave(lake: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [row(1, negatives=[1]), row(2)])
    jobs.ingest(lake, file)
    forget(lake)
    jobs.ingest(lake, write(tmp_path / "c.jsonl", [row(1, negatives=[2]), row(3)]))
    jobs.ingest(lake, file, name="fresh")
    ignored = ("file_examples", "sources")
    for_both = [{k: v for k, v in whole(lake, name).items() if k not in ignored} for name in ("c", "fresh")]
    assert for_both[0] == for_both[1]


def test_of_several_files_of_an_older_store_it_is_said_that_nobody_knows(lake: Store, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", [row(n), row(0)]) for n, name in ((1, "a"), (2, "b"))]
    jobs.ingest(lake, files, name="c")
    forget(lake)
    write(tmp_path / "a.jsonl", [row(3)])
    with pytest.raises(
        UsageError, match=r"a.jsonl has changed, and an older version .* give `append` .* or remove 'c'"
    ):
        jobs.ingest(lake, files[0], name="c")
    third = write(tmp_path / "d.jsonl", [row(1), row(4)])
    jobs.ingest(lake, third, name="c")
    jobs.ingest(lake, write(tmp_path / "d.jsonl", [row(5)]), name="c")  # its own rows go; row 1 was there before it
    assert lake.sql("SELECT query FROM examples ORDER BY 1")["query"].to_pylist() == [
        f"query {n}" for n in (0, 1, 2, 5)
    ]
    jobs.ingest(lake, files[0], name="c", append=True)
    assert lake.sql("FROM examples").num_rows == 5


def test_an_older_store_knows_its_file_from_another_folder_too(
    lake: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a store has the file as it was written, and the command ran elsewhere."""
    file = write(tmp_path / "here" / "c.jsonl", [row(1), row(2)])
    monkeypatch.chdir(tmp_path / "here")
    jobs.ingest(lake, "./c.jsonl")
    forget(lake)
    monkeypatch.chdir(tmp_path)
    (result,) = jobs.ingest(lake, write(tmp_path / "here" / "c.jsonl", [row(2)]))
    assert (file, result.counts.replaced) == (str(tmp_path / "here" / "c.jsonl"), 1)
    assert lake.sql("SELECT query FROM examples")["query"].to_pylist() == ["query 2"]


LONG = "the same long question about one thing and another, asked in so many words "
TWINS = [{"query": LONG + end, "pos": ["the same long answer"], "neg": ["wrong 1"]} for end in "ab"]
LOST = "SELECT count(*) AS n FROM negatives ANTI JOIN passages USING (collection, passage_id)"


def kept_and_gone(store: Store) -> list[Row]:
    """Of `TWINS`, what dedup leaves and what it takes out."""
    assert sum(r.removed for r in jobs.dedup(store, across=True)) == 1
    left = store.sql("SELECT query FROM examples")["query"].to_pylist()
    return sorted(TWINS, key=lambda one: one["query"] not in left)


def test_a_new_negative_of_what_dedup_took_out_has_its_passage_when_it_comes_back(lake: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [*TWINS, row(1, negatives=[7])])
    jobs.ingest(lake, file)
    kept, gone = kept_and_gone(lake)
    jobs.ingest(lake, write(tmp_path / "c.jsonl", [kept, gone | {"neg": ["wrong 7"]}]))
    jobs.undo(lake, "dedup")
    assert lake.sql(LOST)["n"].to_pylist() == [0]
    assert "wrong 7" in read.passages(lake, "c")["text"].to_pylist()


@pytest.mark.parametrize("others", ["c", "d"])
def test_a_copy_comes_back_when_the_file_takes_away_what_was_kept(
    lake: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, others: str
) -> None:
    """Also from another collection: each went only because the other was there."""
    files = [write(tmp_path / f"{n}.jsonl", [twin, row(n)]) for n, twin in enumerate(TWINS)]
    for file, name in zip(files, ("c", others), strict=True):
        jobs.ingest(lake, file, name=name)
    kept, gone = kept_and_gone(lake)
    place = TWINS.index(kept)
    jobs.ingest(lake, write(Path(files[place]), [row(place)]), name=("c", others)[place])
    found = lake.sql("SELECT query, len(positives) AS n FROM examples WHERE query NOT LIKE 'query%'").to_pylist()
    assert found == [{"query": gone["query"], "n": 1}]
    assert lake.sql("FROM negatives").num_rows == 1
    assert lake.sql("SELECT reason FROM removals WHERE query LIKE 'the same%'")["reason"].to_pylist() == ["replaced"]
    assert "1 example that dedup took out as a copy of a row that is gone now is back; run dedup again" in caplog.text


def test_an_undo_says_when_no_file_gives_what_went(lake: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [*TWINS, row(1)])
    jobs.ingest(lake, file)
    kept, _ = kept_and_gone(lake)
    jobs.ingest(lake, write(tmp_path / "c.jsonl", [kept, row(1)]))
    with pytest.raises(UsageError, match="nothing to put back: no file gives what the newest one took out any more"):
        jobs.undo(lake, "dedup")


def test_a_content_that_comes_back_after_a_broken_one_has_its_own_rejects(lake: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [row(1), {"a": 1}])
    whole_text = Path(file).read_text("utf-8")
    jobs.ingest(lake, file)
    Path(file).write_text("broken\n" * 3, "utf-8")
    with pytest.raises(jobs.NothingStored):
        jobs.ingest(lake, file)
    Path(file).write_text(whole_text, "utf-8")
    (result,) = jobs.ingest(lake, file)
    assert (result.counts.stored, result.counts.repeated, result.counts.replaced) == (0, 1, 0)
    assert lake.sql("SELECT line FROM rejects")["line"].to_pylist() == [2]


def test_parts_of_one_folder_or_of_rows_in_memory_do_not_replace_each_other(lake: Store, tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    write(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": f"text {n}"} for n in range(4)])
    write(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(4)])
    for part, numbers in (("train", (0, 1)), ("dev", (2, 3))):
        lines = [f"q{n}\td{n}\t1\n" for n in numbers]
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{part}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), "utf-8")
    for part, stored, unchanged in ((None, 2, 0), ("dev", 2, 0), ("train", 0, 1), ("validation", 0, 1)):
        (result,) = jobs.ingest(lake, str(folder), name="c", split=part)
        assert (result.counts.stored, result.counts.replaced, result.unchanged) == (stored, 0, unchanged)
    assert lake.sql("FROM examples").num_rows == 4
    (tmp_path / "copy").mkdir()
    folder.rename(tmp_path / "moved")
    assert jobs.ingest(lake, str(tmp_path / "moved"), name="c", split="dev")[0].unchanged == 1
    datasets = pytest.importorskip("datasets")
    parts = datasets.DatasetDict({n: datasets.Dataset.from_list([{"query": n, "positive": n * 2}])
                                  for n in ("train", "test")})  # fmt: skip
    for part in (None, "test"):
        assert jobs.ingest(lake, parts, name="m", split=part)[0].counts.replaced == 0
    assert lake.sql("FROM examples WHERE collection = 'm'").num_rows == 2
