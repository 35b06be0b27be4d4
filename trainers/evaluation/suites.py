"""Suites are read by `mixture.suites`; these names stay for those who import them from here."""

from __future__ import annotations

from mixture.suites.layout import find_suites
from mixture.suites.suite import Suite, load_suite

__all__ = ["Suite", "find_suites", "load_suite"]
