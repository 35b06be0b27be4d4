"""A mixture's rows with their scores, as FlagEmbedding's trainers take them for distillation.

A file of JSON lines for each component: query, pos, neg, pos_scores, neg_scores, prompt. A passage is its title and its
text. Scores are written where they are of one scale (`mixture.store.teachers`). A side of a row has them where each of
its passages has one: a random negative has none.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from mixture.errors import UsageError
from mixture.registry.names import SavedMixture
from mixture.specs import Component
from mixture.store import Store, read
from mixture.store.materialise import with_content
from mixture.store.teachers import teacher_of

ROWS_AT_ONCE = 4_096
TEXT = "trim(p.title || ' ' || p.text)"


def export_flagembedding(store: Store, mixture: SavedMixture, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Write a file for each component into a new or empty folder. Returns how many rows each has, and what is worth
    knowing: components whose scores are of several miners, and are left out."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty; name a new folder")
    odd = [name for name in mixture.spec.weights if "/" in name]
    if odd:
        raise UsageError(f"component {odd[0]!r} cannot be a file's name, which this format needs")
    folder.parent.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    remarks: list[str] = []
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        whole = Path(scratch) / folder.name
        whole.mkdir()
        for component in mixture.spec.components:
            work = partial(_write, component=component, file=whole / f"{component.name}.jsonl")
            (counts[component.name], found), _ = with_content(store, component, work)
            remarks += found
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    return counts, remarks


def _write(store: Store, component: Component, file: Path) -> tuple[int, list[str]]:
    """How many rows a component has, and what is worth knowing of them."""
    part, values = component.part, read.part_parameters(component.part)
    prompts = store.rows("SELECT prompts FROM collections WHERE collection = ?", [part.collection])[0]["prompts"]
    whose = teacher_of(store, part)
    remarks = [f"{component.name}: without scores, since negatives of {', '.join(whose.miners)} have some, each on a "
               "scale of its own; a mixture of one of them has scores"] * (len(whose.miners) > 1)  # fmt: skip
    teacher = {"teacher": whose.name}
    reader = store.connection.execute(_query(component, whose.score), values | teacher).to_arrow_reader(ROWS_AT_ONCE)
    rows = 0
    with file.open("w", encoding="utf-8") as stream:
        for batch in reader:
            for row in batch.to_pylist():
                stream.write(json.dumps(_line(row, prompts), ensure_ascii=False) + "\n")
            rows += batch.num_rows
    return rows, remarks


def _query(component: Component, score: str) -> str:
    """Rows of query, pos, neg (lists of text and score), in order of example id. score: of a positive."""
    return f"""
WITH own AS {read.part_examples(component.part)}, against AS {read.part_negatives(component.part)}
SELECT own.query, positive.those AS pos, coalesce(negative.those, []) AS neg
FROM own JOIN (
    SELECT one.example_id, list({{'text': {TEXT}, 'score': {score}}} ORDER BY one.at) AS those
    FROM (SELECT example_id, unnest(positives).passage_id AS passage_id, unnest(positives).grade AS grade,
                 generate_subscripts(positives, 1) AS at FROM own) one
    JOIN (SELECT * FROM passages WHERE collection = $c) p USING (passage_id)
    LEFT JOIN (SELECT * FROM positive_scores WHERE collection = $c AND miner = $teacher) s
         ON s.example_id = one.example_id AND s.passage_id = one.passage_id
    GROUP BY one.example_id) positive USING (example_id)
LEFT JOIN (
    SELECT against.example_id, list({{'text': {TEXT}, 'score': n.score}} ORDER BY against.place, passage_id) AS those
    FROM against JOIN (SELECT * FROM passages WHERE collection = $c) p USING (passage_id)
    LEFT JOIN (SELECT * FROM negatives WHERE collection = $c AND miner = $teacher) n USING (example_id, passage_id)
    GROUP BY against.example_id) negative USING (example_id)
ORDER BY own.example_id"""


def _line(row: dict[str, Any], prompts: list[str] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"query": row["query"]}
    for side in ("pos", "neg"):
        line[side] = [passage["text"] for passage in row[side]]
    for side in ("pos", "neg"):
        scores = [passage["score"] for passage in row[side]]
        if scores and None not in scores:
            line[f"{side}_scores"] = scores
    return line | ({"prompt": prompts[0]} if prompts else {})
