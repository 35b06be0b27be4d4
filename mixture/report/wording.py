"""How a report writes numbers and lists of names."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float) -> str:
    """A share for people: two figures at least, so that small weights are told apart.

    >>> percent(0.1032), percent(0.0028), percent(0.00004), percent(0.0), percent(1.0)
    ('10.3 %', '0.28 %', '0.004 %', '0 %', '100 %')
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    digits = ".1f" if abs(value) >= 9.995 else ".2f" if abs(value) >= 0.1 else ".1g"
    return minus(f"{value:{digits}} %")


def minus(text: str) -> str:
    """A number with the sign that print uses.

    >>> minus("-3.3")
    '−3.3'
    """
    return text.replace("-", "−")


def metric_name(metric: str) -> str:
    """How the field writes it."""
    name, _, cut = metric.partition("@")
    written = {"ndcg": "nDCG", "recall": "Recall", "mrr": "MRR", "map": "MAP"}.get(name, name)
    return f"{written}@{cut}" if cut else written


def short(number: int) -> str:
    """A count in the room of a few digits; the tables have all of them."""
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:,.1f} M"


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """The first three, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
