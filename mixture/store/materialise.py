"""Writes a mixture's collections and slices to memory-mapped Arrow, once, keyed by content digest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from mixture.errors import ForgottenRows, StoreError, UsageError
from mixture.materialised import MaterialisedMixture
from mixture.specs import Component, MixtureSpec
from mixture.store import forgotten, layout, read
from mixture.store.connect import Store
from mixture.store.files import at_version, digest, sha256
from mixture.store.query import refused
from mixture.whole import new_file, scratch_in, sweep

T = TypeVar("T")
logger = logging.getLogger(__name__)
BATCH_ROWS = 16_384

# `own` and `against` are the component's examples and their negatives (`read.part_examples`, `read.part_negatives`).
# Only passages that the digest pins: those that an example names. What removed examples left behind stays out.
USED = """(SELECT unnest(positives).passage_id AS passage_id FROM own UNION SELECT passage_id FROM against)"""
PASSAGES = f"""SELECT passage_id, title, text FROM passages SEMI JOIN {USED} USING (passage_id)
               WHERE collection = $c ORDER BY passage_id"""
# Passages by their row number in passages.arrow; lists keep a stated order so that draws by index are reproducible.
EXAMPLES = """SELECT own.example_id, own.query, own.language, positive.rows AS positives,
       coalesce(negative.rows, []::INTEGER[]) AS negatives
FROM own JOIN (
    SELECT example_id, list(row ORDER BY row) AS rows
    FROM (SELECT example_id, unnest(positives).passage_id AS passage_id FROM own) JOIN place USING (passage_id)
    GROUP BY example_id) positive USING (example_id)
LEFT JOIN (
    SELECT example_id, list(row ORDER BY against.place, passage_id) AS rows FROM against JOIN place USING (passage_id)
    GROUP BY example_id) negative USING (example_id)
