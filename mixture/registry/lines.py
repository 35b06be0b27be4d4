"""A mixture's rows as JSON lines, for trainers of other projects: a file for each component, in a new folder.

Texts of passages go through a file, so memory holds a few thousand rows. The folder gets its name when all of it is
written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mixture.errors import UsageError
from mixture.registry.names import SavedMixture
from mixture.specs import Component, MixtureSpec
from mixture.store import Store, forgotten, read
from mixture.store.materialise import PASSAGES, PLACES, with_content, write_arrow
from mixture.whole import scratch_in

ROWS_AT_ONCE = 4_096
# Of one file or several, so that a reader that opens each anew is ready within a minute or two.
MOST_LISTED = 256
SCALES = 2_000
SIDES = ("pos", "neg")


@dataclass(frozen=True)
class Scores:
    """Which scores of passages are written. positive: those of positives, in SQL; teacher: the miner whose scores the
    negatives have"""

    positive: str = "NULL::FLOAT"
    teacher: str | None = None


@dataclass(frozen=True)
class Source:
    """What is known of a component before its rows. prompt: its first; titled: whether any passage has a title"""

    component: Component
    prompt: str | None
    titled: bool


@dataclass(frozen=True)
class Written:
    """A component's file. rows: of the file; drawn: examples whose negatives are drawn ones"""

    source: Source
    file: str
    rows: int
    drawn: int

    @property
    def weight(self) -> float:
        return self.source.component.weight


Lines = Callable[[dict[str, Any], Source], Iterable[dict[str, Any]]]
"""The lines of a row: example_id, query, language, and pos and neg, lists of passage_id, title, text and score."""


def write_lines(
    store: Store, mixture: SavedMixture, folder: Path, lines: Lines, *, drawn: int = 0,
    scores: Callable[[Store, Component], Scores] = lambda store, component: Scores(),
) -> tuple[list[Written], list[str]]:  # fmt: skip
    """Write a file for each component into `folder`. Returns the files, and what is worth knowing of them.

    drawn: an example without negatives gets so many passages of its component that are not its positives, always the
           same ones, for readers that need a negative

    Raises `UsageError` where nothing can be drawn, and `ForgottenRows` where the mixture pins some.
    """
    forgotten.refuse(store, mixture.spec)
    written, remarks = [], []
    for name, component in file_names(mixture.spec).items():
        work = partial(_write, component=component, file=folder / name, lines=lines, drawn=drawn, scores=scores)
        part, _ = with_content(store, component, work)
        if part.drawn:
            remarks.append(f"{component.name}: {part.drawn:,} of its examples have no negatives; the reader needs one, "
                           f"so they have passages of the collection, drawn at random, {drawn} at most")  # fmt: skip
        written.append(part)
    return written, remarks


def file_names(spec: MixtureSpec) -> dict[str, Component]:
    """A file's name for each component, of letters, digits, `.`, `_` and `-`: readers take brackets for patterns."""
    names: dict[str, Component] = {}
    for component in spec.components:
        stem = re.sub(r"[^\w.-]+", "-", component.name).strip("-.") or "collection"
        name, number = f"{stem}.jsonl", 1
        while name in names:
            number += 1
            name = f"{stem}-{number}.jsonl"
        names[name] = component
    return names


def probabilities(written: Sequence[Written]) -> dict[str, float]:
    """The weight of each file that is drawn from at all."""
    return {part.file: part.weight for part in written if part.weight > 0}


def listing(written: Sequence[Written]) -> tuple[list[str], list[str]]:
    """Files for a reader that takes every row of what it is given once: each so often that the shares of rows come
    near the weights. Returns the list, and in words how far they are off."""
    parts = [part for part in written if part.weight > 0]
    sizes, weights = (np.array([getattr(part, name) for part in parts], float) for name in ("rows", "weight"))
    times = _times(weights, sizes)
    shares = times * sizes / (times * sizes).sum()
    files = [part.file for part, count in zip(parts, times, strict=True) for _ in range(count)]
    off = shares - weights
    if np.abs(off).max() < 0.0005:
        return files, []
    worst = int(np.abs(off).round(9).argmax())
    name = parts[worst].source.component.name
    return files, [f"files are listed in whole numbers, so {np.abs(off).sum() / 2:.1%} of the rows are of others than "
                   f"the weights say; most off is {name}: {shares[worst]:.1%} for {weights[worst]:.1%}"]  # fmt: skip


