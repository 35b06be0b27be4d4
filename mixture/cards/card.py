"""Datacards: what a collection is, in the front matter of a Hugging Face dataset card.

The general keys (`pretty_name`, `language`, `license`) are the hub's; what only this toolkit needs stands under the key
`mixture:`. A card is read whole: all of its faults are reported at once, and a key of `mixture:` that does not exist
is one of them, so that a typo cannot silently drop a setting.
"""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from huggingface_hub import DatasetCard, DatasetCardData
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StringConstraints, ValidationError

from mixture.errors import UsageError, unknown_name

UNKNOWN = "unknown"
# A language subtag with optional script, region or variant (BCP 47): "en", "zh-Hant", "pt-BR".
LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*"
# Where a key stands in the file: these at the top, all others under `mixture:`.
GENERAL_KEYS = ("pretty_name", "language", "license", "license_name", "license_link")
NO_KEYS = ("text", "path")
# What a drafted card holds where only its author can say more.
STAND_IN_PROMPT = "Given a query, retrieve relevant passages"
STAND_IN_TEXT = "Write here what query and positive of"
FILL_IN = "WRITE-THE-COLUMN-HERE"
WHOLE_NUMBER = "a whole number, 0 or more"

Text = Annotated[str, StringConstraints(strict=True, pattern=r"\S")]
Prompt = Annotated[str, StringConstraints(strict=True, pattern=r"^$|\S")]
Language = Annotated[str, StringConstraints(strict=True, pattern=f"^{LANGUAGE}$")]


def _listed(value: Any) -> Any:
    """The hub allows one code in place of a list of one."""
    return [value] if isinstance(value, str) else value


def _or_none(value: Any) -> Any:
    """No prompt is a list of an empty one: a collection without a list gets the default prompt."""
    return [""] if value == [] else value


