"""BRIGHT (arXiv 2407.12883): questions that need reasoning, with its short documents, at the revision that mteb pins.

Of some questions there are documents that are not ranked (`excluded_ids`), such as their own solution.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixture.errors import UsageError
from mixture.suites import tables
from mixture.suites.benchmarks.base import Part, judged_suite, register
from mixture.suites.hub import Held, Source
from mixture.suites.suite import Suite

PARTS = ("aops", "biology", "earth_science", "economics", "leetcode", "pony", "psychology", "robotics",
         "stackoverflow", "sustainable_living", "theoremqa_questions", "theoremqa_theorems")  # fmt: skip
REVISION = "a75a0eb483f6a5233a6efc2d63d71540a4443dfb"
COLUMNS = ("id", "query", "gold_ids", "excluded_ids")
NOTHING = "N/A"


def read(part: Part, held: Sequence[Held]) -> Suite:
    corpus, examples = held[0].files
    queries, qrels, excluded = {}, {}, {}
    for file in examples:
        for batch in tables.parquet_batches(file, COLUMNS):
            for row in batch.to_pylist():
                if missing := [name for name in COLUMNS if name not in row]:
                    raise UsageError(f"{file} has no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
                key = row["id"]
                queries[key], qrels[key] = row["query"], dict.fromkeys(row["gold_ids"], 1)
                excluded[key] = [document for document in row["excluded_ids"] if document != NOTHING]
    ids, documents = tables.documents(corpus)
    return judged_suite(part, held, ids, documents, queries, qrels, excluded=excluded)


for _name in PARTS:
    _needs = tuple((f"{kind}/{_name}-*.parquet",) for kind in ("documents", "examples"))
    register(Part(f"bright/{_name}", f"bright-{_name.replace('_', '-')}", (Source("xlangai/BRIGHT", _needs, REVISION),),
                  read, ("ndcg@10",), "en"))  # fmt: skip
