"""What an embedding depends on beside its text. Embeddings of one space are kept together and can be compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mixture.arguments import named

PRECISIONS: dict[str, np.dtype[np.floating[Any]]] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}
"""The numbers that embeddings are kept in. float16 takes half the room, and rounds to 3 digits."""


def check_precision(name: str) -> None:
    """Raise a `UsageError` for what is no name of `PRECISIONS`."""
    named("precision", name, PRECISIONS)


LAYOUT = 1  # of the files; another one is another space


@dataclass(frozen=True, kw_only=True)
class Space:
    """The embeddings that a model gives texts behind one prompt.

    model:      what it computes with: a hash of its files, or its name on the hub
    prompt:     what stands before every text
    max_tokens: where a text is cut off; None for nowhere
    precision:  of `PRECISIONS`
    """

    model: str
    prompt: str = ""
    max_tokens: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)

    @property
    def id(self) -> str:
        """16 hexadecimal digits: the folder's name."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def parts(self) -> dict[str, Any]:
        """All that decides, by name."""
        return asdict(self) | {"layout": LAYOUT}
