"""Embed the texts of a batch: equal ones once, shared out over the ranks, in micro-batches of few padded tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor

from trainers.batch.gradient_cache import TokenBudget, embed_within_budget
from trainers.model.encoder import to_device
from trainers.parallel import ranks

# Texts of one call of the tokenizer, whose own record of a token takes a hundred bytes and more.
AT_ONCE = 128
# A limit that cuts no text; tokenizers do not take more.
UNCUT = 2**31 - 1


@dataclass(frozen=True)
class Tokens:
    """N texts as one rank encodes them.

    own:          this rank's share of the distinct texts, with the most tokens each may have
    ids:          their token ids, an int32 array each
    num_distinct: distinct texts, of all ranks together
    places:       (N,) int64, which of the distinct texts each text is
    """

    own: list[tuple[str, int]]
    ids: list[np.ndarray]
    num_distinct: int
    places: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens that this rank encodes, without padding."""
        return sum(map(len, self.ids))

    @property
    def by_text(self) -> dict[tuple[str, int], np.ndarray]:
        """This rank's ids by text and limit."""
        return dict(zip(self.own, self.ids, strict=True))


class Remembered(dict[tuple[str, int], np.ndarray]):
    """Ids by text and limit, of as many texts as have `most` tokens: a static model takes no longer for a text than its
    tokenizer, and meets most texts again."""

    def __init__(self, most: int) -> None:
        self._room = most

    def add(self, tokens: Tokens) -> None:
        for item, ids in zip(tokens.own, tokens.ids, strict=True):
            if item not in self and self._room >= len(ids):
                self[item] = ids
                self._room -= len(ids)


def tokenise(
    tokenizer: Any, texts: Sequence[str], limits: Sequence[int],
    known: Mapping[tuple[str, int], np.ndarray] | None = None,
) -> Tokens:  # fmt: skip
    """Texts with the most tokens each may have, end token included, which truncation keeps.

    On several ranks all call it with the same texts; each tokenises its share of them. What is `known`, by the same
    tokenizer, is taken from there.
    """
    limited = list(zip(texts, limits, strict=True))
    # By length in characters, so that ranks get equal shares of long and short ones.
    distinct = sorted(dict.fromkeys(limited), key=lambda item: (-len(item[0]), item))
    place = {item: i for i, item in enumerate(distinct)}
    own = [distinct[i] for i in ranks.share(len(distinct))]
    known = known or {}
    missing = [item for item in own if item not in known]
    new = dict(zip(missing, token_ids(tokenizer, missing), strict=True))
    return Tokens(
        own,
        [new[i] if i in new else known[i] for i in own],
        len(distinct),
        torch.tensor([place[item] for item in limited]),
    )


def embed_across_ranks(encoder: SentenceTransformer, tokens: Tokens, budget: TokenBudget) -> Tensor:
    """Embeddings (N, D) with gradients where the encoder has them; a collective of all ranks.

    All ranks get all embeddings, of which a rank's own carry gradients.
    """
    own = embed_within_budget(encoder, tokens.ids, budget)
    return ranks.gather(own, tokens.num_distinct).index_select(0, to_device(tokens.places, own.device))


def token_ids(tokenizer: Any, limited: Sequence[tuple[str, int]]) -> list[np.ndarray]:
    """The token ids of texts, an int32 array each; of each text the most tokens that it may have."""
    found: dict[int, np.ndarray] = {}
    for limit in sorted({limit for _, limit in limited}):
        places = [i for i, item in enumerate(limited) if item[1] == limit]
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            texts = [limited[i][0] for i in some]
            if isinstance(tokenizer, Tokenizer):  # a static model's
                ids = [one.ids[:limit] for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
            else:
                ids = tokenizer(texts, truncation=True, max_length=limit, padding=False)["input_ids"]
            found |= {place: np.array(one, dtype=np.int32) for place, one in zip(some, ids, strict=True)}
    return [found[i] for i in range(len(limited))]
