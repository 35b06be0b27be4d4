"""Fine-tuning of a retriever from a mixture."""

from trainers.finetune.config import FinetuneSettings
from trainers.finetune.loop import finetune

__all__ = ["FinetuneSettings", "finetune"]
