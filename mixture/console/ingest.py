"""What files were read as, above the counts of their collections."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mixture.console import sentences
from mixture.console.output import one_line, print_json, print_rows
from mixture.console.sentences import say
from mixture.console.terminal import in_options
from mixture.ingest.report import FileReport
from mixture.jobs import IngestResult, Preview

MAX_FILES = 20
MAX_CHARS = 300


def print_results(results: Sequence[IngestResult], *, as_json: bool) -> None:
    """A line for each file that was read, what was left out, and a table of the collections."""
    counts: list[dict[str, Any]] = [
        {"collection": r.collection, "files": r.files, "unchanged": r.unchanged, **asdict(r.counts)} for r in results
    ]
    if not any(row["replaced"] for row in counts):  # a column that most have no use for
        counts = [{key: value for key, value in row.items() if key != "replaced"} for row in counts]
    if as_json:
        print_json([row | {"read": [_facts(read) for read in r.read], "notes": list(r.notes)}
                    for row, r in zip(counts, results, strict=True)])  # fmt: skip
        return
    _print_files([read for result in results for read in result.read])
    _print_notes([note for result in results for note in result.notes])
    say(sentences.ingested(counts))
    print_rows(counts, as_json=False)


def print_preview(found: Sequence[Preview], notes: Sequence[str], *, as_json: bool) -> None:
    """A line for each file, what was left out, and its first examples."""
    if as_json:
        print_json({"files": [{"collection": one.collection, **_facts(one.read), "examples": list(one.examples)}
                              for one in found], "notes": list(notes)})  # fmt: skip
        return
    _print_notes(notes)
    for one in found:
        _print_files([one.read])
        for number, example in enumerate(one.examples, 1):
            sys.stdout.write(f"  {number}. query: {one_line(example['query'], MAX_CHARS)}\n")
            for role in ("positive", "negative"):
                for text in example[f"{role}s"]:
                    sys.stdout.write(f"     {role}: {one_line(text, MAX_CHARS)}\n")
    sys.stdout.write("Nothing was stored.\n")


def _facts(read: FileReport) -> dict[str, Any]:
    reasons = [{"reason": reason, "rows": read.reasons.counts[kind], "line": line}
               for kind, (line, reason) in read.reasons.first.items()]  # fmt: skip
    return {"file": read.location, "format": read.format, "read_as": str(read.reading), "rows": read.rows,
            "refused": read.refused, "reasons": reasons}  # fmt: skip


def _print_files(read: Sequence[FileReport]) -> None:
    sys.stdout.writelines(in_options(one) + "\n" for one in read[:MAX_FILES])
    if len(read) > MAX_FILES:
        sys.stdout.write(f"… and {len(read) - MAX_FILES} more files\n")


def _print_notes(notes: Sequence[str]) -> None:
    sys.stdout.writelines(in_options(note) + "\n" for note in notes)
