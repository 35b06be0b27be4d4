"""A mixture with its data, to train elsewhere: as Arrow, for sentence-transformers, or as the rows of each batch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixture.errors import UsageError
from mixture.holdout import hold_out
from mixture.materialised import ComponentData, MaterialisedMixture
from mixture.registry.files import export_text
from mixture.registry.names import SavedMixture
from mixture.sampling import BatchPlan, generator
from mixture.store import Store
from mixture.store.materialise import materialise
from mixture.store.teachers import write_scores
from mixture.whole import new_file, new_folder, scratch_in

# What training puts before a query; `trainers.model.template.Template` has the same form, and a test compares the two.
PREFIX = "Instruct: {prompt}\nQuery: "
DEFAULT_PROMPT = "Given a query, retrieve relevant passages that answer the query"
# Negatives of an example at most, as many as training draws by default.
MOST_NEGATIVES = 7
ROWS_AT_ONCE = 4_096
BATCHES_SCHEMA = pa.schema(
    [("step", pa.int64()), ("collection", pa.string()), ("row", pa.int64()), ("example_id", pa.string())]
)


def export_materialised(store: Store, mixture: SavedMixture, folder: Path) -> MaterialisedMixture:
    """The mixture's rows as Arrow (`mixture.materialised`), mixture.json, and the datacards under cards/.

    What the folder holds already is kept: several mixtures of the same contents share them.
    """
    from mixture.cards import load_cards, render_card

    materialise(store, mixture.spec, folder)
    write_scores(store, mixture.spec, folder, strict=False)
    data = MaterialisedMixture.open(folder, mixture.spec.id)
    _write(folder / "mixture.json", export_text(store, mixture, "mixture"))
    known = load_cards()
    used = {c.collection for c in data.spec.components}
    cards = {row["card"] for row in store.rows("SELECT collection, card FROM collections") if row["collection"] in used}
    for name in sorted(cards & known.keys()):
        (folder / "cards").mkdir(exist_ok=True)
        _write(folder / "cards" / f"{name}.md", render_card(known[name]))
    return data


def _write(file: Path, text: str) -> None:
    with new_file(file) as whole:
        whole.write_text(text, "utf-8")


def export_batches(
    store: Store, mixture: SavedMixture, file: Path, *, batches: int, batch_size: int, seed: int, holdout: float = 0.0
) -> int:  # fmt: skip
    """Which rows each of the first `batches` training batches holds: step, collection, row, example_id.

    They are the batches that `train` makes with the same batch size, seed and `holdout`; where rows are held out, row
    counts those that are left. `file` ends in .jsonl or .parquet.
    Returns the number of rows. Raises `UsageError` for another ending or numbers out of range.
    """
    if file.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"{file}: the list of batches is written as .jsonl or .parquet")
    if batches < 1:
        raise UsageError(f"`batches` is {batches}; allowed: 1 or more")
    data, _ = hold_out(materialise(store, mixture.spec), holdout)
    plan = BatchPlan(data.spec.weights, data.sizes, batch_size, seed, positives=data.positives())
    ids = {name: part.example_ids() for name, part in data.components.items()}
    rows = 0
    with (
        new_file(file) as whole,
        pq.ParquetWriter(whole, BATCHES_SCHEMA) if file.suffix == ".parquet" else _JsonLines(whole) as writer,
    ):
        for step in range(batches):
            table = _batch(plan, step, ids)
            writer.write_table(table)
            rows += table.num_rows
    return rows


class _JsonLines:
    """Tables as JSON lines, with the part of Parquet's writer that is used here."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("w", encoding="utf-8")

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write_table(self, table: pa.Table) -> None:
        self._stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


def _batch(plan: BatchPlan, step: int, ids: dict[str, pa.ChunkedArray]) -> pa.Table:
    name, rows = plan.batch(step)
    columns = [np.full(len(rows), step), pa.array([name] * len(rows)), rows, ids[name].take(pa.array(rows))]
    return pa.table(columns, schema=BATCHES_SCHEMA)