class _Strict(BaseModel):
    """Every field says in `description` what it must be; the messages are built from that."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Strict):
    """Where the rows of a collection can be had.

    `hub_id` is a dataset repository on the Hugging Face hub (owner/name) or "unknown", `config` its configuration.
    `files` are paths inside it that hold the training rows; without them the repository is read through `datasets`.
    `columns` says which name in the rows is which (`mixture.ingest.mapping.ROLES`), where a reader could not tell by
    itself; `min_label` is the lowest label of a positive. They hold for local files of the collection as well.
    `url` is the home page of the original data, or "unknown".
    """

    hub_id: str = Field(
        pattern=rf"^({UNKNOWN}|[\w.-]+/[\w.-]+)$", description=f"owner/name on the Hugging Face hub, or {UNKNOWN}"
    )
    config: Text | None = Field(default=None, description="the name of a configuration")
    files: tuple[Text, ...] = Field(default=(), description="a list of paths inside the hub repository")
    split: Text = Field(default="train", description="the name of a split")
    columns: dict[Literal["query", "positive", "negative", "label", "language", "prompt"], Text | tuple[Text, ...]] = (
        Field(default_factory=dict, description="a mapping of query, positive, negative, label, language or prompt to "
              "a column's name, or to several")
    )  # fmt: skip
    min_label: float | None = Field(default=None, description="a number")
    url: str = Field(
        default=UNKNOWN, pattern=rf"^({UNKNOWN}|https?://\S+)$", description=f"an address with https://, or {UNKNOWN}"
    )


class DataCard(_Strict):
    """One collection, as its card describes it. `model_dump()` gives a plain dictionary.

    `prompts` are the training prompts in the card's order, an empty one for none. `symmetric` says that query and
    passage are the same kind of text, so that the prompt may go on passages too. `deduped_size` is the number of
    examples that the card's author counted after deduplication; what a store really holds is counted there.
    `negatives` says who gave or mined the hard negatives. `mteb` names the tasks of mteb whose training data it is.
    """

    name: Text = Field(description="a text that is not empty")
    name_in_release: Text = Field(default_factory=lambda fields: fields["name"], description="a text that is not empty")
    pretty_name: Text = Field(description="a text that is not empty")
    language: Annotated[tuple[Language, ...], BeforeValidator(_listed)] = Field(
        min_length=1, description="a list of BCP-47 codes such as [en] or [zh, sw]; YAML needs quotes around 'no'"
    )
    license: str = Field(
        pattern=r"^[a-z0-9][a-z0-9.+-]*$", description=f"a text such as cc-by-4.0, spelt as on the hub, or {UNKNOWN}"
    )
    license_name: str = Field(default="", description="a text")
    license_link: str = Field(default="", description="a text")
    category: str = Field(default="", description="a text")
    citation: str = Field(default="", description="a text")
    symmetric: StrictBool = Field(default=False, description="true or false")
    prompts: Annotated[tuple[Prompt, ...], BeforeValidator(_or_none)] = Field(
        min_length=1, description="a list of texts, or [] for no prompt"
    )
    deduped_size: int | None = Field(default=None, strict=True, ge=0, description=WHOLE_NUMBER)
    negatives: Text = Field(default=UNKNOWN, description=f"a text that says who gave or mined them, or {UNKNOWN}")
    mteb: tuple[Annotated[str, StringConstraints(strict=True, pattern=r"^[\w.+-]+$")], ...] = Field(
        default=(), description="a list of names of mteb's tasks, such as [NQ, HotpotQA]"
    )
    source: Source | None = Field(default=None, description="a mapping that holds hub_id")
    text: str = Field(default="", description="a text")
    path: Path = Field(default=Path(), description="a path")


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
    front = card.data.to_dict()
    section = front.get("mixture")
    readable = isinstance(section, dict) and bool(section)
    own = {key: value for key, value in section.items() if value is not None} if readable else {}
    values = own | {key: front[key] for key in GENERAL_KEYS if front.get(key) is not None}
    faults = [_unknown_key("mixture.", key, DataCard) for key in own if key in (*GENERAL_KEYS, *NO_KEYS)]
    try:
        built = DataCard.model_validate(values | {"text": card.text.strip(), "path": path})
    except ValidationError as error:
        faults = [*_plain_faults(error, values), *faults]
    if not readable:
        # Without a readable section the missing keys inside it would only repeat the one fault.
        shown = "is missing" if section is None else f"is {section!r}; it must be a mapping that holds name and prompts"
        faults = [*(f for f in faults if not f.startswith("mixture.")), f"mixture {shown}"]
    if faults:
        raise _faulty(path, faults)
    return built


def load_cards(extra: Path | None = None) -> dict[str, DataCard]:
    """The built-in cards by name; those of the folder `extra` are added, and win where the name is the same.

    Raises UsageError with the faults of all faulty cards, for a folder that does not exist, and for two cards with one
    name in one folder.
    """
    cards = _load_folder(packaged_cards())
    if extra is not None:
        if not extra.is_dir():
            raise UsageError(f"{extra} is not a folder; give the folder that holds the datacards (*.md)")
        cards |= _load_folder(extra)
    return dict(sorted(cards.items(), key=lambda item: item[0].lower()))


def packaged_cards() -> Path:
    """The folder of the built-in cards."""
    with importlib.resources.as_file(importlib.resources.files("datacards")) as folder:
        return folder


def check_cards(extra: Path | None = None) -> dict[str, DataCard]:
    """`load_cards`; no card may carry the description or the title of another, or what `cards new` drafted.

    Raises UsageError with every card that does.
    """
    cards = load_cards(extra)
    faults = []
    for card in cards.values():
        if STAND_IN_PROMPT in card.prompts:
            faults.append(f"{card.path}: mixture.prompts is still the stand-in of the draft; write the task's own")
        if STAND_IN_TEXT in " ".join(card.text.split()):
            faults.append(f"{card.path}: the text is still that of the draft; write what query and positive are")
        if card.source is not None and FILL_IN in card.source.columns.values():
            faults.append(f"{card.path}: mixture.source.columns still has {FILL_IN}; write the names of the columns")
    for what in ("description", "pretty_name"):
        owners: dict[str, DataCard] = {}
        for card in cards.values():
            words = _description(card) if what == "description" else card.pretty_name.casefold()
            first = owners.setdefault(words, card)
            if words and first is not card:
                faults.append(f"{card.path}: carries the {what} of {first.name!r} ({first.path}); give it its own")
    if faults:
        raise UsageError("\n".join(faults))
    return cards


def card_for(name: str, cards: Mapping[str, DataCard]) -> DataCard:
    """The card with this name, or with this name in the tDRO release. Raises UsageError for an unknown name."""
    if name in cards:
        return cards[name]
    for card in cards.values():
        if card.name_in_release == name:
            return card
    raise unknown_name("datacard", name, cards)


def render_card(card: DataCard) -> str:
    """The card as the text of its Markdown file; `load_card` reads it back equal, but for the path."""
    values = card.model_dump(mode="json", exclude_defaults=True, exclude=set(NO_KEYS))
    general = {key: values.pop(key) for key in GENERAL_KEYS if key in values}
    data = DatasetCardData(**general, mixture=values)
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{card.text}\n"))


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


def _description(card: DataCard) -> str:
    """The first paragraph under the title, in lower case, without its line breaks."""
    paragraphs = [part for part in card.text.split("\n\n") if not part.lstrip().startswith("#")]
    return " ".join(paragraphs[0].split()).casefold() if paragraphs else ""


def _faulty(path: Path, faults: Iterable[str]) -> UsageError:
    return UsageError(f"{path}: " + "; ".join(faults))


def _plain_faults(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    """One line for each faulty key, in this toolkit's words: what was given, and what it must be."""
    faults: dict[str, None] = {}  # a key of several faulty parts is one fault
    for found in error.errors():
        place, kind = found["loc"], found["type"]
        model: type[BaseModel]
        if place[0] == "source" and len(place) > 1:
            model, holder, key, section = Source, values["source"], str(place[1]), "mixture.source."
        else:
            key = str(place[0])
            model, holder, section = DataCard, values, "" if key in GENERAL_KEYS else "mixture."
        if kind == "default_factory_not_called":  # it repeats the fault of the name
            continue
        if kind == "extra_forbidden":
            fault = _unknown_key(section, key, model)
        elif kind == "missing":
            fault = f"{section}{key} is missing"
        else:
            fault = f"{section}{key} is {holder[key]!r}; it must be {model.model_fields[key].description}"
        faults[fault] = None
    return list(faults)


def _unknown_key(section: str, key: str, model: type[BaseModel]) -> str:
    known = [name for name in model.model_fields if name not in (*GENERAL_KEYS, *NO_KEYS)]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return f"{section}{key} is no known key; {hint}"
