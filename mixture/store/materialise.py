"""Writes a mixture's collections to memory-mapped Arrow, once, keyed by content digest."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture.errors import StoreError, UsageError
from mixture.materialised import MaterialisedMixture
from mixture.specs import Component, MixtureSpec
from mixture.store import read
from mixture.store.connect import Store
from mixture.store.files import sha256

BATCH_ROWS = 16_384

# Only passages that the digest pins: those that an example names. What removed examples left behind stays out.
USED = """(SELECT unnest(positives).passage_id AS passage_id FROM examples WHERE collection = $c
           UNION SELECT passage_id FROM negatives WHERE collection = $c)"""
PASSAGES = f"""SELECT passage_id, title, text FROM passages SEMI JOIN {USED} USING (passage_id)
               WHERE collection = $c ORDER BY passage_id"""
# Passages by their row number in passages.arrow; lists keep a stated order so that draws by index are reproducible.
EXAMPLES = f"""
WITH place AS (SELECT passage_id, (row_number() OVER (ORDER BY passage_id) - 1)::INTEGER AS row
               FROM passages SEMI JOIN {USED} USING (passage_id) WHERE collection = $c),
     positive AS (SELECT example_id, list(row ORDER BY row) AS rows FROM (
                      SELECT example_id, unnest(positives).passage_id AS passage_id
                      FROM examples WHERE collection = $c) JOIN place USING (passage_id) GROUP BY example_id),
     negative AS (SELECT example_id, list(row ORDER BY miner, rank, passage_id) AS rows
                  FROM negatives JOIN place USING (passage_id) WHERE collection = $c GROUP BY example_id)
SELECT e.example_id, e.query, e.language, positive.rows AS positives,
       coalesce(negative.rows, []::INTEGER[]) AS negatives
FROM examples e JOIN positive USING (example_id) LEFT JOIN negative USING (example_id)
WHERE e.collection = $c ORDER BY e.example_id"""


def materialise(store: Store, spec: MixtureSpec, folder: Path | None = None) -> MaterialisedMixture:
    """Write what is missing of a mixture under `folder` (default `<store>/materialised`) and open it.

    Raises `UsageError` where the store lacks a collection, or holds other content than the mixture pins.
    """
    root = folder or store.root / "materialised"
    have = {info.collection for info in read.collections(store)}
    missing = [c.collection for c in spec.components if c.collection not in have]
    if missing:
        raise UsageError(f"the store lacks {len(missing)} collections of mixture {spec.id}: {', '.join(missing)}")
    loose = [c.collection for c in spec.components if not c.digest]
    if loose:
        raise UsageError(
            f"mixture {spec.id} does not say which content of {', '.join(loose)} it means: it was imported when the "
            "store lacked them; import it again now"
        )
    for component in spec.components:
        target = root / "components" / component.digest
        if not target.exists():
            # One transaction: all reads see one snapshot, whatever others write meanwhile.
            store.transaction(lambda _, c=component, t=target: _write_component(store, c, t))  # type: ignore[misc]
    index = root / f"{spec.id}.json"
    if not index.exists():
        _write_atomically(index, spec.to_json())
    return MaterialisedMixture.open(root, spec.id)


def _write_component(store: Store, component: Component, target: Path) -> None:
    now = read.digest(store, component.collection)
    if now != component.digest:
        raise UsageError(
            f"collection {component.collection!r} has changed since the mixture was made "
            f"(pinned {component.digest[:12]}, now {now[:12]}); create the mixture anew from today's store"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        params = {"c": component.collection}
        _write_arrow(store, PASSAGES, params, scratch / "passages.arrow")
        num_examples = _write_arrow(store, EXAMPLES, params, scratch / "examples.arrow")
        info = read.collections(store, [component.collection])[0]
        hashes = {name: sha256(scratch / name) for name in ("examples.arrow", "passages.arrow")}
        facts = {"collection": component.collection, "prompts": info.prompts, "num_examples": num_examples,
                 "files": hashes}  # fmt: skip
        (scratch / "component.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), "utf-8")
        if num_examples != info.num_examples:
            raise StoreError(f"wrote {num_examples} of {info.num_examples} examples of {component.collection}")
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
            # Another process wrote the same content first.
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_arrow(store: Store, query: str, params: dict[str, Any], file: Path) -> int:
    reader = store.connection.execute(query, params).to_arrow_reader(BATCH_ROWS)
    rows = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_atomically(file: Path, text: str) -> None:
    scratch = file.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(text, "utf-8")
    scratch.replace(file)
