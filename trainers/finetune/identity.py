"""What a fine-tuning is known by. Loads no torch: a finished run is found at once."""

from __future__ import annotations

from collections.abc import Sequence

from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import Suite
from trainers.finetune.config import FinetuneSettings
from trainers.model.identity import model_identity
from trainers.model.template import identified
from trainers.settings import run_id


def identity(mixture: MaterialisedMixture, model: str, settings: FinetuneSettings, suites: Sequence[Suite] = ()) -> str:
    """The run's id: a hash of what decides the model and its record."""
    more = {"suites": ",".join(f"{suite.name}:{suite.digest}" for suite in suites)} if suites else {}
    more |= identified(mixture, model, settings)
    if settings.taught:
        more["scores"] = ",".join(f"{name}:{part.scores_digest()}" for name, part in mixture.components.items())
    return run_id("finetune", mixture.spec.id, settings, model=model_identity(model), **more)
