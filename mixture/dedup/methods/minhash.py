"""At least `verify` Jaccard similarity of the n-grams, of the pairs that MinHash proposes (`mixture.dedup.minhash`)."""

from __future__ import annotations

import pyarrow as pa

from mixture.dedup.links import connected
from mixture.dedup.methods.base import DEFAULT_VERIFY, METHODS, Groups, Method, Settings
from mixture.errors import UsageError


def checked_similarity(name: str, value: float) -> float:
    """The least similarity if bands of hashes can be laid out for it, 0.1 to 0.95; otherwise a UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= 0.95:
        raise UsageError(f"`{name}` is {value!r}; allowed with minhash: 0.1 to 0.95")
    return value


def _check(settings: Settings) -> None:
    if settings.verify is not None:
        checked_similarity("verify", settings.verify)


def _link(forms: pa.Array, settings: Settings) -> Groups:
    from mixture.dedup.minhash import minhash_pairs  # datasketch takes a while to load

    verify = DEFAULT_VERIFY if settings.verify is None else settings.verify
    return connected(minhash_pairs(forms, verify), len(forms))


METHODS["minhash"] = Method(link=_link, check=_check)
