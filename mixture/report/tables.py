"""Tables of a report: numbers as people read them in the page, exact in the CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mixture.report.ablation import Ablation
from mixture.report.facts import Facts
from mixture.report.held_out import HeldOut
from mixture.report.learning import Learning
from mixture.report.scores import Evaluation
from mixture.report.wording import metric_name, minus, percent

# A spreadsheet takes a cell that begins so for a formula, which may read files or call out.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "passage": str,
    "count": lambda value: f"{value:,}",
    "share": percent,
    "signed share": lambda value: ("+" if value > 0 else "") + percent(value),
    "score": lambda value: f"{100 * value:.1f}",
    "signed score": lambda value: minus(f"{100 * value:+.1f}"),
    "number": lambda value: minus(f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"),
    "factor": lambda value: f"{value:.2f} ×",
}


@dataclass(frozen=True)
class Column:
    """`name` heads the CSV, `title` the page; `kind` is one of `FORMATS`; a passage is a text of the data, folded."""

    name: str
    title: str
    kind: str = "text"

    @property
    def is_number(self) -> bool:
        return self.kind not in ("text", "passage")


@dataclass(frozen=True)
class Cell:
    """`value` exactly, `text` for people; a missing one is a dash."""

    value: Any
    text: str


@dataclass(frozen=True)
class Table:
    """`rows` hold plain values in the order of `columns`; None where nothing is known."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    def cells(self) -> Iterable[list[tuple[Column, Cell]]]:
        """The rows as the page shows them."""
        for row in self.rows:
            yield [
                (column, Cell(value, "–" if value is None else FORMATS[column.kind](value)))
                for column, value in zip(self.columns, row, strict=True)
            ]

    def csv(self) -> str:
        """All rows as CSV (RFC 4180); a text that a spreadsheet would take for a formula gets an apostrophe in front.

        >>> Table("t", "", (Column("name", ""), Column("change", "", "count")), (("=1+1", -3),)).csv()
        "name,change\\r\\n'=1+1,-3\\r\\n"
        """
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([column.name for column in self.columns])
        writer.writerows([_guarded(value) for value in row] for row in self.rows)
        return text.getvalue()


