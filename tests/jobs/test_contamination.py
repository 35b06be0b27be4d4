"""Rows of registered test suites are known again, whatever way they come in."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixture import Store, jobs, registry
from mixture.errors import UsageError
from mixture.jobs import contamination
from mixture.registry.gc import gc
from mixture.store import layout
from mixture.store.materialise import materialise

PASSAGE = (
    "The lighthouse on the northern cape was built of granite in 1868 and burned whale oil until the keepers were "
    "given an electric lamp, which can be seen from forty kilometres out at sea on a clear night in winter. "
)
TEST = "how do I reset the password of my account"
TYPO = "How do I reset the pasword of my account?"  # a test query to decontaminate, a twin to dedup
OWN = [("where can I see the invoices of last year", "Under billing."), ("how is the keyboard cleaned", "With air.")]


def write(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"query": q, "pos": [p], "neg": ["something else"]}) + "\n" for q, p in rows))
    return file


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite called desk, with one query and one passage that is judged relevant."""
    folder = tmp_path / "eval" / "desk"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d1", "title": "", "text": PASSAGE}) + "\n")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": TEST}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s", create=True) as lake:
        yield lake


@pytest.fixture
def faq(store: Store, tmp_path: Path) -> Path:
    """A collection of two rows of its own and two of the suite desk, by a query and by a passage."""
    rows = [*OWN, (TYPO, "By the link."), ("who built it, and of what?", PASSAGE)]
    file = write(tmp_path, "faq", rows)
    jobs.ingest(store, file)
    return file


