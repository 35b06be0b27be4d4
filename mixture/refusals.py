"""Why rows of a file were refused: each reason once, with the number of its rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

SHOWN_REASONS = 3


@dataclass
class Reasons:
    """Why rows were refused, in the order in which it was found. Reasons that differ in numbers only, as in the place
    of a damage, count as one.

    counts: rows for each
    first:  of each the line and the reason of its first row
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[int | None, str]] = field(default_factory=dict)

    def add(self, rejects: pa.Table, stand_for: Sequence[int]) -> None:
        """Count the rows of a batch's rejects; one may stand for many.

        >>> found = Reasons()
        >>> reasons = ["no comma at 12", "no comma at 7", "no positive"]
        >>> found.add(pa.table({"line": [3, 4, 9], "reason": reasons}), [1, 3, 1])
        >>> print(found)
        4 rows, the first on line 3: no comma at 12; line 9: no positive
        """
        reasons, lines = rejects["reason"].to_pylist(), rejects["line"].to_pylist()
        for reason, line, rows in zip(reasons, lines, stand_for, strict=True):
            kind = re.sub(r"\d+", "0", reason)
            self.counts[kind] += rows
            self.first.setdefault(kind, (line, reason))

    def __add__(self, other: Reasons) -> Reasons:
        return Reasons(self.counts + other.counts, other.first | self.first)

    def __str__(self) -> str:
        shown = []
        for kind in list(self.first)[:SHOWN_REASONS]:
            (line, reason), n = self.first[kind], self.counts[kind]
            shown.append(f"{n:,} rows, the first on line {line}: {reason}" if n > 1 else f"line {line}: {reason}")
        more = sum(self.counts[kind] for kind in list(self.first)[SHOWN_REASONS:])
        return "; ".join([*shown, *([f"{more:,} rows for other reasons"] if more else [])]) or "it holds no rows"
