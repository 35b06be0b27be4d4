"""Python loads this at its start where this folder is on its path: see `folder_on_postgres`."""

from mixture.store.catalog import CATALOGS

CATALOGS[""] = "folder_on_postgres:FolderOnPostgres"
