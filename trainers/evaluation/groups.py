"""Which suites are averaged together: those of a family, a benchmark, a language, a category, and all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixture.suites.families import family
from mixture.suites.halves import HALVES

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
    categories: Mapping[str, str] | None = None,
) -> list[Group]:  # fmt: skip
    """Each suite by itself, then its groups.

    A benchmark is what stands before the "/" of a name, as in `beir/nfcorpus` and `miracl/zh`. Its mean is over
    families, as BEIR's counts the twelve forums of CQADupStack as one; other means are over suites. What has one suite
    alone is no group, nor is a language or category of all suites.

    >>> [(group.kind, group.name, len(group.weights)) for group in groups(["nq", "xquad-de", "xquad-zh"])[3:]]
    [('family', 'xquad', 2), ('all', 'all', 3)]
    """
    families = _parted({suite: _family(suite) for suite in suites})
    benchmarks: dict[str, list[list[str]]] = {}
    for name, part in families.items():
        if "/" in name:
            benchmarks.setdefault(name.split("/")[0], []).append(part)
    found = [Group("family", name, _equal(part)) for name, part in families.items()]
    for name, parts in benchmarks.items():
        weights = {suite: w / len(parts) for part in parts for suite, w in _equal(part).items()}
        found.append(Group("benchmark", name, weights))
    for kind, of_suite in (("language", languages or {}), ("category", categories or {})):
        parted = _parted({suite: value for suite in suites if (value := of_suite.get(suite))})
        found += [Group(kind, name, _equal(part)) for name, part in sorted(parted.items()) if len(part) < len(suites)]
    found.append(Group(ALL, ALL, _equal(suites)))
    alone = [Group(SUITE, suite, {suite: 1.0}) for suite in suites]
    return alone + [group for group in found if len(group.weights) > 1]


def _family(suite: str) -> str:
    """The family, after the benchmark where the name has one; halves of a suite (`nq/report`) are of its family.

    >>> _family("beir/cqadupstack-android/report"), _family("xquad-zh/report")
    ('beir/cqadupstack', 'xquad')
    """
    benchmark, slash, rest = suite.partition("/")
    return f"{benchmark.lower()}/{family(rest)}" if slash and rest not in HALVES else family(suite)


def _parted(names: Mapping[str, str]) -> dict[str, list[str]]:
    parted: dict[str, list[str]] = {}
    for suite, name in names.items():
        parted.setdefault(name, []).append(suite)
    return parted


def _equal(suites: Sequence[str]) -> dict[str, float]:
    return {suite: 1 / len(suites) for suite in suites}
