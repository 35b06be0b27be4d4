"""What came of choosing a prompt: the candidates, the chosen one, and what it gains where it was not chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The setting `query_template` of a training under which a card's prompt stands before a query as it is.
AS_IT_IS = "{prompt}{query}"


@dataclass(frozen=True)
class Prompt:
    """A candidate, as what it scored on the most queries that it was asked for says.

    sources:     where it comes from: no prompt, the model's own, a card, a file and line
    num_queries: of all suites
    scores:      nDCG@10 by suite
    mean:        of these; gain: less the mean of no prompt
    worst:       the least mean over weights of suites in the ball; `weights` are these weights, by suite
    least:       of a single suite; worst and least are of gains over no prompt, unless the choice was of scores as such
    dropped:     why it did not go on to more queries; None where it was asked for all
    """

    prompt: str
    sources: tuple[str, ...]
    num_queries: int
    scores: Mapping[str, float]
    mean: float
    gain: float
    worst: float
    least: float
    weights: Mapping[str, float]
    dropped: str | None


@dataclass(frozen=True)
class Gain:
    """What the chosen prompt scores on suites that it was not chosen on, against another prompt.

    suites:    one suite, or `all` for their mean
    against:   no prompt, or the model's own
    low, high: 95 % bootstrap interval over queries; None where a suite has one query alone
    p:         of the randomisation test, not corrected
    """

    suites: str
    num_suites: int
    num_queries: int
    against: str
    score: float
    baseline: float
    gain: float
    low: float | None
    high: float | None
    p: float


@dataclass(frozen=True)
class PromptChoice:
    """choice:      its id in the tables
    model:       as the store has it
    suites:      that it was chosen on, by the name of their scores
    half:        of them; None for whole suites
    prompts:     all candidates: those that were asked for all queries first, the best first
    card_prompt: the prompt of a card that stands as the chosen one in the model's template; None where none does
    reported_on: suites
    gains:       on these (`Gain`)
    encoded:     passages and queries that were encoded for it; 0 where the store had all
    out:         the folder of a copy of the model with the prompt
    """

    choice: str
    model: str
    suites: tuple[str, ...]
    half: str | None
    objective: str
    radius: float
    relative: bool
    prompts: tuple[Prompt, ...]
    card_prompt: str | None
    reported_on: tuple[str, ...]
    gains: tuple[Gain, ...]
    encoded: Mapping[str, int]
    seconds: float
    out: Path | None = None

    @property
    def chosen(self) -> Prompt:
        return self.prompts[0]

    @property
    def card_line(self) -> str:
        """The line of a datacard, under `mixture:`, that gives a collection this prompt, in a training with
        `query_template`."""
        if self.card_prompt == "":
            return "prompts: []"
        text = json.dumps(self.chosen.prompt if self.card_prompt is None else self.card_prompt, ensure_ascii=False)
        return f"prompts: [{text}]"

    @property
    def query_template(self) -> str | None:
        """The setting of a training under which `card_line` is this prompt; None where it is by itself."""
        return None if self.card_prompt is not None else AS_IT_IS

    def as_rows(self) -> dict[str, Any]:
        """All of it as plain values: what a program reads."""
        return asdict(self) | {"chosen": self.chosen.prompt, "card_line": self.card_line,
                               "query_template": self.query_template}  # fmt: skip