def refused(store: Store, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        jobs.create(store, "refused")
    assert registry.listing(store) == []


def test_an_undo_of_dedup_brings_test_rows_back_and_says_so(
    store: Store, suite: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.ingest(store, write(tmp_path, "helpdesk", [*OWN, (TEST, "By the link."), (TYPO, "By the link.")]))
    jobs.dedup(store)
    (found,) = jobs.decontaminate(store, suite)
    assert (found.removed, jobs.matches(store)) == (1, {})
    jobs.create(store, "clean")
    assert caplog.text == ""
    jobs.undo(store, "dedup")
    assert jobs.matches(store) == {"helpdesk": {"desk": 1}}
    assert (
        "1 row of helpdesk matches the registered suite desk; take them out with `mixture decontaminate`" in caplog.text
    )
    with pytest.raises(UsageError, match=r"1 row of helpdesk matches the registered suite desk\. Take it out with"):
        jobs.create(store, "dirty")
    jobs.decontaminate(store)
    assert jobs.create(store, "clean-again").spec.id == registry.resolve(store, "clean").spec.id


def test_a_file_under_another_name_brings_test_rows_back_and_says_so(
    store: Store, suite: Path, faq: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.decontaminate(store, suite)
    jobs.ingest(store, faq, name="copy")
    assert jobs.matches(store) == {"copy": {"desk": 2}}
    assert [record.getMessage() for record in caplog.records] == [
        "2 rows of copy match the registered suite desk; take them out with `mixture decontaminate`"
    ]
    refused(store, "test data in the mixture: 2 rows of copy match the registered suite desk")
    assert jobs.create(store, "faq-alone", collections="faq").version == 1


def test_an_edited_file_or_a_new_one_brings_test_rows_back_and_says_so(
    store: Store, suite: Path, faq: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another answer makes the removed row another row, which the collection does not know as removed."""
    jobs.decontaminate(store, suite)
    jobs.ingest(store, faq)
    assert caplog.text == ""  # what was taken out is not ingested again
    write(tmp_path, "faq", [*OWN, (TYPO, "By the link, which you find below the form.")])
    jobs.ingest(store, faq)
    assert "1 row of faq matches the registered suite desk" in caplog.text
    jobs.ingest(store, write(tmp_path, "fresh", [(f"Please, {TYPO.lower()}", f"As it says: {PASSAGE}")]))
    assert jobs.matches(store) == {"faq": {"desk": 1}, "fresh": {"desk": 1}}
    refused(store, "1 row of faq matches .* desk; 1 row of fresh matches .* desk")
    assert sum(r.removed for r in jobs.decontaminate(store)) == 2
    assert jobs.matches(store) == {}


def test_who_asks_for_it_gets_a_mixture_with_test_data(store: Store, suite: Path, faq: Path) -> None:
    jobs.decontaminate(store, suite)
    jobs.undo(store, "decontaminate")
    refused(store, "allow_contaminated")
    dirty = jobs.create(store, "dirty", allow_contaminated=True)
    assert dirty.remarks[0].startswith("test data: ")
    with pytest.raises(UsageError, match="test data in the mixture"):
        jobs.create(store, "dirtier", source=dirty, blend=(dirty, 0.5))
    assert jobs.create(store, "dirtier", source=dirty, blend=(dirty, 0.5), allow_contaminated=True).version == 1


def test_what_a_mixture_pins_of_an_older_version_is_looked_at_too(store: Store, suite: Path, faq: Path) -> None:
    """Made before the rows were taken out and the collection got another name, and never written out."""
    old = jobs.create(store, "old")
    sliced = jobs.create(store, "sliced", where="length(query) > 0")
    jobs.decontaminate(store, suite)
    jobs.rename(store, "faq", "questions")
    assert contamination.matches_of(store, old.spec.components) == {"faq": {"desk": 2}}
    assert list(contamination.matches_of(store, sliced.spec.components).values()) == [{"desk": 2}]
    with pytest.raises(UsageError, match="test data in the mixture: 2 rows of faq"):
        jobs.create(store, "new", source=old, blend=(old, 0.5))


def test_a_slice_is_refused_for_its_own_rows_alone(store: Store, suite: Path, faq: Path) -> None:
    jobs.decontaminate(store, suite)
    jobs.undo(store, "decontaminate")
    clean = jobs.create(store, "clean", where="query LIKE '%invoices%'")
    assert len(clean.spec.components) == 1
    with pytest.raises(UsageError, match=r"1 row of faq\[.*\] matches the registered suite desk"):
        jobs.create(store, "dirty", where="query LIKE '%account%'")


def test_training_warns_of_what_the_mixture_pins(
    store: Store, suite: Path, faq: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its content is an older one, of which only the materialised files are left, and no suite was registered then."""
    import trainers

    old = jobs.create(store, "old")
    materialise(store, old.spec)
    jobs.decontaminate(store, suite)
    assert jobs.matches(store) == {}
    assert contamination.matches_of(store, old.spec.components) == {"faq": {"desk": 2}}
    settings = trainers.FinetuneSettings(steps=1, batch_size=2, bf16=False)
    trainers.train(store, old, "tiny-qwen2", out=tmp_path / "model", settings=settings)
    assert "2 rows of faq match the registered suite desk" in caplog.text
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "| desk | 1 of 1 | 1 of 1 | 0 | 2 | faq 0 / 2 | 16, 0.5 |" in card
    folder = tmp_path / "folder"
    jobs.export(store, old, materialised=folder)
    trainers.train_on_folder(folder, "tiny-qwen2", out=tmp_path / "other", settings=settings)
    card = (tmp_path / "other" / "README.md").read_text("utf-8")
    assert f"No test suite was looked for in its training data. `mixture show {old.spec.id} --contamination" in card
    caplog.clear()
    learning = trainers.LearningSettings(steps=1, batch_size=2, bf16=False)
    trainers.learn_weights(store, old, proxy="tiny-qwen2", settings=learning)
    assert "2 rows of faq match the registered suite desk" in caplog.text


def test_counts_are_kept_until_rows_or_suites_change(
    store: Store, suite: Path, faq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.decontaminate(store, suite)
    jobs.undo(store, "decontaminate")
    counted = []
    real = contamination._hits
    monkeypatch.setattr(contamination, "_hits", lambda *given: counted.append(given[1]) or real(*given))
    for _ in range(2):
        assert jobs.matches(store) == {"faq": {"desk": 2}}
    jobs.create(store, "dirty", allow_contaminated=True)
    assert counted == []  # the undo has counted
    jobs.decontaminate(store, "desk", distance=0)  # the typo is no test query any more
    assert jobs.matches(store) == {}
    jobs.undo(store, "decontaminate")
    assert jobs.matches(store) == {"faq": {"desk": 1}}
    assert set(counted) == {"faq"}
    assert len(layout.counted_matches(store.work)) == 2
    assert [thing.why for thing in gc(store)] == ["counts of rows that match other test suites than today's"]
    (file,) = layout.counted_matches(store.work)
    assert json.loads(file.read_text())
    file.write_text("damaged")
    assert jobs.matches(store) == {"faq": {"desk": 1}}
    shutil.rmtree(layout.matches(store.work, "x").parent)
    assert jobs.matches(store) == {"faq": {"desk": 1}}


def test_a_suite_keeps_its_rule_and_can_be_forgotten(store: Store, suite: Path, faq: Path) -> None:
    def removed(**options: Any) -> dict[str, int]:
        (found,) = jobs.decontaminate(store, dry_run=True, **options)
        return {reason: found.count(reason) for reason in ("test query", "test passage")}

    assert removed(against=suite) == {"test query": 1, "test passage": 1}
    with pytest.raises(UsageError, match="no test suite is registered yet; `against` takes files"):
        jobs.decontaminate(store)  # a dry run registers nothing
    jobs.decontaminate(store, suite, passages=False)
    jobs.undo(store, "decontaminate")
    assert removed() == {"test query": 1, "test passage": 0}
    assert removed(passages=True) == {"test query": 1, "test passage": 1}
    assert removed(distance=0) == {"test query": 0, "test passage": 0}
    assert jobs.matches(store) == {"faq": {"desk": 1}}  # dry runs change no rule
    rule = store.rows("SELECT suite, distance, passage_overlap FROM test_suites")
    assert rule == [{"suite": "desk", "distance": 16, "passage_overlap": None}]
    with pytest.raises(UsageError, match="no test suite 'dsk'; did you mean 'desk'"):
        jobs.forget(store, "dsk")
    assert jobs.forget(store, "desk") == ["desk"]
    assert [store.rows(f"FROM {table}") for table in ("test_suites", "test_queries", "test_passages")] == [[]] * 3
    assert jobs.matches(store) == {}
    assert jobs.create(store, "fine").version == 1


def test_the_share_of_a_test_passage_can_be_set(store: Store, suite: Path, tmp_path: Path) -> None:
    half = PASSAGE[: int(0.7 * len(PASSAGE))]
    jobs.ingest(store, write(tmp_path, "c", [("who built it?", half), ("and of what?", PASSAGE)]))
    found = {
        overlap: jobs.decontaminate(store, suite, passage_overlap=overlap, dry_run=True)[0].removed
        for overlap in (0.5, 0.9, 1)
    }
    assert found == {0.5: 2, 0.9: 1, 1: 1}
    for wrong in (0, 1.5, -1, True):
        with pytest.raises(UsageError, match=r"`passage_overlap` is .*; allowed: numbers above 0, at most 1"):
            jobs.decontaminate(store, suite, passage_overlap=wrong)
    with pytest.raises(UsageError, match="`distance` is 65; allowed: whole numbers from 0 to 64"):
        jobs.decontaminate(store, suite, distance=65)
    with pytest.raises(UsageError, match="leave one of the two away"):
        jobs.decontaminate(store, suite, passages=False, passage_overlap=0.5)
    assert store.rows("FROM test_suites") == []  # nothing is registered by a call that is refused


def test_two_suites_count_a_row_once_for_the_nearer(store: Store, suite: Path, faq: Path, tmp_path: Path) -> None:
    (tmp_path / "nearer.txt").write_text(TYPO + "\n")
    jobs.decontaminate(store, [suite, tmp_path / "nearer.txt"], distance=2)
    jobs.decontaminate(store, "nearer", distance=3)  # so the two are searched for by two rules
    jobs.undo(store, "decontaminate")
    assert jobs.matches(store) == {"faq": {"desk": 1, "nearer": 1}}
    assert contamination.lines(jobs.matches(store)) == ["2 rows of faq match registered suites (desk 1, nearer 1)"]


def test_an_older_store_knows_its_suites(tmp_path: Path, suite: Path, faq: Path, store: Store) -> None:
    """A store of before rules were kept: its suites get the usual ones when it is opened."""
    jobs.decontaminate(store, suite)
    known = store.rows("SELECT suite, digest, distance, passage_overlap FROM test_suites")

    def back(connection: Any) -> None:
        for statement in (
            "DROP TABLE test_suites",
            "DROP TABLE minings",
            "DROP TABLE positive_scores",
            "DROP TABLE answers",
            "ALTER TABLE mixture_weights DROP COLUMN miners",
            *(
                f'ALTER TABLE evaluations DROP COLUMN "{name}"'
                for name in ("document_prompt", "similarity", "max_tokens", "precision", "revision")
            ),
            *(
                f"DROP TABLE {table}"
                for table in (
                    "candidates",
                    "candidate_scores",
                    "collection_products",
                    "verdicts",
                    "verdict_suites",
                    "ablations",
                    "prompt_scores",
                    "prompt_choices",
                    "prompt_gains",
                )
            ),
            "DELETE FROM store_versions WHERE version >= 9",
        ):
            connection.execute(statement)

    store.transaction(back)
    store.close()
    with Store.open(store.work) as lake:
        assert lake.rows("SELECT suite, digest, distance, passage_overlap FROM test_suites") == known
        jobs.ingest(lake, faq, name="copy")
        assert jobs.matches(lake) == {"copy": {"desk": 2}}


def test_nothing_is_searched_where_no_suite_is_registered(
    store: Store, faq: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(contamination, "_hits_of", lambda *_: pytest.fail("searched"))
    with caplog.at_level(logging.WARNING):
        jobs.ingest(store, faq, name="copy")
        jobs.create(store, "fine")
    assert (caplog.text, jobs.matches(store)) == ("", {})
