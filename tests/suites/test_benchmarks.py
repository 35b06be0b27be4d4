"""Suites by name, from small copies of the published layouts, without a network."""

from __future__ import annotations

import csv
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.suites import tables
from mixture.suites.benchmarks import SUITES, miracl, mkqa
from mixture.suites.given import suites_of
from mixture.suites.halves import LEARN, REPORT, halved
from mixture.suites.hub import fetched, held
from mixture.suites.lists import read_test_passages, read_test_queries
from mixture.suites.suite import Suite
from tests.suites.hub_cache import COMMIT, DOCUMENTS, JUDGED, QUERIES, cached, write

JSON_LINES = {"corpus.jsonl": DOCUMENTS, "queries.jsonl": QUERIES, "qrels/test.jsonl": JUDGED}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache; the network is off, and what other tests read is forgotten."""
    monkeypatch.setenv("MIXTURE_SUITES", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tables.documents.cache_clear()
    return tmp_path / "cache"


def load(name: str) -> Suite:
    (given,) = suites_of(name)
    return given.load()


def is_the_drinks(suite: Suite) -> None:
    assert suite.corpus_ids == ["d1", "d2", "d3"]
    assert suite.corpus == [("Tea", "green leaves"), ("", "black beans"), ("Milk", "")]
    assert list(suite.documents) == ["Tea green leaves", "black beans", "Milk"]
    assert (suite.query_ids, suite.queries) == (["q1", "q2"], ["what is tea", "coffee?"])
    assert suite.qrels == {"q1": {"d1": 2, "gone": 1}, "q2": {"d2": 1}}
    assert suite.missing_documents == 1


PARQUET = {"corpus/test-00000-of-00002.parquet": DOCUMENTS[:2], "corpus/test-00001-of-00002.parquet": DOCUMENTS[2:],
           "queries/test-00000-of-00001.parquet": QUERIES, "qrels/test-00000-of-00001.parquet": JUDGED}  # fmt: skip
TSV = "query-id\tcorpus-id\tscore\n" + "".join(f"{r['query-id']}\t{r['corpus-id']}\t{r['score']}\n" for r in JUDGED)


@pytest.mark.parametrize(
    "files",
    [
        JSON_LINES,
        PARQUET,
        {"corpus.jsonl.gz": DOCUMENTS, "queries.jsonl.gz": QUERIES, "qrels/test.tsv": TSV},
        {name.replace("qrels", "data"): rows for name, rows in PARQUET.items()},
        {**JSON_LINES, "qrels/dev.jsonl": [{"query-id": "other", "corpus-id": "d1", "score": 1}]},
    ],
    ids=["JSON Lines", "Parquet in shards", "packed, with TSV", "grades as the default configuration", "two splits"],
)
def test_beir(root: Path, files: Any) -> None:
    (source,) = SUITES["beir/nfcorpus"].sources
    cached(root, source, files)
    suite = load("beir/nfcorpus")
    is_the_drinks(suite)
    assert (suite.name, suite.metrics, suite.language) == ("nfcorpus", ("ndcg@10",), "en")
    assert suite.revision == source.revision == "ec0fa4fe99da2ff19ca1214b7966684033a58814"
    asked = "Given a question, retrieve relevant documents that best answer the question"
    assert suite.prompt == f"Instruct: {asked}\nQuery: "


def test_msmarco_is_judged_on_dev(root: Path) -> None:
    (source,) = SUITES["beir/msmarco"].sources
    cached(root, source, {**JSON_LINES, "qrels/dev.jsonl": [{"query-id": "other", "corpus-id": "d1", "score": 1}]})
    assert load("beir/msmarco").query_ids == ["other"]


def test_nanobeir_has_no_grades(root: Path) -> None:
    (source,) = SUITES["nanobeir/nfcorpus"].sources
    assert source.repo == "zeta-alpha-ai/NanoNFCorpus"
    pairs = [{"query-id": row["query-id"], "corpus-id": row["corpus-id"]} for row in JUDGED[:2]]
    texts = [{"_id": row["_id"], "text": row["text"]} for row in DOCUMENTS]
    tables_of = {"corpus": texts, "queries": QUERIES, "qrels": pairs}
    cached(root, source, {f"{name}/train-00000-of-00001.parquet": rows for name, rows in tables_of.items()})
    suite = load("nanobeir/nfcorpus")
    assert suite.name == "nfcorpus-nano" and suite.prompt is not None
    assert suite.corpus == [("", "green leaves"), ("", "black beans"), ("", "")]
    assert suite.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1}}


def miracl_files(root: Path, language: str = "hi") -> None:
    asked, corpus = miracl.sources(language)
    top = f"miracl-v1.0-{language}"
    qrels = "0\tQ0\t1#0\t1\n0\tQ0\t2#1\t0\n7\tQ0\t9#0\t1\n"
    cached(root, asked, {f"{top}/topics/topics.{top}-dev.tsv": "0\tचाय क्या है?\n7\tदूध?\n",
                         f"{top}/qrels/qrels.{top}-dev.tsv": qrels})  # fmt: skip
    first = [{"docid": "1#0", "title": "चाय", "text": "पत्तियाँ"}, {"docid": "1#1", "title": "चाय", "text": "पानी"}]
    last = [{"docid": "2#1", "title": "दूध", "text": "सफ़ेद"}]
    folder = f"miracl-corpus-v1.0-{language}"
    cached(root, corpus, {f"{folder}/docs-0.jsonl.gz": first, f"{folder}/docs-1.jsonl.gz": last})


def test_miracl_keeps_the_titles_of_its_passages(root: Path) -> None:
    miracl_files(root)
    suite = load("miracl/hi")
    assert suite.corpus_ids == ["1#0", "1#1", "2#1"] and suite.corpus[2] == ("दूध", "सफ़ेद")
    assert suite.queries == ["चाय क्या है?", "दूध?"]
    assert suite.qrels == {"0": {"1#0": 1, "2#1": 0}, "7": {"9#0": 1}} and suite.missing_documents == 1
    assert (suite.name, suite.language, suite.metrics) == ("miracl-hi", "hi", ("ndcg@10", "recall@100"))
    assert suite.revision == f"{COMMIT} {COMMIT}"


def test_a_corpus_that_lacks_a_file_is_not_taken_for_whole(root: Path) -> None:
    miracl_files(root)
    (found,) = root.glob("datasets--miracl--miracl-corpus/snapshots/*/*/docs-1.jsonl.gz")
    found.unlink()
    with pytest.raises(UsageError, match=r"miracl/hi: its data is not in .*docs-0\.jsonl\.gz, .*docs-1\.jsonl\.gz"):
        load("miracl/hi")
    (source,) = SUITES["beir/scifact"].sources
    cached(root, source, {name: rows for name, rows in PARQUET.items() if "00001-of" not in name})
    assert held(source) is None


ANSWERS = {"th": [{"type": "entity", "entity": "Q1", "text": "เกอเท", "aliases": []}]}


def question(number: int, kind: Any, *texts: str | None, query: str = "ใครเขียนเฟาสต์") -> dict[str, Any]:
    one = {"type": kind, "entity": None, "text": texts[0] if texts else None, "aliases": list(texts[1:])}
    return {
        "example_id": number,
        "query": "who",
        "queries": {"th": query, "zh_cn": "谁"},
        "answers": {**ANSWERS, "en": [one]},
    }


QUESTIONS = [
    question(-5, "entity", "Goethe", "Гёте", "歌德", "غوته"),
    question(2, "unanswerable"),
    question(3, "long_answer"),
    question(4, "binary", "yes"),
    question(5, "number_with_unit", "2 metres"),
]


@pytest.mark.parametrize("kind", ["of the authors", "of the hub"])
def test_mkqa_asks_in_a_language_and_looks_for_the_english_answers(root: Path, kind: str) -> None:
    rows = QUESTIONS
    if kind == "of the hub":  # which numbers the types, and makes ids texts
        for row in (rows := deepcopy(rows)):
            row["example_id"] = str(row["example_id"])
            row["answers"]["en"][0]["type"] = mkqa.TYPES.index(row["answers"]["en"][0]["type"])
    cached(root, mkqa.QUESTIONS, {"mkqa.jsonl.gz" if kind == "of the authors" else "mkqa/train/0000.parquet": rows})
    cached(root, mkqa.PASSAGES, {"corpus.jsonl": DOCUMENTS})
    suite = load("mkqa/th")
    assert suite.query_ids == ["-5", "5"] and suite.queries == ["ใครเขียนเฟาสต์"] * 2
    assert suite.answers == {"-5": ["Goethe", "Гёте", "歌德", "غوته"], "5": ["2 metres"]}
    assert suite.qrels == {"-5": {}, "5": {}} and suite.missing_documents == 0
    assert (suite.name, suite.language, suite.metrics) == ("mkqa-th", "th", ("accuracy@10", "accuracy@100"))
    other = load("mkqa/zh_cn")
    assert (other.queries, other.language) == (["谁", "谁"], "zh")
    assert other.corpus is suite.corpus  # read once for all languages
    assert read_test_queries("mkqa/th")["query"].to_pylist() == suite.queries
    assert read_test_passages("mkqa/th").num_rows == 0


def test_bright_names_documents_that_are_not_ranked(root: Path) -> None:
    (source,) = SUITES["bright/theoremqa_theorems"].sources
    documents = [{"id": f"d{n}", "content": f"theorem {n}"} for n in range(3)]
    examples = [{"query": "prove it", "id": "q1", "gold_ids": ["d0", "d2"], "excluded_ids": ["d1"]},
                {"query": "prove that", "id": "q2", "gold_ids": ["d1"], "excluded_ids": ["N/A"]}]  # fmt: skip
    cached(root, source, {"documents/theoremqa_theorems-00000-of-00001.parquet": documents,
                          "examples/theoremqa_theorems-00000-of-00001.parquet": examples})  # fmt: skip
    suite = load("bright/theoremqa_theorems")
    assert suite.name == "bright-theoremqa-theorems" and suite.prompt is None
    assert suite.corpus == [("", "theorem 0"), ("", "theorem 1"), ("", "theorem 2")]
    assert suite.qrels == {"q1": {"d0": 1, "d2": 1}, "q2": {"d1": 1}}
    assert suite.unranked("q1") == {"d1", "q1"} and suite.unranked("q2") == {"q2"}
    parts = [part for half in (LEARN, REPORT) for part in [_half(suite, half)] if part]
    assert [set(part.excluded or {}) for part in parts] == [set(part.query_ids) for part in parts]


def _half(suite: Suite, half: str) -> Suite | None:
    try:
        return halved(suite, half)
    except UsageError:
        return None


def test_a_task_of_mteb_is_read_by_mteb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mteb = pytest.importorskip("mteb")
    repo = tmp_path / "repo"
    for name, rows in JSON_LINES.items():
        write(repo / name, rows)
    write(
        repo / "README.md",
        """---
