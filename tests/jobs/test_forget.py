"""Data is withdrawn: the report, the rows out for good, mixtures refused and made anew, one step back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixture import Store, jobs, registry
from mixture.errors import ForgottenRows, UsageError
from mixture.registry.verify import verify
from mixture.specs import Part
from mixture.store import forgotten, layout, read
from mixture.store.materialise import materialise, with_content

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mixed(small_store: Store) -> Store:
    """The small store with a mixture `base` of whole collections, and `parts` of two slices of easy."""
    jobs.create(small_store, "base", weights={"easy": 5, "middle": 3, "hard": 2})
    jobs.create(small_store, "parts", where=["collection = 'easy' AND query < 'l'"])
    return small_store


def ids(store: Store, condition: str) -> list[tuple[str, str]]:
    rows = store.rows(f"SELECT collection, example_id FROM examples WHERE {condition} ORDER BY ALL")
    return [(row["collection"], row["example_id"]) for row in rows]


def everything(store: Store) -> dict[str, Any]:
    """All that belongs to collections, and their digests."""
    tables = ("examples", "passages", "negatives", "file_examples", "answers", "positive_scores", "removals")
    found: dict[str, Any] = {
        table: sorted(json.dumps(row, default=str) for row in store.rows(f"FROM {table}")) for table in tables
    }
    return found | {name: read.digest(store, Part(name)) for name in sorted(read.names(store))}


def test_a_report_changes_nothing_and_says_what_holds_the_rows(mixed: Store) -> None:
    before = mixed.snapshot()
    chosen = ids(mixed, "collection = 'easy' AND query < 'd'")
    found = jobs.forget(mixed, where="collection = 'easy' AND query < 'd'")
    assert 0 < len(chosen) < 40
    assert [(one.collection, one.examples, one.rows, one.out) for one in found.collections] == [
        ("easy", 40, len(chosen), 0)
    ]
    (part,) = registry.resolve(mixed, "parts").spec.weights
    assert {one.mixture: one.held for one in found.mixtures} == {
        "base:1": {"easy": len(chosen)},
        "parts:1": {part: len(chosen)},
    }
    assert (found.done, found.deleted, mixed.snapshot()) == ("nothing", (), before)


@pytest.mark.parametrize("kind", ["collection", "slice", "file", "where"])
def test_rows_are_named_in_four_ways(mixed: Store, kind: str, tmp_path: Path) -> None:
    chosen = ids(mixed, "collection = 'easy'" + ("" if kind == "collection" else " AND query < 'l'"))
    file = tmp_path / "gone.csv"
    file.write_text("collection,example_id\n" + "".join(f"{name},{id}\n" for name, id in chosen))
    (name,) = registry.resolve(mixed, "parts").spec.weights
    what = {"collection": "easy", "slice": name, "file": str(file), "where": None}[kind]
    where = "collection = 'easy' AND query < 'l'" if kind == "where" else None
    found = jobs.forget(mixed, what, where=where)
    assert [tuple(row.values()) for row in found.example_ids.to_pylist()] == chosen


def test_forgotten_rows_are_out_and_no_file_brings_them_back(mixed: Store, tmp_path: Path) -> None:
    gone = ids(mixed, "collection = 'easy' AND query < 'd'")
    negatives = len(mixed.rows("FROM negatives WHERE collection = 'easy'"))
    jobs.forget(mixed, where="collection = 'easy' AND query < 'd'", apply=True, reason="licence withdrawn")
    assert not set(gone) & set(ids(mixed, "true"))
    assert len(mixed.rows("FROM negatives WHERE collection = 'easy'")) == negatives - 4 * len(gone)
    rows = mixed.sql("SELECT reason, note, count(*) AS n, min(length(query)) AS least FROM removals GROUP BY ALL")
    assert [{**row, "least": row["least"] > 0} for row in rows.to_pylist()] == [
        {"reason": "forgotten", "note": "licence withdrawn", "n": len(gone), "least": True}
    ]
    jobs.ingest(mixed, sorted((tmp_path / "raw").glob("*.jsonl")))
    copy = shutil.copy(tmp_path / "raw" / "easy.jsonl", tmp_path / "easy.jsonl")
    jobs.ingest(mixed, copy)
    assert not set(gone) & set(ids(mixed, "true"))
    # Nor does a collection that goes and comes again.
    jobs.remove(mixed, "easy")
    jobs.ingest(mixed, copy)
    assert not set(gone) & set(ids(mixed, "true"))
    assert len(ids(mixed, "collection = 'easy'")) == 40 - len(gone)


def refusals(store: Store, folder: Path, ref: str) -> dict[str, Callable[[], object]]:
    spec = registry.resolve(store, ref).spec
    return {
        "materialise": lambda: materialise(store, spec),
        "export": lambda: jobs.export(store, ref, materialised=folder / "a"),
        "batches": lambda: jobs.export(store, ref, batches=2, out=folder / "b.jsonl"),
        "hf": lambda: jobs.export(store, ref, hf_dataset=folder / "c"),
        "tevatron": lambda: jobs.export(store, ref, tevatron=folder / "d"),
        "flagembedding": lambda: jobs.export(store, ref, flagembedding=folder / "e"),
    }


@pytest.mark.parametrize("read_before", [True, False])
def test_what_reads_a_mixture_of_forgotten_rows_is_refused_until_the_undo(
    mixed: Store, tmp_path: Path, read_before: bool
) -> None:
    if read_before:
        for ref in ("base", "parts"):
            materialise(mixed, registry.resolve(mixed, ref).spec)
    before, old = everything(mixed), materialise(mixed, registry.resolve(mixed, "base").spec)
    passages = [old.components["easy"].passage(n) for n in range(old.components["easy"].num_passages)]
    if not read_before:
        shutil.rmtree(layout.materialised(mixed.work))
    n = len(ids(mixed, "collection = 'easy' AND query < 'd'"))
    done = jobs.forget(mixed, where="collection = 'easy' AND query < 'd'", apply=True)
    assert bool(done.deleted) == read_before
    for ref, name in (("base", "easy"), ("parts", next(iter(registry.resolve(mixed, "parts").spec.weights)))):
        for what, work in refusals(mixed, tmp_path / ref, ref).items():
            with pytest.raises(ForgottenRows) as refused:
                work()
            assert refused.value.held == {name: n}, what
            assert refused.value.mixture == registry.resolve(mixed, ref).spec.id
    # What does not read contents goes on, and says it.
    assert registry.describe(mixed, registry.resolve(mixed, "base"))["forgotten"] == {"easy": n}
    assert {row["reference"]: row["forgotten"] for row in registry.listing(mixed)} == {"base:1": n, "parts:1": n}
    assert jobs.log(mixed, "base").forgotten == n
    assert any(f"base:1 holds {n} forgotten rows" in line for line in jobs.diff(mixed, "base", "parts").lines())
    report = jobs.report(mixed, "base", tmp_path / "report.html")
    assert f"It holds {n} rows that were forgotten (easy)" in report.file.read_text("utf-8")
    assert verify(mixed).faults == []

    back = jobs.forget(mixed, undo=True)
    assert [(one.collection, one.rows) for one in back.collections] == [("easy", n)]
    assert everything(mixed) == before
    again = materialise(mixed, registry.resolve(mixed, "base").spec)
    assert [again.components["easy"].passage(n) for n in range(again.components["easy"].num_passages)] == passages
    assert registry.describe(mixed, registry.resolve(mixed, "base"))["forgotten"] == {}
    with pytest.raises(UsageError, match="nothing to put back"):
        jobs.forget(mixed, undo=True)


def test_a_mixture_made_anew_has_the_same_weights_without_the_rows(mixed: Store) -> None:
    gone = set(ids(mixed, "collection = 'easy' AND query < 'd'"))
    (name,) = registry.resolve(mixed, "parts").spec.weights
    both = jobs.create(mixed, "both", source="base", fixed={"easy": 0.1, "hard": 0.5})
    jobs.forget(mixed, where="collection = 'easy' AND query < 'd'", apply=True)
    anew = jobs.create(mixed, "anew", source="both", refresh=True)
    assert anew.spec.weights == both.spec.weights
    assert anew.parents == (both.spec.id,)
    slices = jobs.create(mixed, "parts", source="parts", refresh=True)
    assert (slices.reference, list(slices.spec.weights)) == ("parts:2", [name])
    for made in (anew, slices):
        data = materialise(mixed, made.spec)
        held = {id for part in data.components.values() for id in part.example_ids().to_pylist()}
        assert held and not held & {id for _, id in gone}
    (part,) = slices.spec.components
    kept = mixed.rows("SELECT example_id FROM selected_examples WHERE selection = ?", [part.selection])
    assert kept and not {row["example_id"] for row in kept} & {id for _, id in gone}
    # Unchanged collections have the content that they had.
    assert {c.name: c.digest for c in anew.spec.components if c.name != "easy"} == {
        c.name: c.digest for c in both.spec.components if c.name != "easy"
    }
    assert jobs.create(mixed, "anew", source="anew", refresh=True).reference == "anew:1"


def test_a_component_of_which_nothing_is_left_is_left_out(mixed: Store) -> None:
    jobs.forget(mixed, "easy", apply=True)
    anew = jobs.create(mixed, "anew", source="base", refresh=True)
    assert anew.spec.weights == {"middle": pytest.approx(0.6), "hard": pytest.approx(0.4)}
    assert "left out, since no example of it is left: easy" in anew.remarks
    with pytest.raises(UsageError, match="no collection of parts:1 with a weight has examples today"):
        jobs.create(mixed, "none", source="parts", refresh=True)


def test_a_renamed_collection_is_followed_and_keeps_what_is_forgotten(mixed: Store) -> None:
    before, n = everything(mixed), len(ids(mixed, "collection = 'easy' AND query < 'd'"))
    jobs.rename(mixed, "easy", "simple")
    found = jobs.forget(mixed, where="collection = 'simple' AND query < 'd'", apply=True)
    assert {one.mixture: sum(one.held.values()) for one in found.mixtures} == {"base:1": n, "parts:1": n}
    with pytest.raises(ForgottenRows):
        materialise(mixed, registry.resolve(mixed, "base").spec)
    anew = jobs.create(mixed, "anew", source="base", refresh=True)
    assert sorted(anew.spec.weights) == ["hard", "middle", "simple"]
    materialise(mixed, anew.spec)
    jobs.forget(mixed, undo=True)
    jobs.rename(mixed, undo=True)
    assert everything(mixed) == before


def test_rows_that_another_reason_took_out_are_forgotten_too(mixed: Store, tmp_path: Path) -> None:
    materialise(mixed, registry.resolve(mixed, "base").spec)
    before = everything(mixed)
    tests = tmp_path / "tests.txt"
    (query,) = (
        row["query"] for row in mixed.rows("SELECT min(query) AS query FROM examples WHERE collection = 'easy'")
    )
    tests.write_text(query + "\n")
    jobs.decontaminate(mixed, tests, distance=0)
    out = mixed.rows("SELECT example_id FROM removals")
    found = jobs.forget(mixed, "easy", apply=True)
    assert [(one.examples, one.rows, one.out) for one in found.collections] == [(39, 39, 1)]
    assert {one.mixture: sum(one.held.values()) for one in found.mixtures}["base:1"] == 40
    # A later undo of the other command does not bring it back; that of this one leaves it where it was.
    with pytest.raises(UsageError, match="nothing to put back"):
        jobs.undo(mixed, "decontaminate")
    assert len(ids(mixed, "collection = 'easy'")) == 0
    jobs.forget(mixed, undo=True)
    assert len(ids(mixed, "collection = 'easy'")) == 39
    assert mixed.rows("SELECT example_id FROM removals") == out
    jobs.undo(mixed, "decontaminate")
    assert everything(mixed) == before


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_what_only_an_older_content_has_goes_with_a_whole_collection(
    mixed: Store, write_collection: Any, tmp_path: Path, how: str
) -> None:
    jobs.ingest(mixed, tmp_path / "raw" / "easy.jsonl")  # from here on it is known to be there
    if how == "removed":
        jobs.remove(mixed, "easy")
    write_collection(tmp_path / "raw", "easy", rows=40, seed=9)  # none of the rows before
    jobs.ingest(mixed, tmp_path / "raw" / "easy.jsonl")
    found = jobs.forget(mixed, "easy", apply=True)
    assert [(one.rows, one.out) for one in found.collections] == [(40, 40)]
    with pytest.raises(ForgottenRows, match=r"holds 40 forgotten rows: easy \(40\)"):
        materialise(mixed, registry.resolve(mixed, "base").spec)


def test_a_mixture_saved_while_rows_were_forgotten_is_refused_when_it_is_read(mixed: Store) -> None:
    pins = registry.pin_all(mixed)  # as a command that began before
    spec = registry.weighted(pins.components, {"easy": 0.9, "hard": 0.1})
    mixed.transaction(lambda c: c.execute("DELETE FROM mixture_weights"))  # nothing known of it, or of its contents
    n = len(ids(mixed, "collection = 'easy' AND query < 'd'"))
    assert jobs.forget(mixed, where="collection = 'easy' AND query < 'd'", apply=True).mixtures == ()
    late = registry.save(mixed, spec, "late", pins=pins)
    with pytest.raises(ForgottenRows) as refused:
        materialise(mixed, late.spec)
    assert (refused.value.mixture, refused.value.held) == (late.spec.id, {"easy": n})
    easy = next(c for c in late.spec.components if c.name == "easy")
    with pytest.raises(ForgottenRows):
        with_content(mixed, easy, lambda held: None)
    materialise(mixed, late.spec, mixed.work / "looked-at", although_forgotten=True)


def test_equal_rows_of_another_collection_are_named_and_stay(mixed: Store, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "raw" / "easy.jsonl").read_text().splitlines()]
    twins = [{"query": rows[0]["query"], "pos": ["another answer"]},
             {"query": "another question", "pos": rows[1]["pos"], "neg": rows[2]["pos"]}]  # fmt: skip
    (tmp_path / "twins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in twins))
    jobs.ingest(mixed, tmp_path / "twins.jsonl")
    jobs.create(mixed, "of-twins", collections="twins")
    found = jobs.forget(mixed, "easy")
    assert [vars(one) for one in found.copies] == [
        {"collection": "twins", "same_query": 1, "same_positive": 1, "as_negative": 1}
    ]
    jobs.forget(mixed, "easy", apply=True)
    assert len(ids(mixed, "collection = 'twins'")) == 2
    materialise(mixed, registry.resolve(mixed, "of-twins").spec)


def test_equal_contents_of_two_collections_are_told_apart(small_store: Store, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "raw" / "easy.jsonl", tmp_path / "same.jsonl")
    jobs.ingest(small_store, tmp_path / "same.jsonl")
    for name in ("easy", "same"):
        jobs.create(small_store, f"of-{name}", collections=name)
    jobs.forget(small_store, "easy", apply=True)
    materialise(small_store, registry.resolve(small_store, "of-same").spec)
    with pytest.raises(ForgottenRows):
        materialise(small_store, registry.resolve(small_store, "of-easy").spec)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"what": "eazy"}, "no collection, slice or file 'eazy'; did you mean 'easy'"),
        ({}, "say which rows"),
        ({"what": "easy", "where": "true"}, "say which rows"),
        ({"where": "nothing = 1"}, 'nothing'),
        ({"what": "easy", "undo": True}, "it goes alone"),
        ({"what": "easy", "reason": "licence"}, "`reason` goes with `apply`"),
        ({"undo": True}, "no row was forgotten"),
    ],
)  # fmt: skip
def test_mistakes(mixed: Store, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        jobs.forget(mixed, **given)


def test_an_id_that_the_store_never_had_and_rows_that_are_forgotten_already(mixed: Store, tmp_path: Path) -> None:
    file = tmp_path / "gone.json"
    file.write_text(json.dumps([{"collection": "easy", "example_id": "0" * 20}]))
    with pytest.raises(UsageError, match="1 of 1 examples are not in the store and were never taken out of it"):
        jobs.forget(mixed, file.as_posix())
    jobs.forget(mixed, "easy", apply=True)
    with pytest.raises(UsageError, match="there is nothing to forget: all these rows are forgotten already"):
        jobs.forget(mixed, "easy", apply=True)


def test_an_undo_waits_for_its_collection(mixed: Store) -> None:
    jobs.forget(mixed, where="collection = 'easy' AND query < 'd'", apply=True)
    jobs.remove(mixed, "easy")
    with pytest.raises(UsageError, match="easy were forgotten, which is no collection of the store any more"):
        jobs.forget(mixed, undo=True)
    jobs.remove(mixed, undo=True)
    jobs.forget(mixed, undo=True)
    assert len(ids(mixed, "collection = 'easy'")) == 40


def test_only_the_newest_of_two_is_taken_back(mixed: Store) -> None:
    n = len(ids(mixed, "collection = 'easy' AND query < 'd'"))
    jobs.forget(mixed, where="collection = 'easy' AND query < 'd'", apply=True)
    jobs.forget(mixed, "easy", apply=True)
    assert registry.describe(mixed, registry.resolve(mixed, "base"))["forgotten"] == {"easy": 40}
    jobs.forget(mixed, undo=True)
    assert len(ids(mixed, "collection = 'easy'")) == 40 - n
    assert registry.describe(mixed, registry.resolve(mixed, "base"))["forgotten"] == {"easy": n}


def test_gc_frees_what_a_kill_left_of_forgotten_rows(mixed: Store) -> None:
    spec = registry.resolve(mixed, "base").spec
    materialise(mixed, spec)
    whole = layout.component(
        layout.materialised(mixed.work), next(c.digest for c in spec.components if c.name == "easy")
    )
    shutil.copytree(whole, mixed.work / "aside")
    jobs.forget(mixed, "easy", apply=True)
    shutil.move(mixed.work / "aside", whole)
    with pytest.raises(ForgottenRows):  # by its digest, whatever lies there
        materialise(mixed, spec)
    assert "a content with rows that are forgotten" in [thing.why for thing in jobs.gc(mixed)]
    assert not whole.exists()


def test_nothing_forgotten_costs_one_small_query(mixed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = Store.read
    monkeypatch.setattr(
        Store, "read", lambda self, query, params=None: asked.append(query) or real(self, query, params)
    )
    forgotten.refuse(mixed, registry.resolve(mixed, "base").spec)
    assert len([query for query in asked if "forgotten_contents" in query]) == 1
    del asked[:]
    assert forgotten.by_mixture(mixed) == {}
    assert len(asked) == 1


# Kills itself before a statement of its transactions.
KILLED = (ROOT / "tests" / "cluster" / "watched.py").read_text("utf-8")


def _run(store: Path, at: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(at), "/nowhere", "--store", str(store), "forget", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.folder
@pytest.mark.parametrize("words", [("easy", "--apply"), ("--undo",)], ids=["apply", "undo"])
def test_a_kill_leaves_all_of_it_or_nothing(mixed: Store, tmp_path: Path, words: tuple[str, ...]) -> None:
    if words == ("--undo",):
        jobs.forget(mixed, "easy", apply=True)
    before = everything(mixed) | {"contents": forgotten.counts(mixed)}
    folder = mixed.work
    mixed.close()

    def copied(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    whole = _run(copied("whole"), 0, *words)
    assert whole.returncode == 0, whole.stderr
    with Store.open(tmp_path / "whole") as store:
        after = everything(store) | {"contents": forgotten.counts(store)}
    statements = int(whole.stderr.rpartition("statements: ")[2])
    assert statements > 4
    assert after["easy"] != before["easy"]
    for at in sorted({2, statements // 2, statements - 1, statements}):
        place = copied(f"at-{at}")
        assert _run(place, at, *words).returncode == -9
        with Store.open(place) as store:
            held = everything(store) | {"contents": forgotten.counts(store)}
            without_clock = [
                {name: value for name, value in one.items() if name != "removals"} for one in (held, before)
            ]
            assert without_clock[0] == without_clock[1]
            assert len(held["removals"]) == len(before["removals"])
        assert _run(place, 0, *words).returncode == 0
        with Store.open(place) as store:
            done = everything(store) | {"contents": forgotten.counts(store)}
            assert {name: done[name] for name in done if name != "removals"} == {
                name: after[name] for name in after if name != "removals"
            }
