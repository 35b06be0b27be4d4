"""The report of a mixture: facts read from the store, charts and tables made of them, one HTML page."""

from mixture.report.build import Report, write_report

__all__ = ["Report", "write_report"]