def _guarded(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _table(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Table:
    return Table(name, caption, tuple(columns), tuple(tuple(row) for row in rows))


def weights_table(facts: Facts) -> Table:
    """Each collection against an equal share and against the other mixture."""
    count = len(facts.present)
    other = facts.against.reference if facts.against else None
    columns = [
        Column("collection", "Collection"), Column("weight", "Weight", "share"),
        Column("equal_share", "Equal share", "share"), Column("times_equal", "Times equal", "factor"),
    ]  # fmt: skip
    if other:
        columns += [Column("against", other, "share"), Column("difference", "Difference", "signed share")]
    spread = any(c.spread is not None for c in facts.components)
    loss = any(c.loss_weight not in (None, 1.0) for c in facts.components)
    columns += [Column("spread", "Spread over seeds", "share")] * spread
    columns += [Column("loss_weight", "Loss weight", "number")] * loss
    columns += [Column("num_examples", "Examples", "count")]
    rows = []
    for c in facts.components:
        row: list[Any] = [c.collection, c.weight, 1 / count if c.weight is not None else None]
        row.append(None if c.weight is None else c.weight * count)
        if other:
            row += [c.against, (c.weight or 0.0) - (c.against or 0.0)]
        rows.append(row + [c.spread] * spread + [c.loss_weight] * loss + [c.num_examples])
    return _table("weights", "Weights", columns, rows)


def trajectories_table(learned: Learning) -> Table:
    """Where each weight began and ended; the points between are in `points_table`."""
    first, last = learned.ends()
    columns = (Column("collection", "Collection"), Column("first", "After the first step", "share"),
               Column("last", "After the last step", "share"), Column("change", "Change", "signed share"))  # fmt: skip
    rows = [(name, first[name], last[name], last[name] - first[name]) for name in sorted(last, key=lambda n: -last[n])]
    return _table("trajectories", "Weights at both ends of the run", columns, rows)


def points_table(learned: Learning) -> Table:
    """The points of the trajectories."""
    columns = (Column("step", "Step", "count"), Column("collection", "Collection"),
               Column("weight", "Weight", "share"), Column("mean_weight", "Mean weight", "share"),
               Column("ema_weight", "Moving average", "share"))  # fmt: skip
    rows = ((p.step, p.collection, p.weight, p.mean_weight, p.ema_weight) for p in learned.points)
    return _table("trajectories", "Weights by step", columns, rows)


def alike_table(learned: Learning) -> Table:
    """Cosines of each two collections, once."""
    columns = (Column("collection", "Collection"), Column("other", "And"), Column("cosine", "Cosine", "number"))
    pairs = [(c.collection, c.other, c.value) for c in learned.cosines if c.collection < c.other]
    return _table("alike", "Which collections teach alike", columns,
                  sorted(pairs, key=lambda pair: 2.0 if pair[2] is None else -pair[2]))  # fmt: skip


def losses_table(learned: Learning) -> Table:
    other = "Forecast" if learned.forecast else "Reference loss"
    columns = (Column("collection", "Collection"), Column("measurement", "Measurement", "number"),
               Column("proxy_loss", "Proxy loss", "number"), Column("reference_loss", other, "number"),
               Column("num_examples", "Examples measured", "count"))  # fmt: skip
    rows = ((r.collection, r.measurement, r.proxy_loss, r.reference_loss, r.num_examples) for r in learned.losses)
    return _table("losses", "Losses and measurement, means over the last quarter of the steps", columns, rows)


def ablation_table(found: Ablation) -> Table:
    columns = (Column("collection", "Collection"), Column("says", "Found"),
               Column("learned", "Held-out rows found", "share"), Column("merged", "Merged, nats", "number"),
               Column("effect", "Effect", "signed score"), Column("low", "95 % from", "signed score"),
               Column("high", "95 % to", "signed score"), Column("p_holm", "p (Holm)", "number"),
               Column("without_own", "Effect without own suites", "signed score"))  # fmt: skip
    rows = (tuple(getattr(row, column.name) for column in columns) for row in found.rows)
    return _table("ablation", "The mixture with each collection and without it", columns, rows)


def composition_table(facts: Facts, dimension: str, title: str) -> Table:
    parts = [part for part in facts.composition if part.dimension == dimension]
    total = sum(part.num_examples or 0 for part in parts)
    columns = (Column(dimension, title), Column("weight", "Share of draws", "share"),
               Column("share_of_examples", "Share of examples", "share"), Column("num_examples", "Examples", "count"),
               Column("num_collections", "Collections", "count"))  # fmt: skip
    rows = ((p.value, p.weight, _share(p.num_examples, total), p.num_examples, p.num_collections) for p in parts)
    return _table(dimension, f"By {title.lower()}", columns, rows)


def collections_table(facts: Facts) -> Table:
    """What the cards declare of each collection, and how much the store holds of it."""
    columns = (Column("collection", "Collection"), Column("category", "Category"), Column("license", "Licence"),
               Column("languages", "Languages"), Column("num_examples", "Examples then", "count"),
               Column("num_today", "Examples now", "count"))  # fmt: skip
    rows = ((c.collection, c.category, c.license, ", ".join(c.languages) or None, c.num_examples, c.num_today)
            for c in facts.present)  # fmt: skip
    return _table("collections", "Collections of the mixture", columns, rows)


def prompts_table(facts: Facts) -> Table:
    columns = (Column("collection", "Collection"), Column("prompt", "Prompt"))
    rows = ((c.collection, prompt) for c in facts.present for prompt in c.prompts)
    return _table("prompts", "Prompts of the collections", columns, rows)


def epochs_table(facts: Facts) -> Table:
    columns = (Column("collection", "Collection"), Column("epochs", "Epochs", "number"),
               Column("expected_examples", "Drawn", "number"), Column("num_examples", "Examples", "count"),
               Column("repeated", "Repeated"))  # fmt: skip
    rows = (
        (r.collection, r.epochs, r.expected_examples, r.num_examples,
         "size unknown" if r.epochs is None else "yes" if r.epochs > 1 else "no")
        for r in facts.epochs
    )  # fmt: skip
    return _table("epochs", f"Epochs in {facts.steps:,} steps of {facts.batch_size:,}", columns, rows)


def removed_table(facts: Facts) -> Table:
    columns = (Column("collection", "Collection"), Column("rows_read", "Rows read", "count"),
               Column("repeated", "Exact repeats", "count"), Column("rejected", "Rejected", "count"),
               Column("duplicates", "Near-duplicates", "count"), Column("tests", "Test data", "count"),
               Column("share", "Left out", "share"))  # fmt: skip
    rows = [(r.collection, r.rows_read, r.repeated, r.rejected, r.duplicates, r.tests, _share(r.total, r.rows_read))
            for r in facts.taken_out]  # fmt: skip
    return _table("removed", "Rows that training does not see", columns, sorted(rows, key=lambda r: -(r[-1] or 0)))


def reasons_table(facts: Facts) -> Table:
    columns = (Column("what", "What"), Column("reason", "Reason"), Column("suite", "Test suite"),
               Column("num_rows", "Rows", "count"), Column("num_collections", "Collections", "count"))  # fmt: skip
    rows = ((r.what, r.reason, r.suite, r.num_rows, r.num_collections) for r in facts.reasons)
    return _table("reasons", "Reasons for leaving rows out", columns, rows)


def held_out_table(found: HeldOut) -> Table:
    columns = (Column("collection", "Collection"), Column("num_examples", "Rows measured", "count"),
               Column("first", "Before training", "number"), Column("lowest", "Lowest", "number"),
               Column("best", "At step", "count"), Column("last", "After the last step", "number"))  # fmt: skip
    rows = (tuple(getattr(row, column.name) for column in columns) for row in found.rows)
    return _table("held_out", "Loss on held-out rows, nats", columns, rows)


def scores_table(found: Evaluation, ours: str, theirs: str | None) -> Table:
    """Scores are within 0 to 1 in the CSV, times 100 in the page."""
    paired = theirs is not None and any(s.against is not None for s in found.scores)
    own = any(s.own for s in found.scores)
    columns = [Column("suite", "Suite"), *[Column("own", "Own")] * own, Column("metric", "Metric"),
               Column("value", ours, "score")]  # fmt: skip
    tested = found.by_queries
    if paired:
        columns += [Column("against", str(theirs), "score"), Column("difference", "Difference", "signed score")]
    if tested:
        columns += [Column("low", "95 % from", "signed score"), Column("high", "95 % to", "signed score"),
                    Column("p", "p", "number"), Column("p_adjusted", "p adjusted", "number")]  # fmt: skip
    columns += [Column("num_queries", "Queries", "count"), Column("num_documents", "Documents", "count")]
    corpora = sorted({s.corpus for s in found.scores})
    columns += [Column("corpus", "Corpus")] * (len(corpora) > 1)
    rows = []
    for metric in found.metrics:
        for s in found.of(metric):
            row: list[Any] = [s.suite, *["yes" if s.own else "no"] * own, metric_name(metric), s.value]
            if paired:
                row += [s.against, None if s.against is None else s.value - s.against]
            if tested:
                row += [s.test.low, s.test.high, s.test.p, s.adjusted] if s.test else [None] * 4
            rows.append([*row, s.num_queries, s.num_documents] + [s.corpus] * (len(corpora) > 1))
    caption = "Scores by suite" + (f", {corpora[0]}" if len(corpora) == 1 else "")
    return _table("scores", caption, columns, rows)


def tests_table(found: Evaluation) -> Table:
    columns = (Column("metric", "Metric"), Column("difference", "Mean difference", "signed score"),
               Column("low", "95 % from", "signed score"), Column("high", "95 % to", "signed score"),
               Column("p", "p", "number"), Column("num_suites", "Suites", "count"))  # fmt: skip
    rows = ((metric_name(m), t.difference, t.low, t.high, t.p, t.num_pairs) for m in found.metrics
            if (t := found.tests.get(m)))  # fmt: skip
    return _table("tests", "Mean difference over suites", columns, rows)


def _share(part: int | None, whole: int) -> float | None:
    return part / whole if part is not None and whole else None
