"""Which file gives which examples (`file_examples`), so that a file that changed takes back what it gave alone.

A link says: the file at `place` gives this example, in its `part` (a batch), with these negatives. `turn` is the file's
place among those of the collection. What several give has the negatives of all; where they disagree about the rank of
one, the first file counts, as it does while they are stored. So what is there follows from the links alone, whatever
was edited between.

All functions work within the transaction of `connection`, on the temporary tables that `prepare` makes:

new_links                    of the file at hand
given_before, known_rows     what its earlier content gave; its rows that the collection had
touched_examples             those to settle
loose_passages               those that may be of no use any more
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pyarrow as pa

from mixture.errors import UsageError
from mixture.rows import Batch

REPLACED = "replaced"
UNKNOWN = ""  # the place of rows of an older store that several files may have given
LINKS = """(example_id VARCHAR, part INTEGER,
            negatives STRUCT(passage_id VARCHAR, "rank" INTEGER, score FLOAT)[])"""
# The negatives of a link, of rows grouped by example.
LISTED = """list({'passage_id': passage_id, 'rank': "rank", 'score': score} ORDER BY "rank", passage_id)"""


def adopt(connection: duckdb.DuckDBPyConnection, collection: str, new_place: str) -> None:
    """Link the rows that a version without links stored. Of several files it is not known which gave what.

    Such a version knew a file as it was written, from wherever the command ran: new_place is how it is known now.
    """
    old = connection.execute(
        "SELECT DISTINCT file FROM sources WHERE collection = ? AND place IS NULL", [collection]
    ).fetchall()
    if not old:
        return
    full = os.path.abspath  # links stay as they stand, as in the places of new files
    places = {file: new_place if new_place.endswith(f"/{os.path.normpath(file)}")
              else full(file) if Path(file).exists() else file for (file,) in old}  # fmt: skip
    place = next(iter(places.values())) if len(places) == 1 else UNKNOWN
    connection.execute(
        f"""INSERT INTO file_examples BY NAME
           SELECT $c AS collection, $place AS place, 0 AS turn, 0 AS part, example_id, negatives
           FROM (SELECT example_id, coalesce(n.negatives, []) AS negatives
                 FROM (SELECT example_id FROM examples WHERE collection = $c) LEFT JOIN (
                     SELECT example_id, {LISTED} AS negatives
                     FROM negatives WHERE collection = $c AND miner = 'provided' GROUP BY example_id) n
                 USING (example_id)
                 UNION ALL SELECT DISTINCT example_id, NULL FROM removals WHERE collection = $c)""",
        {"c": collection, "place": place},
    )
    for file, found in places.items():
        connection.execute(
            "UPDATE sources SET place = ? WHERE collection = ? AND file = ? AND place IS NULL",
            [found, collection, file],
        )


def turn_of(connection: duckdb.DuckDBPyConnection, collection: str, place: str, *, append: bool) -> tuple[int, bool]:
    """The turn of a file that is to be stored, and whether it takes the place of an earlier content of its own.

    Raises `UsageError` where a version without links stored it together with others.
    """
    found = connection.execute(
        "SELECT prompts FROM sources WHERE collection = ? AND place = ?", [collection, place]
    ).fetchall()
    own, newest, loose = _one(connection.execute(
        """SELECT min(turn) FILTER (place = $place), coalesce(max(turn), -1), count(*) FILTER (place = $unknown)
           FROM file_examples WHERE collection = $c""",
        {"c": collection, "place": place, "unknown": UNKNOWN},
    ).fetchone())  # fmt: skip
    if append or not found:
        return newest + 1, False
    if loose and any(prompts is None for (prompts,) in found):
        raise UsageError(
            f"{place} has changed, and an older version of this toolkit stored it in {collection!r} without noting "
            f"which file gave which row; give `append` to keep that, or remove {collection!r} and ingest it anew"
        )
    return (newest + 1 if own is None else own), True


def prepare(connection: duckdb.DuckDBPyConnection, collection: str, place: str) -> None:
    """The temporary tables of one file: `given_before` has what an earlier content of it gave."""
    for name, columns in (("touched_examples", "(id VARCHAR)"), ("new_links", LINKS)):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} {columns}")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE known_rows (example_id VARCHAR, part INTEGER, language VARCHAR, "
        "positives STRUCT(passage_id VARCHAR, grade FLOAT)[])"
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE given_before AS SELECT DISTINCT example_id AS id FROM file_examples
           WHERE collection = $c AND place = $place""",
        {"c": collection, "place": place},
    )
    connection.execute("CREATE OR REPLACE TEMP TABLE loose_passages (id VARCHAR)")


