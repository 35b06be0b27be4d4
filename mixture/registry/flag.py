"""A mixture's rows with their scores, as FlagEmbedding's trainers take them, also for distillation.

A file of JSON lines for each component: query, pos, neg, pos_scores, neg_scores, prompt. A passage is its title and its
text. Scores are written where they are of one scale (`mixture.store.teachers`). A side of a row has them where each of
its passages has one: a random negative has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixture.registry.folders import MOST_NEGATIVES
from mixture.registry.lines import Scores, Source, listing, write_lines
from mixture.registry.names import SavedMixture, pinned_facts
from mixture.rows import joined
from mixture.specs import Component
from mixture.store import Store
from mixture.store.teachers import teacher_of
from mixture.whole import new_folder

TRAIN_DATA = "train_data.txt"


def export_flagembedding(store: Store, mixture: SavedMixture, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Write a file for each component into a new or empty folder, and the value of the argument `train_data`.

    Returns how many rows each file has, and what is worth knowing: components whose scores are of several miners, and
    are left out, and those where only some rows have scores.
    """
    # A prompt in one file is a column of all; where it is null their reader puts "None" before the query.
    prompted = any(known.prompts for known in pinned_facts(store, mixture.spec).values())
    scored: Counter[str] = Counter()
    several: list[str] = []

    def lines(row: dict[str, Any], source: Source) -> Iterator[dict[str, Any]]:
        line: dict[str, Any] = {"query": row["query"]}
        for side in ("pos", "neg"):
            line[side] = [joined(passage["title"], passage["text"]) for passage in row[side]]
        for side in ("pos", "neg"):
            scores = [passage["score"] for passage in row[side]]
            if scores and None not in scores:
                line[f"{side}_scores"] = scores
        scored[source.component.name] += {"pos_scores", "neg_scores"} <= line.keys()
        if row["language"]:
            line["language"] = row["language"]
        if prompted or source.prompt:
            line["prompt"] = source.prompt or ""
        yield line

    def scores(store: Store, component: Component) -> Scores:
        chosen, remarks = _scores(store, component)
        several.extend(remarks)
        return chosen

    with new_folder(folder) as whole:
        written, drawn = write_lines(store, mixture, whole, lines, drawn=MOST_NEGATIVES, scores=scores)
        files, off = listing(written)
        (whole / TRAIN_DATA).write_text("".join(f"{file}\n" for file in files), "utf-8")
    some = [f"{name}: {part.rows - scored[name]:,} of {part.rows:,} rows lack scores of a side, which FlagEmbedding's "
            "knowledge_distillation does not take" for part in written
            if 0 < scored[name := part.source.component.name] < part.rows]  # fmt: skip
    return {part.source.component.name: part.rows for part in written}, [*several, *some, *drawn, *off]


def _scores(store: Store, component: Component) -> tuple[Scores, list[str]]:
    """Which scores a component's rows have, and what is worth knowing of them."""
    whose = teacher_of(store, component.part)
    if len(whose.miners) > 1:
        found = f"negatives of {', '.join(whose.miners)} have some, each on a scale of its own"
        return Scores(), [f"{component.name}: without scores, since {found}; a mixture of one of them has scores"]
    return Scores(whose.score, whose.name), []
