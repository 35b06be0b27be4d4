"""How many tokens a rank can encode and keep at once: measured on the model, not guessed.

A forward pass on a small batch shows what one token leaves in memory for the backward pass; what is free, less what
gradients and optimiser will take, divided by that, is the budget. It is remembered beside the checkpoints: a resumed
run must group texts as before to give the same bits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from trainers.batch.gradient_cache import TokenBudget
from trainers.model.encoder import as_features
from trainers.model.static import is_static
from trainers.parallel import ranks
from trainers.settings import TrainingSettings

# Padded tokens of a micro-batch where nothing else is said: as many as keep the device busy. Larger ones on a CPU only
# pad more and leave its caches.
PER_PASS = {"cpu": 2_048, "cuda": 32_768}
# Of the free memory; the rest is for what a pass needs for a moment, and for fragments.
SHARE = {"cpu": 0.5, "cuda": 0.7}
UNIT = 1_024  # tokens that budgets are multiples of
SAMPLE_TEXTS = 4


def token_budget(encoder: SentenceTransformer, settings: TrainingSettings, folder: Path) -> TokenBudget:
    """The settings' own numbers; for what they leave open what suits the device, as when the run in `folder` began.
    A static model keeps no activations, and needs none."""
    if is_static(encoder):
        return TokenBudget(settings.tokens_per_pass or UNIT, settings.tokens_kept or UNIT)
    kept = settings.tokens_kept or _remembered(folder / "tokens_kept.json", lambda: num_fitting(encoder, settings))
    per_pass = settings.tokens_per_pass or min(kept, PER_PASS.get(encoder.device.type, PER_PASS["cuda"]))
    return TokenBudget(per_pass, kept)


def _remembered(file: Path, find: Callable[[], int]) -> int:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".tmp")
        scratch.write_text(json.dumps(find()), "utf-8")
        scratch.replace(file)
    return int(json.loads(file.read_text("utf-8")))


def bytes_kept(encoder: SentenceTransformer, length: int) -> tuple[float, float]:
    """What the backward pass needs kept of texts of `length` tokens, in bytes: of each token, and of a pass whatever
    its size. The latter are copies of weights, under bf16."""
    one, two = (_bytes_of_a_pass(encoder, count, length) for count in (SAMPLE_TEXTS, 2 * SAMPLE_TEXTS))
    per_token = (two - one) / (SAMPLE_TEXTS * length)
    return per_token, max(0.0, one - per_token * SAMPLE_TEXTS * length)


def _bytes_of_a_pass(encoder: SentenceTransformer, count: int, length: int) -> int:
    token = encoder.tokenizer.eos_token_id or encoder.tokenizer.pad_token_id or 0
    # One is shorter, so that there is padding: without, attention may go a way that keeps less.
    inputs = as_features(encoder, [[token] * length] * (count - 1) + [[token] * max(1, length - 1)])
    parameters = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # holds the memory, so that no other tensor takes its place

    training = encoder.training
    encoder.train()  # dropout keeps its masks
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    # A resumed run does not come here: the random numbers must be where they would be without.
    with torch.random.fork_rng(devices), saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
        result = encoder(inputs)["sentence_embedding"]
    encoder.train(training)
    del result
    return sum(kept.values())


def num_fitting(encoder: SentenceTransformer, settings: TrainingSettings) -> int:
    """How many padded tokens' activations fit the device beside gradients and optimiser."""
    device = encoder.device
    # Gradients and AdamW's two moments come with the first step; with fsdp each rank holds its slice of them, and of
    # the weights, which are all here now.
    held = 1 / ranks.state().num_processes if settings.fsdp else 1.0
    coming = sum(3 * 4 * p.numel() * held for p in encoder.parameters() if p.requires_grad)
    coming -= sum(p.numel() * p.element_size() * (1 - held) for p in encoder.parameters())
    room = SHARE.get(device.type, SHARE["cuda"]) * (_free(device) - coming)
    length = min(settings.longest, encoder.max_seq_length or settings.longest)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        per_token, per_pass = bytes_kept(encoder, length)
    largest = settings.tokens_per_pass or PER_PASS.get(device.type, PER_PASS["cuda"])
    tokens = (room - per_pass) / per_token
    if tokens > largest:  # several passes
        tokens = room / (per_token + per_pass / largest)
    return max(UNIT, int(tokens) // UNIT * UNIT)


def _free(device: torch.device) -> int:
    """Bytes that this rank may still take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
