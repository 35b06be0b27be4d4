"""Minings side by side, mixtures that take one of them, passages of elsewhere, and a judge."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture import Store, jobs, registry
from mixture.errors import UsageError
from mixture.mining.judges import judged, program
from mixture.registry.verify import verify
from mixture.specs import Component, MixtureSpec, Part
from mixture.store import read
from mixture.store.materialise import materialise


def encode(texts: Sequence[str], kind: str) -> Any:
    """A bag of letters, of unit length."""
    counts = np.array([[text.count(letter) for letter in "abcdefghiklmnorstuv"] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def bare_made_once(tmp_path_factory: pytest.TempPathFactory, small_store_made_once: Path) -> Path:
    """The folder that `bare` copies: raw/ and store/."""
    folder = tmp_path_factory.mktemp("bare")
    rows = [json.loads(line) for line in (small_store_made_once / "moved" / "easy.jsonl").read_text().splitlines()]
    passages = [text for row in rows for text in row.pop("neg")]
    lines = [json.dumps(row) for row in rows]
    lines += [json.dumps({"query": f"filler {n} {text[:20]}", "pos": [text]}) for n, text in enumerate(passages)]
    (folder / "raw").mkdir()
    (folder / "raw" / "easy.jsonl").write_text("\n".join(lines))
    with Store.open(folder / "store", create=True) as store:
        jobs.ingest(store, [folder / "raw" / "easy.jsonl", small_store_made_once / "moved" / "hard.jsonl"])
    (folder / "raw").rename(folder / "moved")  # a copy would be another file to the store
    return folder


@pytest.fixture
def bare(tmp_path: Path, bare_made_once: Path) -> Iterator[Store]:
    """A store of the collection easy, 200 examples without negatives, and hard, whose file gives some."""
    shutil.copytree(bare_made_once, tmp_path, dirs_exist_ok=True)
    (tmp_path / "moved").rename(tmp_path / "raw")
    with Store.open(tmp_path / "store") as store:
        yield store


def of(store: Store, miner: str, collection: str = "easy") -> dict[tuple[str, str], tuple[int, float | None]]:
    rows = store.rows("SELECT * FROM negatives WHERE miner = ? AND collection = ?", [miner, collection])
    return {(r["example_id"], r["passage_id"]): (r["rank"], r["score"]) for r in rows}


def trained_on(store: Store, name: str) -> dict[str, list[str]]:
    """Example -> the texts of its negatives, as training reads them of a mixture."""
    data = materialise(store, registry.resolve(store, name).spec).components["easy"]
    examples = [data.example(row) for row in range(data.num_examples)]
    return {e.example_id: [data.passage(number) for number in e.negatives] for e in examples}


def test_minings_of_other_names_lie_whole_beside_each_other(bare: Store) -> None:
    jobs.mine(bare, "easy", per_query=5)
    alone = of(bare, "bm25")
    jobs.mine(bare, "easy", per_query=5, name="first")
    jobs.mine(bare, "easy", miner="bag", encode=encode, per_query=5, name="second", filters={"max_ratio": None})
    assert of(bare, "first") == of(bare, "bm25") == alone
    assert alone.keys() & of(bare, "second").keys()
    (again,) = jobs.mine(bare, "easy", per_query=3, name="first")
    assert of(bare, "bm25") == alone
    assert len(of(bare, "first")) == again.negatives < len(alone)
    jobs.undo_mining(bare)
    assert of(bare, "first") == alone
    (kept,) = bare.rows("SELECT miner, settings FROM minings WHERE miner = 'second'")
    assert json.loads(kept["settings"])["miner"] == "bag"


def test_random_passages_of_a_named_mining_are_its_own(bare: Store) -> None:
    jobs.mine(bare, "easy", per_query=400)
    filled = of(bare, "random")
    (named,) = jobs.mine(bare, "easy", per_query=300, name="named")
    assert of(bare, "random") == filled
    scores = [score for _, score in of(bare, "named").values()]
    assert scores.count(None) == named.random > 0
    assert named.short == 200
    jobs.mine(bare, "easy", per_query=2, name="named")
    assert None not in [score for _, score in of(bare, "named").values()]
    assert of(bare, "random") == filled


def test_without_collections_a_name_is_mined_where_neither_it_nor_the_file_has_negatives(bare: Store) -> None:
    assert [r.collection for r in jobs.mine(bare, per_query=2)] == ["easy"]
    assert jobs.mine(bare, per_query=2) == []
    (found,) = jobs.mine(bare, per_query=2, name="named")
    assert (found.collection, found.miner, found.examples) == ("easy", "named", 200)
    assert jobs.mine(bare, per_query=2, name="named") == []


@pytest.mark.parametrize("name", ["", "bm25", "Random", "provided", "a b", "x/y"])
def test_a_name_that_could_be_a_miners_is_refused(bare: Store, name: str) -> None:
    with pytest.raises(UsageError, match=r"`name` is .*; allowed: a letter or digit"):
        jobs.mine(bare, "easy", name=name)


def test_a_mixture_takes_the_negatives_of_the_miners_that_it_names(bare: Store) -> None:
    jobs.mine(bare, "easy", per_query=3, name="first")
    jobs.mine(bare, "easy", miner="bag", encode=encode, per_query=3, name="second", filters={"max_ratio": None})
    texts = {r["passage_id"]: r["text"] for r in bare.rows("SELECT passage_id, text FROM passages")}

    def wanted(*miners: str) -> dict[str, list[str]]:
        found: dict[str, dict[str, None]] = {r["example_id"]: {} for r in bare.rows("SELECT example_id FROM examples "
                                             "WHERE collection = 'easy'")}  # fmt: skip
        for miner in miners:
            for (example, passage), _ in sorted(of(bare, miner).items(), key=lambda item: (item[1][0], item[0])):
                found[example].setdefault(texts[passage])
        return {example: list(negatives) for example, negatives in found.items()}

    for name, miners in (("one", ["first"]), ("two", ["second"]), ("turned", ["second", "first"]), ("all", [])):
        made = jobs.create(bare, name, collections="easy", miners=miners)
        assert trained_on(bare, name) == wanted(*(miners or ["first", "second"]))
        assert made.spec.components[0].miners == (tuple(miners) or None)
        assert registry.resolve(bare, name).spec == made.spec
        assert MixtureSpec.from_json(made.spec.to_json()) == made.spec
    ids = {name: registry.resolve(bare, name).spec.id for name in ("one", "two", "turned", "all")}
    assert len(set(ids.values())) == 4
    assert registry.describe(bare, registry.resolve(bare, "turned"))["components"][0]["miners"] == ["second", "first"]

    # A further mining changes what all of them hold today, and not what is pinned.
    jobs.mine(bare, "easy", per_query=1, name="third", ranks=(5, 9))
    assert jobs.create(bare, "all", collections="easy").spec.id != ids["all"]
    for name, miners in (("one", ["first"]), ("turned", ["second", "first"])):
        assert jobs.create(bare, name, collections="easy", miners=miners).spec.id == ids[name]
    assert not [f for f in verify(bare).findings if f.fault]
    jobs.mine(bare, "easy", per_query=1, name="first")
    assert "version" in verify(bare, "one").findings[0].says or "materialised" in verify(bare, "one").findings[0].says


def test_a_mixture_that_pins_a_miner_is_another_than_one_that_takes_all(bare: Store) -> None:
    """Also where both hold the same today: later minings are negatives of the second."""
    jobs.mine(bare, "easy", per_query=3, fill_random=False)
    all_of_them, those = (jobs.create(bare, n, collections="easy", miners=m) for n, m in (("a", ()), ("b", "bm25")))
    assert all_of_them.spec.id != those.spec.id
    assert all_of_them.spec.components[0].digest == those.spec.components[0].digest
    assert registry.resolve(bare, "b").spec.components[0].miners == ("bm25",)


def test_miners_that_nobody_knows_or_that_a_collection_lacks(bare: Store) -> None:
    jobs.mine(bare, "easy", per_query=1)
    with pytest.raises(UsageError, match="no miner 'bm52'; did you mean 'bm25'"):
        jobs.create(bare, "m", miners="bm52")
    made = jobs.create(bare, "m", miners="bm25")
    assert "without negatives of bm25: hard" in made.remarks
    with pytest.raises(UsageError, match="`source` takes"):
        jobs.create(bare, "n", source="m", dropped="hard", miners="bm25")
    with pytest.raises(UsageError, match="one or more, each once"):
        MixtureSpec((Component("easy", "0" * 64, 1.0, miners=()),))


@pytest.mark.parametrize("fmt", ["mixture", "csv"])
def test_miners_go_out_and_in_with_a_mixture(bare: Store, tmp_path: Path, fmt: str) -> None:
    jobs.mine(bare, "easy", per_query=2, name="mine")
    made = jobs.create(bare, "m", miners=["mine", "provided"])
    jobs.export(bare, "m", format=fmt, out=tmp_path / "file")
    back = registry.files.import_(bare, tmp_path / "file", "back")
    assert back.spec == made.spec
    assert {c.miners for c in back.spec.components} == {("mine", "provided")}


def test_slices_take_negatives_of_a_miner_too(bare: Store) -> None:
    jobs.mine(bare, "easy", per_query=2, name="mine")
    jobs.mine(bare, "easy", per_query=4)
    where = "collection = 'easy' AND query NOT LIKE 'filler%'"
    (part,) = jobs.create(bare, "m", where=where, miners="mine").spec.components
    data = materialise(bare, registry.resolve(bare, "m").spec).components[part.name]
    assert {len(data.example(row).negatives) for row in range(40)} == {2}
    assert part.digest == read.digest(bare, part.part) != read.digest(bare, Part("easy", part.selection))


def test_scores_of_positives_are_kept_by_miner_and_go_with_an_undo(bare: Store) -> None:
    query = "SELECT miner, count(*) AS n, min(score) AS least FROM positive_scores GROUP BY miner ORDER BY miner"
    jobs.mine(bare, "easy", miner="bag", encode=encode, per_query=2)
    (row,) = bare.rows(query)
    assert (row["miner"], row["n"]) == ("bag", 200)
    (checked,) = bare.rows(
        """SELECT e.query, p.text, s.score FROM positive_scores s JOIN examples e USING (collection, example_id)
           JOIN passages p USING (collection, passage_id) ORDER BY s.score LIMIT 1"""
    )
    vectors = encode([checked["query"], checked["text"]], "query")
    assert checked["score"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)

    def length(pairs: list[tuple[str, str]]) -> Any:
        return np.array([len(passage) for _, passage in pairs], np.float32)

    jobs.mine(bare, "easy", per_query=2, rescore=length)
    assert [(r["miner"], r["n"]) for r in bare.rows(query)] == [("bag", 200), ("bm25+length", 200)]
    jobs.mine(bare, "easy", miner="bag", encode=lambda texts, kind: 2 * encode(texts, kind), per_query=2)
    assert bare.rows(query)[0]["least"] == pytest.approx(4 * row["least"])
    jobs.undo_mining(bare)
    assert bare.rows(query)[0] == row
    jobs.undo_mining(bare)
    assert bare.rows(query) == [row]


def test_a_pool_adds_passages_and_only_those_that_are_used_come_in(bare: Store, tmp_path: Path) -> None:
    (query,) = bare.rows("SELECT query FROM examples WHERE collection = 'easy' AND query LIKE 'ba%' LIMIT 1")
    words = query["query"].split()
    folder = tmp_path / "corpus"
    folder.mkdir()
    documents = [{"_id": "near", "title": "Near", "text": f"{' '.join(words * 3)}\u0301 "},
                 {"_id": "title", "title": "only a title", "text": ""},
                 *({"_id": f"far{n}", "text": f"nothing whatever x{n}"} for n in range(30))]  # fmt: skip
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    before = bare.rows("SELECT count(*) AS n FROM passages")[0]["n"]
    jobs.mine(bare, "easy", per_query=1, name="wide", pool=[str(folder), "hard"], fill_random=False)
    found = bare.rows(
        """SELECT p.* FROM passages p SEMI JOIN negatives n USING (collection, passage_id)
           WHERE p.collection = 'easy' AND title = 'Near'"""
    )
    assert [p["text"] for p in found] == [" ".join(words * 3) + "\u0301"]
    assert found[0]["simhash"] is not None
    assert not bare.rows("SELECT 1 FROM passages WHERE text LIKE 'nothing%'")
    used = bare.rows("SELECT count(DISTINCT passage_id) AS n FROM negatives WHERE miner = 'wide'")[0]["n"]
    assert before < bare.rows("SELECT count(*) AS n FROM passages")[0]["n"] <= before + used
    assert not [f for f in verify(bare).findings if f.fault]
    with pytest.raises(UsageError, match="no collection or folder 'harb'; did you mean 'hard'"):
        jobs.mine(bare, "easy", pool="harb")
    with pytest.raises(UsageError, match=r"`pool` is .*; allowed: a collection, or a folder that holds corpus.jsonl"):
        jobs.mine(bare, "easy", pool=str(tmp_path))


def test_an_answer_in_the_pool_is_never_a_negative(bare: Store, tmp_path: Path) -> None:
    """It is the collection's own passage there too: the same text, or the same but for case and points."""
    answers = bare.rows(
        """SELECT e.example_id, p.text FROM examples e JOIN passages p ON p.collection = e.collection
           AND p.passage_id = e.positives[1].passage_id WHERE e.collection = 'easy'"""
    )
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": str(n), "text": f"{row['text'].upper()}!"})
                                                     for n, row in enumerate(answers)))  # fmt: skip
    jobs.mine(bare, "easy", per_query=5, pool=str(tmp_path), filters={"near_copies": None})
    own = {(row["example_id"], row["text"]) for row in answers}
    texts = {r["passage_id"]: r["text"] for r in bare.rows("SELECT passage_id, text FROM passages")}
    found = [(example, texts[passage]) for example, passage in of(bare, "bm25")]
    assert len(found) > 100
    assert not [pair for pair in found if pair in own or (pair[0], pair[1].rstrip("!").lower()) in own]