ORDER BY own.example_id"""
PLACES = f"""SELECT passage_id, (row_number() OVER (ORDER BY passage_id) - 1)::INTEGER AS row
             FROM passages SEMI JOIN {USED} USING (passage_id) WHERE collection = $c"""


def materialise(
    store: Store, spec: MixtureSpec, folder: Path | None = None, *, although_forgotten: bool = False
) -> MaterialisedMixture:
    """Write what is missing of a mixture under `folder` (default `<store>/materialised`) and open it.

    A content that the store held when the mixture was made, and today does not, is read from that version of it. Raises
    `UsageError` where the store lacks a collection, or never held the content that the mixture pins, and
    `ForgottenRows` where it pins forgotten rows.

    although_forgotten: forgotten rows are written too; to look, not to train
    """
    if not although_forgotten:
        forgotten.refuse(store, spec)
    root = folder or layout.materialised(store.work)
    for place in (root, layout.component(root, "")):
        sweep(place)
    loose = [c.name for c in spec.components if not c.digest]
    if loose:
        _require_held(store, spec, root)
        raise UsageError(
            f"mixture {spec.id} does not say which content of {', '.join(loose)} it means: it was imported when the "
            "store lacked them; import it again now"
        )
    rows = store.rows("SELECT collection, is_symmetric FROM collections")
    symmetric = {row["collection"]: bool(row["is_symmetric"]) for row in rows}
    try:
        older = [c.name for c in spec.components
                 if not _component(store, c, root, symmetric.get(c.collection), although_forgotten)]  # fmt: skip
    except ForgottenRows as error:
        raise ForgottenRows(spec.id, error.held) from error
    except UsageError:
        _require_held(store, spec, root)
        raise
    if older and not although_forgotten:
        logger.warning("mixture %s pins what is no longer today's content of %s; it trains on what it pins, and a new "
                       "mixture on today's", spec.id, ", ".join(older))  # fmt: skip
    index = layout.spec(root, spec.id)
    if not index.exists():
        _write(index, spec.to_json())
    return MaterialisedMixture.open(root, spec.id)


def _component(
    store: Store, component: Component, root: Path, symmetric: bool | None, although_forgotten: bool
) -> bool:  # fmt: skip
    """Write a component where it is missing; whether it is today's content. symmetric: as its collection's card says
    today; None where the store has the collection no more."""
    target = layout.component(root, component.digest)
    if target.exists():
        if symmetric is not None:
            _keep_symmetric(target / "component.json", symmetric)
        return True
    _, today = with_content(store, component, lambda held: _write_component(held, component, target),
                            although_forgotten=although_forgotten)  # fmt: skip
    return today


def with_content(
    store: Store, component: Component, work: Callable[[Store], T], *, although_forgotten: bool = False
) -> tuple[T, bool]:  # fmt: skip
    """What `work` makes of the store that holds the content that a component pins, and whether that is today's; else it
    is the newest version of which `work` can read all. Raises `UsageError` where there is none, and `ForgottenRows`
    where it has forgotten rows, unless `although_forgotten`."""
    try:
        with store.reading():
            _check(store, component)
            return work(store), True
    except UsageError:
        for version in versions(store, component):
            gone = None if although_forgotten else forgotten.marked(store, component.collection, version)
            with suppress(StoreError), at_version(store, version, component.selection) as old:
                if digest(old, component.part) == component.digest:
                    _refuse_forgotten(old, component, gone)
                    return work(old), False
        raise


def _refuse_forgotten(store: Store, component: Component, gone: pa.ChunkedArray | None) -> None:
    """Raise `ForgottenRows` where a component has some of the examples `gone` in this version of the store."""
    if gone is None or not len(gone):
        return
    store.connection.register("forgotten_ids", pa.table({"example_id": gone}))
    (found,) = store.rows(
        f"SELECT count(*) AS n FROM {read.part_examples(component.part)} SEMI JOIN forgotten_ids USING (example_id)",
        read.part_parameters(component.part, negatives=False),
    )
    if found["n"]:
        raise ForgottenRows(None, {component.name: found["n"]})


def versions(store: Store, component: Component) -> list[int]:
    """The versions of the store that mixtures with this content were made at, newest first."""
    rows = store.rows(
        """SELECT DISTINCT snapshot FROM mixtures SEMI JOIN
               (SELECT mixture FROM mixture_weights WHERE digest = ?) USING (mixture)
           WHERE snapshot IS NOT NULL ORDER BY snapshot DESC""",
        [component.digest],
    )
    return [row["snapshot"] for row in rows]


def _require_held(store: Store, spec: MixtureSpec, root: Path) -> None:
    held = read.names(store)
    lacking = [c for c in spec.components if c.collection not in held]
    missing = sorted({c.collection for c in lacking if not c.digest or not layout.component(root, c.digest).exists()})
    if missing:
        raise UsageError(f"the store lacks {len(missing)} collections of mixture {spec.id}: {', '.join(missing)}")


def _write_component(store: Store, component: Component, target: Path) -> None:
    num_examples = _held(store, component)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_in(target.parent) as beside:
        scratch = beside / target.name
        scratch.mkdir()
        part = component.part
        rows = f"WITH own AS {read.part_examples(part)}, against AS {read.part_negatives(part)}"
        params = read.part_parameters(part)
        write_arrow(store, f"{rows} {PASSAGES}", params, scratch / "passages.arrow")
        written = write_arrow(store, f"{rows}, place AS ({PLACES}) {EXAMPLES}", params, scratch / "examples.arrow")
        if written != num_examples:
            raise StoreError(f"wrote {written} of {num_examples} examples of {component.name}")
        (stored,) = store.rows(
            "SELECT prompts, is_symmetric FROM collections WHERE collection = ?", [component.collection]
        )
        hashes = {name: sha256(scratch / name) for name in ("examples.arrow", "passages.arrow")}
        facts = {"collection": component.collection, "prompts": stored["prompts"] or [],
                 "symmetric": bool(stored["is_symmetric"]), "num_examples": num_examples, "files": hashes}  # fmt: skip
        (scratch / "component.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), "utf-8")
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
            # Another process wrote the same content first.


def _keep_symmetric(file: Path, symmetric: bool) -> None:
    """The digest does not cover what the card says of symmetry, so a folder written before may say otherwise."""
    facts = json.loads(file.read_text("utf-8"))
    if facts.get("symmetric") != symmetric:
        _write(file, json.dumps(facts | {"symmetric": symmetric}, ensure_ascii=False, indent=1))


def _held(store: Store, component: Component) -> int:
    """How many examples of a component are there."""
    (found,) = store.rows(
        f"SELECT count(*) AS n FROM {read.part_examples(component.part)}",
        read.part_parameters(component.part, negatives=False),
    )
    return int(found["n"])


def _check(store: Store, component: Component) -> None:
    """Raise a `UsageError` where the store's content is not what a component pins."""
    kind, gone = "collection", ""
    if component.selection is not None:
        pinned = store.rows("SELECT num_examples AS n FROM selections WHERE selection = ?", [component.selection])
        if not pinned:
            raise UsageError(
                f"the store does not know which examples {component.name!r} holds: the mixture was imported without "
                "them; export it in the format mixture where it was made, and import that"
            )
        kind, lost = "slice", pinned[0]["n"] - _held(store, component)
        gone = f"; {lost} of its {pinned[0]['n']} examples are gone" if lost else ""
    now = read.digest(store, component.part)
    if now != component.digest:
        raise UsageError(
            f"{kind} {component.name!r} has changed since the mixture was made (pinned {component.digest[:12]}, now "
            f"{now[:12]}{gone}); create the mixture anew from today's store"
        )


def write_arrow(store: Store, query: str, params: dict[str, Any], file: Path) -> int:
    """Write what a query finds as an Arrow file, block by block. Returns the number of rows."""
    rows = 0
    try:
        reader = store.connection.execute(query, params).to_arrow_reader(BATCH_ROWS)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
    except (duckdb.Error, OSError) as error:  # what fails while rows are fetched comes as an OSError without a number
        if isinstance(error, OSError) and error.errno is not None:  # the file's own
            raise
        raise refused("the store could not be read", error) from error
    return rows


def _write(file: Path, text: str) -> None:
    with new_file(file) as whole:
        whole.write_text(text, "utf-8")
