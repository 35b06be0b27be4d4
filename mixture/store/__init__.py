"""The lake: DuckDB as engine, DuckLake as format. The only place that imports duckdb."""

from mixture.store.connect import Store

__all__ = ["Store"]
