"""What a command did, in a sentence: above its table, and in the demo. Each takes what the command prints as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mixture.errors import ForgottenRows

Rows = Sequence[Mapping[str, Any]]
NAMED = 3
PLURALS = {
    "batch": "batches",
    "query": "queries",
    "test query": "test queries",
    "test query or passage": "test queries or passages",
    "replaced": "replaced",
    "forgotten": "forgotten",
}


def say(sentence: str) -> None:
    """Print it; programs that read --json do not get it."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def ingested(rows: Rows) -> str:
    read, stored, repeated, rejected = (
        sum(row[name] for row in rows) for name in ("rows_read", "stored", "repeated", "rejected")
    )
    return (f"{counted(read, 'row')} of {counted(len(rows), 'collection')}: {stored:,} stored, "
            f"{counted(repeated, 'exact repeat')}, {rejected:,} rejected")  # fmt: skip


def removed(rows: Rows, what: str, *, undo: bool = False) -> str:
    """what: what was taken out, or put back, in the singular."""
    count, done = ("put_back", "put back into") if undo else ("removed", "removed from")
    hit = [row for row in rows if row[count]]
    if not hit:
        return f"no {plural(what)} found"
    most = sorted(hit, key=lambda row: -row[count])
    named = ", ".join(f"{row['collection']} {row[count]:,}" for row in most[:NAMED])
    more = ", …" if len(hit) > NAMED else ""
    return f"{counted(sum(row[count] for row in hit), what)} {done} {counted(len(hit), 'collection')} ({named}{more})"


def mined(rows: Rows, miner: str, *, had_none: bool) -> str:
    """had_none: whether the examples were those without negatives."""
    if not rows:
        return "every example has negatives"
    found = sum(row["negatives"] for row in rows)
    which = " that had none" if had_none else ""
    return f"{found:,} {'BM25' if miner == 'bm25' else miner} negatives for {counted(len(rows), 'collection')}{which}"


def made(mixture: Mapping[str, Any]) -> str:
    """A mixture, as `mixture show --json` prints it."""
    parts = mixture["components"]
    what = "component" if any(part.get("slice_of") for part in parts) else "collection"
    equal = len({part["weight"] for part in parts}) == 1
    weights = "equal weights" if equal else "heaviest " + ", ".join(
        f"{part['collection']} {part['weight']:.3f}" for part in parts[:NAMED]
    )  # fmt: skip
    known = f"{mixture['reference']} = {mixture['id']}: {counted(len(parts), what)}, {weights}"
    tags = f"[{', '.join(mixture['tags'])}]" if mixture["tags"] else None
    return "  ".join(filter(None, (known, tags, mixture["note"])))


def chosen(reference: str, coreset: Mapping[str, Any]) -> str:
    """The fields of `jobs.MadeCoreset`."""
    rows = coreset["rows"]
    count, held = (sum(row[name] for row in rows) for name in ("chosen", "of"))
    names = {"distance": "", "random": "of random rows ", "whole": "of all rows "}
    known = [f"{names[name]}{coreset[name]:.4f}" for name in names if coreset[name] is not None]
    far = f"; distance to {counted(coreset['target_rows'], 'target row')}: {', '.join(known)}" if known else ""
    return f"{reference}: {count:,} of {counted(held, 'row')} of {counted(len(rows), 'collection')}{far}"


def trained(row: Mapping[str, Any]) -> str:
    parts = [f"{counted(one['steps'], 'step')} on {one['mixture']}" for one in row.get("phases") or [row]]
    return f"{', then '.join(parts)}, saved to {row['model']}"


def averaged(soup: Mapping[str, Any]) -> str:
    """The fields of `trainers.Soup`."""
    began = f" that began as {soup['start']}" if soup["start"] else ""
    taken = sum(part["weight"] > 0 for part in soup["models"])
    left = f" of {len(soup['models'])}" if taken < len(soup["models"]) else ""
    scored = f"; nDCG@10 {100 * soup['score']:.2f} on what the weights were found on" if soup["score"] else ""
    return f"the average of {counted(taken, 'model')}{left}{began}, saved to {soup['model']}{scored}"


def shrunk(made: Mapping[str, Any]) -> str:
    """The fields of `trainers.Shrunk`."""
    share = 100 * made["parameters"] / made["parameters_before"]
    width = f", each with {made['width']:,} inner channels," if made["width"] else ""
    return (f"{len(made['kept'])} of {counted(made['num_layers'], 'layer')} of {made['start']} are left{width} and "
            f"{share:.0f} % of the parameters, saved to {made['model']}")  # fmt: skip


def evaluated(rows: Rows) -> str:
    """The mean of the first metric over the suites that have it, times 100 as the field prints it."""
    metric = next(iter(rows[0]["metrics"]))
    scores = [100 * row["metrics"][metric] for row in rows if metric in row["metrics"]]
    return f"mean {metric.replace('ndcg', 'nDCG')} {sum(scores) / len(scores):.1f} on {counted(len(scores), 'suite')}"


def refused(error: ForgottenRows) -> str:
    """What to do about a mixture that holds forgotten rows, as a command."""
    return f"{error.says}; make it anew without them: mixture create NAME --from {error.mixture or 'REF'} --refresh"


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`; what: in the singular."""
    return f"{number:,} {what if number == 1 else plural(what)}"


def plural(what: str) -> str:
    return PLURALS.get(what, f"{what}s")