def test_a_judge_drops_and_the_next_candidates_take_their_places(bare: Store) -> None:
    jobs.mine(bare, "easy", per_query=3, name="plain", fill_random=False)
    worst = {e: p for (e, p), (rank, _) in of(bare, "plain").items() if rank == 1}
    texts = {r["passage_id"]: r["text"] for r in bare.rows("SELECT passage_id, text FROM passages")}
    queries = {r["example_id"]: r["query"] for r in bare.rows("SELECT example_id, query FROM examples")}
    refused = {(queries[e], texts[p]) for e, p in worst.items()}
    rounds = []

    def judge(pairs: list[tuple[str, str]]) -> list[str]:
        rounds.append(len(pairs))
        return ["drop" if pair in refused else "keep" for pair in pairs]

    (found,) = jobs.mine(bare, "easy", per_query=3, name="judged", judge=judge, fill_random=False)
    assert rounds[0] <= 3 * 200
    assert 0 < rounds[1] <= len(refused) < rounds[0]
    assert (found.answers, found.dropped["judge"]) == (0, len(worst))
    judged = of(bare, "judged")
    assert not [pair for pair in worst.items() if pair in judged]
    full = [e for e in worst if sum(e == example for example, _ in judged) == 3]
    assert full
    for example in full:  # the second of before is the first now
        second = next(p for (e, p), (rank, _) in of(bare, "plain").items() if (e, rank) == (example, 2))
        assert judged[example, second][0] == 1
    shown = [d for d in found.evidence.dropped if d.filter == "judge"] if found.evidence else []
    assert len(shown) == 10
    assert {(d.query, d.candidate) for d in shown} <= refused


