"""The catalog in a PostgreSQL database, for a store that several machines read and write at the same time."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from urllib.parse import quote as quote_words

from mixture.errors import StoreError, UsageError
from mixture.store import layout, place
from mixture.store.catalog import PATIENCE
from mixture.store.query import quote

try:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise UsageError(
        "a store in PostgreSQL needs psycopg and DuckDB's extensions: pip install 'retrieval-mixture[cluster]'"
    ) from error

logger = logging.getLogger(__name__)
SCHEMA = "public"
CONNECT_SECONDS = 10
STAGED = "a store that mixture copies"
PASSWORD = "`store` holds a password, which would be shown; put it into PGPASSWORD or ~/.pgpass, and leave it out"


class _Lake(NamedTuple):
    """What the catalog says of itself: DuckLake's own number of the lake, and where its data is."""

    id: str
    data: str


class PostgresCatalog:
    """A schema of a database: `postgres:dbname=lake host=db.example`, or `postgresql://db.example/lake`; several stores
    of one database have a `schema` each, as one more word of the name.

    What PostgreSQL's own tools read is read too: PGHOST, PGUSER, PGPASSWORD, PGPASSFILE, ~/.pgpass, services. A
    password in the name is refused, since the name is shown.
    """

    shared = anywhere = maintained = True
    # PostgreSQL's own texts hold no zero byte.
    kept: ClassVar[Mapping[str, str] | None] = {
        "varchar": "BLOB", "boolean": "BOOLEAN", "int32": "INTEGER", "int64": "BIGINT", "float32": "FLOAT",
        "float64": "DOUBLE",
    }  # fmt: skip
    conflicts = ("conflict", "failed to commit")
    locked: tuple[str, ...] = ()

    def __init__(self, name: str, data: str | None = None) -> None:
        """name: what follows the scheme. data: where the Parquet files of a new store go; None for one that is there.
        Raises `UsageError` for a name that PostgreSQL does not understand."""
        words, self.schema = _words(name)
        self._server = make_conninfo(**words)
        self._name, self._data = name, None if data is None else place.checked(data)
        self._session: psycopg.Connection[Any] | None = None
        self._lake: _Lake | None = None

    @property
    def tables(self) -> str:
        return f"__ducklake_metadata_lake.{self.schema}.ducklake_"

    def __str__(self) -> str:
        return f"postgres:{self._server}" + (f" schema={self.schema}" if self.schema != SCHEMA else "")

    def __reduce__(self) -> tuple[type[PostgresCatalog], tuple[str, str | None]]:
        return type(self), (self._name, self._data)

    def exists(self) -> bool:
        """Raises `StoreError` where the database does not answer, `UsageError` where its data is not at `data`."""
        self._lake = lake = self._found()
        if lake and self._data not in (None, lake.data):
            raise UsageError(f"the store at {self} has its files at {lake.data}; `data` is {self._data}")
        return lake is not None

    def create(self) -> None:
        if not place.is_empty(self.data) and not self.exists():
            raise UsageError(f"{self.data} is not empty; name an empty place in `data`")
        for schema, data in self._others():
            if data.startswith(self.data) or self.data.startswith(data):
                raise UsageError(f"{self.data} and {data}, where the store in schema {schema} has its files, are one "
                                 "inside the other; name a place of its own in `data`")  # fmt: skip
        if not self.data.startswith(place.S3):
            Path(self.data).mkdir(parents=True, exist_ok=True)

    @property
    def data(self) -> str:
        return self._data or self._known().data

    @cached_property
    def extensions(self) -> tuple[str, ...]:
        return ("ducklake", "postgres_scanner", *place.extensions(self.data))

    @cached_property
    def work(self) -> Path:
        """A folder of this machine: under $MIXTURE_CACHE, else the user's cache."""
        lake = self._known()  # a copy of the database has its number, and other files
        folder = layout.cache() / hashlib.sha256(f"{lake.id} {lake.data}".encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def attach(self, *, read_only: bool, snapshot: int | None = None) -> str:
        options = [f"METADATA_SCHEMA {quote(self.schema)}", f"DATA_PATH {quote(self.data)}"]
        options += ["READ_ONLY"] * read_only
        if snapshot is not None:
            options.append(f"SNAPSHOT_VERSION {snapshot}")
        # DuckLake would commit again by itself what another process has made wrong meanwhile: the rows that were read
        # before stay as they are. `Store.transaction` does the whole work again.
        return (f"{place.access(self.data)} SET ducklake_max_retry_count = 0; "
                f"ATTACH {quote('ducklake:postgres:' + self._server)} AS lake ({', '.join(options)})")  # fmt: skip

    def attach_tables(self, name: str) -> str:
        return f"ATTACH {quote(self._server)} AS {name} (TYPE postgres, SCHEMA {quote(self.schema)})"

    def aside(self, folder: Path) -> None:
        return None

    @contextmanager
    def staged(self) -> Iterator[PostgresCatalog]:
        stage = type(self)(self._name, self.data)
        stage.schema = f"writing_{hashlib.sha256(self.schema.encode()).hexdigest()[:16]}"
        with self._sql() as session, session.transaction():
            row = session.execute("SELECT to_regnamespace(%(name)s) IS NOT NULL, obj_description(to_regnamespace("
                                  "%(name)s), 'pg_namespace')", {"name": stage.schema}).fetchone()  # fmt: skip
            there, says = row or (False, None)
            if there and _text(says) != STAGED:
                raise UsageError(f"{self} has a schema {stage.schema}, which a copy would need; rename it")
            session.execute(f"DROP SCHEMA IF EXISTS {stage.schema} CASCADE")  # what a kill left
            session.execute(f"CREATE SCHEMA {stage.schema}")
            session.execute(f"COMMENT ON SCHEMA {stage.schema} IS '{STAGED}'")
        yield stage
        with self._sql() as session, session.transaction():
            # IF NOT EXISTS asks for the right to make schemas where there is one too.
            if session.execute("SELECT to_regnamespace(%s) IS NULL", [self.schema]).fetchone() == (True,):
                session.execute(f"CREATE SCHEMA {self.schema}")
            tables = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [stage.schema]).fetchall()
            for (table,) in tables:
                session.execute(f'ALTER TABLE {stage.schema}."{table}" SET SCHEMA {self.schema}')
            session.execute(f"DROP SCHEMA {stage.schema}")

    @contextmanager
    def turn(self) -> Iterator[None]:
        """An advisory lock of the database, which goes with the connection that holds it. A transaction within a
        transaction takes it again."""
        session = self._lock()
        try:
            yield
        finally:
            if not session.closed:
                try:
                    session.execute("SELECT pg_advisory_unlock(%s)", [self._key])
                except psycopg.Error:  # the server went away, and the lock with it
                    session.close()

    @property
    def _key(self) -> int:
        return int.from_bytes(hashlib.sha256(f"mixture {self.schema}".encode()).digest()[:8], signed=True)

    def _lock(self) -> psycopg.Connection[Any]:
        try:
            session = self._patient()
            try:
                session.execute("SELECT pg_advisory_lock(%s)", [self._key])
            except psycopg.errors.LockNotAvailable:
                logger.warning("waiting for another process that writes to %s", self)
                session.execute("SET lock_timeout = 0")
                session.execute("SELECT pg_advisory_lock(%s)", [self._key])
        except psycopg.Error as error:
            raise self._gone(error) from error
        return session

    def _patient(self) -> psycopg.Connection[Any]:
        """The session of the lock, which waits for it for `PATIENCE`; a new one where the last is gone."""
        patience = f"SET lock_timeout = {int(PATIENCE * 1000)}"
        if self._session is not None and not self._session.closed:
            try:
                self._session.execute(patience)
                return self._session
            except psycopg.Error:  # the server was restarted
                self._session.close()
        self._session = self._connect()
        # It says nothing while a transaction works, however long. Servers before 14 do not know the setting.
        self._session.execute(
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
        )
        self._session.execute(patience)
        return self._session

    def _known(self) -> _Lake:
        self._lake = self._lake or self._found()
        if self._lake is None:
            raise UsageError(f"no store at {self}; `data` says where the files of a new one go: s3://bucket/prefix, or "
                             "a folder that all machines share")  # fmt: skip
        return self._lake

    def _found(self) -> _Lake | None:
        with self._sql() as session:
            there = session.execute("SELECT to_regclass(%s)", [f"{self.schema}.ducklake_metadata"]).fetchone()
            if there is None or there[0] is None:
                return None
            row = session.execute(
                f"""SELECT (SELECT schema_uuid::text FROM {self.schema}.ducklake_schema WHERE schema_id = 0),
                           (SELECT value FROM {self.schema}.ducklake_metadata WHERE key = 'data_path')"""
            ).fetchone()
        return _Lake(*map(_text, row)) if row else None

    def _others(self) -> list[tuple[str, str]]:
        """Where other stores of this database have their files, by schema; of those that this role may read."""
        with self._sql() as session:
            rows = session.execute(
                """SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relname = 'ducklake_metadata' AND n.nspname <> %s
                   AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')""", [self.schema]
            ).fetchall()  # fmt: skip
            found = []
            for schema in map(_text, (row[0] for row in rows)):
                path = session.execute(sql.SQL("SELECT value FROM {}.ducklake_metadata WHERE key = 'data_path'").format(
                    sql.Identifier(schema))).fetchone()  # fmt: skip
                found += [(schema, _text(path[0]))] if path else []
        return found

    @contextmanager
    def _sql(self) -> Iterator[psycopg.Connection[Any]]:
        with self._connect() as session:
            try:
                yield session
            except psycopg.Error as error:
                raise self._gone(error) from error

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(
                self._server, autocommit=True, connect_timeout=CONNECT_SECONDS, keepalives_idle=60,
                keepalives_interval=10, keepalives_count=6
            )  # fmt: skip
        except psycopg.Error as error:
            raise self._gone(error) from error

    def _gone(self, error: psycopg.Error) -> StoreError:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return StoreError(f"the store at {self} cannot be reached: {line}")


