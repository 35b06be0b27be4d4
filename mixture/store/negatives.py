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


class _DryRun(Exception):
    """Ends a transaction that is to change nothing; found: what it came to."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found


@dataclass(frozen=True)
class Added:
    """What mined negatives came to in a collection.

    stored:   negatives that are this call's now
    new:      of these, pairs of example and passage that were no negatives before
    random:   of these, random passages
    known:    found, but negatives of the file already, and left as they are
    replaced: negatives of this miner's earlier calls that are its own no more
    """

    stored: int
    new: int
    random: int
    known: int
    replaced: int


# own: what the call takes the place of. wanted: what was found, of what is still there. stored: without what the file
# gave, and without what this miner found in another process meanwhile.
ROWS = """
WITH now AS (SELECT example_id, passage_id, miner FROM negatives WHERE collection = $c),
     own AS (FROM now WHERE list_contains($replace, miner)),
     theirs AS (FROM now WHERE NOT list_contains($replace, miner)),
     wanted AS (SELECT f.* FROM new_negatives f
                SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
                SEMI JOIN (SELECT passage_id FROM passages WHERE collection = $c) USING (passage_id)),
     stored AS (FROM wanted ANTI JOIN (FROM theirs WHERE miner = 'provided') USING (example_id, passage_id)
                ANTI JOIN theirs USING (example_id, passage_id, miner))"""
COUNTED = f"""{ROWS}
SELECT (SELECT count(*) FROM stored), (SELECT count(*) FROM stored ANTI JOIN now USING (example_id, passage_id)),
       (SELECT count(*) FROM stored WHERE score IS NULL), (SELECT count(*) FROM wanted) -
       (SELECT count(*) FROM stored), (SELECT count(*) FROM own ANTI JOIN stored USING (example_id, passage_id))"""


def add_negatives(
    store: Store, collection: str, negatives: pa.Table, *, replace: Sequence[str] = (), dry_run: bool = False,
    miner: str | None = None, command: str | None = None, snapshot: int | None = None,
    settings: Mapping[str, Any] | None = None, dropped: Mapping[str, int] | None = None,
    positives: pa.Table | None = None, passages: pa.Table | None = None, answers: pa.Table | None = None,
) -> Added:  # fmt: skip
    """Store mined negatives (schema `rows.NEGATIVES`) of a collection in place of those of the miners in `replace`.

    What several miners find is a negative of each of them; what the file gave is the file's alone. Examples that were
    taken out since come back, if they do, with the negatives that they had. Passages that went since are left out.

    dry_run:  only count
    miner, command, snapshot: what `undo_mining` needs: the miner's name, a name that the calls for several collections
        share, and the store's snapshot before
    settings, dropped: how the miner was asked, and candidates that filters dropped, to keep beside these
    positives: example_id, passage_id, score, miner of the examples' own positives; they take the place of what this
        miner said of these examples
    passages: passage_id, title, text, simhash of passages of elsewhere that become negatives, or positives
    answers: example_id, passage_id of what is a positive of its example from now on, and no negative
    """
    values = {"c": collection, "replace": list(replace)}

    def work(connection: duckdb.DuckDBPyConnection) -> Added:
        connection.register("new_negatives", negatives)
        if passages is not None:
            _bring_in(connection, collection, passages)
        counted = connection.execute(COUNTED, values).fetchone()
        added = Added(*(counted or (0,) * 5))
        if dry_run:
            raise _DryRun(added)
        connection.execute("DELETE FROM negatives WHERE collection = $c AND list_contains($replace, miner)", values)
        connection.execute(f"INSERT INTO negatives BY NAME {ROWS} SELECT $c AS collection, * FROM stored", values)
        if positives is not None:
            _keep_scores(connection, collection, positives)
        if answers is not None:
            connection.register("new_answers", answers)
            connection.execute(
                """INSERT INTO answers BY NAME SELECT DISTINCT $c AS collection, a.*, $command AS command
                   FROM new_answers a SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c)
                   USING (example_id)""",
                {"c": collection, "command": command or ""},
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

    try:
        return store.transaction(work)
    except _DryRun as ended:
        return ended.found


def _bring_in(connection: duckdb.DuckDBPyConnection, collection: str, passages: pa.Table) -> None:
    connection.register("found_passages", passages)
    connection.execute(
        """INSERT INTO passages BY NAME SELECT $c AS collection, p.* FROM found_passages p
           ANTI JOIN (SELECT passage_id FROM passages WHERE collection = $c) USING (passage_id)""",
        {"c": collection},
    )


def _keep_scores(connection: duckdb.DuckDBPyConnection, collection: str, positives: pa.Table) -> None:
    connection.register("new_scores", positives)
    connection.execute(
        """DELETE FROM positive_scores WHERE collection = $c AND (example_id, miner) IN (
               SELECT DISTINCT example_id, miner FROM new_scores)""",
        {"c": collection},
    )
    connection.execute(
        """INSERT INTO positive_scores BY NAME SELECT $c AS collection, s.* FROM new_scores s
           SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)""",
        {"c": collection},
    )


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
        found = [_take_back(connection, *call[:3]) for call in calls]
        if calls:
            for table in ("minings", "answers"):
                connection.execute(f"DELETE FROM {table} WHERE command = ?", [calls[0][3]])
        if dry_run:
            raise _DryRun(found)
        return found

    try:
        return store.transaction(work)
    except _DryRun as ended:
        return ended.found


def _take_back(connection: duckdb.DuckDBPyConnection, collection: str, miner: str, before: int) -> TakenBack:
    then = earlier_names(connection, [collection], before)[collection]
    values = {"c": collection, "miner": miner}
    own = "WHERE collection = $c AND miner IN ($miner, 'random')"
    there = f"AT (VERSION => {int(before)})"
    columns = "example_id, passage_id, rank, score, miner"
    # All of the older version is read before anything is written: DuckLake shows what a transaction inserted in older
    # versions too, as long as it runs.
    # A version of before this table came has it not.
    today = "SELECT 1 FROM positive_scores WHERE collection = $c AND miner = $miner LIMIT 1"
    scores = f"positive_scores {there}" if connection.execute(today, values).fetchone() else "positive_scores"
    for name, query in (
        ("old_examples", f"SELECT example_id FROM examples {there} WHERE collection = ?"),
        ("old_negatives", f"SELECT {columns} FROM negatives {there} WHERE collection = ? AND miner IN (?, 'random')"),
        ("old_scores", f"SELECT * EXCLUDE (collection) FROM {scores} WHERE collection = ? AND miner = ?"),
    ):
        connection.register(name, connection.execute(query, [then, miner][: query.count("?")]).to_arrow_table())
    gone = connection.execute(
        f"""SELECT {columns} FROM negatives {own} AND example_id IN (SELECT example_id FROM old_examples)
            EXCEPT SELECT {columns} FROM old_negatives""",
        values,
    ).to_arrow_table()
    back = connection.execute(
        f"""SELECT {columns} FROM (SELECT {columns} FROM old_negatives
                                   EXCEPT SELECT {columns} FROM negatives {own})
            SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
            ANTI JOIN (SELECT example_id, passage_id FROM negatives
                       WHERE collection = $c AND miner = 'provided') USING (example_id, passage_id)""",
        values,
    ).to_arrow_table()
    connection.register("gone_negatives", gone)
    connection.execute(
        """DELETE FROM negatives WHERE collection = $c AND (example_id, passage_id, miner) IN (
               SELECT example_id, passage_id, miner FROM gone_negatives)""",
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
    _put_back_scores(connection, collection, miner)
    return TakenBack(collection, miner, gone.num_rows, back.num_rows)


def _put_back_scores(connection: duckdb.DuckDBPyConnection, collection: str, miner: str) -> None:
    """The scores of positives as they were, in `old_scores`."""
    values = {"c": collection, "miner": miner}
    connection.execute("DELETE FROM positive_scores WHERE collection = $c AND miner = $miner", values)
    connection.execute(
        """INSERT INTO positive_scores BY NAME SELECT $c AS collection, * FROM old_scores
           SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)""",
        {"c": collection},
    )