def note_links(connection: duckdb.DuckDBPyConnection, batch: Batch, part: int) -> None:
    """Keep a batch's links until the file is read to its end."""
    connection.register("batch_examples", batch.examples.select(["example_id"]))
    connection.register("batch_negatives", batch.negatives)
    connection.execute(
        f"""INSERT INTO temp.new_links SELECT example_id, ?, coalesce(n.negatives, [])
           FROM temp.batch_examples LEFT JOIN (
               SELECT example_id, {LISTED} AS negatives
               FROM temp.batch_negatives GROUP BY example_id) n USING (example_id)""",
        [part],
    )


def note_known(connection: duckdb.DuckDBPyConnection, known: pa.Table, part: int) -> None:
    """Keep the rows of a batch whose examples the collection had, for `settle` and `bring_up_to_date`."""
    connection.register("batch_known", known.select(["example_id", "language", "positives"]))
    connection.execute("INSERT INTO temp.touched_examples SELECT example_id FROM temp.batch_known")
    connection.execute("INSERT INTO temp.known_rows BY NAME SELECT *, ? AS part FROM temp.batch_known", [part])


def link(connection: duckdb.DuckDBPyConnection, collection: str, place: str, turn: int, *, replaces: bool) -> int:
    """Store the links that were kept, in place of those of the file's earlier content. How many of the examples that
    the collection has that content gave too."""
    if replaces:
        connection.execute("DELETE FROM file_examples WHERE collection = ? AND place = ?", [collection, place])
    connection.execute(
        """INSERT INTO file_examples BY NAME SELECT ? AS collection, ? AS place, ? AS turn, part, example_id, negatives
           FROM temp.new_links""",
        [collection, place, turn],
    )
    if not replaces:
        return 0
    # Also what only other files give now.
    connection.execute("INSERT INTO temp.touched_examples SELECT id FROM temp.given_before")
    (stays,) = _one(connection.execute(
        """SELECT count(*) FROM temp.given_before SEMI JOIN temp.new_links ON id = example_id
           SEMI JOIN (SELECT example_id FROM examples WHERE collection = ?) e ON id = e.example_id""",
        [collection],
    ).fetchone())  # fmt: skip
    return int(stays)


def take_back(connection: duckdb.DuckDBPyConnection, collection: str) -> int:
    """Take out what a file gave before and no file gives now; how many examples that were."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE gone_examples AS SELECT id FROM temp.given_before
           SEMI JOIN (SELECT example_id AS id FROM examples WHERE collection = $c) USING (id)
           ANTI JOIN (SELECT example_id AS id FROM file_examples WHERE collection = $c) USING (id)""",
        {"c": collection},
    )
    (count,) = _one(connection.execute("SELECT count(*) FROM temp.gone_examples").fetchone())
    if not count:
        return 0
    connection.execute(
        """INSERT INTO removals BY NAME SELECT collection, example_id, query, $reason AS reason, now() AS removed_at
           FROM examples WHERE collection = $c AND example_id IN (SELECT id FROM temp.gone_examples)""",
        {"c": collection, "reason": REPLACED},
    )
    connection.execute(
        """INSERT INTO temp.loose_passages
           SELECT unnest(positives).passage_id FROM examples
           WHERE collection = $c AND example_id IN (SELECT id FROM temp.gone_examples)
           UNION SELECT passage_id FROM negatives
           WHERE collection = $c AND example_id IN (SELECT id FROM temp.gone_examples)""",
        {"c": collection},
    )
    for table in ("examples", "negatives"):
        connection.execute(
            f"DELETE FROM {table} WHERE collection = ? AND example_id IN (SELECT id FROM temp.gone_examples)",
            [collection],
        )
    return int(count)


