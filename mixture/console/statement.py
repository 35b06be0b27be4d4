"""What a mixture holds of test sets, for people."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mixture.console.output import print_json, print_rows
from mixture.console.sentences import counted, say

if TYPE_CHECKING:
    from mixture.jobs import ContaminationStatement
    from mixture.jobs.statement import Counts


def show_statement(statement: ContaminationStatement, *, as_json: bool) -> None:
    """A row for each suite, one for each collection where something of it was found, and what was not looked at."""
    if as_json:
        print_json(asdict(statement))
        return
    suites = statement.suites
    if suites:
        left = sum(one.found.remaining for one in suites)
        touched = sum(one.found.remaining > 0 for one in suites)
        clean = f"{statement.mixture} holds no row of {counted(len(suites), 'suite')}"
        held = f"{statement.mixture} holds rows of {touched} of {counted(len(suites), 'suite')}"
        say(held if left else clean)
        rows = [
            {"suite": one.suite, "queries": one.num_queries, "found": one.found.queries,
             "passages": one.num_passages, "found passages": one.found.passages, "removed": one.found.removed,
             "remaining": one.found.remaining, "most edits": one.distance,
             "least overlap": "not looked for" if one.passage_overlap is None else f"{one.passage_overlap:g}"}
            for one in suites
        ]  # fmt: skip
        print_rows(rows, as_json=False, drop=("least overlap", "most edits"), whole=("suite",), lines=1)
        if where := [_row(one.suite, name, own) for one in suites for name, own in one.collections.items()]:
            print_rows(where, as_json=False, title="by collection", lines=1)
    else:
        say("no suite was looked for: none is registered, and --against names none that can be read")
    lines = [f"not looked for: {suite}: {why}" for suite, why in statement.unchecked.items()]
    lines += [f"not searched: {name}: what the mixture pins of it is nowhere to be read" for name in statement.unread]
    if statement.mteb:
        lines.append(f"training data of mteb's tasks, by the datacards: {', '.join(statement.mteb)}")
    sys.stdout.writelines(line + "\n" for line in lines)


def _row(suite: str, collection: str, own: Counts) -> dict[str, Any]:
    return {"suite": suite, "collection": collection, "queries": own.queries, "passages": own.passages,
            "removed": own.removed, "remaining": own.remaining}  # fmt: skip
