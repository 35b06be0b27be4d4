"""What a mixture holds of test sets is searched for: before and after it is taken out, in old mixtures and files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from cli import app
from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.jobs import contamination
from mixture.jobs.statement import Counts, SuiteStatement, statement_for_training
from mixture.registry.files import export_text
from mixture.store.materialise import materialise
from mixture.suites.benchmarks import SUITES
from mixture.suites.halves import halved
from mixture.suites.suite import load_suite

TOWNS = [f"{a}{b}" for a in ("Alder", "Birken", "Calder", "Dorn", "Elm", "Fallow") for b in
         ("wick", "stead", "thorpe", "minster", "combe", "holm", "garth", "mouth")]  # fmt: skip
WITHIN, BEYOND = 20, 10  # of the 30 edited test queries


def query(n: int) -> str:
    """Of 60 letters and more, so three edits are forgiven."""
    return f"how many stone bridges did the people of {TOWNS[n]} build over their river in {1500 + 37 * n}"


def edited(n: int) -> str:
    """One or two edits of most test queries, two words too many in the others."""
    text = query(n)
    if n >= WITHIN:
        return f"{text} and what for"
    return text.replace("stone", "stoen") if n % 2 else text.replace("bridges", "brigdes").replace("river", "rivr")


def passage(n: int) -> str:
    town = TOWNS[n]
    return (f"{town} lies where two streams meet, and its {n + 3} bridges of grey granite were paid for by the wool "
            f"guild of {TOWNS[-n - 1]}, whose ledgers of {1500 + 37 * n} name every mason by his mark.")  # fmt: skip


def write_suite(folder: Path, name: str, numbers: range) -> Path:
    suite = folder / "eval" / name
    (suite / "qrels").mkdir(parents=True)
    for file, text in (("corpus", passage), ("queries", query)):
        rows = [{"_id": f"{file[0]}{n}", "title": "", "text": text(n)} for n in numbers]
        (suite / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grades = "".join(f"q{n}\tc{n}\t1\n" for n in numbers)
    (suite / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{grades}")
    return suite


def write(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"query": q, "pos": [p], "neg": ["something else"]}) + "\n" for q, p in rows))
    return file


OWN = [(f"which bird sings at dawn in the month number {n}", f"The bird of month {n} is a lark.") for n in range(12)]
PLANTED = [(edited(n), f"Seven of {n}.") for n in range(30)]
# Two thirds of a passage between other words, a third of another one, and a row with both a query and a passage.
HELD = [(f"tell me of the masons, part {n}", f"As written: {passage(n)[:120]} So it was.") for n in range(30, 35)]
SCRAPS = [("what did the wool guild pay for", passage(36)[:50])]
BOTH = [(query(40), passage(40))]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s", create=True) as lake:
        yield lake


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, "bridges", range(45))


@pytest.fixture
def planted(store: Store, tmp_path: Path) -> Path:
    file = write(tmp_path, "faq", [*OWN, *PLANTED, *HELD, *SCRAPS, *BOTH])
    jobs.ingest(store, file)
    jobs.ingest(store, write(tmp_path, "birds", OWN))
    return file


def only(store: Store, mixture: Any, suites: Any = ()) -> SuiteStatement:
    (one,) = jobs.contamination_statement(store, mixture, suites).suites
    return one


def test_planted_test_rows_are_found_and_what_is_taken_out_is_said(
    store: Store, suite: Path, planted: Path, tmp_path: Path
) -> None:
    """30 edited test queries, 20 of them within the rule; 5 passages, and a row with one of each."""
    old = jobs.create(store, "old")
    before = Counts(queries=WITHIN + 1, passages=6, removed=0, remaining=WITHIN + 6)
    found = only(store, "old", suite)
    assert (found.suite, found.num_queries, found.num_passages) == ("bridges", 45, 45)
    assert (found.distance, found.passage_overlap) == (16, 0.5)
    assert (found.found, found.collections) == (before, {"faq": before})
    assert store.rows("FROM test_suites") == []  # only looked at

    jobs.decontaminate(store, suite)
    new = jobs.create(store, "new")
    after = Counts(queries=WITHIN + 1, passages=6, removed=WITHIN + 6, remaining=0)
    assert (only(store, new).found, only(store, new).collections) == (after, {"faq": after})
    assert only(store, old).found == before  # it pins what it pinned
    jobs.rename(store, "faq", "questions")
    assert only(store, old).collections == {"faq": before}
    assert only(store, new).collections == {"faq": after}
    assert only(store, jobs.create(store, "renamed")).collections == {"questions": after}
    jobs.rename(store, undo=True)

    # Another answer makes a removed row another row.
    write(tmp_path, "faq", [*OWN, *((q, f"{p} Or eight.") for q, p in PLANTED[:3]), *HELD])
    jobs.ingest(store, planted)
    again = jobs.create(store, "again", allow_contaminated=True)
    assert only(store, again).found == Counts(WITHIN + 1, 6, removed=WITHIN + 6, remaining=3)
    write(tmp_path, "faq", [*OWN, (HELD[0][0], passage(30) + " That is all.")])
    jobs.ingest(store, planted)
    assert only(store, jobs.create(store, "third", allow_contaminated=True)).found.remaining == 1
    jobs.decontaminate(store)
    assert only(store, jobs.create(store, "fourth")).found.remaining == 0


def test_each_suite_is_looked_for_by_itself(store: Store, suite: Path, planted: Path, tmp_path: Path) -> None:
    """Two suites share texts. A removal names the nearer one, the statement says it of both."""
    other = write_suite(tmp_path, "rivers", range(5, 45))
    dirty = jobs.create(store, "dirty")
    wanted = {"bridges": (WITHIN + 1, 6), "rivers": (WITHIN - 4, 6)}

    def found(mixture: Any, *suites: Path) -> dict[str, Counts]:
        return {one.suite: one.found for one in jobs.contamination_statement(store, mixture, suites).suites}

    before = found(dirty, suite, other)
    assert {name: (c.queries, c.passages) for name, c in before.items()} == wanted
    assert {name: c.remaining for name, c in before.items()} == {"bridges": WITHIN + 6, "rivers": WITHIN + 1}
    jobs.decontaminate(store, [suite, other])
    assert {row["suite"] for row in store.rows("SELECT DISTINCT suite FROM removals")} == {"bridges"}
    after = found(jobs.create(store, "clean"))
    assert {name: (c.queries, c.passages) for name, c in after.items()} == wanted
    assert {name: (c.removed, c.remaining) for name, c in after.items()} == {
        "bridges": (WITHIN + 6, 0),
        "rivers": (WITHIN + 1, 0),
    }
    # What a later rule asks for is asked of what was taken out, too.
    jobs.decontaminate(store, "rivers", distance=0, passages=False)
    rivers = next(one for one in jobs.contamination_statement(store, "clean").suites if one.suite == "rivers")
    assert (rivers.num_passages, rivers.passage_overlap) == (0, None)
    assert rivers.found == Counts(queries=1, passages=0, removed=1, remaining=0)


def test_equal_test_queries_count_each(store: Store, tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text(f"{query(0)}\n{query(1)}\n{query(0).title()}?\n")
    jobs.ingest(store, write(tmp_path, "faq", [*OWN, PLANTED[0]]))
    found = only(store, jobs.create(store, "m"), tmp_path / "twice.txt")
    assert (found.num_queries, found.num_passages, found.found) == (3, 0, Counts(2, 0, 0, 1))


def test_what_a_judge_calls_an_answer_is_looked_at(store: Store, suite: Path, tmp_path: Path) -> None:
    jobs.ingest(store, write(tmp_path, "faq", OWN))
    corpus = tmp_path / "pool"
    corpus.mkdir()
    texts = [f"The lark sings at dawn in the month number {n}." for n in range(8)]
    rows = [{"_id": str(n), "title": "", "text": text} for n, text in enumerate([f"{texts[0]} {passage(2)}", *texts])]
    (corpus / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def judge(pairs: Any) -> list[str]:
        return ["positive" if passage(2) in text and q.endswith("1") else "drop" for q, text in pairs]

    jobs.mine(store, "faq", pool=str(corpus), judge=judge, replace=True, filters={"near_copies": None})
    answered = store.rows("SELECT count(*) AS n FROM answers")[0]["n"]
    assert 0 < answered < len(OWN)
    mixture = jobs.create(store, "m")
    assert only(store, mixture, suite).found == Counts(0, 1, 0, answered)
    materialise(store, mixture.spec)
    (result, *_) = jobs.decontaminate(store, suite)
    assert (result.removed, result.count("test passage")) == (answered, answered)
    assert only(store, mixture).found.remaining == answered
    assert only(store, jobs.create(store, "clean")).found == Counts(0, 1, answered, 0)


def test_what_is_not_looked_for_is_said(store: Store, suite: Path, planted: Path, tmp_path: Path) -> None:
    mixture = jobs.create(store, "m")
    gone = tmp_path / "eval" / "gone"
    broken = write_suite(tmp_path, "broken", range(2))
    (broken / "queries.jsonl").write_text("no json\n")
    found = jobs.contamination_statement(store, mixture, [suite, gone, broken])
    assert [one.suite for one in found.suites] == ["bridges"]
    assert found.unchecked[str(gone)] == "no such file or folder"
    assert "queries.jsonl, line 1: not JSON" in found.unchecked[str(broken)]
    with pytest.raises(UsageError, match="no test suite 'bridge'"):
        jobs.contamination_statement(store, mixture, "bridge")
    assert jobs.contamination_statement(store, mixture).suites == ()
    scored = {"model": "x", "mixture": mixture.spec.id, "suite": "lakes/report", "metric": "ndcg@10", "value": 0.5,
              "num_queries": 1, "num_documents": 1, "corpus": "suite"}  # fmt: skip
    columns, values = ", ".join(scored), ", ".join("?" * len(scored))
    store.transaction(
        lambda c: c.execute(
            f"INSERT INTO evaluations ({columns}, evaluated_at) VALUES ({values}, now())", list(scored.values())
        )
    )
    told = jobs.contamination_statement(store, mixture).unchecked
    assert told == {"lakes/report": "a model was evaluated on it, but it is not registered"}
    # A mixture of contents that the store never held.
    spec = export_text(store, mixture, "mixture")
    with Store.open(tmp_path / "elsewhere", create=True) as other:
        (tmp_path / "m.json").write_text(spec)
        jobs.import_(other, tmp_path / "m.json", "m")
        assert jobs.contamination_statement(other, "m", suite).unread == ("birds", "faq")


def test_suites_by_name_are_looked_for(
    store: Store, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = jobs.create(store, "m")
    monkeypatch.setenv("MIXTURE_SUITES", str(tmp_path / "brought"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (source,) = SUITES["beir/nq"].sources
    shutil.move(write_suite(tmp_path, "bridges", range(45)), tmp_path / "brought" / source.repo)
    found = only(store, mixture, "beir/nq")
    assert (found.suite, found.found) == ("nq", Counts(WITHIN + 1, 6, 0, WITHIN + 6))
    unchecked = jobs.contamination_statement(store, mixture, "beir/scifact").unchecked
    assert "its data is not in" in unchecked["beir/scifact"]


def test_for_training_evaluated_suites_are_looked_for_too(store: Store, suite: Path, planted: Path) -> None:
    mixture, loaded = jobs.create(store, "m"), load_suite(suite)
    (found,) = statement_for_training(store, [mixture.spec], [loaded]).suites
    assert (found.suite, found.found.remaining) == ("bridges", WITHIN + 6)
    (half,) = statement_for_training(store, [mixture.spec], [halved(loaded, "report")]).suites
    assert (half.suite, half.num_queries < 45) == ("bridges/report", True)
    jobs.decontaminate(store, suite)
    for known in (loaded, halved(loaded, "report")):  # the registered one has all of its texts
        (found,) = statement_for_training(store, [mixture.spec], [known]).suites
        assert (found.suite, found.num_queries, found.found.remaining) == ("bridges", 45, WITHIN + 6)


def test_a_search_is_kept_with_what_warns(
    store: Store, suite: Path, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []
    real = contamination._hits
    monkeypatch.setattr(contamination, "_hits", lambda *given: searched.append(given[1]) or real(*given))
    dirty = jobs.create(store, "dirty")
    jobs.decontaminate(store, suite)
    searched.clear()
    contamination.matches_of(store, dirty.spec.components)
    assert searched == ["birds", "faq"]
    told = jobs.contamination_statement(store, dirty)
    assert (told, searched) == (jobs.contamination_statement(store, dirty), ["birds", "faq"])
    shutil.rmtree(store.work / "matches")
    assert jobs.contamination_statement(store, dirty) == told
    assert len(searched) == 4


def test_tasks_of_mteb_are_those_of_the_drawn_collections_cards(store: Store, tmp_path: Path) -> None:
    for name in ("nq", "msmarco", "tickets"):
        jobs.ingest(store, write(tmp_path, name, OWN))
    mixture = jobs.create(store, "m", weights={"nq": 1.0, "tickets": 1.0, "msmarco": 0.0})
    assert jobs.contamination_statement(store, mixture).mteb == ("NQ",)
    (tmp_path / "cards").mkdir()
    front = "pretty_name: Tickets\nlanguage: en\nlicense: unknown\nmixture:\n  name: tickets\n  prompts: []\n"
    (tmp_path / "cards" / "tickets.md").write_text(f"---\n{front}  mteb: [TicketRetrieval]\n---\n\n# Tickets\n")
    told = jobs.contamination_statement(store, mixture, cards=tmp_path / "cards")
    assert told.mteb == ("NQ", "TicketRetrieval")


def test_show_prints_it(
    store: Store, suite: Path, planted: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    jobs.create(store, "old")
    jobs.decontaminate(store, suite)
    jobs.create(store, "new")

    def show(*given: str) -> str:
        app(["show", *given, "--store", str(store.work)], standalone_mode=False)
        return capsys.readouterr().out

    told = json.loads(show("new", "--contamination", "--json"))
    assert told["suites"][0]["found"] == {"queries": 21, "passages": 6, "removed": 26, "remaining": 0}
    assert told["suites"][0]["collections"]["faq"]["removed"] == 26
    assert "holds no row of 1 suite" in show("new", "--contamination")
    shown = show("old", "--contamination", "--against", "bridges", "--against", str(tmp_path / "gone"))
    assert "holds rows of 1 of 1 suite" in shown
    assert "by collection" in shown
    assert f"not looked for: {tmp_path / 'gone'}: no such file or folder" in shown
    with pytest.raises(UsageError, match="--against and --cards go with --contamination"):
        show("old", "--against", "bridges")