def bring_up_to_date(connection: duckdb.DuckDBPyConnection, collection: str, turn: int) -> None:
    """Give examples that stay the language and the grades of the file's new content, where it is the first to give
    them."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE changed_rows AS
           SELECT n.example_id, n.language, n.positives
           FROM temp.known_rows n
           JOIN (SELECT example_id, min(part) AS part FROM temp.new_links GROUP BY 1) USING (example_id, part)
           JOIN (SELECT example_id, language, positives FROM examples WHERE collection = $c) e USING (example_id)
           JOIN (SELECT example_id, min(turn) AS first_turn FROM file_examples WHERE collection = $c GROUP BY 1) f
                USING (example_id)
           WHERE f.first_turn = $turn AND (n.language IS DISTINCT FROM e.language OR n.positives <> e.positives)""",
        {"c": collection, "turn": turn},
    )
    connection.execute(
        """UPDATE examples SET language = n.language, positives = n.positives FROM temp.changed_rows n
           WHERE examples.collection = ? AND examples.example_id = n.example_id""",
        [collection],
    )


def settle(connection: duckdb.DuckDBPyConnection, collection: str) -> None:
    """Give the examples in `touched_examples` the negatives that their links have, and leave mined ones as they are.

    A link of an older store may not know its negatives; of such an example none is taken away.
    """
    if not connection.execute("SELECT 1 FROM temp.touched_examples LIMIT 1").fetchone():
        return
    parameters = {"c": collection}
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE wanted_negatives AS
           SELECT example_id, n.passage_id AS passage_id, n."rank" AS "rank", n.score AS score
           FROM (SELECT example_id, turn, part, unnest(negatives) AS n FROM file_examples
                 WHERE collection = $c AND example_id IN (SELECT id FROM temp.touched_examples))
           SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
           QUALIFY row_number() OVER (PARTITION BY example_id, n.passage_id ORDER BY turn, part, n."rank") = 1""",
        parameters,
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE outdated_negatives AS
           SELECT o.example_id, o.passage_id
           FROM (SELECT * FROM negatives
                 WHERE collection = $c AND example_id IN (SELECT id FROM temp.touched_examples)) o
           LEFT JOIN temp.wanted_negatives w USING (example_id, passage_id)
           WHERE CASE WHEN o.miner <> 'provided' THEN w.passage_id IS NOT NULL
                      WHEN w.passage_id IS NULL THEN o.example_id NOT IN (
                          SELECT example_id FROM file_examples WHERE collection = $c AND negatives IS NULL)
                      ELSE o."rank" <> w."rank" OR o.score IS DISTINCT FROM w.score END""",
        parameters,
    )
    connection.execute("INSERT INTO temp.loose_passages SELECT passage_id FROM temp.outdated_negatives")
    connection.execute(
        """DELETE FROM negatives WHERE collection = $c
           AND (example_id, passage_id) IN (SELECT (example_id, passage_id) FROM temp.outdated_negatives)""",
        parameters,
    )
    connection.execute(
        """INSERT INTO negatives BY NAME
           SELECT $c AS collection, w.*, 'provided' AS miner FROM temp.wanted_negatives w ANTI JOIN
           (SELECT example_id, passage_id FROM negatives WHERE collection = $c) USING (example_id, passage_id)""",
        parameters,
    )


def settle_only(connection: duckdb.DuckDBPyConnection, collection: str, example_ids: pa.ChunkedArray) -> None:
    """`settle` these examples, where the collection has links."""
    prepare(connection, collection, UNKNOWN)
    connection.register("settled", pa.table({"example_id": example_ids}))
    connection.execute(
        """INSERT INTO temp.touched_examples SELECT example_id FROM temp.settled
           SEMI JOIN (SELECT example_id FROM file_examples WHERE collection = ?) USING (example_id)""",
        [collection],
    )
    settle(connection, collection)
    drop_loose_passages(connection, collection)


def drop_loose_passages(connection: duckdb.DuckDBPyConnection, collection: str) -> None:
    """Remove the passages in `loose_passages` that nothing uses any more. An undo brings back those that it needs, but
    for negatives that a file's later content gives to what was taken out: they are in no older version."""
    if not connection.execute("SELECT 1 FROM temp.loose_passages LIMIT 1").fetchone():
        return
    connection.execute(
        """DELETE FROM passages WHERE collection = $c AND passage_id IN (
               SELECT id FROM temp.loose_passages
               ANTI JOIN (SELECT unnest(positives).passage_id AS id FROM examples WHERE collection = $c) USING (id)
               ANTI JOIN (SELECT passage_id AS id FROM negatives WHERE collection = $c) USING (id)
               ANTI JOIN (SELECT unnest(negatives).passage_id AS id FROM file_examples WHERE collection = $c)
                   USING (id))""",
        {"c": collection},
    )


def _one(row: tuple[int, ...] | None) -> tuple[int, ...]:
    return row or ()
