"""Whether a passage holds an answer: DPR's rule (arXiv 2004.04906, `has_answer` of its code), which Contriever and
BGE-M3 evaluate MKQA by.

Text and answer are put into NFD and cut into tokens: a run of letters, digits and marks is one, and so is any other
character that is not white space or a control character. Tokens are compared in lower case. A passage holds an answer
where the answer's tokens stand in it, in order and without a gap. Accents count: "Jose" is not found in "José".

A run of letters without a space is one token: an answer within a longer run of Chinese, Japanese, Thai or Khmer is not
found. That is the published rule too. The answers of MKQA are English ones for every language, as its passages are
(`mixture.suites.benchmarks.mkqa`), so it costs little there. MKQA's own metric cuts Chinese, Japanese, Thai
and Khmer into characters; it scores written answers, not passages.

DPR looks in the text of a passage, BGE-M3 in title and text joined by a space (`Suite.documents`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import regex
from numpy.typing import NDArray

T = TypeVar("T")
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def token_run(text: str) -> str:
    """The tokens of a text with a space before, between and after them; one run is in another where its tokens are.

    >>> token_run("Who wrote “Faust”?")
    ' who wrote “ faust ” ? '
    """
    return "".join(f" {token.lower()}" for token in _TOKEN.findall(unicodedata.normalize("NFD", text))) + " "


def has_answer(
    answers: Iterable[str],
    passages: Iterable[T],
    run_of: Callable[[T], str] = token_run,  # type: ignore[assignment]
) -> NDArray[np.bool_]:
    """Which of the passages hold one of the answers, (n,). An answer without tokens is in none; DPR finds it in all.

    run_of: `token_run`; or from what stands for a passage to its run, where passages come again

    >>> has_answer(["Goethe"], ["Johann Wolfgang von Goethe", "Goethes Faust"]).tolist()
    [True, False]
    """
    wanted = [run for answer in answers if (run := token_run(answer)) != " "]
    return np.array([any(run in held for run in wanted) for held in map(run_of, passages)], np.bool_)
