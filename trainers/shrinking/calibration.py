"""What a smaller model is measured on: fixed rows of each collection of a mixture."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from trainers.learning.target import Target, held_out_set
from trainers.model.template import Template
from trainers.settings import TrainingSettings


class Calibration:
    """As many rows of each collection of a mixture, drawn by the seed, tokenised once for `encoder` and what is cut
    from it.

    A row's loss is InfoNCE (tDRO, 2408.10613, equation 2) with other rows' positives of its collection as negatives:
    `held_out_set` without mined ones, which few collections have. Collections have equally many rows, so that their
    losses are equally sure; the mean over them has the mixture's weights, since these say what counts.

    rows: of a collection, or all where it has fewer

    Left out are collections of weight 0 and those whose rows share one answer; where none is left this is a
    `UsageError`.
    """

    def __init__(
        self, mixture: MaterialisedMixture, encoder: SentenceTransformer, settings: TrainingSettings,
        template: Template, rows: int,
    ) -> None:  # fmt: skip
        shares = {c.name: c.weight for c in mixture.spec.components if c.weight > 0}
        sets = {name: held_out_set(name, mixture.components[name], template, settings.seed, mined=False, most=rows)
                for name in shares}  # fmt: skip
        sets = {name: made for name, made in sets.items() if made.candidates.shape[1] > 1}
        if not sets:
            raise UsageError("`mixture` has no collection with two unlike answers, by which a model could be measured")
        self.names = list(sets)
        self.num_rows = {name: len(made.candidates) for name, made in sets.items()}
        total = sum(shares[name] for name in sets)
        self.weights = {name: shares[name] / total for name in sets}
        self._target = Target(list(sets.values()), encoder, settings, grouped=False)
        facts = [self._target.keys, list(self.weights.values()), settings.temperature, settings.max_query_tokens,
                 settings.max_passage_tokens, encoder.max_seq_length]  # fmt: skip
        self.digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def losses(self, encoder: SentenceTransformer) -> dict[str, float]:
        """Collection -> mean loss, in nats."""
        return dict(zip(self.names, self._target.losses(encoder).tolist(), strict=True))

    def mean(self, losses: dict[str, float]) -> float:
        """Of the collections' losses, by the mixture's weights."""
        return float(np.dot([losses[name] for name in self.names], [self.weights[name] for name in self.names]))

    @property
    def token_ids(self) -> list[np.ndarray]:
        """Of each text that is embedded."""
        return self._target.token_ids
