"""Which suites are averaged together: those of a family, a benchmark, a language, a category, and all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixture.suites.families import family

SUITE, ALL = "suite", "all"


@dataclass(frozen=True)
class Group:
    """weights: of each suite in the group's mean; they sum to 1. kind: suite, family, benchmark, language, category or
    all."""

    kind: str
    name: str
    weights: Mapping[str, float]


def groups(
    suites: Sequence[str], languages: Mapping[str, str | None] | None = None,
    categories: Mapping[str, str] | None = None, benchmarks: Mapping[str, str | None] | None = None,
) -> list[Group]:  # fmt: skip
    """Each suite by itself, then its groups.

    benchmarks: suite -> the benchmark that it belongs to (beir, miracl). A benchmark's mean is over families, as BEIR's
    counts the twelve forums of CQADupStack as one; other means are over suites. What has one suite alone is no group,
    nor is a language or category of all suites.

    >>> [(group.kind, group.name, len(group.weights)) for group in groups(["nq", "xquad-de", "xquad-zh"])[3:]]
    [('family', 'xquad', 2), ('all', 'all', 3)]
    """
    of = {suite: (benchmarks or {}).get(suite) for suite in suites}
    families = _parted({suite: "/".join(filter(None, (of[suite], family(suite)))) for suite in suites})
    by_benchmark: dict[str, list[list[str]]] = {}
    for part in families.values():
        if benchmark := of[part[0]]:
            by_benchmark.setdefault(benchmark, []).append(part)
    found = [Group("family", name, _equal(part)) for name, part in families.items()]
    for name, parts in by_benchmark.items():
        weights = {suite: w / len(parts) for part in parts for suite, w in _equal(part).items()}
        # Of a benchmark that is one family, as miracl, the family's mean is the benchmark's.
        found = [one for one in found if len(parts) > 1 or one.weights.keys() != weights.keys()]
        found.append(Group("benchmark", name, weights))
    for kind, of_suite in (("language", languages or {}), ("category", categories or {})):
        parted = _parted({suite: value for suite in suites if (value := of_suite.get(suite))})
        found += [Group(kind, name, _equal(part)) for name, part in sorted(parted.items()) if len(part) < len(suites)]
    found.append(Group(ALL, ALL, _equal(suites)))
    alone = [Group(SUITE, suite, {suite: 1.0}) for suite in suites]
    return alone + [group for group in found if len(group.weights) > 1]


def _parted(names: Mapping[str, str]) -> dict[str, list[str]]:
    parted: dict[str, list[str]] = {}
    for suite, name in names.items():
        parted.setdefault(name, []).append(suite)
    return parted


def _equal(suites: Sequence[str]) -> dict[str, float]:
    return {suite: 1 / len(suites) for suite in suites}
