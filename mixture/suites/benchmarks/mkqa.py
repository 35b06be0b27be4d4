"""MKQA (arXiv 2007.15207): questions in 25 languages, asked of the English Wikipedia.

As in Contriever (arXiv 2112.09118) and BGE-M3 (arXiv 2402.03216): the passages are those of BEIR's NQ, the answers are
the English ones with their aliases, and questions without a short answer are left out (types unanswerable, binary and
long_answer), which leaves 6,619 of 10,000. A passage counts that holds an answer (`mixture.suites.answers`). The
instruction is that of tDRO (arXiv 2408.10613).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixture.errors import UsageError
from mixture.suites import tables
from mixture.suites.benchmarks import beir, miracl
from mixture.suites.benchmarks.base import Part, register, suite_of
from mixture.suites.hub import Held, Source
from mixture.suites.layout import identifier
from mixture.suites.suite import Suite, json_rows

LANGUAGES = ("ar", "da", "de", "es", "fi", "fr", "he", "hu", "it", "ja", "km", "ko", "ms", "nl", "no", "pl", "pt",
             "ru", "sv", "th", "tr", "vi", "zh_cn", "zh_hk", "zh_tw")  # fmt: skip
TYPES = ("entity", "long_answer", "unanswerable", "date", "number", "number_with_unit", "short_phrase", "binary")
NO_SHORT_ANSWER = {"unanswerable", "binary", "long_answer"}
# The file of the authors, or what the hub makes of it.
QUESTIONS = Source("apple/mkqa", (("mkqa.jsonl.gz", "dataset/mkqa.jsonl.gz", "mkqa/train/*.parquet"),),
                   "refs/convert/parquet")  # fmt: skip
PASSAGES = Source(beir.REPOSITORIES["nq"][0], (beir.CORPUS,), beir.REPOSITORIES["nq"][1])


def read(part: Part, held: Sequence[Held]) -> Suite:
    language = part.key.partition("/")[2]
    queries, answers = {}, {}
    for file, place, row in _rows(held[0].files[0]):
        try:
            key, query = identifier(row["example_id"]), row["queries"][language]
            short = [one for one in row["answers"]["en"] if _type(one) not in NO_SHORT_ANSWER]
            found = [text for one in short for text in (one.get("text"), *(one.get("aliases") or ())) if text]
        except (KeyError, TypeError) as error:
            raise UsageError(f"{file}, row {place}: not a question of MKQA ({error})") from error
        if key and query and found:
            queries[key], answers[key] = query, found
    ids, documents = tables.documents(held[1].files[0])
    return suite_of(part, held, ids, documents, queries, {key: {} for key in queries}, answers=answers)


def _rows(files: Sequence[Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    for file in files:
        if file.suffix != ".parquet":
            yield from ((file, line, row) for line, row in json_rows(file))
            continue
        place = 0
        for batch in tables.parquet_batches(file, ["example_id", "queries", "answers"]):
            for row in batch.to_pylist():
                place += 1
                yield file, place, row


def _type(answer: dict[str, Any]) -> str:
    """The hub numbers the types."""
    kind = answer["type"]
    return kind if isinstance(kind, str) else TYPES[kind]


for _language in LANGUAGES:
    register(Part(f"mkqa/{_language}", f"mkqa-{_language}", (QUESTIONS, PASSAGES), read,
                  ("accuracy@10", "accuracy@100"), _language.partition("_")[0], miracl.INSTRUCTION))  # fmt: skip
