"""Rows that carry a label, as one example for each query: what is labelled 0 becomes a negative, never a positive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from mixture.ingest.columns import Columns
from mixture.ingest.damage import start_of
from mixture.rows import RawExample, RawPassage, Reject, clean

Item = TypeVar("Item", Columns | RawExample | Reject, RawExample | Reject)
NONE_IS_POSITIVE = "no row of this query has a label that makes it a positive"


def by_query(items: Iterable[Item], min_label: float | None = None) -> Iterator[Item]:
    """Pass rows on; those with a label are held until the end, and come as one example for each query.

    min_label: rows of at least this label are positives. None: labels are grades, whole numbers from 0; above 0 is a
               positive of that grade. Other labels (a similarity of 0.37) are refused then, since any limit would be a
               guess.

    Memory: the texts of all rows that have a label.
    """
    groups: dict[str, list[RawExample]] = {}
    for item in items:
        if isinstance(item, RawExample) and item.label is not None:
            groups.setdefault(clean(item.query), []).append(item)
        else:
            yield item
    labelled = [row for group in groups.values() for row in group]
    odd = next((row for row in labelled if min_label is None and not _is_grade(row)), None)
    if odd is not None:
        yield Reject(odd.line, f"the label is {odd.label:g}, so which rows are positives is not clear; give the lowest "
                     "label of a positive in `min_label`", start_of(odd.query), rows=len(labelled))  # fmt: skip
        return
    for group in groups.values():
        yield _example(group, min_label)


def _is_grade(row: RawExample) -> bool:
    return row.label is not None and row.label >= 0 and float(row.label).is_integer()


def _example(rows: list[RawExample], min_label: float | None) -> RawExample | Reject:
    positives: list[RawPassage] = []
    negatives: list[RawPassage] = []
    first: RawExample | None = None
    for row in rows:
        label = row.label or 0.0
        if label >= min_label if min_label is not None else label > 0:
            first = first or row
            positives += [RawPassage(p.text, p.title, label) for p in row.positives]
        else:
            score = None if min_label is None else label
            negatives += [RawPassage(p.text, p.title, score) for p in row.positives]
        negatives += row.negatives
    if first is None:
        return Reject(rows[0].line, NONE_IS_POSITIVE, start_of(rows[0].query), rows=len(rows))
    language = next((row.language for row in rows if row.language), None)
    prompt = next((row.prompt for row in rows if row.prompt), None)
    return RawExample(first.line, first.query, tuple(positives), tuple(negatives), language, prompt, rows=len(rows))
