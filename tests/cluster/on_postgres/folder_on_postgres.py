"""A store in a folder, whose catalog is in PostgreSQL and whose files are on S3: so the tests of stores in folders run
on those (`make test-cluster`). A folder that was copied is another store, as it is with a catalog in it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pyarrow.fs import copy_files

from mixture.store import layout, place
from mixture.store.catalog import SqliteCatalog
from mixture.store.postgres import PostgresCatalog

SERVER, BUCKET = "MIXTURE_TEST_POSTGRES", "MIXTURE_TEST_BUCKET"


class FolderOnPostgres(PostgresCatalog):
    def __init__(self, folder: str, data: str | None = None) -> None:
        self.folder = Path(folder).expanduser().resolve()
        self.note = self.folder / "on-postgres"
        own = "s" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        super().__init__(
            f"{os.environ[SERVER].removeprefix('postgres:')} schema={own}", f"s3://{os.environ[BUCKET]}/{own}"
        )
        if self.note.is_file():
            self._data = None
            self._clone()

    def __str__(self) -> str:
        return str(self.folder)

    def __reduce__(self):
        return type(self), (str(self.folder),)

    @property
    def work(self) -> Path:
        return self.folder

    def exists(self) -> bool:
        return self.note.is_file()

    def create(self) -> None:
        if not self.exists():
            SqliteCatalog(str(self.folder)).create()
            layout.data(self.folder).rmdir()
            self.note.write_text(self.schema)

    def _clone(self) -> None:
        """The store of the folder that this one is a copy of, with files of its own."""
        first = self.note.read_text()
        if first == self.schema:
            return
        theirs, ours = (f"{place.S3}{os.environ[BUCKET]}/{schema}/" for schema in (first, self.schema))
        copy_files("", "", source_filesystem=place.file_system(theirs), destination_filesystem=place.file_system(ours))
        with self._connect() as session, session.transaction():
            session.execute(f"CREATE SCHEMA {self.schema}")
            tables = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [first]).fetchall()
            for (table,) in tables:
                session.execute(f'CREATE TABLE {self.schema}."{table}" (LIKE {first}."{table}" INCLUDING ALL)')
                session.execute(f'INSERT INTO {self.schema}."{table}" TABLE {first}."{table}"')
            session.execute(f"UPDATE {self.schema}.ducklake_metadata SET value = %s WHERE key = 'data_path'", [ours])
        self.note.write_text(self.schema)