def test_what_a_judge_dropped_does_not_fill_up(bare: Store) -> None:
    def judge(pairs: list[tuple[str, str]]) -> list[str]:
        return ["drop"] * len(pairs)

    (found,) = jobs.mine(bare, "easy", per_query=3, judge=judge, name="none")
    assert found.random == found.negatives == 3 * 200
    candidates = jobs.mine(bare, "easy", per_query=100, fill_random=False, name="candidates")
    assert candidates[0].negatives
    assert not of(bare, "candidates").keys() & of(bare, "none").keys()


PROGRAM = """
import json, sys, pathlib
asked = [json.loads(line) for line in sys.stdin]
with open({log!r}, "a") as log:
    log.writelines(f"{{len(row['query'])}} {{len(row['passage'])}}\\n" for row in asked)
for n, row in enumerate(asked):
    label = "drop" if "ba" in row["passage"] else "keep"
    print(json.dumps({{"label": label}}) if n % 2 else label)
"""


def test_a_program_judges_and_is_asked_once(bare: Store, tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "judge me.py"
    script.write_text(PROGRAM.format(log=str(log)))
    command = f"{sys.executable} '{script}'"
    jobs.mine(bare, "easy", per_query=2, judge=command, name="one", fill_random=False)
    asked = log.read_text().splitlines()
    assert len(asked) > 100
    texts = {r["passage_id"]: r["text"] for r in bare.rows("SELECT passage_id, text FROM passages")}
    found = of(bare, "one")
    assert found
    assert not [p for _, p in found if "ba" in texts[p]]
    jobs.mine(bare, "easy", per_query=2, judge=command, name="two", fill_random=False)
    assert of(bare, "two") == found
    assert log.read_text().splitlines() == asked
    (kept,) = (bare.work / "judgements").iterdir()
    kept.write_text(kept.read_text()[:-3])  # as a kill leaves it
    jobs.mine(bare, "easy", per_query=2, judge=command, name="two", fill_random=False)
    assert (of(bare, "two"), len(log.read_text().splitlines())) == (found, len(asked) + 1)


@pytest.mark.parametrize(
    ("code", "message"),
    [("print('keep')", "2 pairs gave 1 labels"), ("print('maybe\\nkeep')", "`judge` says 'maybe'; allowed: keep, drop"),
     ("raise SystemExit(3)", "ended with exit code 3")],
)  # fmt: skip
def test_a_program_that_answers_wrongly_is_refused(code: str, message: str) -> None:
    command = shlex.join([sys.executable, "-c", f"import sys; sys.stdin.read(); {code}"])
    with pytest.raises(UsageError, match=message):
        judged(program(command), [("q", "a"), ("q", "b")])


def test_a_program_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match=r"`judge` 'no-such-program -x' cannot be started: No such file"):
        program("no-such-program -x")([("q", "p")])
    with pytest.raises(UsageError, match="`judge` is empty"):
        program("  ")
    with pytest.raises(UsageError, match='`judge` is "python \'x": No closing quotation'):
        program("python 'x")


