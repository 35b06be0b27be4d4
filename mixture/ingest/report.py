"""What a file was read as and what it gave, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mixture.ingest.reading import Reading
from mixture.rows import Batch

MAX_REASONS, MAX_REASON_CHARS = 3, 160


@dataclass
class FileReport:
    """A file (or folder read as one): its format, how its columns were read, how many rows it gave, and why rows were
    refused: each reason with their number and the first line."""

    location: str
    format: str | None
    reading: Reading = field(repr=False, default_factory=Reading)
    rows: int = 0
    refused: int = 0
    reasons: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on, and count."""
        self.rows, self.refused, self.reasons = 0, 0, {}
        for batch in batches:
            self.rows += batch.rows_read
            self.refused += batch.refused
            alone = batch.refused if batch.rejects.num_rows == 1 else 1  # one reason may stand for all rows
            for reason, line in zip(
                batch.rejects["reason"].to_pylist(), batch.rejects["line"].to_pylist(), strict=True
            ):
                count, first = self.reasons.get(reason, (0, line))
                self.reasons[reason] = (count + alone, first)
            yield batch

    def why(self) -> str:
        """The most frequent reasons, counted: `no positives (14; first in line 3), …`."""
        ordered = sorted(self.reasons.items(), key=lambda item: -item[1][0])
        texts = [
            f"{_shortened(reason)} ({f'{count:,}; first in ' if count > 1 else ''}line {line})"
            for reason, (count, line) in ordered[:MAX_REASONS]
        ]
        return ", ".join(texts) + (f", and {len(ordered) - MAX_REASONS} more reasons" * (len(ordered) > MAX_REASONS))

    def __str__(self) -> str:
        """`helpdesk.csv (csv): query ← question, positive ← answer; ignored: id; 260 rows, 3 refused: …`"""
        read = str(self.reading)
        rows = f"{self.rows:,} row{'s' * (self.rows != 1)}"
        refused = f", {self.refused:,} refused: {self.why()}" if self.refused else ""
        return f"{self.location} ({self.format or 'unknown format'}): {f'{read}; ' if read else ''}{rows}{refused}"


def _shortened(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON_CHARS else reason[:MAX_REASON_CHARS] + "…"
