"""The texts of what `decontaminate` took out: `removals` says which rows, older versions of the store their texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import StoreError
from mixture.specs import Component
from mixture.store import read
from mixture.store.change import earlier_names
from mixture.store.connect import Store
from mixture.store.files import at_version
from mixture.store.materialise import versions

# What `removals` itself keeps: the query, and the test passage that a positive held.
KEPT = """
SELECT collection, example_id, 'query' AS kind, query AS "text" FROM removals
WHERE suite IS NOT NULL AND list_contains($names, collection)
UNION ALL SELECT collection, example_id, 'passage', kept_query FROM removals
WHERE reason = 'test passage' AND list_contains($names, collection)
ORDER BY ALL"""
POSITIVES = f"""
SELECT g.collection, g.example_id, 'passage' AS kind,
       CASE WHEN title = '' THEN "text" ELSE title || ' ' || "text" END AS "text"
FROM gone g JOIN ({read.LINKS_WITH_ANSWERS}) l ON l.collection = g."then" AND l.example_id = g.example_id
JOIN passages p ON p.collection = l.collection AND p.passage_id = l.passage_id
ORDER BY ALL"""


def test_rows(store: Store, collections: Sequence[str]) -> pa.Table:
    """collection, example_id, kind (query or passage), text of the rows that `decontaminate` took out of these
    collections: their queries, and their positives, what a judge called answers included.

    Where the version of the store before is not to be read any more, of the positives only the test passages that they
    held.
    """
    parts = [store.read(KEPT, {"names": list(collections)})]
    gone = store.read(
        """SELECT collection, example_id, snapshot_before FROM removals
           WHERE suite IS NOT NULL AND snapshot_before IS NOT NULL AND list_contains(?, collection)""",
        [list(collections)],
    )
    for version in sorted(set(gone["snapshot_before"].to_pylist())):
        rows = gone.filter(pc.equal(gone["snapshot_before"], version))
        then = earlier_names(store.connection, rows["collection"].unique().to_pylist(), version)
        names = pa.array([then[name] for name in rows["collection"].to_pylist()], pa.string())
        with suppress(StoreError), at_version(store, version) as old:
            old.connection.register("gone", rows.append_column("then", names))
            parts.append(old.read(POSITIVES).cast(parts[0].schema))
    return pa.concat_tables(parts)


def todays_names(store: Store, components: Iterable[Component]) -> dict[str, str]:
    """What the collections of components are called today, by the name that the components have; without those that
    are gone."""
    held, found = sorted(read.names(store)), {}
    for component in components:
        name = component.collection
        if name in held:
            found[name] = name
            continue
        for version in versions(store, component)[:1]:
            then = earlier_names(store.connection, held, version)
            found.update((name, now) for now, old in then.items() if old == name)
    return found
