"""A large JSON lines file in Tevatron form, made by repeating and varying the rows of real collections.

Each round takes every row of the collections once, with the round's number in its texts, so that no row of one round
equals a row of another. A row's negatives are positives of other rows of its collection and round: as in mined data, a
passage stands in several rows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from mixture.ingest.read import read_file
from mixture.ingest.sources import discover
from mixture.rows import RawExample

NEGATIVES = 4


def write_tevatron(data: Path, target: Path, num_bytes: int, seed: int = 42) -> int:
    """Write at least `num_bytes` to `target`; returns the number of rows. The same arguments give the same bytes."""
    collections = _pairs(data)
    rows = 0
    written = 0
    with target.open("wb") as out:
        for line in _lines(collections, random.Random(seed)):
            written += out.write(line)
            rows += 1
            if written >= num_bytes:
                break
    return rows


def _pairs(data: Path) -> list[list[tuple[str, str, str]]]:
    """(query, title, positive) of every row, by collection; rows without one of the sides are left out."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for file in discover([str(data / "raw")], None):
        for row in read_file(Path(file.location)):
            if isinstance(row, RawExample) and row.query.strip() and row.positives and row.positives[0].text.strip():
                positive = row.positives[0]
                found.setdefault(file.collection, []).append((row.query, positive.title, positive.text))
    return [rows for _, rows in sorted(found.items())]


def _lines(collections: list[list[tuple[str, str, str]]], draw: random.Random) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        places = [(c, i) for c, rows in enumerate(collections) for i in range(len(rows))]
        draw.shuffle(places)
        for c, i in places:
            rows = collections[c]
            others = [draw.randrange(len(rows)) for _ in range(NEGATIVES)]
            query, title, text = rows[i]
            yield (json.dumps({
                "query_id": f"{c}-{i}-{number}",
                "query": f"{query} ({number})",
                "positive_passages": [_passage(c, i, title, text, number)],
                "negative_passages": [_passage(c, n, rows[n][1], rows[n][2], number) for n in others if n != i],
            }, ensure_ascii=False) + "\n").encode()  # fmt: skip


def _passage(collection: int, row: int, title: str, text: str, number: int) -> dict[str, str]:
    return {"docid": f"{collection}-{row}-{number}", "title": title, "text": f"{text} [{number}]"}
