"""Dedup by a model's embeddings: the groups are those of all cosines at once, and what was encoded is kept."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture import Store, jobs
from mixture.embeddings import Space
from mixture.errors import UsageError

Rows = list[tuple[str, list[str]]]


class Model:
    """Texts `a@30 ...` point 30 degrees from where others of their first word do; it remembers what it was given."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.given: list[tuple[str, str]] = []
        self.fails_after = fails_after

    def __call__(self, texts: Any, kind: str) -> np.ndarray:
        if self.fails_after is not None and len(self.given) >= self.fails_after:
            raise InterruptedError
        self.given += [(kind, text) for text in texts]
        return np.array([vector(text) for text in texts], np.float32)

    def space(self, kind: str) -> Space:
        return Space(model="angles", prompt="query: " if kind == "query" else "")


def vector(text: str) -> np.ndarray:
    name, _, degrees = text.lower().split()[0].partition("@")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    plane = np.linalg.qr(rng.standard_normal((40, 2)))[0]
    angle = np.radians(float(degrees))
    return rng.uniform(0.5, 2) * (plane @ [np.cos(angle), np.sin(angle)])


def ingest(store: Store, folder: Path, **collections: Rows) -> None:
    for name, rows in collections.items():
        lines = [json.dumps({"query": query, "pos": positives}) + "\n" for query, positives in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
        jobs.ingest(store, folder / f"{name}.jsonl")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s", create=True) as lake:
        yield lake


def drawn(seed: int, num: int) -> Rows:
    """Examples of a few families, some spelled in two ways, some with two positives."""
    draw = random.Random(seed)

    def text(names: str) -> str:
        found = f"{draw.choice(names)}@{draw.randrange(0, 150, 6)} {draw.choice('pq')}"
        return draw.choice([found, found, found.upper() + "?"])

    return [(text("ab"), [text("xy") for _ in range(draw.choice([1, 1, 1, 2]))]) for _ in range(num)]


def cosine(a: str, b: str) -> float:
    return float(vector(a) @ vector(b) / np.linalg.norm(vector(a)) / np.linalg.norm(vector(b)))


def form(text: str) -> str:
    return text.lower().rstrip("?")


def groups(texts: list[str], least: float) -> dict[str, str]:
    """For each text the first one of its group, by all pairs."""
    first = {text: text for text in texts}
    for a in texts:
        for b in texts:
            if form(a) == form(b) or cosine(a, b) >= least:
                new, old = sorted((first[a], first[b]), key=texts.index)
                first = {text: new if group == old else group for text, group in first.items()}
    return first


@pytest.mark.parametrize("key", ["pair", "query", "positive"])
@pytest.mark.parametrize("across", [False, True])
def test_it_is_brute_force(store: Store, tmp_path: Path, key: str, across: bool) -> None:
    ingest(store, tmp_path, one=drawn(1, 70), two=drawn(2, 70))
    least, names = float(np.cos(np.radians(6.5))), ["two", "one"]
    expected = {}
    for part in [names] if across else [[name] for name in names]:
        rows = [row for name in part for row in store.rows(
            "SELECT e.collection, example_id AS id, query, "
            "list_transform(positives, lambda p: p.passage_id) AS positives "
            f"FROM examples e WHERE collection = '{name}' ORDER BY example_id")]  # fmt: skip
        text_of = {row["passage_id"]: row["text"] for row in store.rows("SELECT passage_id, text FROM passages")}
        asked = groups(list(dict.fromkeys(row["query"] for row in rows)), least)
        told = groups(list(dict.fromkeys(text_of[p] for row in rows for p in row["positives"])), least)
        kept: dict[Any, Any] = {}
        for row in rows:
            positives = frozenset(told[text_of[p]] for p in row["positives"])
            same = {"query": asked[row["query"]], "positive": positives, "pair": (asked[row["query"]], positives)}[key]
            keeper = kept.setdefault(same, row)
            if keeper is not row:
                expected[row["collection"], row["id"]] = keeper["collection"], keeper["id"]
    options: dict[str, Any] = {"method": "semantic", "key": key, "similarity": least, "across": across}
    found = jobs.dedup(store, names, encode=Model(), dry_run=True, **options)
    removals = [row for result in found for row in result.removals.to_pylist()]
    assert len(expected) > 10
    assert {
        (row["collection"], row["example_id"]): (row["kept_collection"], row["kept_id"]) for row in removals
    } == expected
    for row in removals:
        compared = ("positive", "kept_positive") if key == "positive" else ("query", "kept_query")
        assert row["similarity"] == pytest.approx(cosine(*(row[name] for name in compared)), abs=1e-6)
    # Done, it is stored; a second run finds nothing, and one step back gives all.
    before = store.rows("SELECT count(*) AS n FROM examples")
    done = jobs.dedup(store, names, encode=Model(), **options)
    assert [r.removals for r in done] == [r.removals for r in found]
    assert store.rows("SELECT count(similarity) AS n FROM removals") == [{"n": len(expected)}]
    assert [r.removed for r in jobs.dedup(store, names, encode=Model(), **options)] == [0, 0]
    jobs.undo(store, "dedup")
    assert store.rows("SELECT count(*) AS n FROM examples") == before


def test_chains_end_at_one_keeper_which_may_be_less_like(store: Store, tmp_path: Path) -> None:
    ingest(store, tmp_path, c=[(f"a@{degrees}", ["x@0"]) for degrees in (0, 10, 20, 30, 60)])
    (result,) = jobs.dedup(store, method="semantic", similarity=0.98, encode=Model())
    similarities = sorted(np.cos(np.radians([abs(float(row["query"][2:]) - float(row["kept_query"][2:]))
                                             for row in result.removals.to_pylist()])))  # fmt: skip
    assert result.removed == 3 and similarities[0] < 0.98
    assert sorted(result.removals["similarity"].to_pylist()) == pytest.approx(similarities, abs=1e-6)


def test_a_second_call_and_mining_encode_nothing(store: Store, tmp_path: Path) -> None:
    ingest(store, tmp_path, one=drawn(1, 30), two=drawn(2, 30))
    first, again, across, mining = Model(), Model(), Model(), Model()
    found = jobs.dedup(store, method="semantic", encode=first, dry_run=True)
    texts = store.rows("SELECT query AS text FROM examples UNION SELECT text FROM passages")
    assert len(set(first.given)) == len(first.given) == len(texts)
    same = jobs.dedup(store, method="semantic", encode=again, dry_run=True)
    assert [r.removals for r in same] == [r.removals for r in found]
    jobs.dedup(store, method="semantic", encode=across, across=True, key="query")
    jobs.mine(store, miner="angles", encode=mining)
    assert again.given == across.given == mining.given == []
    jobs.dedup(store, method="semantic", encode=again, precision="float16", dry_run=True)
    assert again.given


def test_what_is_kept_changes_nothing_and_a_plain_function_keeps_nothing(store: Store, tmp_path: Path) -> None:
    ingest(store, tmp_path, one=drawn(1, 60))
    plain = Model()
    encoders: tuple[Any, ...] = (lambda texts, kind: plain(texts, kind), Model(), Model())
    results = [jobs.dedup(store, method="semantic", encode=encode, keep_embeddings=bool(number == 2), dry_run=True)
               for number, encode in enumerate(encoders)]  # fmt: skip
    assert results[0][0].removed > 5
    assert results[0][0].removals == results[1][0].removals == results[2][0].removals
    assert len(list((store.work / "embeddings").iterdir())) == 2
    with pytest.raises(UsageError, match="`precision` is 'int8'; allowed: float32, float16"):
        jobs.dedup(store, method="semantic", encode=plain, precision="int8")


def test_a_killed_call_goes_on(store: Store, tmp_path: Path) -> None:
    """Killed in the second collection."""
    ingest(store, tmp_path, one=drawn(1, 40), two=drawn(2, 40))
    killed, again = Model(fails_after=60), Model()
    with pytest.raises(InterruptedError):
        jobs.dedup(store, method="semantic", encode=killed)
    assert len(killed.given) >= 60 and store.rows("FROM removals") == []
    jobs.dedup(store, method="semantic", encode=again)
    assert again.given and not set(killed.given) & set(again.given)


def test_progress_says_what_is_encoded_and_compared(store: Store, tmp_path: Path) -> None:
    ingest(store, tmp_path, c=[("a@0", ["x@0"]), ("b@0", ["x@0", "y@0"])])
    said: list[tuple[int, int, str]] = []
    jobs.dedup(store, method="semantic", encode=Model(), progress=lambda *line: said.append(line))
    assert said == [
        (0, 1, "c"), (0, 1, "c: 2/2 queries encoded"), (0, 1, "c: 2/2 queries compared"),
        (0, 1, "c: 2/2 positives encoded"), (0, 1, "c: 2/2 positives compared"), (1, 1, "done"),
    ]  # fmt: skip


def test_a_model_is_made_of_its_name_when_there_is_something_to_compare(store: Store, tmp_path: Path) -> None:
    asked: list[str] = []

    def encoder(model: str) -> Any:
        asked.append(model)
        return Model()

    assert jobs.dedup(store, method="semantic", encoder=encoder) == [] == asked
    ingest(store, tmp_path, c=[("a@0", ["x@0"]), ("a@1", ["x@0"])])
    for model in (None, "some/model"):
        assert jobs.dedup(store, method="semantic", model=model, encoder=encoder, dry_run=True)[0].removed == 1
    assert asked == ["BAAI/bge-large-en-v1.5", "some/model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "m"}, r"the method simhash compares no embeddings; leave away `model` \(for semantic\)"),
        ({"method": "exact", "encode": Model()}, "the method exact compares no embeddings; leave away `encode`"),
        ({"method": "minhash", "similarity": 0.95}, "leave away `similarity`"),
        ({"method": "semantic"}, r"encode=trainers.encode_with\('BAAI/bge-large-en-v1.5'\)"),
        ({"method": "semantic", "model": "m"}, r"hand it over as encode=trainers.encode_with\('m'\)"),
        ({"method": "semantic", "model": ""}, "the method semantic needs a `model`"),
        ({"method": "semantic", "model": "m", "encode": Model()}, "`encode` is the model; leave away `model`"),
        ({"method": "semantic", "encode": Model(), "similarity": 95}, "`similarity` is 95; allowed: above 0 to 1"),
        ({"method": "semantics"}, "allowed: exact, minhash, semantic, simhash"),
    ],
)
def test_wrong_values_are_refused(small_store: Store, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        jobs.dedup(small_store, **options)


def test_a_real_model_finds_a_paraphrase_and_leaves_another_question(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, where no other method finds it."""
    from cli import app

    def run(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as caught:
            app(["dedup", "--store", str(store.work), "--key", "query", *arguments, "--dry-run", "--json"])
        assert not caught.value.code
        return json.loads(capsys.readouterr().out)

    questions = ["How tall is Mount Everest?", "What is the height of Mount Everest?",
                 "How tall is Mount Kilimanjaro?"]  # fmt: skip
    ingest(store, tmp_path, c=[(question, [f"answer {n}"]) for n, question in enumerate(questions)])
    assert [run("--method", method) for method in ("simhash", "minhash")] == [[], []]
    (row,) = run("--method", "semantic", "--model", "all-MiniLM-L6-v2")
    assert {row["query"], row["kept_query"]} == set(questions[:2])
    assert 0.95 <= row["similarity"] < 1
