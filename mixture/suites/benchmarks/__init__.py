"""Benchmarks whose suites can be given by name. Each module here puts its suites into `SUITES`."""

from __future__ import annotations

from mixture.suites.benchmarks import beir as beir
from mixture.suites.benchmarks import bright as bright
from mixture.suites.benchmarks import miracl as miracl
from mixture.suites.benchmarks import mkqa as mkqa
from mixture.suites.benchmarks import mteb as mteb
from mixture.suites.benchmarks import nanobeir as nanobeir
from mixture.suites.benchmarks.base import PREFIXES, SUITES, Part, judged_suite

__all__ = ["PREFIXES", "SUITES", "Part", "judged_suite"]
