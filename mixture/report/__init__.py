"""The report of a mixture: facts read from the store, charts and tables made of them, one HTML page."""

from mixture.report.build import Result, write_report

__all__ = ["Result", "write_report"]
