"""The loss on rows that are held out of a training, component by component."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from mixture.holdout import FEWEST
from mixture.materialised import ComponentData, MaterialisedMixture
from trainers.finetune.config import FinetuneSettings
from trainers.learning.target import Target, held_out_set
from trainers.model.template import Template
from trainers.parallel import ranks

# The same rows and candidates whatever the training's seed: the losses of several seeds can be compared.
SEED = 0

logger = logging.getLogger(__name__)


class HeldOut:
    """Held-out rows, by component, with the candidates of each (`held_out_set`), tokenised once for `encoder`.

    The loss is InfoNCE (equation 2) at the training's temperature, whatever loss it trains with. A component is left
    out whose rows share their answers, so that a row has no other candidate; where no other is left, this is a
    `UsageError`.
    """

    def __init__(
        self, parts: Mapping[str, ComponentData], encoder: SentenceTransformer, settings: FinetuneSettings,
        template: Template,
    ) -> None:  # fmt: skip
        sets = {name: held_out_set(name, part, template, SEED) for name, part in parts.items()}
        sets = {name: made for name, made in sets.items() if made.candidates.shape[1] > 1}
        if not sets:
            raise UsageError(
                f"`holdout` is {settings.holdout:g}, and no collection has held-out rows with unlike answers"
            )
        self._parts = {name: parts[name] for name in sets}
        self._target = Target(list(sets.values()), encoder, settings, grouped=False)

    def losses(self, encoder: SentenceTransformer) -> list[dict[str, Any]]:
        """The mean loss of each component, in nats; the encoder is left as it was.

        Returns rows: collection, loss, num_examples (that it is the mean of), num_documents (that candidates are drawn
        from), num_held_out.
        """
        values = self._target.losses(encoder).tolist()
        return [
            {"collection": name, "loss": value, "num_examples": len(made.candidates),
             "num_documents": len(made.documents), "num_held_out": part.num_examples}
            for (name, part), made, value in zip(self._parts.items(), self._target.sets, values, strict=True)
        ]  # fmt: skip


def say_held_out(mixture: MaterialisedMixture, held_out: Mapping[str, ComponentData]) -> None:
    """A line to the log: how many rows of the mixture are held out, and which collections stay whole."""
    if not ranks.is_main():
        return
    rows = sum(part.num_examples for part in held_out.values())
    whole = [c.name for c in mixture.spec.components if c.weight > 0 and c.name not in held_out]
    stay = f"; whole, since fewer than {FEWEST} of their rows would be: {', '.join(whole)}" if whole else ""
    of = f"{len(held_out)} collection{'s' * (len(held_out) > 1)}"
    logger.info("%s rows of %s are held out%s", f"{rows:,}", of, stay)
