"""MIRACL (arXiv 2210.09984): questions in 18 languages on the Wikipedia of each, on the dev split, whose judgements are
public. Passages have the titles of their articles. The instruction is that of tDRO (arXiv 2408.10613)."""

from __future__ import annotations

from collections.abc import Sequence

from mixture.errors import UsageError
from mixture.suites import tables
from mixture.suites.benchmarks.base import Part, judged_suite, register
from mixture.suites.hub import Held, Source
from mixture.suites.suite import Suite, grades_of, lines

# Language -> files of its corpus.
FILES = {"ar": 5, "bn": 1, "de": 32, "en": 66, "es": 21, "fa": 5, "fi": 4, "fr": 30, "hi": 2, "id": 3, "ja": 14,
         "ko": 3, "ru": 20, "sw": 1, "te": 2, "th": 2, "yo": 1, "zh": 10}  # fmt: skip
INSTRUCTION = "Given a question, retrieve Wikipedia passages that answer the question"


def sources(language: str) -> tuple[Source, Source]:
    """The questions with their judgements, and the passages."""
    top = f"miracl-v1.0-{language}"
    asked = tuple((f"{top}/{kind}/{kind}.{top}-dev.tsv",) for kind in ("topics", "qrels"))
    corpus = tuple((f"miracl-corpus-v1.0-{language}/docs-{n}.jsonl.gz",) for n in range(FILES[language]))
    return Source("miracl/miracl", asked), Source("miracl/miracl-corpus", corpus)


def read(part: Part, held: Sequence[Held]) -> Suite:
    (topics,), (qrels,) = held[0].files
    queries = {}
    for line, text in lines(topics):
        key, tab, query = text.rstrip("\r\n").partition("\t")
        if not tab:
            raise UsageError(f"{topics}, line {line}: expected 'id<TAB>question', got {text[:60]!r}")
        queries[key] = query
    ids, documents = tables.documents(tuple(file for files in held[1].files for file in files))
    return judged_suite(part, held, ids, documents, queries, grades_of(qrels))


for _language in FILES:
    register(Part(f"miracl/{_language}", f"miracl-{_language}", sources(_language), read, ("ndcg@10", "recall@100"),
                  _language, INSTRUCTION))  # fmt: skip
