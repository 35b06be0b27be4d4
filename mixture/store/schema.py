"""The tables of the store, as a list of migrations. A store says which version it has in `store_versions`.

A new version appends to `MIGRATIONS`; what is there is never edited, so that every older store can be brought up.
"""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pyarrow as pa

from mixture.errors import StoreError

V1 = """
CREATE TABLE store_versions (version INTEGER NOT NULL, applied_at TIMESTAMPTZ NOT NULL);

CREATE TABLE collections (collection VARCHAR NOT NULL, card VARCHAR, prompts VARCHAR[], is_symmetric BOOLEAN,
    added_at TIMESTAMPTZ NOT NULL);
CREATE TABLE sources (collection VARCHAR NOT NULL, file VARCHAR NOT NULL, sha256 VARCHAR NOT NULL,
    rows_read BIGINT NOT NULL, stored BIGINT NOT NULL, repeated BIGINT NOT NULL, rejected BIGINT NOT NULL,
    ingested_at TIMESTAMPTZ NOT NULL);

CREATE TABLE examples (collection VARCHAR NOT NULL, example_id VARCHAR NOT NULL, query VARCHAR NOT NULL,
    language VARCHAR, positives STRUCT(passage_id VARCHAR, grade FLOAT)[], simhash UBIGINT);
CREATE TABLE passages (collection VARCHAR NOT NULL, passage_id VARCHAR NOT NULL, title VARCHAR NOT NULL,
    "text" VARCHAR NOT NULL, simhash UBIGINT);
CREATE TABLE negatives (collection VARCHAR NOT NULL, example_id VARCHAR NOT NULL, passage_id VARCHAR NOT NULL,
    rank INTEGER NOT NULL, score FLOAT, miner VARCHAR NOT NULL);
CREATE TABLE rejects (collection VARCHAR NOT NULL, file VARCHAR NOT NULL, line BIGINT, reason VARCHAR NOT NULL,
    raw VARCHAR);
CREATE TABLE removals (collection VARCHAR NOT NULL, example_id VARCHAR NOT NULL, query VARCHAR NOT NULL,
    reason VARCHAR NOT NULL, kept_collection VARCHAR, kept_id VARCHAR, suite VARCHAR, query_id VARCHAR,
    kept_query VARCHAR, distance INTEGER, removed_at TIMESTAMPTZ NOT NULL);
CREATE TABLE test_queries (suite VARCHAR NOT NULL, query_id VARCHAR NOT NULL, query VARCHAR NOT NULL, simhash UBIGINT);

CREATE TABLE mixtures (mixture VARCHAR NOT NULL, name VARCHAR NOT NULL, version INTEGER NOT NULL, spec VARCHAR NOT NULL,
    parents VARCHAR[], run_id VARCHAR, snapshot BIGINT, created_at TIMESTAMPTZ NOT NULL, note VARCHAR);
CREATE TABLE mixture_weights (mixture VARCHAR NOT NULL, collection VARCHAR NOT NULL, digest VARCHAR NOT NULL,
    weight DOUBLE NOT NULL, loss_weight DOUBLE NOT NULL, num_examples BIGINT);
CREATE TABLE runs (run_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, status VARCHAR NOT NULL, mixture VARCHAR,
    result VARCHAR, config VARCHAR, started_at TIMESTAMPTZ NOT NULL, finished_at TIMESTAMPTZ);
CREATE TABLE weight_history (run_id VARCHAR NOT NULL, step INTEGER NOT NULL, collection VARCHAR NOT NULL,
    weight DOUBLE NOT NULL, mean_weight DOUBLE NOT NULL, ema_weight DOUBLE NOT NULL, proxy_loss DOUBLE,
    reference_loss DOUBLE, measurement DOUBLE, num_examples INTEGER NOT NULL);
CREATE TABLE evaluations (model VARCHAR NOT NULL, mixture VARCHAR, run_id VARCHAR, suite VARCHAR NOT NULL,
    metric VARCHAR NOT NULL, value DOUBLE NOT NULL, num_queries BIGINT NOT NULL, num_documents BIGINT NOT NULL,
    corpus VARCHAR NOT NULL, prompt VARCHAR, evaluated_at TIMESTAMPTZ NOT NULL);

ALTER TABLE examples SET PARTITIONED BY (collection);
ALTER TABLE passages SET PARTITIONED BY (collection);
ALTER TABLE negatives SET PARTITIONED BY (collection)
"""

