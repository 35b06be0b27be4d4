"""A first datacard for files that have none: what can be counted is filled in, the rest says that it is unknown."""

from __future__ import annotations

import re
import textwrap
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mixture.cards import LANGUAGE, UNKNOWN, DataCard, Source, render_card
from mixture.cards.card import FILL_IN, STAND_IN_PROMPT, STAND_IN_TEXT
from mixture.errors import UsageError
from mixture.ingest.read import read_file
from mixture.ingest.reading import Reading
from mixture.ingest.sources import discover
from mixture.rows import RawExample, Reject, joined

# Words of the command line; a card of this name could not be shown by it.
RESERVED = ("new", "check")
UNDETERMINED = "und"  # BCP 47's own word for a language that is not known


@dataclass
class _Counts:
    """What the rows of the files add up to. Lengths are characters."""

    rows: int = 0
    rejected: int = 0
    reason: str = ""
    mappings: list[dict[str, tuple[str, ...]]] = field(default_factory=list)  # of each file
    names: tuple[str, ...] = ()
    with_negatives: int = 0
    negatives: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    query_chars: array[int] = field(default_factory=lambda: array("Q"))
    positive_chars: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, row: RawExample | Reject, language: str | None) -> None:
        self.rows += row.rows
        if isinstance(row, Reject):
            self.rejected += row.rows
            self.reason = self.reason or f"line {row.line}: {row.reason}"
            return
        self.languages[row.language or language or UNDETERMINED] += 1
        self.query_chars.append(len(row.query))
        self.positive_chars.extend(len(joined(p.title, p.text)) for p in row.positives)
        self.with_negatives += bool(row.negatives)
        self.negatives += len(row.negatives)


def draft_card(name: str, source: Path) -> DataCard:
    """A card for the collection in a file or folder, with its rows read and counted. It loads as it is.

    `source.columns` says which column is which. Where the names of the columns do not say it, the card has them with
    stand-ins to write over (`FILL_IN`); to ingest with those is refused.

    Raises UsageError for a name that no card can have, and for a source without one readable row or known column.
    """
    if name in RESERVED or not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(
            f"{name!r} cannot be the name of a card; allowed: letters, digits and . _ + -, "
            f"but not the words {' and '.join(RESERVED)}"
        )
    units = discover([source], name)
    counts = _Counts()
    for unit in units:
        # A path on this machine has only paths below it; the check tells the type checker.
        reading = Reading()
        for row in read_file(unit.place, format=unit.format, reading=reading) if isinstance(unit.place, Path) else ():
            counts.add(row, unit.language)
        counts.mappings.append(reading.mapping)
        counts.names = counts.names or reading.names
    if counts.rows == counts.rejected and len(counts.names) < 2:
        raise UsageError(f"{source}: none of its {counts.rows:,} rows can be used; {counts.reason}")
    codes = sorted(code for code in counts.languages if re.fullmatch(LANGUAGE, code))
    return DataCard(
        name=name,
        pretty_name=name,
        language=tuple(codes) or (UNDETERMINED,),
        license=UNKNOWN,
        citation=UNKNOWN,
        prompts=(STAND_IN_PROMPT,),
        negatives="provided with the rows, by whom is unknown" if counts.negatives else "none in the files",
        source=_source(counts),
        text=_text(name, len(units), counts),
    )


def _source(counts: _Counts) -> Source | None:
    if counts.rows == counts.rejected:
        return Source(hub_id=UNKNOWN, columns={"query": FILL_IN, "positive": FILL_IN})
    columns = counts.mappings[0]
    if not columns or any(other != columns for other in counts.mappings):
        return None  # rows that have no names, or know themselves, or are not alike
    return Source.model_validate({
        "hub_id": UNKNOWN, "columns": {role: names if len(names) > 1 else names[0] for role, names in columns.items()}
    })  # fmt: skip


def write_card(card: DataCard, folder: Path) -> Path:
    """Write the card as `<folder>/<name>.md`. Raises UsageError where there is such a file already."""
    path = folder / f"{card.name}.md"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(render_card(card))
    except FileExistsError:
        raise UsageError(f"{path} exists and is not overwritten; move it, or give another folder in `out`") from None
    return path


def _text(name: str, files: int, counts: _Counts) -> str:
    if counts.rows == counts.rejected:
        return "\n\n".join([f"# {name}", textwrap.fill(
            f"Nobody can tell from their names which of these columns is the query and which the positive: "
            f"{', '.join(counts.names)}. Write them under source.columns (query, positive, and if there are: negative, "
            "label, language, prompt), then ingest the files with this card.", 118)])  # fmt: skip
    good = counts.rows - counts.rejected
    languages = ", ".join(f"{code} {n:,}" for code, n in counts.languages.most_common())
    to_do = (
        f"{STAND_IN_TEXT} {name} are, where the rows come from, and what to know about licence "
        "and quality. The prompt above is a stand-in: give the task's own."
    )
    counted = (
        f"Counted when this card was made: files {files:,}, rows {counts.rows:,}, unreadable rows {counts.rejected:,}. "
        f"Languages of the rows: {languages}. Characters of a query: {_lengths(counts.query_chars)}; of a positive: "
        f"{_lengths(counts.positive_chars)}. Rows with negatives: {counts.with_negatives / good:.0%}; negatives for "
        f"each row: {counts.negatives / good:.1f} on average."
    )
    return "\n\n".join([f"# {name}", *(textwrap.fill(part, 118) for part in (to_do, counted))])


def _lengths(chars: array[int]) -> str:
    p95 = np.quantile(chars, 0.95, method="inverted_cdf")
    return f"mean {np.mean(chars):,.0f}, 95 % have at most {p95:,.0f}"