def _times(weights: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How often to list each of (G,) files, (G,) whole numbers from 1: of those that sum to `MOST_LISTED` at most the
    ones whose shares of rows are nearest to the weights, and of equal ones the fewest."""
    wanted = weights / sizes
    best, least = np.ones(len(sizes), int), np.inf
    for scale in np.geomspace(1 / wanted.max(), MOST_LISTED / wanted.max(), SCALES):
        times = np.maximum(np.rint(wanted * scale), 1).astype(int)
        if times.sum() > max(MOST_LISTED, len(sizes)):
            break
        off = np.abs(times * sizes / (times * sizes).sum() - weights).sum()
        if off < least - 1e-9:
            best, least = times, off
    return best


def _write(
    store: Store, component: Component, file: Path, lines: Lines, drawn: int,
    scores: Callable[[Store, Component], Scores],
) -> Written:  # fmt: skip
    part = component.part
    (stored,) = store.rows(
        """SELECT prompts, EXISTS (FROM passages p WHERE p.collection = c.collection AND title <> '') AS titled
           FROM collections c WHERE collection = ?""",
        [part.collection],
    )
    source = Source(component, next(iter(stored["prompts"] or ()), None), stored["titled"])
    found, parameters = scores(store, component), read.part_parameters(part)
    rows = filled = 0
    with scratch_in(file.parent.parent) as scratch, file.open("w", encoding="utf-8") as stream:
        texts = scratch / "passages.arrow"
        write_arrow(store, f"{_rows(component)} {PASSAGES}", parameters, texts)
        passages = _Passages(texts)
        parameters["teacher"] = found.teacher
        reader = store.connection.execute(_query(component, found), parameters).to_arrow_reader(ROWS_AT_ONCE)
        for batch in reader:
            some = batch.to_pylist()
            for row in some:
                if drawn and not row["neg"]:
                    row["neg"] = _drawn(row, drawn, len(passages))
                    filled += 1
                    if not row["neg"]:
                        raise UsageError(
                            f"nothing can serve as a negative for some examples of {component.name}; leave it out"
                        )
            told = passages.of({one["row"] for row in some for side in SIDES for one in row[side]})
            for row in some:
                for side in SIDES:
                    row[side] = [told[one["row"]] | {"score": one["score"]} for one in row[side]]
                for line in lines(row, source):
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                    rows += 1
    return Written(source, file.name, rows, filled)


def _query(component: Component, scores: Scores) -> str:
    """example_id, query, language, pos, neg (lists of row, which is a passage's place in order of id, and score), in
    order of example id."""
    return f"""
{_rows(component)}, place AS ({PLACES})
SELECT own.example_id, own.query, own.language, positive.those AS pos, coalesce(negative.those, []) AS neg
FROM own JOIN (
    SELECT one.example_id, list({{'row': row, 'score': {scores.positive}}} ORDER BY one.at) AS those
    FROM (SELECT example_id, unnest(positives).passage_id AS passage_id, unnest(positives).grade AS grade,
                 generate_subscripts(positives, 1) AS at FROM own) one
    JOIN place USING (passage_id)
    LEFT JOIN (SELECT * FROM positive_scores WHERE collection = $c AND miner = $teacher) s
         USING (example_id, passage_id)
    GROUP BY one.example_id) positive USING (example_id)
LEFT JOIN (
    SELECT against.example_id, list({{'row': row, 'score': n.score}} ORDER BY against.place, passage_id) AS those
    FROM against JOIN place USING (passage_id)
    LEFT JOIN (SELECT * FROM negatives WHERE collection = $c AND miner = $teacher) n USING (example_id, passage_id)
    GROUP BY against.example_id) negative USING (example_id)
ORDER BY own.example_id"""


def _rows(component: Component) -> str:
    return f"WITH own AS {read.part_examples(component.part)}, against AS {read.part_negatives(component.part)}"


class _Passages:
    """Passages of an Arrow file by row. It stays on disk; a table's `take` would put all of it together first."""

    def __init__(self, file: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def of(self, rows: set[int]) -> dict[int, dict[str, str]]:
        """id, title and text of each."""
        wanted = np.sort(np.fromiter(rows, np.int64))
        found: dict[int, dict[str, str]] = {}
        for batch, end in zip(self._batches, self._ends, strict=True):
            start = end - batch.num_rows
            here = wanted[slice(*np.searchsorted(wanted, (start, end)))]
            found.update(zip(here.tolist(), batch.take(pa.array(here - start)).to_pylist(), strict=True))
        return found


def _drawn(row: dict[str, Any], count: int, passages: int) -> list[dict[str, Any]]:
    """Up to `count` passages that are not the row's positives, one after the other from the place that the example's id
    says. Ids of passages are hashes, so their order is that of chance."""
    taken = {one["row"] for one in row["pos"]}
    first = int(row["example_id"], 16)
    tried = ((first + step) % passages for step in range(min(count + len(taken), passages)))
    return [{"row": place, "score": None} for place in tried if place not in taken][:count]
