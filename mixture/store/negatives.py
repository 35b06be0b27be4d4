"""Mined negatives: stored, counted, and taken back. Each function is one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from mixture.store.change import earlier_names
from mixture.store.connect import Store
from mixture.store.write import append


@dataclass(frozen=True)
class Added:
    """What mined negatives came to in a collection.

    stored:   negatives that are this call's now
    new:      of these, pairs of example and passage that were no negatives before
    random:   of these, random passages
    known:    found, but negatives of another miner or of the file already, and left as they are
    replaced: negatives of an earlier call that are none any more
    """

    stored: int
    new: int
    random: int
    known: int
    replaced: int


# found: the mined negatives. theirs: what stays in any case. own: what the call takes the place of.
COUNTED = """
WITH now AS (SELECT example_id, passage_id, miner FROM negatives WHERE collection = $c),
     theirs AS (FROM now WHERE NOT list_contains($replace, miner)),
     own AS (FROM now WHERE list_contains($replace, miner)),
     wanted AS (SELECT f.* FROM new_negatives f
                SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
                SEMI JOIN (SELECT passage_id FROM passages WHERE collection = $c) USING (passage_id)),
     stored AS (FROM wanted ANTI JOIN theirs USING (example_id, passage_id))
SELECT (SELECT count(*) FROM stored), (SELECT count(*) FROM stored ANTI JOIN now USING (example_id, passage_id)),
       (SELECT count(*) FROM stored WHERE miner = 'random'), (SELECT count(*) FROM wanted) -
       (SELECT count(*) FROM stored), (SELECT count(*) FROM own ANTI JOIN stored USING (example_id, passage_id))"""


def add_negatives(
    store: Store, collection: str, negatives: pa.Table, *, replace: Sequence[str] = (), dry_run: bool = False,
    miner: str | None = None, command: str | None = None, snapshot: int | None = None,
    settings: Mapping[str, Any] | None = None, dropped: Mapping[str, int] | None = None,
) -> Added:  # fmt: skip
    """Store mined negatives (schema `rows.NEGATIVES`) of a collection in place of those of the miners in `replace`.

    A passage that is a negative of the example already, of another miner, stays as it is. Examples that were taken out
    since come back, if they do, with the negatives that they had. Passages that went since are left out.

    dry_run:  only count
    miner, command, snapshot: what `undo_mining` needs: the miner's name, a name that the calls for several collections
        share, and the store's snapshot before
    settings, dropped: how the miner was asked, and candidates that filters dropped, to keep beside these
    """
    values = {"c": collection, "replace": list(replace)}

    def work(connection: duckdb.DuckDBPyConnection) -> Added:
        connection.register("new_negatives", negatives)
        counted = connection.execute(COUNTED, values).fetchone()
        added = Added(*(counted or (0,) * 5))
        if dry_run:
            return added
        connection.execute("DELETE FROM negatives WHERE collection = $c AND list_contains($replace, miner)", values)
        connection.execute(
            """INSERT INTO negatives BY NAME SELECT $c AS collection, n.* FROM new_negatives n
               SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
               SEMI JOIN (SELECT passage_id FROM passages WHERE collection = $c) USING (passage_id) ANTI JOIN
               (SELECT example_id, passage_id FROM negatives WHERE collection = $c) USING (example_id, passage_id)""",
            {"c": collection},
        )
        if command is not None:
            connection.execute(
                "INSERT INTO minings VALUES (?, ?, ?, ?, ?, ?, now(), ?, ?)",
                [
                    command,
                    collection,
                    miner,
                    added.new,
                    added.replaced,
                    snapshot,
                    json.dumps(dict(settings or {}), default=str),
                    json.dumps(dict(dropped or {})),
                ],
            )
        return added

    return store.transaction(work)


@dataclass(frozen=True)
class TakenBack:
    """What an undo does in a collection: negatives of the miner that go, and those before them that come back."""

    collection: str
    miner: str
    removed: int
    put_back: int


def undo_mining(store: Store, *, dry_run: bool = False) -> list[TakenBack]:
    """Take back what the newest call of a miner added, and put back what it replaced, by time travel.

    Nothing to take back gives an empty list. Examples that came after the call keep what they have.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> list[TakenBack]:
        calls = connection.execute(
            """SELECT collection, miner, snapshot_before, command FROM minings
               WHERE command = (SELECT command FROM minings ORDER BY mined_at DESC, command LIMIT 1)
               ORDER BY mined_at, collection"""
        ).fetchall()
        found = [_take_back(connection, *call[:3], dry_run=dry_run) for call in calls]
        if calls and not dry_run:
            connection.execute("DELETE FROM minings WHERE command = ?", [calls[0][3]])
        return found

    return store.transaction(work)


def _take_back(
    connection: duckdb.DuckDBPyConnection, collection: str, miner: str, before: int, *, dry_run: bool
) -> TakenBack:
    then = earlier_names(connection, [collection], before)[collection]
    values = {"c": collection, "then": then, "miner": miner}
    own, its_own = (f"WHERE collection = {name} AND miner IN ($miner, 'random')" for name in ("$c", "$then"))
    there = f"AT (VERSION => {int(before)})"
    columns = "example_id, passage_id, rank, score, miner"
    gone = connection.execute(
        f"""SELECT {columns} FROM negatives {own} AND example_id IN (
                SELECT example_id FROM examples {there} WHERE collection = $then)
            EXCEPT SELECT {columns} FROM negatives {there} {its_own}""",
        values,
    ).to_arrow_table()
    back = connection.execute(
        f"""SELECT {columns} FROM (SELECT {columns} FROM negatives {there} {its_own}
                                   EXCEPT SELECT {columns} FROM negatives {own})
            SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
            ANTI JOIN (SELECT example_id, passage_id FROM negatives
                       WHERE collection = $c AND miner NOT IN ($miner, 'random')) USING (example_id, passage_id)""",
        values,
    ).to_arrow_table()
    if not dry_run:
        connection.register("gone_negatives", gone)
        connection.execute(
            """DELETE FROM negatives WHERE collection = $c AND (example_id, passage_id) IN (
                   SELECT example_id, passage_id FROM gone_negatives)""",
            {"c": collection},
        )
        # A file that changed may have taken passages along that no negative named any more.
        connection.register("back_negatives", back)
        connection.execute(
            f"""INSERT INTO passages BY NAME SELECT $c AS collection, * EXCLUDE (collection) FROM passages {there}
                WHERE collection = $then AND passage_id IN (SELECT passage_id FROM back_negatives)
                AND passage_id NOT IN (SELECT passage_id FROM passages WHERE collection = $c)""",
            {"c": collection, "then": then},
        )
        append(connection, "negatives", back.append_column("collection", pa.array([collection] * len(back))))
    return TakenBack(collection, miner, gone.num_rows, back.num_rows)
