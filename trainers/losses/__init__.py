"""Losses of embeddings, a module each, which puts its own into `LOSSES`: what the setting `loss` may be."""

# ruff: noqa: F401
from trainers.losses.contrastive import BLOCK, info_nce
from trainers.losses.loss import LOSSES, Loss, matryoshka