def export_hf_dataset(store: Store, mixture: SavedMixture, folder: Path) -> dict[str, list[str]]:
    """A `datasets.DatasetDict` on disk, one dataset a collection, as sentence-transformers' trainer takes it.

    One row an example: anchor (the query), positive (its first), then negative, negative_2, … up to seven. An example
    with fewer repeats its own, as training does; one with none, where others have some, gets passages of its collection
    that are not its positives, drawn from a seeded generator. A collection without negatives has pairs.

    Beside it prompts.json, the trainer's argument `prompts` (the first of each collection's), and mixture.json, which
    has the weights. Each dataset's folder has the numbers of its rows' positives, all of them: by these
    `trainers.MixtureBatchSampler` keeps equal ones apart. Returns the columns of each collection.
    """
    import datasets

    odd = [name for name in mixture.spec.weights if "/" in name or name in (".", "..")]
    if odd:
        raise UsageError(f"collection {odd[0]!r} cannot be a folder's name, which this format needs")
    with new_folder(folder) as whole, scratch_in(whole.parent) as scratch:
        data = materialise(store, mixture.spec)
        parts = {}
        for place, (name, part) in enumerate(data.components.items()):
            file = scratch / f"{place}.arrow"
            _write_tuples(part, file)
            parts[name] = datasets.Dataset.from_file(str(file))
        # Its bars come for each collection, on a terminal or not.
        shown = datasets.utils.logging.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        datasets.DatasetDict(parts).save_to_disk(str(whole))
        if shown:
            datasets.enable_progress_bars()
        for name, part in data.components.items():
            part.write_positives(whole / name)
        columns = {name: list(part.column_names) for name, part in parts.items()}
        first = {n: (p.prompts or (DEFAULT_PROMPT,))[0] for n, p in data.components.items()}
        prompts = {n: {"anchor": prompt and PREFIX.format(prompt=prompt)} for n, prompt in first.items()}
        (whole / "prompts.json").write_text(json.dumps(prompts, ensure_ascii=False, indent=1), "utf-8")
        (whole / "mixture.json").write_text(export_text(store, mixture, "mixture"), "utf-8")
    return columns


def _write_tuples(part: ComponentData, file: Path) -> None:
    """The rows of one collection as an Arrow stream, a few thousand at once: passages are repeated in it many times."""
    examples, passages = _table(part, "examples"), _table(part, "passages")
    longest = int(pc.max(pc.list_value_length(examples["negatives"])).as_py() or 0)
    count = min(MOST_NEGATIVES, longest)
    names = ["anchor", "positive", *["negative", *(f"negative_{n}" for n in range(2, count + 1))][:count]]
    schema = pa.schema([(name, pa.large_string()) for name in names])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, examples.num_rows, ROWS_AT_ONCE):
            chunk = examples.slice(start, ROWS_AT_ONCE)
            chosen = np.array(list(_chosen(chunk.to_pylist(), part, count)), dtype=np.int64)
            columns: list[Any] = [chunk["query"].cast(pa.large_string())]
            for column in chosen.T:
                taken = passages.take(pa.array(column)).combine_chunks()
                title, text = (taken[name].combine_chunks().cast(pa.large_string()) for name in ("title", "text"))
                joined = pc.binary_join_element_wise(title, text, pa.scalar(" ", pa.large_string()))
                columns.append(pc.if_else(pc.equal(title, ""), text, joined))
            writer.write_table(pa.table(columns, schema=schema))


def _chosen(rows: list[dict[str, Any]], part: ComponentData, count: int) -> Iterator[list[int]]:
    """For each example the row numbers of a positive and of `count` negatives."""
    for row in rows:
        negatives = list(row["negatives"][:count])
        if count and not negatives:
            others = np.setdiff1d(np.arange(part.num_passages), row["positives"])
            if not len(others):
                raise UsageError(
                    f"nothing can serve as a negative for some examples of {part.collection}; leave it out"
                )
            negatives = generator("hf-dataset", row["example_id"]).choice(others, count).tolist()
        yield [row["positives"][0], *(negatives[i % len(negatives)] for i in range(count))]


def _table(part: ComponentData, name: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(os.fspath(part.folder / f"{name}.arrow"))).read_all()
