"""Passages that turn out to answer a query become positives of its example.

An example's id is a hash of its query and its positives, so that it goes, with the reason `relabelled`, and another one
comes with its negatives. Parts of a transaction, in the collection of one call of a miner.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from mixture.rows import example_id
from mixture.store.givers import RELABELLED

GRADE = 1.0  # of a positive that no file grades
LIST = "STRUCT(passage_id VARCHAR, grade FLOAT)[]"


def relabel(connection: duckdb.DuckDBPyConnection, collection: str, answers: pa.Table, snapshot: int | None) -> int:
    """Make the passages of `answers` (example_id, passage_id) positives of their examples, and no negatives; how many
    examples that changes. One that becomes equal to another of the collection stays as it is."""
    connection.register("answers", answers)
    found = connection.execute(
        f"""SELECT e.example_id, e.query, list_concat(e.positives, a.positives) AS positives
            FROM (SELECT example_id, list({{'passage_id': passage_id, 'grade': {GRADE}}} ORDER BY passage_id)::{LIST}
                         AS positives
                  FROM (SELECT DISTINCT example_id, passage_id FROM answers
                        SEMI JOIN (SELECT passage_id FROM passages WHERE collection = $c) USING (passage_id))
                  GROUP BY example_id) a
            JOIN (SELECT * FROM examples WHERE collection = $c) e USING (example_id) ORDER BY e.example_id""",
        {"c": collection},
    ).to_arrow_table()
    new = [example_id(row["query"], [p["passage_id"] for p in row["positives"]]) for row in found.to_pylist()]
    connection.register("relabelled", found.append_column("new_id", pa.array(new, pa.string())))
    changed = connection.execute(
        """SELECT * FROM relabelled QUALIFY row_number() OVER (PARTITION BY new_id ORDER BY example_id) = 1
           AND new_id NOT IN (SELECT example_id FROM examples WHERE collection = $c)
           AND new_id NOT IN (SELECT example_id FROM removals WHERE collection = $c)""",
        {"c": collection},
    ).to_arrow_table()
    connection.register("changed", changed)
    connection.execute(
        """INSERT INTO removals BY NAME
           SELECT $c AS collection, example_id, query, $reason AS reason, $c AS kept_collection, new_id AS kept_id,
                  query AS kept_query, $snapshot AS snapshot_before, now() AS removed_at FROM changed""",
        {"c": collection, "reason": RELABELLED, "snapshot": snapshot},
    )
    connection.execute(
        """DELETE FROM negatives WHERE collection = $c AND (example_id, passage_id) IN (
               SELECT example_id, unnest(positives).passage_id FROM changed)""",
        {"c": collection},
    )
    connection.execute(
        """UPDATE examples SET positives = r.positives FROM changed r
           WHERE examples.collection = $c AND examples.example_id = r.example_id""",
        {"c": collection},
    )
    _rename(connection, collection, changed.select(["example_id", "new_id"]))
    return int(changed.num_rows)


def labels_before(connection: duckdb.DuckDBPyConnection, collection: str, then: str, before: int) -> pa.Table:
    """The examples that `relabel` changed in a call that found the store at the snapshot `before`, where the collection
    was called `then`: new_id, their `positives` of that time, and the `negatives` that are positives since (a list of
    passage_id, rank, score, miner)."""
    there = f"AT (VERSION => {int(before)})"
    return connection.execute(
        f"""WITH old AS (SELECT e.example_id, r.kept_id AS new_id, e.positives
                         FROM (SELECT * FROM removals WHERE collection = $c AND reason = $reason
                               AND snapshot_before = $before) r
                         JOIN (SELECT * FROM examples {there} WHERE collection = $then) e USING (example_id)),
                 added AS (SELECT old.example_id, unnest(n.positives).passage_id AS passage_id FROM old
                           JOIN (SELECT * FROM examples WHERE collection = $c) n ON n.example_id = old.new_id
                           EXCEPT SELECT example_id, unnest(positives).passage_id FROM old)
            SELECT old.example_id, new_id, positives, coalesce(negatives, []) AS negatives
            FROM old LEFT JOIN (
                SELECT example_id,
                       list({{'passage_id': passage_id, 'rank': rank, 'score': score, 'miner': miner}}) AS negatives
                FROM (SELECT * FROM negatives {there} WHERE collection = $then) SEMI JOIN added
                     USING (example_id, passage_id)
                GROUP BY example_id) n USING (example_id)""",
        {"c": collection, "then": then, "before": before, "reason": RELABELLED},
    ).to_arrow_table()


def take_back_labels(connection: duckdb.DuckDBPyConnection, collection: str, labels: pa.Table) -> None:
    """Undo a `relabel`; labels: of `labels_before`. What has been taken out since stays out."""
    if not labels.num_rows:
        return
    connection.register("labels", labels)
    _rename(connection, collection, labels.select(["new_id", "example_id"]).rename_columns(["example_id", "new_id"]))
    connection.execute(
        """UPDATE examples SET positives = l.positives FROM labels l
           WHERE examples.collection = ? AND examples.example_id = l.example_id""",
        [collection],
    )
    connection.execute(
        """INSERT INTO negatives BY NAME SELECT $c AS collection, n.*
           FROM (SELECT example_id, unnest(negatives, recursive := true) FROM labels) n
           SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
           ANTI JOIN (SELECT example_id, passage_id, miner FROM negatives WHERE collection = $c)
                USING (example_id, passage_id, miner)""",
        {"c": collection},
    )
    connection.execute(
        "DELETE FROM removals WHERE collection = ? AND reason = ? AND example_id IN (SELECT example_id FROM labels)",
        [collection, RELABELLED],
    )
    # Taken out since under its new id: it stays out under the old one.
    connection.execute(
        """UPDATE removals SET example_id = l.example_id FROM labels l
           WHERE removals.collection = ? AND removals.example_id = l.new_id""",
        [collection],
    )


def _rename(connection: duckdb.DuckDBPyConnection, collection: str, ids: pa.Table) -> None:
    """Call examples otherwise: from `example_id` to `new_id`."""
    connection.register("new_ids", ids)
    for table in ("examples", "negatives", "positive_scores"):
        connection.execute(
            f"""UPDATE {table} SET example_id = r.new_id FROM new_ids r
                WHERE {table}.collection = ? AND {table}.example_id = r.example_id""",
            [collection],
        )
