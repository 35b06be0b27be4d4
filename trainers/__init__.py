"""The model side: learn weights with a small proxy, train a retriever on a mixture, score it. Imports `mixture`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers.batch.sampler import MixtureBatchSampler
    from trainers.finetune.config import FinetuneSettings
    from trainers.jobs.ablate import ablate
    from trainers.jobs.bring import import_run
    from trainers.jobs.drawn import CheckedRun, check_forgotten
    from trainers.jobs.encode import encode_with
    from trainers.jobs.evaluate import compare, evaluate
    from trainers.jobs.folder import Trained, train_on_folder
    from trainers.jobs.learn import LearnedMixtures, learn_weights
    from trainers.jobs.prompt_choice import PromptChoice
    from trainers.jobs.prompts import prompts
    from trainers.jobs.rescore import rescore_with
    from trainers.jobs.shrink import Shrunk, shrink
    from trainers.jobs.soup import Soup, soup
    from trainers.jobs.train import train
    from trainers.jobs.verdict import Verdict, verdict
    from trainers.learning.ablation import Ablation
    from trainers.learning.config import LearningSettings

__all__ = [
    "Ablation",
    "CheckedRun",
    "FinetuneSettings",
    "LearnedMixtures",
    "LearningSettings",
    "MixtureBatchSampler",
    "PromptChoice",
    "Shrunk",
    "Soup",
    "Trained",
    "Verdict",
    "ablate",
    "check_forgotten",
    "compare",
    "encode_with",
    "evaluate",
    "import_run",
    "learn_weights",
    "prompts",
    "rescore_with",
    "shrink",
    "soup",
    "train",
    "train_on_folder",
    "verdict",
]
# Loaded when asked for: torch takes seconds, and a machine without duckdb trains on a folder.
_HOME = {
    "Ablation": "trainers.learning.ablation",
    "CheckedRun": "trainers.jobs.drawn",
    "FinetuneSettings": "trainers.finetune.config",
    "LearnedMixtures": "trainers.jobs.learn",
    "LearningSettings": "trainers.learning.config",
    "MixtureBatchSampler": "trainers.batch.sampler",
    "PromptChoice": "trainers.jobs.prompt_choice",
    "Shrunk": "trainers.jobs.shrink",
    "Soup": "trainers.jobs.soup",
    "Trained": "trainers.jobs.folder",
    "Verdict": "trainers.jobs.verdict",
    "ablate": "trainers.jobs.ablate",
    "check_forgotten": "trainers.jobs.drawn",
    "compare": "trainers.jobs.evaluate",
    "encode_with": "trainers.jobs.encode",
    "evaluate": "trainers.jobs.evaluate",
    "import_run": "trainers.jobs.bring",
    "learn_weights": "trainers.jobs.learn",
    "prompts": "trainers.jobs.prompts",
    "rescore_with": "trainers.jobs.rescore",
    "shrink": "trainers.jobs.shrink",
    "soup": "trainers.jobs.soup",
    "train": "trainers.jobs.train",
    "train_on_folder": "trainers.jobs.folder",
    "verdict": "trainers.jobs.verdict",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'trainers' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
