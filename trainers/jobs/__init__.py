"""The model side's jobs: store and registry around the training loops."""

from trainers.jobs.train import LearnedMixtures, evaluate, is_main, known_model, learn, silent, train

__all__ = ["LearnedMixtures", "evaluate", "is_main", "known_model", "learn", "silent", "train"]