configs:
- {config_name: default, data_files: [{split: test, path: qrels/test.jsonl}]}
- {config_name: corpus, data_files: [{split: corpus, path: corpus.jsonl}]}
- {config_name: queries, data_files: [{split: queries, path: queries.jsonl}]}
---
""",
    )
    monkeypatch.setitem(type(mteb.get_task("NFCorpus")).metadata.dataset, "path", str(repo))
    suite = load("mteb:NFCorpus")
    is_the_drinks(suite)
    assert (suite.name, suite.language, suite.revision) == (
        "NFCorpus",
        "eng",
        "ec0fa4fe99da2ff19ca1214b7966684033a58814",
    )
    assert suite.prompt is not None and suite.prompt.startswith("Instruct: Given a question, retrieve")
    assert [given.name for given in suites_of("mteb:MIRACLRetrieval/sw")] == ["MIRACLRetrieval-sw"]
    assert len(suites_of("mteb:MIRACLRetrieval")) == 18
    for name, message in {
        "mteb:NFCorpsu": "Did you mean: 'NFCorpus'",
        "mteb:MIRACLRetrieval/xx": "has no subset 'xx'; allowed: ar, bn",
        "mteb:AmazonCounterfactualClassification": "is a task of Classification of text; allowed: Retrieval of text",
    }.items():
        with pytest.raises(UsageError, match=message):
            suites_of(name)


def test_mteb_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mteb", None)
    with pytest.raises(
        UsageError, match=r"needs the package mteb, which is missing: pip install 'retrieval-mixture\[mteb\]'"
    ):
        suites_of("mteb:NFCorpus")


def test_a_name_stands_for_all_of_its_parts_and_a_folder_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"beir": 26, "beir/cqadupstack": 12, "nanobeir": 13, "miracl": 18, "mkqa": 25, "bright": 12}
    assert {name: len(suites_of(name)) for name in counts} == counts
    assert len({given.name for given in suites_of(counts)}) == sum(counts.values()) - 12
    monkeypatch.chdir(tmp_path)
    for name, rows in {**JSON_LINES, "qrels/test.tsv": TSV}.items():
        write(tmp_path / "beir" / "mine" / name, rows)
    assert [given.name for given in suites_of("beir")] == ["mine"]


def test_a_typo_says_what_is_near() -> None:
    with pytest.raises(UsageError, match="no folder and no suite 'beir/nfcorpsu'; did you mean 'beir/nfcorpus'"):
        suites_of("beir/nfcorpsu")
    with pytest.raises(
        UsageError, match=r"no folder other; a suite folder holds .* by name there are: beir, .*mteb:TASK"
    ):
        suites_of("other")
    with pytest.raises(UsageError, match="no suite given"):
        suites_of([])


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    for name, rows in {**JSON_LINES, "qrels/test.tsv": TSV}.items():
        write(tmp_path / "nfcorpus" / name, rows)
    with pytest.raises(UsageError, match=r"two suites are called 'nfcorpus': .*nfcorpus and beir/nfcorpus"):
        suites_of([str(tmp_path / "nfcorpus"), "beir/nfcorpus"])
    assert len(suites_of(["beir/nfcorpus", "beir"])) == 26


def test_missing_data_says_what_to_bring_where(root: Path) -> None:
    with pytest.raises(UsageError) as error:
        load("beir/scifact")
    assert str(error.value) == (
        f"beir/scifact: its data is not in {root}, and cannot be fetched (HF_HUB_OFFLINE is set); bring the files "
        f"corpus.jsonl, queries.jsonl, qrels/test.jsonl of the dataset mteb/scifact to {root}/mteb/scifact"
    )
    for name, rows in JSON_LINES.items():
        write(root / "mteb" / "scifact" / name, rows)
    suite = load("beir/scifact")
    is_the_drinks(suite)
    assert suite.revision is None  # nothing says which one was brought


def test_a_hub_that_cannot_be_reached_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, local_files_only: bool, **kwargs: object) -> str:
        raise OSError("no route to host" if not local_files_only else "not cached")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UsageError, match=r"cannot be fetched \(mteb/scifact: no route to host\)"):
        fetched(SUITES["beir/scifact"].sources[0], "beir/scifact")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"qrels/test.jsonl": [{"query-id": "q9", "corpus-id": "d1", "score": 1}]},
            "query 'q9' is judged and has no text",
        ),
        ({"qrels/test.jsonl": [{"query-id": "q1", "corpus-id": "x", "score": 1}]}, "none of the 1 judged documents"),
        (
            {"qrels/test.jsonl": [{"query-id": "q1", "score": 1}]},
            "row 1: expected query-id, corpus-id and a whole score",
        ),
        ({"corpus.jsonl": [{"text": "no id"}]}, "line 1: expected an id in _id or id or docid"),
        ({"corpus.jsonl": "{not json\n"}, "line 1: not JSON"),
    ],
)
def test_damaged_data_is_said_with_its_place(root: Path, change: Any, message: str) -> None:
    cached(root, SUITES["beir/nfcorpus"].sources[0], {**JSON_LINES, **change})
    with pytest.raises(UsageError, match=message):
        load("beir/nfcorpus")


def test_the_prompts_are_those_of_the_paper(real_data: Path) -> None:
    table = real_data.parent / "paper" / "evaluation_prompts.csv"
    if not table.is_file():
        pytest.skip("the paper's table is not there")
    with table.open(encoding="utf-8") as file:
        paper = {row["benchmark"].split(" ")[0].lower(): row["prompt"] for row in csv.DictReader(file)}
    called = {"climate-fever": "climatefever", "dbpedia-entity": "dbpedia", "fiqa": "fiqa2018",
              "trec-covid": "treccovid", "webis-touche2020": "touche2020"}  # fmt: skip
    for key, part in SUITES.items():
        words = key.split("/")
        name = words[0] if words[0] in ("miracl", "mkqa") else words[1]
        if words[0] != "bright":
            assert part.instruction == paper[called.get(name, name)], key


def test_decontaminate_takes_a_name_and_then_knows_the_suite(root: Path, small_store: Store) -> None:
    cached(root, SUITES["beir/nfcorpus"].sources[0], JSON_LINES)
    jobs.decontaminate(small_store, ["beir/nfcorpus"])
    assert small_store.rows("SELECT suite, count(*) AS n FROM test_queries GROUP BY suite") == [
        {"suite": "nfcorpus", "n": 2}
    ]
    assert {row["text"] for row in small_store.rows("SELECT text FROM test_passages")} == {
        "green leaves",
        "black beans",
    }
    jobs.decontaminate(small_store, ["nfcorpus"])
    with pytest.raises(UsageError, match="no test suite 'beir/nfcorpsu'; did you mean 'beir/nfcorpus'"):
        jobs.decontaminate(small_store, ["beir/nfcorpsu"])


def test_the_command_lists_what_can_be_named(root: Path) -> None:
    cached(root, SUITES["beir/nfcorpus"].sources[0], JSON_LINES)
    found = CliRunner().invoke(app, ["suites", "--json"])
    rows = {row["name"]: row for row in json.loads(found.stdout)}
    assert list(rows) == ["beir", "bright", "miracl", "mkqa", "nanobeir", "mteb:TASK"]
    assert (rows["beir"]["suites"], rows["beir"]["cached"], rows["miracl"]["languages"]) == (26, 1, 18)
    found = CliRunner().invoke(app, ["suites", "beir/nfcorpus", "beir/nq", "--json"])
    first, second = json.loads(found.stdout)
    assert (first["cached"], first["queries"], first["documents"]) == (True, 2, 3)
    assert (second["cached"], second["queries"], second["source"]) == (False, None, "mteb/nq")
    assert CliRunner().invoke(app, ["suites", "beri"]).exit_code == 2


def test_evaluate_and_learning_take_a_name(root: Path, small_store: Store, tmp_path: Path) -> None:
    pytest.importorskip("pytrec_eval")
    from trainers import evaluate
    from trainers.finetune.config import FinetuneSettings
    from trainers.finetune.scores import load_suites
    from trainers.jobs.folder import asked_for
    from trainers.jobs.towards import asked_target
    from trainers.learning.config import LearningSettings
    from trainers.model.tiny import build_tiny

    cached(root, SUITES["beir/nfcorpus"].sources[0], JSON_LINES)
    model = str(tmp_path / "model")
    build_tiny([row["text"] for row in (*DOCUMENTS, *QUERIES)], tmp_path / "model", seed=1, hidden=32)
    (result,) = evaluate(small_store, model, ["beir/nfcorpus"])
    assert (result.suite, result.num_queries, result.num_documents) == ("nfcorpus", 2, 3)
    (suite,) = load_suites(asked_for(model, tmp_path / "new", "beir/nfcorpus", FinetuneSettings(steps=1))[1])
    assert suite.name == "nfcorpus"
    (half,) = asked_target("beir/nfcorpus", LearningSettings(algorithm="search"))
    assert half.title == "nfcorpus/learn"
