"""The prompts that one is chosen from: of files, of datacards, of the model, and none."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixture.cards.card import load_cards
from mixture.errors import UsageError
from mixture.store import Store
from mixture.suites.families import is_own
from mixture.suites.suite import Suite
from trainers.model.template import Template, own_template

logger = logging.getLogger(__name__)
CARDS = "cards"
NONE, OWN = "no prompt", "the model's own"
_RULE = 'a list of texts as JSON (.json), a text or {"prompt": text} a line (.jsonl), else a prompt a line as it stands'
_BOTH = "the prompt stands before passages too, so that each would need the corpus encoded anew"


@dataclass
class Candidates:
    """Texts that stand before a query, each with where it comes from; equal texts are one. None comes first.

    template: that prompts of cards stand in
    """

    template: Template
    sources: dict[str, list[str]] = field(default_factory=lambda: {"": [NONE]})

    def add(self, text: str, source: str) -> None:
        found = self.sources.setdefault(text, [])
        if source not in found:
            found.append(source)


def candidates_of(store: Store, given: Sequence[str], model: str) -> Candidates:
    """The candidates of files and, for the word `cards`, of the datacards and of the store's collections. A prompt of a
    card stands in the template that the model was trained with, or else in the default one; a line of a file as it is.

    Raises `UsageError` for a file that is not as it should be, with its place.
    """
    try:
        found = Candidates(own_template(model) or Template())
    except UsageError:  # a prompt of its own with braces is no template, but a candidate
        found = Candidates(Template())
    for name in dict.fromkeys(given):
        if name == CARDS and not Path(CARDS).is_file():
            _add_cards(found, store)
            continue
        file = Path(name).expanduser()
        lines = list(read_prompts(file))
        if not any(text for _, text in lines):
            raise UsageError(f"{file} holds no prompt; allowed: {_RULE}")
        for place, text in lines:
            found.add(text, f"{file.name}:{place}")
    return found


def read_prompts(file: Path) -> Iterator[tuple[int, str]]:
    """The prompts of a file, each with its line, or its place in a JSON list, from 1.

    Blanks at a prompt's ends belong to it; empty lines are passed over. In a file of plain lines nothing stands for a
    line break: prompts with one need JSON.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(
            f"{file}: cannot read these `candidates`: {reason}; allowed: a file of prompts, or {CARDS}"
        ) from None
    if file.suffix == ".json":
        body = _parsed(text, str(file))
        if not isinstance(body, list):
            raise UsageError(f"{file} holds no list; allowed: {_RULE}")
        yield from ((place, _prompt(one, f"{file}, text {place}")) for place, one in enumerate(body, start=1))
        return
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        if file.suffix == ".jsonl":
            yield number, _prompt(_parsed(line, f"{file}:{number}"), f"{file}:{number}")
            continue
        if "\\n" in line:
            raise UsageError(f"{file}:{number} has \\n, which would be two letters of the prompt; write prompts with "
                             "line breaks as a JSON list, in a file whose name ends in .json")  # fmt: skip
        yield number, line


def check_not_symmetric(store: Store, suites: Sequence[Suite]) -> None:
    """Raise `UsageError` for a suite of a collection whose card says symmetric, among the built-in cards and the
    store's collections."""
    for one in _known(store):
        for suite in suites if one.symmetric else ():
            if is_own(suite.name, [one.name, *one.tasks, *(task.removesuffix("Retrieval") for task in one.tasks)]):
                raise UsageError(f"`suite` has {suite.title}, of {one.name}, whose card says symmetric: {_BOTH}; "
                                 "leave it out")  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """A collection. tasks: of mteb whose training data it is."""

    name: str
    prompts: Sequence[str]
    symmetric: bool
    tasks: Sequence[str] = ()


def _known(store: Store) -> list[_Known]:
    cards = [_Known(card.name, card.prompts, card.symmetric, card.mteb) for card in load_cards().values()]
    rows = store.rows("SELECT collection, prompts, is_symmetric FROM collections ORDER BY collection")
    return cards + [_Known(row["collection"], row["prompts"] or (), bool(row["is_symmetric"])) for row in rows]


def _add_cards(found: Candidates, store: Store) -> None:
    """Prompts of symmetric collections are left out, and said."""
    known = _known(store)
    for one in known:
        for prompt in () if one.symmetric else one.prompts:
            found.add(found.template.before_query(prompt), f"card {one.name}")
    if left := dict.fromkeys(one.name for one in known if one.symmetric):
        logger.warning("left out the prompts of %s, whose cards say symmetric: %s", ", ".join(left), _BOTH)
    if not found.template.uses_prompt:
        logger.warning("the model's template %r has no place for a prompt: those of cards are all one",
                       found.template.query)  # fmt: skip


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} is not valid JSON: {error.msg}; allowed: {_RULE}") from None


def _prompt(value: Any, where: str) -> str:
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UsageError(f"{where} is {value!r:.60}; allowed: {_RULE}")
    return text
