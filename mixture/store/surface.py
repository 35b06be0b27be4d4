"""The views and macros of `Store.sql`: what a data owner asks, under names. `docs/sql.md` is the page about them.

They are temporary objects of the read-only connection, so the store holds none of them and an older store has the
newest ones. Every table is named in full: a macro is bound where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class Macro:
    """`call` is how it is written in FROM; `sql` its SELECT."""

    call: str
    says: str
    sql: str

    @property
    def parameters(self) -> str:
        return self.call.partition("(")[2].rstrip(")")

    @property
    def example(self) -> str:
        """A call for DESCRIBE, which looks no argument up."""
        return f"{self.call.partition('(')[0]}({', '.join('1' for _ in self.parameters.split(','))})"


@dataclass(frozen=True)
class View:
    says: str
    sql: str


def meant(ref: str) -> str:
    """The query for what a REF means; `ref` is an SQL expression. One row: name, version, mixture, problem.

    `name` and `name:latest` mean the newest version, `name:version` that one. Then come tags, then ids. The first 4
    characters of an id or more will do where no other id begins so. Of a mixture with several names the first counts.
    problem is NULL, or says in a line why the REF means none; the other three are NULL then.
    """
    # A name is near where at most a third of the letters must change. Capitals count as small letters.
    return f"""
