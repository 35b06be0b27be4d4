"""What a command did, in a sentence: above its table, and in the demo. Each takes what the command prints as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
NAMED = 3


def say(sentence: str) -> None:
    """Print it; programs that read --json do not get it."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def ingested(rows: Rows) -> str:
    read, stored, repeated, rejected = (
        sum(row[name] for row in rows) for name in ("rows_read", "stored", "repeated", "rejected")
    )
    return (f"{_count(read, 'row')} of {_count(len(rows), 'collection')}: {stored:,} stored, "
            f"{_count(repeated, 'exact repeat')}, {rejected:,} rejected")  # fmt: skip


def removed(rows: Rows, what: str) -> str:
    """what: what was taken out, in the plural."""
    hit = [row for row in rows if row["removed"]]
    total = sum(row["removed"] for row in hit)
    if not hit:
        return f"no {what} found"
    most = sorted(hit, key=lambda row: -abs(row["removed"]))
    named = ", ".join(f"{row['collection']} {abs(row['removed']):,}" for row in most[:NAMED])
    more = ", …" if len(hit) > NAMED else ""
    done = "removed from" if total > 0 else "put back into"
    return f"{abs(total):,} {what} {done} {_count(len(hit), 'collection')} ({named}{more})"


def mined(rows: Rows, miner: str, *, had_none: bool) -> str:
    """had_none: whether the examples were those without negatives."""
    if not rows:
        return "every example has negatives"
    found = sum(row["negatives"] for row in rows)
    which = " that had none" if had_none else ""
    return f"{found:,} {'BM25' if miner == 'bm25' else miner} negatives for {_count(len(rows), 'collection')}{which}"


def made(mixture: Mapping[str, Any]) -> str:
    """A mixture, as `mixture show --json` prints it."""
    parts = mixture["components"]
    what = "component" if any(part.get("slice_of") for part in parts) else "collection"
    equal = len({part["weight"] for part in parts}) == 1
    weights = "equal weights" if equal else "heaviest " + ", ".join(
        f"{part['collection']} {part['weight']:.3f}" for part in parts[:NAMED]
    )  # fmt: skip
    known = f"{mixture['reference']} = {mixture['id']}: {_count(len(parts), what)}, {weights}"
    tags = f"[{', '.join(mixture['tags'])}]" if mixture["tags"] else None
    return "  ".join(filter(None, (known, tags, mixture["note"])))


def trained(row: Mapping[str, Any]) -> str:
    return f"{_count(row['steps'], 'step')} on {row['mixture']}, saved to {row['model']}"


def evaluated(rows: Rows) -> str:
    """The mean of the first metric, times 100 as the field prints it."""
    metric = next(iter(rows[0]["metrics"]))
    scores = [100 * row["metrics"][metric] for row in rows]
    return f"mean {metric.replace('ndcg', 'nDCG')} {sum(scores) / len(scores):.1f} on {_count(len(scores), 'suite')}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
