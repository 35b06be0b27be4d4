"""Datacards: load, check, draft, and hold against what the store measured."""

from mixture.cards.card import (
    LANGUAGE,
    UNKNOWN,
    DataCard,
    Source,
    card_for,
    check_cards,
    load_card,
    load_cards,
    packaged_cards,
    render_card,
)

__all__ = [
    "LANGUAGE",
    "UNKNOWN",
    "DataCard",
    "Source",
    "card_for",
    "check_cards",
    "load_card",
    "load_cards",
    "packaged_cards",
    "render_card",
]