# What the datacard says, beside the rows, so that SQL can ask for it.
V2 = """
ALTER TABLE collections ADD COLUMN category VARCHAR;
ALTER TABLE collections ADD COLUMN license VARCHAR;
ALTER TABLE collections ADD COLUMN languages VARCHAR[];
ALTER TABLE collections ADD COLUMN deduped_size BIGINT;
ALTER TABLE collections ADD COLUMN source VARCHAR;
ALTER TABLE collections ADD COLUMN negatives VARCHAR
"""

# What a removal compared, and the snapshot before the command that made it, for one step back.
V3 = """
ALTER TABLE removals ADD COLUMN similarity DOUBLE;
ALTER TABLE removals ADD COLUMN snapshot_before BIGINT;
CREATE TABLE test_passages (suite VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, "text" VARCHAR NOT NULL)
"""

# Tags; where an imported mixture comes from; the hash of each data file at the time a mixture first needed it.
V4 = """
CREATE TABLE mixture_tags (tag VARCHAR NOT NULL, mixture VARCHAR NOT NULL, set_at TIMESTAMPTZ NOT NULL);
CREATE TABLE data_files (path VARCHAR NOT NULL, sha256 VARCHAR NOT NULL, hashed_at TIMESTAMPTZ NOT NULL);
ALTER TABLE mixtures ADD COLUMN imported_from VARCHAR;
ALTER TABLE mixture_weights ADD COLUMN prompts VARCHAR[]
"""

# What each training run drew, so that a model can be asked which rows it saw; scores during training have a step.
V5 = """
CREATE TABLE run_draws (run_id VARCHAR NOT NULL, collection VARCHAR NOT NULL, slice_of VARCHAR, selection VARCHAR,
    digest VARCHAR NOT NULL, num_examples BIGINT NOT NULL, batches BIGINT NOT NULL, examples_drawn BIGINT NOT NULL,
    epochs DOUBLE NOT NULL);
ALTER TABLE evaluations ADD COLUMN step INTEGER
"""

# Slices: frozen sets of example ids. `slice_of` is the collection of a component that is a slice. What a list of all
# mixtures shows stands beside them: their weights lie in as many files as there are mixtures.
V6 = """
CREATE TABLE selections (selection VARCHAR NOT NULL, collection VARCHAR NOT NULL, slice VARCHAR NOT NULL,
    rule VARCHAR NOT NULL, num_examples BIGINT NOT NULL, created_at TIMESTAMPTZ NOT NULL);
CREATE TABLE selected_examples (selection VARCHAR NOT NULL, example_id VARCHAR NOT NULL);
ALTER TABLE mixture_weights ADD COLUMN slice_of VARCHAR;
ALTER TABLE mixture_weights ADD COLUMN selection VARCHAR;
ALTER TABLE mixtures ADD COLUMN num_components INTEGER;
ALTER TABLE mixtures ADD COLUMN heaviest VARCHAR;
ALTER TABLE mixtures ADD COLUMN heaviest_weight DOUBLE;
UPDATE mixtures SET num_components = w.n, heaviest = w.heaviest, heaviest_weight = w.heaviest_weight
    FROM (SELECT mixture, count(*) AS n, arg_max(collection, weight) AS heaviest, max(weight) AS heaviest_weight
          FROM mixture_weights GROUP BY mixture) w WHERE w.mixture = mixtures.mixture
"""

# Scores of single queries, for tests of a difference; `evaluated_at` is that of the mean in `evaluations`.
V7 = """
CREATE TABLE evaluation_queries (model VARCHAR NOT NULL, mixture VARCHAR, suite VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL, metric VARCHAR NOT NULL, query_id VARCHAR NOT NULL, value DOUBLE NOT NULL,
    evaluated_at TIMESTAMPTZ NOT NULL)
"""

# Which file gives which examples, and with which negatives, so that a file that changed can take back what it gave. An
# older store's rows get theirs when their collection is next added to (`mixture.store.givers`). Removed and renamed
# collections, each with the snapshot before.
V8 = """
CREATE TABLE file_examples (collection VARCHAR NOT NULL, place VARCHAR NOT NULL, turn INTEGER NOT NULL,
    part INTEGER NOT NULL, example_id VARCHAR NOT NULL,
    negatives STRUCT(passage_id VARCHAR, "rank" INTEGER, score FLOAT)[]);
ALTER TABLE file_examples SET PARTITIONED BY (collection);
ALTER TABLE sources ADD COLUMN place VARCHAR;
ALTER TABLE sources ADD COLUMN prompts VARCHAR[];
CREATE TABLE collection_changes (change VARCHAR NOT NULL, collection VARCHAR NOT NULL, renamed_to VARCHAR,
    snapshot_before BIGINT NOT NULL, changed_at TIMESTAMPTZ NOT NULL)
"""

