"""What dedup, decontaminate and mine took out, would take out, or put back, for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from mixture.console import sentences
from mixture.console.output import one_line, print_json, print_rows
from mixture.console.sentences import say

if TYPE_CHECKING:
    from mixture.jobs import RemovalResult

SHOWN_LETTERS = 200
# What is compared, by the names of what goes and of what it is near to.
PAIRS = (("positive", "test_passage"), ("query", "test_query"), ("positive", "kept_positive"), ("query", "kept_query"))


def show_removals(
    results: Sequence[RemovalResult], reasons: Sequence[str], *, dry_run: bool, undo: bool, limit: int, as_json: bool
) -> None:
    """Counts by collection; of a dry run also examples, at most `limit` of them (0: all). As JSON it has all."""
    if dry_run and as_json:
        print_json(list(chain.from_iterable(result.rows() for result in results)))
        return
    would = "would be " if dry_run else ""
    counts = []
    for result in results:
        row: dict[str, Any] = {"collection": result.collection, "examples": result.examples}
        counts.append(row | ({"put_back": result.put_back} if undo else {"removed": result.removed}))
        if len(reasons) > 1:  # a test query and a test passage are no one thing
            counts[-1] |= {sentences.plural(reason).replace(" ", "_"): result.count(reason) for reason in reasons}
    if not (as_json or dry_run):
        what = "near-duplicate" if reasons == ["duplicate"] else "test query or passage"
        say(sentences.removed(counts, what, undo=undo))
    print_rows(counts, as_json=as_json, title=f"{would}{'put back' if undo else 'removed'}" if dry_run else None)
    if dry_run and not as_json:
        sys.stdout.writelines(_examples(results, limit))


def _examples(results: Sequence[RemovalResult], limit: int) -> Iterator[str]:
    rows = list(_in_turn(result.rows() for result in results))
    shown = rows[:limit] if limit else rows
    for row in shown:
        ours, theirs = next((pair for pair in PAIRS if all(name in row for name in pair)), ("query", "kept_query"))
        yield f"\n{row['collection']} {row['example_id']}: {_why(row)}\n"
        for name in dict.fromkeys(("query", ours, theirs)):
            if name in row:
                yield f"  {name + ':':<15}{one_line(row[name], SHOWN_LETTERS)}\n"
    if len(shown) < len(rows):
        yield f"\n{len(shown)} of {len(rows):,} rows; --limit 0 shows all, --json prints them whole\n"


def _why(row: dict[str, Any]) -> str:
    if row["reason"] == "duplicate":
        far = f"similarity {row['similarity']:.3f}" if "similarity" in row else f"{row['distance']} bits apart"
        return f"duplicate of {row['kept_collection']} {row['kept_id']}, {far}"
    if row["reason"] == "test query":
        return f"test query {row['query_id']} of {row['suite']}, {row['distance']} edits apart"
    return f"holds {100 * row['similarity']:.0f} % of test passage {row['doc_id']} of {row['suite']}"


def _in_turn(parts: Iterable[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One of each collection, then the next of each: a few rows show several collections."""
    for turn in zip_longest(*parts):
        yield from (row for row in turn if row is not None)