SELECT found.name AS name, found.version AS version, found.mixture AS mixture, CASE
    WHEN found IS NOT NULL THEN NULL
    WHEN newest IS NOT NULL THEN 'mixture ''' || asked || ''' has versions 1 to ' || newest.version || ', not ''' ||
                                 wanted || ''''
    WHEN tagged IS NOT NULL THEN '''' || asked || ''' is a tag; tags have no versions'
    WHEN len(ids) > 1 THEN '''' || asked || ''' begins ' || len(ids) || ' mixture ids: ' || array_to_string(ids, ', ')
    WHEN len(near) > 0 THEN 'no mixture ''' || asked || '''; did you mean ''' ||
                            array_to_string(near[1:3], ''', ''') || '''?'
    ELSE 'no mixture ''' || asked || '''; there are: ' || coalesce(array_to_string(names[1:8], ', '), 'none yet') ||
         CASE WHEN len(names) > 8 THEN ', …' ELSE '' END END AS problem
FROM (SELECT *, CASE WHEN newest IS NOT NULL THEN CASE WHEN wanted IN ('', 'latest') THEN newest ELSE of_version END
                     WHEN wanted = '' THEN coalesce(tagged, CASE WHEN len(ids) = 1 THEN by_id END) END AS found,
             list_transform(list_sort(list_filter(list_transform(
                 names, lambda one: {{'edits': damerau_levenshtein(lower(one), lower(asked)), 'name': one}}),
                 lambda one: one.edits <= (length(asked) + 1) // 3)), lambda one: one.name) AS near
      FROM (SELECT any_value(asked) AS asked, any_value(wanted) AS wanted, any_value(names) AS names,
                   arg_max(one, one.version) FILTER (one.name = asked) AS newest,
                   any_value(one) FILTER (one.name = asked AND one.version::VARCHAR = wanted) AS of_version,
                   first(one ORDER BY made) FILTER (one.mixture = now) AS tagged,
                   first(one ORDER BY made) FILTER (begins) AS by_id,
                   list(DISTINCT one.mixture ORDER BY one.mixture) FILTER (begins) AS ids
            FROM (SELECT *, regexp_full_match(asked, '[0-9a-f]{{4,12}}') AND starts_with(one.mixture, asked)
                            AND wanted = '' AS begins
                  FROM (SELECT split_part(coalesce({ref}::VARCHAR, ''), ':', 1) AS asked,
                               substr(coalesce({ref}::VARCHAR, ''), length(asked) + 2) AS wanted)
                  LEFT JOIN (SELECT tag, arg_max(mixture, set_at) AS now FROM lake.main.mixture_tags GROUP BY tag)
                       ON tag = asked
                  LEFT JOIN (SELECT list(name ORDER BY name) AS names
                             FROM (SELECT name FROM lake.main.mixtures UNION SELECT tag FROM lake.main.mixture_tags))
                       ON true
                  LEFT JOIN (SELECT {{'name': name, 'version': version, 'mixture': mixture}} AS one,
                                    row_number() OVER (ORDER BY created_at, name, version) AS made
                             FROM lake.main.mixtures) ON true)))"""


MACROS: dict[str, Macro] = {
    "mixture": Macro(
        "mixture(ref)",
        "a mixture's components; `slice_of` is the collection of one that is a slice",
        # LEFT JOIN: the reference is looked up, and refused, even where no mixture has any weights.
        """SELECT w.mixture, w.collection, w.weight, w.loss_weight, w.num_examples, w.digest, c.category, c.license,
                  c.languages, w.slice_of, w.selection
           FROM (SELECT mixture_id(ref) AS mixture) LEFT JOIN lake.main.mixture_weights w USING (mixture)
           LEFT JOIN lake.main.collections c ON c.collection = coalesce(w.slice_of, w.collection)
           ORDER BY w.weight DESC, w.collection""",
    ),
    "composition": Macro(
        "composition(ref)",
        "a mixture by category, license and language",
        """WITH parts AS (SELECT *, coalesce(slice_of, collection) AS whole FROM mixture(ref)), languages AS (
               SELECT p.collection, l.language, l.share
               FROM parts p JOIN collection_languages l ON p.slice_of IS NULL AND l.collection = p.collection
               UNION ALL
               SELECT p.collection, coalesce(e.language, CASE WHEN len(any_value(p.languages)) = 1
                                                              THEN any_value(p.languages)[1] END, 'unknown'),
                      count(*) / sum(count(*)) OVER (PARTITION BY p.collection)
               FROM parts p JOIN lake.main.selected_examples s USING (selection)
               JOIN lake.main.examples e ON e.collection = p.slice_of AND e.example_id = s.example_id
               GROUP BY p.collection, e.language),
           split AS (
               SELECT 'category' AS dimension, coalesce(nullif(category, ''), 'unknown') AS value, whole, weight,
                      num_examples FROM parts
               UNION ALL SELECT 'license', coalesce(nullif(license, ''), 'unknown'), whole, weight, num_examples
               FROM parts
               UNION ALL SELECT 'language', coalesce(l.language, 'unknown'), p.whole,
                                p.weight * coalesce(l.share, 1), p.num_examples * coalesce(l.share, 1)
               FROM parts p LEFT JOIN languages l USING (collection))
           SELECT dimension, value, sum(weight) AS weight, round(sum(num_examples))::BIGINT AS num_examples,
                  count(DISTINCT whole) AS num_collections
           FROM split GROUP BY dimension, value ORDER BY dimension, weight DESC, value""",
    ),
    "epochs": Macro(
        "epochs(ref, steps, batch_size)",
        "how often training draws each collection",
        """SELECT collection, weight, num_examples, weight * rows AS expected_examples,
                  weight * rows / nullif(num_examples, 0) AS epochs, weight * rows > num_examples AS repeats
           FROM mixture(ref), (SELECT CASE WHEN steps >= 1 AND batch_size >= 1 THEN steps * batch_size
                                      ELSE error('epochs takes steps and a batch size from 1 on') END AS rows)
           ORDER BY epochs DESC, collection""",
    ),
    "seen_by": Macro(
        "seen_by(run)",
        "the rows that a trained model saw, how often at least and at most",
        # A batch may leave out a row that would repeat a positive; which rows those were is not kept, only how many.
        """WITH draws AS (
               SELECT d.*, ceil(d.epochs)::BIGINT AS at_most, d.examples_drawn / d.num_examples AS on_average,
                      greatest(0, floor(d.epochs) - (round(d.epochs * d.num_examples) - d.examples_drawn))::BIGINT
                      AS at_least
               FROM (SELECT coalesce(any_value(run_id),
                                     error('run ''' || any_value(asked) || ''' drew no rows')) AS run_id
                     FROM (SELECT run::VARCHAR AS asked) LEFT JOIN lake.main.run_draws ON run_id = asked)
               JOIN lake.main.run_draws d USING (run_id) WHERE d.batches > 0),
           rows AS (
               SELECT d.collection, d.digest, e.example_id, e.query, at_least, on_average, at_most, num_examples
               FROM draws d JOIN lake.main.examples e USING (collection) WHERE d.selection IS NULL
               UNION ALL
               SELECT d.collection, d.digest, e.example_id, e.query, at_least, on_average, at_most, num_examples
               FROM draws d JOIN lake.main.selected_examples s USING (selection)
               JOIN lake.main.examples e ON e.collection = d.slice_of AND e.example_id = s.example_id)
           -- The phases of a run may draw several contents of a collection.
           SELECT collection, example_id, query, sum(at_least)::BIGINT AS at_least, sum(on_average) AS on_average,
                  sum(at_most)::BIGINT AS at_most, bool_and(as_many) AS as_many_rows_as_then
           FROM (SELECT *, count(*) OVER (PARTITION BY collection, digest) = num_examples AS as_many FROM rows)
           GROUP BY collection, example_id, query ORDER BY collection, example_id""",
    ),
}

VIEWS: dict[str, View] = {
    "collection_languages": View(
        "how many examples of each language; rows without one take the card's, if that has one",
        """SELECT e.collection, coalesce(e.language, CASE WHEN len(c.languages) = 1 THEN c.languages[1] END, 'unknown')
                  AS language, count(*) AS num_examples,
                  count(*) / sum(count(*)) OVER (PARTITION BY e.collection) AS share
           FROM lake.main.examples e LEFT JOIN lake.main.collections c USING (collection)
           GROUP BY e.collection, 2 ORDER BY e.collection, num_examples DESC, 2""",
    ),
    "collection_facts": View(
        "one row a collection: what it holds, what was thrown out, what its card declares",
        """SELECT c.collection, c.category, c.license, c.languages,
                  coalesce(e.n, 0) AS num_examples, coalesce(p.n, 0) AS num_passages, coalesce(g.n, 0) AS num_negatives,
                  coalesce(e.n, 0) - coalesce(g.with_some, 0) AS without_negatives,
                  coalesce(s.rows_read, 0)::BIGINT AS rows_read, coalesce(s.repeated, 0)::BIGINT AS repeated,
                  coalesce(j.n, 0) AS rejected, coalesce(r.duplicates, 0) AS duplicates_removed,
                  coalesce(r.queries, 0) AS test_queries_removed,
                  coalesce(r.passages, 0) AS test_passages_removed, c.deduped_size AS declared_size
           FROM lake.main.collections c
           LEFT JOIN (SELECT collection, count(*) AS n FROM lake.main.examples GROUP BY ALL) e USING (collection)
           LEFT JOIN (SELECT collection, count(*) AS n FROM lake.main.passages GROUP BY ALL) p USING (collection)
           LEFT JOIN (SELECT collection, count(DISTINCT (example_id, passage_id)) AS n,
                             count(DISTINCT example_id) AS with_some
                      FROM lake.main.negatives GROUP BY ALL) g USING (collection)
           LEFT JOIN (SELECT collection, sum(rows_read) AS rows_read, sum(repeated) AS repeated
                      FROM lake.main.sources GROUP BY ALL) s USING (collection)
           LEFT JOIN (SELECT collection, count(*) AS n FROM lake.main.rejects GROUP BY ALL) j USING (collection)
           LEFT JOIN (SELECT collection, count(*) FILTER (reason = 'duplicate') AS duplicates,
                             count(*) FILTER (reason = 'test query') AS queries,
                             count(*) FILTER (reason = 'test passage') AS passages
                      FROM lake.main.removals GROUP BY ALL) r USING (collection)
           ORDER BY c.collection""",
    ),
    "newest_mixtures": View(
        "the newest version of each mixture's name",
        """SELECT m.name, m.version, m.mixture, w.num_collections, w.heaviest, w.heaviest_weight, m.parents, m.run_id,
                  m.created_at, m.note
           FROM lake.main.mixtures m LEFT JOIN (
               SELECT mixture, count(DISTINCT coalesce(slice_of, collection)) AS num_collections,
                      arg_max(collection, weight) AS heaviest, max(weight) AS heaviest_weight
               FROM lake.main.mixture_weights GROUP BY mixture) w USING (mixture)
           QUALIFY row_number() OVER (PARTITION BY m.name ORDER BY m.version DESC) = 1
           ORDER BY m.name""",
    ),
    "newest_evaluations": View(
        "the newest value of each finished model, suite, corpus and metric",
        """SELECT model, mixture, suite, metric, value, num_queries, num_documents, corpus, prompt, evaluated_at
           FROM lake.main.evaluations WHERE step IS NULL
           QUALIFY row_number() OVER (PARTITION BY model, suite, corpus, metric ORDER BY evaluated_at DESC) = 1
           ORDER BY suite, metric, value DESC, model""",
    ),
    "pairs": View(
        "one row an example, with its texts: a title stands before its passage; negatives in order of miner and rank",
        """SELECT e.collection, e.example_id, e.query,
                  coalesce((SELECT list(trim(p.title || ' ' || p.text) ORDER BY place NULLS LAST, p.passage_id)
                            FROM (SELECT unnest(e.positives).passage_id AS passage_id,
                                         generate_subscripts(e.positives, 1) AS place
                                  UNION ALL SELECT DISTINCT passage_id, NULL FROM lake.main.answers
                                  WHERE collection = e.collection AND example_id = e.example_id
                                  AND NOT list_contains(list_transform(e.positives, lambda x: x.passage_id),
                                                        passage_id)) one
                            JOIN lake.main.passages p
                                 ON p.collection = e.collection AND p.passage_id = one.passage_id), []) AS positives,
                  coalesce((SELECT list(trim(p.title || ' ' || p.text) ORDER BY n.place, n.passage_id)
                            FROM (SELECT collection, passage_id, min({'miner': miner, 'rank': rank}) AS place
                                  FROM lake.main.negatives
                                  WHERE collection = e.collection AND example_id = e.example_id
                                  AND (collection, example_id, passage_id) NOT IN (
                                      SELECT (collection, example_id, passage_id) FROM lake.main.answers)
                                  GROUP BY ALL) n
                            JOIN lake.main.passages p USING (collection, passage_id)), []) AS negatives
           FROM lake.main.examples e""",
    ),
}


def define(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the macros and views on a connection whose lake is attached as `lake`."""
    # error() stands in the outermost CASE: inside a subquery it would be reached whatever the branch.
    found = f"(SELECT CASE WHEN problem IS NULL THEN mixture ELSE error(problem) END FROM ({meant('ref')}))"
    connection.execute(f"CREATE TEMP MACRO mixture_id(ref) AS {found}")
    for name, view in VIEWS.items():
        connection.execute(f"CREATE TEMP VIEW {name} AS {view.sql}")
    for name, macro in MACROS.items():
        connection.execute(f"CREATE TEMP MACRO {name}({macro.parameters}) AS TABLE {macro.sql}")
