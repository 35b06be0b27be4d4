"""A REF means the same to every command and in SQL: one text decides."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from mixture import Store, UsageError, registry
from mixture.specs import Component, MixtureSpec
from mixture.store.write import insert_rows


def _spec(number: int) -> MixtureSpec:
    share = 1 / (number + 2)
    return MixtureSpec((Component("a", "x", share), Component("b", "y", 1 - share)))


def _two_that_begin_alike() -> tuple[MixtureSpec, MixtureSpec]:
    """The first two mixtures whose ids have their first four characters in common, but not the fifth."""
    seen: dict[str, MixtureSpec] = {}
    for number in count():
        spec = _spec(number)
        other = seen.setdefault(spec.id[:4], spec)
        if spec.id[4] != other.id[4]:
            return other, spec
    raise AssertionError("unreachable")


ONE, TWO = _two_that_begin_alike()
THIRD = next(spec for spec in map(_spec, count()) if spec.id[:3] != ONE.id[:3])
MANY = [f"many-{number}" for number in range(7)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """base:1 to base:3 (the first again), other:1, again:1 (other's content), seven more; tags production and other."""
    with Store.open(tmp_path_factory.mktemp("references") / "store", create=True) as store:
        for name, spec in (("base", ONE), ("base", TWO), ("base", ONE), ("other", THIRD), ("again", THIRD)):
            registry.save(store, spec, name)
        for name in MANY:
            registry.save(store, THIRD, name)
        registry.tag(store, "other", "production")
        registry.tag(store, "base:1", "production")
        # Saving and tagging refuse it; two processes at once could still come to it.
        insert_rows(store, "mixture_tags", [{"tag": "other", "mixture": ONE.id, "set_at": datetime.now(UTC)}])
        yield store


def _by_command(store: Store, reference: str) -> tuple[str, str | None]:
    try:
        found = registry.resolve(store, reference)
    except UsageError as error:
        return str(error), None
    return found.spec.id, found.reference


def _in_sql(store: Store, reference: str) -> str:
    try:
        return str(store.sql("SELECT mixture_id(?) AS id", [reference])["id"][0].as_py())
    except UsageError as error:
        return str(error)


MEANT = [
    (ONE.id, ONE, "base:1"),
    (ONE.id[:5], ONE, "base:1"),
    (TWO.id[:5], TWO, "base:2"),
    (THIRD.id, THIRD, "other:1"),
    (THIRD.id[:4], THIRD, "other:1"),
    (THIRD.id[:11], THIRD, "other:1"),
    (f"{THIRD.id}:", THIRD, "other:1"),
    ("base", ONE, "base:3"),
    ("base:", ONE, "base:3"),
    ("base:latest", ONE, "base:3"),
    ("base:1", ONE, "base:1"),
    ("base:2", TWO, "base:2"),
    ("base:3", ONE, "base:3"),
    ("again", THIRD, "again:1"),
    ("production", ONE, "base:1"),
    ("production:", ONE, "base:1"),
    ("other", THIRD, "other:1"),
]
EVERY = "again, base, many-0, many-1, many-2, many-3, many-4, many-5, …"
REFUSED = [
    (ONE.id[:4], f"'{ONE.id[:4]}' begins 2 mixture ids: {', '.join(sorted([ONE.id, TWO.id]))}"),
    (THIRD.id[:1], f"no mixture '{THIRD.id[:1]}'; there are: {EVERY}"),
    (THIRD.id[:3], f"no mixture '{THIRD.id[:3]}'; there are: {EVERY}"),
    (f"{THIRD.id[:4]}:1", f"no mixture '{THIRD.id[:4]}'; there are: {EVERY}"),
    (f"{ONE.id[:4]}:1", f"no mixture '{ONE.id[:4]}'; there are: {EVERY}"),
    (f"{THIRD.id}0", f"no mixture '{THIRD.id}0'; there are: {EVERY}"),
    ("000000000000", f"no mixture '000000000000'; there are: {EVERY}"),
    ("base:9", "mixture 'base' has versions 1 to 3, not '9'"),
    ("base:01", "mixture 'base' has versions 1 to 3, not '01'"),
    ("base:1:2", "mixture 'base' has versions 1 to 3, not '1:2'"),
    ("production:1", "'production' is a tag; tags have no versions"),
    ("production:latest", "'production' is a tag; tags have no versions"),
    ("baes", "no mixture 'baes'; did you mean 'base'?"),
    ("baes:2", "no mixture 'baes'; did you mean 'base'?"),
    ("productoin", "no mixture 'productoin'; did you mean 'production'?"),
    ("many-", "no mixture 'many-'; did you mean 'many-0', 'many-1', 'many-2'?"),
    ("BASE", "no mixture 'BASE'; did you mean 'base'?"),
    (THIRD.id.upper(), f"no mixture '{THIRD.id.upper()}'; there are: {EVERY}"),
    ("nothing-like-it", f"no mixture 'nothing-like-it'; there are: {EVERY}"),
    ("", f"no mixture ''; there are: {EVERY}"),
    (":1", f"no mixture ''; there are: {EVERY}"),
    (" base", "no mixture ' base'; did you mean 'base'?"),
    ("x' OR true --", f"no mixture 'x' OR true --'; there are: {EVERY}"),
    ("日本", f"no mixture '日本'; there are: {EVERY}"),
]


@pytest.mark.parametrize(("reference", "spec", "named"), MEANT)
def test_commands_and_sql_find_the_same_mixture(store: Store, reference: str, spec: MixtureSpec, named: str) -> None:
    assert _by_command(store, reference) == (spec.id, named)
    assert _in_sql(store, reference) == spec.id


@pytest.mark.parametrize(("reference", "said"), REFUSED)
def test_commands_and_sql_refuse_in_the_same_words(store: Store, reference: str, said: str) -> None:
    assert _by_command(store, reference) == (said, None)
    assert _in_sql(store, reference) == said


def test_a_store_without_mixtures_says_so(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        assert _by_command(store, "base")[0] == _in_sql(store, "base") == "no mixture 'base'; there are: none yet"