# A hash of each registered suite's texts.
SUITE_DIGESTS = """
SELECT suite, md5(string_agg(kind || chr(31) || id || chr(31) || body, chr(30) ORDER BY kind, id, body)) AS digest
FROM (SELECT suite, 'query' AS kind, query_id AS id, query AS body FROM test_queries
      UNION ALL SELECT suite, 'passage', doc_id, "text" FROM test_passages) GROUP BY suite"""

# How near a row must be to a registered suite to count as its own (NULL: no test passages are looked for). What each
# call of a miner added to a collection, and the snapshot before it, for one step back.
V9 = f"""
CREATE TABLE test_suites (suite VARCHAR NOT NULL, digest VARCHAR NOT NULL, distance INTEGER NOT NULL,
    passage_overlap DOUBLE, registered_at TIMESTAMPTZ NOT NULL);
INSERT INTO test_suites SELECT suite, digest, 16, 0.5, now() FROM ({SUITE_DIGESTS});
CREATE TABLE minings (command VARCHAR NOT NULL, collection VARCHAR NOT NULL, miner VARCHAR NOT NULL,
    added BIGINT NOT NULL, replaced BIGINT NOT NULL, snapshot_before BIGINT NOT NULL, mined_at TIMESTAMPTZ NOT NULL)
"""

# What learning towards a target saw: candidate mixtures with their weights, and what each scored on each target; inner
# products of what collections teach. Comparisons of two mixtures by trainings of both, and of a mixture with what it is
# without each collection.
V10 = """
CREATE TABLE candidates (run_id VARCHAR NOT NULL, candidate INTEGER NOT NULL, kind VARCHAR NOT NULL,
    collection VARCHAR NOT NULL, weight DOUBLE NOT NULL);
CREATE TABLE candidate_scores (run_id VARCHAR NOT NULL, candidate INTEGER NOT NULL, target VARCHAR NOT NULL,
    target_group VARCHAR NOT NULL, loss DOUBLE, ndcg DOUBLE);
CREATE TABLE collection_products (run_id VARCHAR NOT NULL, collection VARCHAR NOT NULL, other VARCHAR NOT NULL,
    product DOUBLE NOT NULL);
CREATE TABLE verdicts (verdict VARCHAR NOT NULL, suites VARCHAR NOT NULL, mixture VARCHAR NOT NULL,
    against VARCHAR NOT NULL, model VARCHAR NOT NULL, steps INTEGER NOT NULL, seeds BIGINT[] NOT NULL, half VARCHAR,
    metric VARCHAR NOT NULL, num_suites INTEGER NOT NULL, num_queries BIGINT NOT NULL, ours DOUBLE NOT NULL,
    theirs DOUBLE NOT NULL, difference DOUBLE NOT NULL, error DOUBLE NOT NULL, low DOUBLE NOT NULL,
    high DOUBLE NOT NULL, p DOUBLE NOT NULL, says VARCHAR NOT NULL, decided_at TIMESTAMPTZ NOT NULL);
CREATE TABLE verdict_suites (verdict VARCHAR NOT NULL, suite VARCHAR NOT NULL, own BOOLEAN NOT NULL,
    num_queries BIGINT NOT NULL, ours DOUBLE NOT NULL, theirs DOUBLE NOT NULL, difference DOUBLE NOT NULL,
    error DOUBLE NOT NULL, p DOUBLE NOT NULL, p_holm DOUBLE NOT NULL, ours_by_seed DOUBLE[] NOT NULL,
    theirs_by_seed DOUBLE[] NOT NULL);
CREATE TABLE ablations (ablation VARCHAR NOT NULL, mixture VARCHAR NOT NULL, model VARCHAR NOT NULL,
    steps INTEGER NOT NULL, seeds BIGINT[] NOT NULL, half VARCHAR, collection VARCHAR NOT NULL, kind VARCHAR NOT NULL,
    effect DOUBLE NOT NULL, without_own DOUBLE, error DOUBLE, low DOUBLE, high DOUBLE, p DOUBLE, p_holm DOUBLE,
    says VARCHAR, decided_at TIMESTAMPTZ NOT NULL)
"""

# How a miner was asked, and how many candidates each filter dropped: JSON; NULL of calls before.
V11 = """
ALTER TABLE minings ADD COLUMN settings VARCHAR;
ALTER TABLE minings ADD COLUMN dropped VARCHAR
"""