def test_a_line_of_a_judge_is_a_line_whatever_is_in_it() -> None:
    answer = json.dumps({"label": "drop", "why": "one\u2028line\u0085only"}, ensure_ascii=False)
    written = f"\ufeff{answer}\n".encode()
    code = f"import sys; sys.stdin.read(); sys.stdout.buffer.write({written!r})"
    assert program(shlex.join([sys.executable, "-c", code]))([("q", "p")]) == ["drop"]


def test_the_evidence_of_a_mining(bare: Store) -> None:
    (found,) = jobs.mine(bare, "easy", miner="bag", encode=encode, per_query=2, filters={"max_ratio": 0.8})
    seen = found.evidence
    assert seen is not None
    same = [score for score, count in zip(seen.scores, seen.counts, strict=True) if count == 200]
    assert len(same) > 10
    assert same == sorted(same, reverse=True)
    assert len(seen.positives) == seen.counts[0] == 200
    assert {d.filter for d in seen.dropped} >= {"max_ratio"}
    strict = [d for d in seen.dropped if d.filter == "max_ratio"]
    assert len(strict) == 10
    assert all(d.positive_score is not None and d.score > 0.8 * d.positive_score for d in strict)
    (again,) = jobs.mine(bare, "easy", miner="bag", encode=encode, per_query=2, filters={"max_ratio": 0.8})
    assert again.evidence == seen
    assert "evidence" not in found.row


