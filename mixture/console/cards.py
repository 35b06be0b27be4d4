"""What a datacard declares beside what the store measured, for people to compare."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mixture.cards import DataCard, card_for
from mixture.cards.measured import Facts, Lengths, measured
from mixture.console.output import print_json, print_rows
from mixture.errors import UsageError
from mixture.store import Store, read


def listing(cards: Mapping[str, DataCard]) -> list[dict[str, Any]]:
    """One row for each card."""
    return [
        {"name": card.name, "category": card.category, "languages": ",".join(card.language), "license": card.license,
         "deduped_size": card.deduped_size, "prompts": len(card.prompts)}
        for card in cards.values()
    ]  # fmt: skip


def card_of(name: str, cards: Mapping[str, DataCard]) -> DataCard:
    """`card_for`, for a user who may mean a collection of the store."""
    try:
        return card_for(name, cards)
    except UsageError as error:
        raise UsageError(f"{error}. For a collection of the store: mixture status") from None


def facts_of(card: DataCard, store: Store) -> Facts | None:
    """The facts of the collection of the card's name, else of the first that was ingested with the card, if any."""
    held = {info.collection: info.card for info in read.collections(store)}
    with_card = [collection for collection, named in held.items() if named == card.name]
    names = [name for name in (card.name, card.name_in_release, *with_card) if name in held]
    return measured(store, names[0]) if names else None


def show(card: DataCard, facts: Facts | None, *, as_json: bool) -> None:
    """Print the card beside its facts, and where they differ; as JSON the card with `measured` and `differences`."""
    differing = differences(card, facts)
    if as_json:
        shown = {"measured": asdict(facts) if facts is not None else None, "differences": differing}
        print_json(card.model_dump(mode="json", exclude={"path"}) | shown)
        return
    print_rows(side_by_side(card, facts), as_json=False, lines=0)
    sys.stdout.writelines(line + "\n" for line in differing)


def show_checked(cards: Mapping[str, DataCard], *, as_json: bool) -> None:
    """Print that all of these cards passed the check."""
    if as_json:
        print_json({"cards": len(cards), "faults": 0})
    else:
        sys.stdout.write(f"{len(cards)} cards ok\n")


def side_by_side(card: DataCard, facts: Facts | None) -> list[dict[str, str]]:
    """Rows of what, declared, measured. Without facts only what the card declares."""
    declared = {key: _shown(value) for key, value in card.model_dump(exclude={"source", "path"}).items()}
    if card.source is not None:
        declared |= {f"source.{key}": _shown(value) for key, value in card.source.model_dump().items()}
    measured = {} if facts is None else _measured(facts)
    names = [name for name in dict.fromkeys([*declared, *measured]) if declared.get(name) or measured.get(name)]
    # The text is the longest by far, so it stands last.
    names.sort(key=lambda name: name == "text")
    rows = [{"what": name, "declared": declared.get(name, ""), "measured": measured.get(name, "")} for name in names]
    return rows if facts is not None else [{key: row[key] for key in ("what", "declared")} for row in rows]


def differences(card: DataCard, facts: Facts | None) -> list[str]:
    """Where the card's number of examples is not the store's, in a plain sentence."""
    if facts is None or card.deduped_size in (None, facts.num_examples):
        return []
    return [
        f"{facts.collection}: the card declares {card.deduped_size:,} examples after deduplication, "
        f"the store holds {facts.num_examples:,}"
    ]


def _measured(facts: Facts) -> dict[str, str]:
    """By the card's key where it has one."""
    miners = [f"{miner} {m.negatives:,} for {m.examples:,}" for miner, m in facts.negatives_by_miner.items()]
    negatives = f"{facts.negatives_per_query:.1f} a query, {facts.share_with_negatives:.0%} of the queries have any"
    return {
        "language": ", ".join(f"{code} {count:,}" for code, count in facts.languages.items()),
        "deduped_size": f"{facts.num_examples:,}",
        "negatives": negatives + (f" ({'; '.join(miners)})" if miners else ""),
        "passages": f"{facts.num_passages:,}",
        "characters of a query": _lengths(facts.query_chars),
        "characters of a positive": _lengths(facts.positive_chars),
        "files": f"{facts.num_files:,}",
        "rejected rows": f"{facts.num_rejected:,}",
        "removed by dedup": f"{facts.share_removed_by_dedup:.1%}",
        "removed as test queries": f"{facts.share_removed_by_decontamination:.1%}",
    }


def _lengths(lengths: Lengths) -> str:
    return f"mean {lengths.mean:,.0f}, 95 % have at most {lengths.p95:,}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {part}" for key, part in value.items())
    if isinstance(value, tuple):
        return "; ".join(value) if any(" " in part for part in value) else ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)