# Whose negatives a component takes (NULL: all); what examples' own positives scored with a miner; passages that a judge
# calls answers of an example, which are read as positives of it (`read.part_examples`).
V12 = """
ALTER TABLE mixture_weights ADD COLUMN miners VARCHAR[];
CREATE TABLE positive_scores (collection VARCHAR NOT NULL, example_id VARCHAR NOT NULL, passage_id VARCHAR NOT NULL,
    score FLOAT NOT NULL, miner VARCHAR NOT NULL);
CREATE TABLE answers (collection VARCHAR NOT NULL, example_id VARCHAR NOT NULL, passage_id VARCHAR NOT NULL,
    command VARCHAR NOT NULL);
ALTER TABLE positive_scores SET PARTITIONED BY (collection)
"""

# What a score depends on beside its suite, corpus and prompt; NULL where a store did not keep it yet.
V13 = """
ALTER TABLE evaluations ADD COLUMN document_prompt VARCHAR;
ALTER TABLE evaluations ADD COLUMN similarity VARCHAR;
ALTER TABLE evaluations ADD COLUMN max_tokens INTEGER;
ALTER TABLE evaluations ADD COLUMN "precision" VARCHAR;
ALTER TABLE evaluations ADD COLUMN revision VARCHAR
"""

# Prompts that one was chosen from. Of each round (0: the report) and suite what a prompt scored, with the values of its
# queries in the suite's order, and a hash of all that decides them, by which another choice finds them; what each is
# worth over the suites; and what the chosen one gains where it was not chosen.
PROMPTS = """
CREATE TABLE prompt_scores (choice VARCHAR NOT NULL, score VARCHAR NOT NULL, model VARCHAR NOT NULL,
    suite VARCHAR NOT NULL, half VARCHAR, round INTEGER NOT NULL, prompt VARCHAR NOT NULL, num_queries BIGINT NOT NULL,
    metric VARCHAR NOT NULL, value DOUBLE NOT NULL, query_values DOUBLE[] NOT NULL, scored_at TIMESTAMPTZ NOT NULL);
CREATE TABLE prompt_choices (choice VARCHAR NOT NULL, model VARCHAR NOT NULL, suites VARCHAR[] NOT NULL, half VARCHAR,
    objective VARCHAR NOT NULL, radius DOUBLE NOT NULL, relative BOOLEAN NOT NULL, seed BIGINT NOT NULL,
    prompt VARCHAR NOT NULL, sources VARCHAR[] NOT NULL, num_queries BIGINT NOT NULL, mean DOUBLE NOT NULL,
    gain DOUBLE NOT NULL, worst DOUBLE NOT NULL, least DOUBLE NOT NULL, weights DOUBLE[] NOT NULL, dropped VARCHAR,
    chosen BOOLEAN NOT NULL, decided_at TIMESTAMPTZ NOT NULL);
CREATE TABLE prompt_gains (choice VARCHAR NOT NULL, suites VARCHAR NOT NULL, num_suites INTEGER NOT NULL,
    num_queries BIGINT NOT NULL, against VARCHAR NOT NULL, score DOUBLE NOT NULL, baseline DOUBLE NOT NULL,
    gain DOUBLE NOT NULL, low DOUBLE, high DOUBLE, p DOUBLE NOT NULL, decided_at TIMESTAMPTZ NOT NULL)
"""

MIGRATIONS: tuple[str, ...] = (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12, V13, PROMPTS)


def stored_version(read: Callable[[str], pa.Table]) -> int | None:
    """The store's version when it is the newest, None when migrations are missing.

    Raises `StoreError` for a store of a newer version of the toolkit.
    """
    try:
        version = read("SELECT coalesce(max(version), 0) AS v FROM store_versions")["v"][0].as_py()
    except StoreError as error:
        # Asked for rather than looked up: DuckDB's list of tables takes 0.1 s on a store of many files.
        if "store_versions does not exist" not in str(error):
            raise
        version = 0
    if version > len(MIGRATIONS):
        raise StoreError(f"the store has version {version}, this toolkit knows {len(MIGRATIONS)}; install a newer one")
    return version if version == len(MIGRATIONS) else None


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring the store to the newest version; does nothing where another process has done so."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'").fetchall()
    version = 0
    if ("store_versions",) in tables:
        found = connection.execute("SELECT coalesce(max(version), 0) FROM store_versions").fetchone()
        version = found[0] if found else 0
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in script.split(";"):
            connection.execute(statement)
        connection.execute("INSERT INTO store_versions VALUES (?, now())", [number])
