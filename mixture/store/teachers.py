"""What a teacher scores a component's passages, where all scores are of one scale.

They are those of the one miner whose negatives have any, with what the examples' positives score with it
(`positive_scores`); or those of the files, whose positives have them as grades. A random negative has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from mixture.errors import UsageError
from mixture.ingest.normalise import DEFAULT_GRADE, PROVIDED
from mixture.materialised import SCORES
from mixture.specs import MixtureSpec, Part
from mixture.store import layout, read
from mixture.store.connect import Store
from mixture.store.materialise import PLACES, with_content
from mixture.whole import new_file

# Scores in the order of the lists of examples.arrow (`materialise.EXAMPLES`).
SCORED = """SELECT positive.scores AS positives, coalesce(negative.scores, []::FLOAT[]) AS negatives
FROM own JOIN (
    SELECT one.example_id, list({score} ORDER BY row) AS scores
    FROM (SELECT example_id, unnest(positives).passage_id AS passage_id, unnest(positives).grade AS grade FROM own) one
    JOIN place USING (passage_id)
    LEFT JOIN (SELECT * FROM positive_scores WHERE collection = $c AND miner = $teacher) s
         ON s.example_id = one.example_id AND s.passage_id = one.passage_id
    GROUP BY one.example_id) positive USING (example_id)
LEFT JOIN (
    SELECT against.example_id, list(n.score ORDER BY against.place, against.passage_id) AS scores
    FROM against
    LEFT JOIN (SELECT * FROM negatives WHERE collection = $c AND miner = $teacher) n USING (example_id, passage_id)
    GROUP BY against.example_id) negative USING (example_id)
ORDER BY own.example_id"""


class Teacher(NamedTuple):
    """miners: that have scores of the part's negatives; several are of several scales
    score:  SQL for the score of a positive, of the tables `one` (the example's positives) and `s` (positive_scores)"""

    miners: tuple[str, ...]
    score: str

    @property
    def name(self) -> str | None:
        """Whose scores count; None for nobody's."""
        return self.miners[0] if len(self.miners) == 1 else None


def teacher_of(store: Store, part: Part) -> Teacher:
    """Whose scores a collection's part has."""
    scored = store.rows(
        f"""SELECT DISTINCT miner FROM negatives SEMI JOIN {read.part_negatives(part)} USING (example_id, passage_id)
            WHERE collection = $c AND score IS NOT NULL AND ($among IS NULL OR list_contains($among, miner))
            ORDER BY miner""",
        read.part_parameters(part) | {"among": None if part.miners is None else list(part.miners)},
    )
    miners = tuple(row["miner"] for row in scored)
    if len(miners) == 1 and miners[0] != PROVIDED:
        return Teacher(miners, "s.score")
    (grades,) = store.rows(
        f"""SELECT count(*) AS n FROM (SELECT unnest(positives).grade AS grade FROM {read.part_examples(part)})
            WHERE grade <> {DEFAULT_GRADE}""",
        read.part_parameters(part, negatives=False),
    )
    # Without a number of the file every grade is the usual one.
    return Teacher(miners, "one.grade" if len(miners) < 2 and grades["n"] else "NULL::FLOAT")


def write_scores(
    store: Store, spec: MixtureSpec, folder: Path | None = None, *, only: Sequence[str] | None = None,
    strict: bool = True,
) -> None:  # fmt: skip
    """Write the scores of today beside each component of a mixture that is materialised in `folder` and has some
    (`ComponentData.scores`).

    only:   of these components
    strict: raise `UsageError` where a component has scores of several miners, or its content is gone; what lies there
            stays else
    """
    root = folder or layout.materialised(store.work)
    several: dict[str, tuple[str, ...]] = {}
    found: dict[str, pa.Table | None] = {}
    for component in spec.components:
        if only is not None and component.name not in only:
            continue
        try:
            (miners, table), _ = with_content(store, component, partial(_scored, part=component.part))
        except UsageError:
            if strict:
                raise
            continue
        if len(miners) > 1:
            several[component.name] = miners
        else:
            found[component.digest] = table
    if several and strict:
        miners = next(iter(several.values()))
        raise UsageError(
            f"negatives of {', '.join(miners)} have scores in {', '.join(several)}, each on a scale of its own; a "
            "mixture of one of them (`miners`) can teach"
        )
    for digest, table in found.items():
        file = layout.component(root, digest) / SCORES
        if table is not None:
            _write(table, file)
        else:
            file.unlink(missing_ok=True)  # of other miners' negatives, that were the same


def _scored(store: Store, part: Part) -> tuple[tuple[str, ...], pa.Table | None]:
    """The miners with scores, and the scores, a row an example, where they are of one scale."""
    teacher = teacher_of(store, part)
    if teacher.name is None:
        return teacher.miners, None
    rows = f"WITH own AS {read.part_examples(part)}, against AS {read.part_negatives(part)}"
    query = f"{rows}, place AS ({PLACES}) {SCORED.format(score=teacher.score)}"
    return teacher.miners, store.read(query, read.part_parameters(part) | {"teacher": teacher.name})


def _write(table: pa.Table, file: Path) -> None:
    with new_file(file) as whole, pa.OSFile(str(whole), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