def _text(value: Any) -> Any:
    """What a database without an encoding (SQL_ASCII) gives as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _words(name: str) -> tuple[dict[str, Any], str]:
    """The words by which PostgreSQL is reached, and the schema. No message repeats a part of the name: a password could
    be in it, however it is spelled."""
    schema = SCHEMA
    try:
        if name.startswith("//"):
            # Whatever stands between a colon and an @; libpq would take a part of an odd one for a port or a path.
            if re.match(r"//[^@]*:.*@", name):
                raise UsageError(PASSWORD)
            parts = urlsplit(f"postgresql:{name}")
            query = dict(parse_qsl(parts.query))
            schema = query.pop("schema", schema)
            # libpq knows no + for a space.
            name = urlunsplit(parts._replace(query=urlencode(query, quote_via=quote_words)))
        elif found := re.search(r"(?:^|\s)schema=(\S+)", name):
            schema = found[1]
            name = name[: found.start()] + name[found.end() :]
        words = conninfo_to_dict(name)
    except (psycopg.ProgrammingError, ValueError):
        raise UsageError(
            "`store` is no name of a PostgreSQL database; write postgres:dbname=NAME host=HOST user=USER, or "
            "postgresql://USER@HOST/NAME"
        ) from None
    if {"password", "sslpassword"} & words.keys():
        raise UsageError(PASSWORD)
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", schema):
        raise UsageError(f"schema is {schema!r}; allowed: small letters, digits and _")
    return words, schema