def everything(store: Store) -> dict[str, Any]:
    tables = ("examples", "negatives", "removals", "positive_scores", "answers", "minings")
    return {table: store.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables}


class FirstIsAnAnswer:
    """A judge: of each query the first passage that it is asked of answers it. answers: these pairs."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}

    def __call__(self, pairs: list[tuple[str, str]]) -> list[str]:
        labels = []
        for query, passage in pairs:
            labels.append("keep" if query in self.answers else "positive")
            self.answers.setdefault(query, passage)
        return labels


def test_what_a_judge_calls_an_answer_becomes_a_positive(bare: Store) -> None:
    jobs.mine(bare, "easy", miner="bag", encode=encode, per_query=2, name="others", filters={"max_ratio": None})
    old, before = jobs.create(bare, "old", collections="easy"), everything(bare)
    judge = FirstIsAnAnswer()
    (found,) = jobs.mine(bare, "easy", per_query=2, judge=judge, filters={"near_copies": None}, fill_random=False)
    answers = set(judge.answers.items())
    assert found.answers == len(answers) > 150
    rows = bare.sql("SELECT query, positives, negatives FROM pairs WHERE collection = 'easy'").to_pylist()
    assert {(row["query"], text) for row in rows for text in row["positives"][1:]} == answers
    assert not [pair for row in rows for pair in [(row["query"], text) for text in row["negatives"]] if pair in answers]
    (scored,) = bare.rows("SELECT count(*) AS n FROM positive_scores WHERE miner = 'bm25'")
    assert scored["n"] == 200 + len(answers)

    # Training reads the same of a mixture, whose digest says so, and an earlier mixture what it pinned.
    now = jobs.create(bare, "now", collections="easy")
    assert now.spec.id != old.spec.id
    for name, wanted in (("now", answers), ("old", set())):
        data = materialise(bare, registry.resolve(bare, name).spec).components["easy"]
        examples = [data.example(row) for row in range(data.num_examples)]
        found_there = {(e.query, data.passage(n)) for e in examples for n in e.positives} & answers
        assert found_there == wanted
        assert not {(e.query, data.passage(n)) for e in examples for n in e.negatives} & wanted
    assert not [f for f in verify(bare).findings if f.fault]

    # The next mining knows them, and an undo of this one forgets them.
    jobs.mine(bare, "easy", per_query=2, name="later", filters={"near_copies": None}, fill_random=False)
    texts = {r["passage_id"]: r["text"] for r in bare.rows("SELECT passage_id, text FROM passages")}
    queries = {r["example_id"]: r["query"] for r in bare.rows("SELECT example_id, query FROM examples")}
    assert not {(queries[e], texts[p]) for e, p in of(bare, "later")} & answers
    jobs.undo_mining(bare)
    after = everything(bare)
    planned = jobs.undo_mining(bare, dry_run=True)
    assert everything(bare) == after
    assert jobs.undo_mining(bare) == planned
    assert everything(bare) == before
    assert jobs.create(bare, "old", collections="easy").spec.id == old.spec.id


def test_answers_go_out_and_come_back_with_their_examples(bare: Store, tmp_path: Path) -> None:
    """Through dedup and its undo, a row that leaves its file and returns, and another name of the collection."""
    jobs.mine(bare, "easy", per_query=1, judge=FirstIsAnAnswer(), fill_random=False)
    whole = jobs.create(bare, "m", collections="easy").spec.id
    jobs.dedup(bare, "easy", method="minhash", verify=0.3, key="query")
    assert jobs.create(bare, "m", collections="easy").spec.id != whole
    jobs.undo(bare, "dedup")
    assert jobs.create(bare, "m", collections="easy").spec.id == whole
    file = tmp_path / "raw" / "easy.jsonl"
    jobs.ingest(bare, file)  # known again
    lines = file.read_text()
    file.write_text("\n".join(lines.splitlines()[5:]))
    jobs.ingest(bare, file)
    file.write_text(lines)
    jobs.ingest(bare, file)
    (row,) = bare.rows("SELECT count(*) AS n FROM answers SEMI JOIN examples USING (collection, example_id)")
    assert row["n"] > 150
    jobs.rename(bare, "easy", "other")
    assert bare.rows("SELECT DISTINCT collection FROM answers") == [{"collection": "other"}]


def test_a_dry_run_with_a_pool_brings_nothing_in(bare: Store) -> None:
    before = bare.snapshot(), bare.rows("SELECT count(*) AS n FROM passages")
    (planned,) = jobs.mine(bare, "easy", per_query=3, pool="hard", dry_run=True)
    assert (bare.snapshot(), bare.rows("SELECT count(*) AS n FROM passages")) == before
    (done,) = jobs.mine(bare, "easy", per_query=3, pool="hard")
    assert planned == done


def test_an_index_serves_both_as_it_serves_the_model_alone(bare: Store) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    options: dict[str, Any] = {"miner": "both:bag", "encode": encode, "per_query": 4}
    jobs.mine(bare, "easy", name="exactly", **options)
    jobs.mine(bare, "easy", name="indexed", index="faiss:Flat", **options)
    found, exact = of(bare, "indexed"), of(bare, "exactly")
    assert len(found.keys() & exact.keys()) > 0.95 * len(exact)
    with pytest.raises(UsageError, match="the miner bm25 searches no embeddings; leave away `index`"):
        jobs.mine(bare, "easy", index="faiss")
