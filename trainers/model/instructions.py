"""Instructions that known models were trained with, for those whose files do not say them. Loads no torch.

Read off the model cards. A model that carries prompts of its own is never looked up here.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import NamedTuple


class Instructions(NamedTuple):
    """What stands before a query, and before a passage."""

    query: str = ""
    passage: str = ""


SEARCHING = Instructions("Represent this sentence for searching relevant passages: ")
ASKED = Instructions("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ")

KNOWN: dict[str, Instructions] = {
    r"bge-(small|base|large)-en(-v1\.5)?": SEARCHING,
    r"bge-(small|base|large)-zh(-v1\.5)?": Instructions("为这个句子生成表示以用于检索相关文章："),
    r"(multilingual-)?e5-(small|base|large)(-unsupervised|-v2)?": Instructions("query: ", "passage: "),
    r"multilingual-e5-large-instruct|e5-mistral-7b-instruct": ASKED,
    r"snowflake-arctic-embed-(xs|s|m|l|m-long|m-v1\.5)": SEARCHING,
    r"snowflake-arctic-embed-(m|l)-v2\.0": Instructions("query: "),
    r"mxbai-embed-(large|xsmall)-v1": SEARCHING,
    r"uae-large-v1": SEARCHING,
    r"nomic-embed-text-v1(\.5)?": Instructions("search_query: ", "search_document: "),
}
"""By the whole name of a model without its organisation, as a regular expression in small letters."""


def known_instructions(model: str) -> Instructions:
    """What a model of this folder or hub name was trained with; nothing for an unknown one.

    A folder of the hub's cache is known by the name of its model.

    >>> known_instructions("BAAI/bge-small-en-v1.5").query, known_instructions("/models/e5-base-v2/").passage
    ('Represent this sentence for searching relevant passages: ', 'passage: ')
    """
    parts = PurePath(model).parts
    names = [part.rpartition("--")[2] for part in parts if part.startswith("models--")] or list(parts[-1:])
    for pattern, found in KNOWN.items():
        if names and re.fullmatch(pattern, names[-1].lower()):
            return found
    return Instructions()
