"""What a file was read as and what it gave, in one line."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixture.ingest.reading import Reading
from mixture.refusals import Reasons
from mixture.rows import Batch


@dataclass
class FileReport:
    """A file (or folder read as one): its format, how its columns were read, how many rows it gave, and why rows were
    refused."""

    location: str
    format: str | None
    reading: Reading = field(repr=False, default_factory=Reading)
    rows: int = 0
    refused: int = 0
    reasons: Reasons = field(default_factory=Reasons)

    def add(self, batch: Batch) -> None:
        """Count what a batch of the file gave."""
        self.rows += batch.rows_read
        self.refused += batch.refused
        self.reasons.add(batch.rejects, batch.stand_for)

    def __str__(self) -> str:
        """`helpdesk.csv (csv): query ← question, positive ← answer; ignored: id; 260 rows, 3 refused: …`"""
        read = str(self.reading)
        rows = f"{self.rows:,} row{'s' * (self.rows != 1)}"
        refused = f", {self.refused:,} refused: {self.reasons}" if self.refused else ""
        return f"{self.location} ({self.format or 'unknown format'}): {f'{read}; ' if read else ''}{rows}{refused}"
