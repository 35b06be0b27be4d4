"""Losses of embeddings, a module each, which puts its own into `LOSSES`: what the setting `loss` may be."""

# ruff: noqa: F401
from trainers.losses.contrastive import info_nce
from trainers.losses.distil import distil
from trainers.losses.loss import LOSSES, Loss, matryoshka
from trainers.losses.ndcg import expected_ndcg
from trainers.losses.scores import BLOCK
from trainers.losses.spread import spread_out
