"""The command about suites that can be given by name; `cli.py` adds it to its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixture.console.options import JsonOption
from mixture.console.output import print_rows

if TYPE_CHECKING:
    from mixture.suites.benchmarks import Part

app = typer.Typer()


@app.command()
def suites(
    names: Annotated[list[str] | None, typer.Argument(
        metavar="[NAME]...", help="Benchmarks or suites to show one by one, as beir or miracl/sw [all benchmarks]",
    )] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """List the suites that --suite takes by name. What is cached is counted; nothing is fetched."""
    print_rows(_parts(names) if names else _benchmarks(), as_json=as_json, drop=("source", "language"))


def _benchmarks() -> list[dict[str, Any]]:
    from mixture.suites.benchmarks import PREFIXES, SUITES

    groups: dict[str, list[Part]] = {}
    for key, part in SUITES.items():
        groups.setdefault(key.split("/")[0], []).append(part)
    rows = [
        {"name": name, "suites": len(parts), "languages": len({part.key if part.language is None else part.language
                                                               for part in parts}),
         "metrics": ", ".join(parts[0].metrics), "cached": sum(_cached(part) for part in parts),
         "source": ", ".join(_repositories(parts))}
        for name, parts in sorted(groups.items())
    ]  # fmt: skip
    return rows + [{"name": f"{prefix}TASK", "suites": None, "languages": None, "metrics": "ndcg@10", "cached": None,
                    "source": "as the task says"} for prefix in PREFIXES]  # fmt: skip


def _parts(names: Sequence[str]) -> list[dict[str, Any]]:
    from mixture.errors import UsageError
    from mixture.suites.benchmarks import Part
    from mixture.suites.given import is_named, suites_of

    if unknown := [name for name in names if not is_named(name)]:
        suites_of(unknown[0])  # says what is near
        raise UsageError(f"{unknown[0]} is a folder; allowed: names of benchmarks and of their suites")
    rows = []
    for part in suites_of(names):
        if not isinstance(part, Part):
            raise UsageError(f"{part.key} is read by mteb, which keeps its own cache; allowed: names without a prefix")
        suite = part.load() if _cached(part) else None
        rows.append({"name": part.key, "results as": part.name, "language": part.language,
                     "metrics": ", ".join(part.metrics), "cached": suite is not None,
                     "queries": None if suite is None else len(suite.queries),
                     "documents": None if suite is None else len(suite.corpus),
                     "source": ", ".join(_repositories([part]))})  # fmt: skip
    return rows


def _cached(part: Part) -> bool:
    from mixture.suites.hub import held

    return all(held(source) is not None for source in part.sources)


def _repositories(parts: Sequence[Part]) -> list[str]:
    """Of more than two of one owner `owner/…`."""
    found = list(dict.fromkeys(source.repo for part in parts for source in part.sources))
    owners = list(dict.fromkeys(repo.split("/")[0] for repo in found))
    return found if len(found) <= 2 else [f"{owner}/…" for owner in owners]
