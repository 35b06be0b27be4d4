"""What a fine-tuning is known by. Loads no torch: a finished run is found at once."""

from __future__ import annotations

from collections.abc import Sequence

from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import Suite
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.phases import Phases, as_phases
from trainers.model.identity import model_identity
from trainers.model.template import identified
from trainers.settings import run_id


def identity(
    data: MaterialisedMixture | Phases, model: str, settings: FinetuneSettings, suites: Sequence[Suite] = ()
) -> str:  # fmt: skip
    """The run's id: a hash of what decides the model and its record."""
    phases = as_phases(data, settings)
    more = {"suites": ",".join(f"{suite.name}:{suite.digest}" for suite in suites)} if suites else {}
    more |= identified(phases.whole, model, settings)
    if settings.taught:
        scores = [(name, phase.mixture.components[name].scores_digest()) for phase in phases.parts
                  for name in settings.taught_in(phase.mixture.components)]  # fmt: skip
        more["scores"] = ",".join(f"{name}:{digest}" for name, digest in scores)
    if len(phases.parts) > 1:
        more["phases"] = ",".join(f"{phase['mixture']}:{phase['steps']}" for phase in phases.by_id)
    first = phases.parts[0].mixture.spec.id
    return run_id("finetune", first, phases.settings(settings), model=model_identity(model), **more)
