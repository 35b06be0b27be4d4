"""BEIR (arXiv 2104.08663), as mteb keeps it on the hub: a repository a suite, whose revision mteb pins.

MS MARCO is judged on its dev split, as in BEIR; the others on test. CQADupStack is twelve suites, whose mean counts as
one in BEIR. The instructions are those of tDRO (arXiv 2408.10613).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mixture.suites import tables
from mixture.suites.benchmarks.base import Part, judged_suite, register
from mixture.suites.hub import Held, Source
from mixture.suites.suite import Suite

INSTRUCTIONS = {
    "arguana": "Given a claim, find documents that refute the claim",
    "climate-fever": "Given a claim about climate change, retrieve documents that support or refute the claim",
    "cqadupstack": "Given a question, retrieve detailed question descriptions from Stackexchange that are duplicates "
    "to the given question",
    "dbpedia-entity": "Given a query, retrieve relevant entity descriptions from DBPedia",
    "fever": "Given a claim, retrieve documents that support or refute the claim",
    "fiqa": "Given a financial question, retrieve user replies that best answer the question",
    "hotpotqa": "Given a multi-hop question, retrieve documents that can help answer the question",
    "msmarco": "Given a web search query, retrieve relevant passages that answer the query",
    "nfcorpus": "Given a question, retrieve relevant documents that best answer the question",
    "nq": "Given a question, retrieve Wikipedia passages that answer the question",
    "quora": "Given a question, retrieve questions that are semantically equivalent to the given question",
    "scidocs": "Given a scientific paper title, retrieve paper abstracts that are cited by the given paper",
    "scifact": "Given a scientific claim, retrieve documents that support or refute the claim",
    "trec-covid": "Given a query on COVID-19, retrieve documents that answer the query",
    "webis-touche2020": "Given a question, retrieve detailed and persuasive arguments that answer the question",
}
REPOSITORIES = {
    "arguana": ("mteb/arguana", "c22ab2a51041ffd869aaddef7af8d8215647e41a"),
    "climate-fever": ("mteb/climate-fever", "47f2ac6acb640fc46020b02a5b59fdda04d39380"),
    "cqadupstack/android": ("mteb/CQADupstackAndroidRetrieval", "9be4c0e46342e8e3aff577a89b9a1ec9bc6b4af3"),
    "cqadupstack/english": ("mteb/cqadupstack-english", "ad9991cb51e31e31e430383c75ffb2885547b5f0"),
    "cqadupstack/gaming": ("mteb/cqadupstack-gaming", "4885aa143210c98657558c04aaf3dc47cfb54340"),
    "cqadupstack/gis": ("mteb/cqadupstack-gis", "5003b3064772da1887988e05400cf3806fe491f2"),
    "cqadupstack/mathematica": ("mteb/cqadupstack-mathematica", "90fceea13679c63fe563ded68f3b6f06e50061de"),
    "cqadupstack/physics": ("mteb/cqadupstack-physics", "79531abbd1fb92d06c6d6315a0cbbbf5bb247ea4"),
    "cqadupstack/programmers": ("mteb/cqadupstack-programmers", "6184bc1440d2dbc7612be22b50686b8826d22b32"),
    "cqadupstack/stats": ("mteb/cqadupstack-stats", "65ac3a16b8e91f9cee4c9828cc7c335575432a2a"),
    "cqadupstack/tex": ("mteb/cqadupstack-tex", "46989137a86843e03a6195de44b09deda022eec7"),
    "cqadupstack/unix": ("mteb/cqadupstack-unix", "6c6430d3a6d36f8d2a829195bc5dc94d7e063e53"),
    "cqadupstack/webmasters": ("mteb/cqadupstack-webmasters", "160c094312a0e1facb97e55eeddb698c0abe3571"),
    "cqadupstack/wordpress": ("mteb/cqadupstack-wordpress", "4ffe81d471b1924886b33c7567bfb200e9eec5c4"),
    "dbpedia-entity": ("mteb/dbpedia", "c0f706b76e590d620bd6618b3ca8efdd34e2d659"),
    "fever": ("mteb/fever", "bea83ef9e8fb933d90a2f1d5515737465d613e12"),
    "fiqa": ("mteb/fiqa", "27a168819829fe9bcd655c2df245fb19452e8e06"),
    "hotpotqa": ("mteb/hotpotqa", "ab518f4d6fcca38d87c25209f94beba119d02014"),
    "msmarco": ("mteb/msmarco", "c5a29a104738b98a9e76336939199e264163d4a0"),
    "nfcorpus": ("mteb/nfcorpus", "ec0fa4fe99da2ff19ca1214b7966684033a58814"),
    "nq": ("mteb/nq", "b774495ed302d8c44a3a7ea25c90dbce03968f31"),
    "quora": ("mteb/quora", "e4e08e0b7dbe3c8700f0daef558ff32256715259"),
    "scidocs": ("mteb/scidocs", "f8c2fcf00f625baaa80f62ec5bd9e1fff3b8ae88"),
    "scifact": ("mteb/scifact", "d56462d0e63a25450459c4f213e49ffdb866f7f9"),
    "trec-covid": ("mteb/trec-covid", "bb9466bac8153a0349341eb1b22e06409e78ef4e"),
    "webis-touche2020": ("mteb/touche2020", "a34f9a33db75fa0cbb21bb5cfc3dae8dc8bec93f"),
}
CORPUS = ("corpus.jsonl", "corpus.jsonl.gz", "corpus/*.parquet")


def source(repo: str, revision: str, split: str) -> Source:
    """A repository of documents, queries and judgements: JSON Lines, or Parquet as the library `datasets` writes it."""
    grades = (f"qrels/{split}.jsonl", f"qrels/{split}.tsv", f"qrels/{split}*.parquet", f"data/{split}*.parquet",
              f"default/{split}*.parquet")  # fmt: skip
    return Source(repo, (CORPUS, ("queries.jsonl", "queries.jsonl.gz", "queries/*.parquet"), grades), revision)


def read(part: Part, held: Sequence[Held]) -> Suite:
    """The suite of a repository as `source` names it."""
    corpus, queries, grades = held[0].files
    ids, documents = tables.documents(corpus)
    return judged_suite(part, held, ids, documents, tables.queries(queries), tables.judgements(grades))


_beir = partial(Part, read=read, metrics=("ndcg@10",), language="en")
for _name, (_repo, _revision) in REPOSITORIES.items():
    register(_beir(key=f"beir/{_name}", name=_name.replace("/", "-"), instruction=INSTRUCTIONS[_name.split("/")[0]],
                   sources=(source(_repo, _revision, "dev" if _name == "msmarco" else "test"),)))  # fmt: skip
