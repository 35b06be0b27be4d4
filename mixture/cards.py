"""Datacards: what a collection is, in the front matter of a Hugging Face dataset card.

The general keys (`pretty_name`, `language`, `license`) are the hub's; what only this toolkit needs stands under the key
`mixture:`. A card is read whole: all of its faults are reported at once, and a key of `mixture:` that does not exist
is one of them, so that a typo cannot silently drop a setting.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard

from mixture.errors import UsageError, unknown_name

# A language subtag with optional script, region or variant (BCP 47): "en", "zh-Hant", "pt-BR".
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """One collection, as its card describes it.

    `prompts` are the training prompts in the card's order. `symmetric` says that query and passage are the same kind
    of text, so that the prompt may go on passages too. `deduped_size` is the number of examples that the card's author
    counted after deduplication; what a store really holds is counted there.
    """

    name: str
    name_in_release: str
    pretty_name: str
    language: tuple[str, ...]
    license: str
    category: str
    citation: str
    symmetric: bool
    prompts: tuple[str, ...]
    deduped_size: int | None
    text: str
    path: Path


def load_card(path: Path) -> DataCard:
    """The card in a Markdown file.

    Raises UsageError with the file and every fault: a key missing, unknown, or of the wrong type.
    """
    try:
        card = DatasetCard(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read this datacard: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError, TypeError, yaml.YAMLError) as error:
        raise _faulty(path, [f"the front matter is not valid YAML: {' '.join(str(error).split())}"]) from error
    reader = _Reader(card.data.to_dict(), prefix="")
    general = {
        "pretty_name": reader.take("pretty_name", _text),
        "language": reader.take("language", _languages),
        "license": reader.take("license", _text),
    }
    section = reader.take("mixture", _section) or {}
    ours = _Reader(section, prefix="mixture.")
    name = ours.take("name", _text)
    own = {
        "name": name,
        "name_in_release": ours.take("name_in_release", _text, default=name),
        "category": ours.take("category", _text, default=""),
        "citation": ours.take("citation", _text, default=""),
        "symmetric": ours.take("symmetric", _flag, default=False),
        "prompts": ours.take("prompts", _prompts),
        "deduped_size": ours.take("deduped_size", _count, default=None),
    }
    # Without a readable section the missing keys inside it would only repeat the one fault.
    faults = reader.faults + (ours.faults + ours.unknown() if section else [])
    if faults:
        raise _faulty(path, faults)
    return DataCard(**general, **own, text=card.text.strip(), path=path)


def load_cards(extra: Path | None = None) -> dict[str, DataCard]:
    """The built-in cards by name; those of the folder `extra` are added, and win where the name is the same.

    Raises UsageError with the faults of all faulty cards, for a folder that does not exist, and for two cards with one
    name in one folder.
    """
    with importlib.resources.as_file(importlib.resources.files("datacards")) as folder:
        cards = _load_folder(folder)
    if extra is not None:
        if not extra.is_dir():
            raise UsageError(f"{extra} is not a folder; give the folder that holds the datacards (*.md)")
        cards |= _load_folder(extra)
    return dict(sorted(cards.items(), key=lambda item: item[0].lower()))


def card_for(name: str, cards: Mapping[str, DataCard]) -> DataCard:
    """The card with this name, or with this name in the tDRO release. Raises UsageError for an unknown name."""
    if name in cards:
        return cards[name]
    for card in cards.values():
        if card.name_in_release == name:
            return card
    raise unknown_name("datacard", name, cards)


def _load_folder(folder: Path) -> dict[str, DataCard]:
    cards: dict[str, DataCard] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.md")):
        try:
            card = load_card(path)
        except UsageError as error:
            faults.append(str(error))
            continue
        if card.name in cards:
            faults.append(f"{path}: mixture.name {card.name!r} is already the name of {cards[card.name].path}")
        cards[card.name] = card
    if faults:
        raise UsageError("\n".join(faults))
    return cards


def _faulty(path: Path, faults: Iterable[str]) -> UsageError:
    return UsageError(f"{path}: " + "; ".join(faults))


class _Reader:
    """Takes keys out of a mapping and collects the faults, so that all are known before any is raised."""

    _REQUIRED = object()

    def __init__(self, values: Mapping[str, Any], prefix: str) -> None:
        self.values = values
        self.prefix = prefix
        self.faults: list[str] = []

    def take(self, key: str, check: Callable[[Any], Any], default: Any = _REQUIRED) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is self._REQUIRED:
                self.faults.append(f"{self.prefix}{key} is missing")
                return None
            return default
        try:
            return check(value)
        except ValueError as error:
            self.faults.append(f"{self.prefix}{key} is {value!r}; it must be {error}")
            return None

    def unknown(self) -> list[str]:
        return [
            f"{self.prefix}{key} is no known key; there are: {', '.join(_OWN_KEYS)}"
            for key in self.values
            if key not in _OWN_KEYS
        ]


_GENERAL_KEYS = ("pretty_name", "language", "license", "text", "path")
_OWN_KEYS = tuple(field.name for field in fields(DataCard) if field.name not in _GENERAL_KEYS)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError
    return tuple(map(_text, value))


def _prompts(value: Any) -> tuple[str, ...]:
    try:
        return _texts(value)
    except ValueError:
        raise ValueError("a list of one or more texts") from None


def _languages(value: Any) -> tuple[str, ...]:
    try:
        codes = _texts([value] if isinstance(value, str) else value)
    except ValueError:
        codes = ("",)
    # YAML 1.1 reads an unquoted `no` (Norwegian) as false; the message shows what was read.
    if not all(_LANGUAGE.fullmatch(code) for code in codes):
        raise ValueError("a list of BCP-47 codes such as [en] or [zh, sw]")
    return codes


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a whole number, 0 or more")
    return value


def _section(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError("a mapping that holds name and prompts")
    return value
