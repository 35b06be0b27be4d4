"""A text's letters: its normal form without the spaces. What test queries and test passages are compared by.

Without spaces it makes no difference whether punctuation was dropped, added or written as a space ("covid-19",
"covid 19", "covid19"), nor where a language that writes no spaces got some.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixture.text.columns import Tables, normal_codes, normalise_texts
from mixture.text.form import Texts, text_list
from mixture.text.kernels import compiled


def letters_of(texts: Texts, *, what: str = "texts") -> list[str]:
    """The letters of each text; a null or what is no text is a UsageError that calls them `what`.

    >>> letters_of(["Who wrote “Hamlet”?", "covid-19"])
    ['whowrotehamlet', 'covid19']
    """
    return [form.replace(" ", "") for form in normalise_texts(text_list(texts, what=what)).to_pylist()]


def as_codes(texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """n texts as offsets, shape (n + 1,), and the code points that they point into."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return offsets, np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)


@compiled
def letter_codes(data: NDArray[np.uint8], begin: int, end: int, t: Tables, out: NDArray[np.uint32]) -> int:
    """Write the letters of the UTF-8 text data[begin:end] to `out` (room: 6 * (end - begin)); how many there are."""
    count, length = normal_codes(data, begin, end, t, out), 0
    for index in range(count):
        out[length] = out[index]
        length += out[index] != 0x20
    return length
