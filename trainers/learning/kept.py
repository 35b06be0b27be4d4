"""A model's weights as a dictionary of tensors: copied out, written in, multiplied, and kept in files whole or not at
all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from sentence_transformers import SentenceTransformer
from torch import Tensor

Weights = dict[str, Tensor]
# Of a matrix that has an adapter, what stands in its name before the last part.
ADAPTED = ".base_layer."
# Numbers of each of several models that are multiplied at a time.
AT_ONCE = 2**20


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """The weights by themselves, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def write_into(encoder: SentenceTransformer, weights: Mapping[str, Tensor]) -> None:
    """Put `weights` where they belong, whether the matrix has an adapter beside it or not."""
    there = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    with torch.no_grad():
        for name, tensor in weights.items():
            parent, _, last = name.rpartition(".")
            (there[name] if name in there else there[f"{parent}{ADAPTED}{last}"]).copy_(tensor)


def difference(after: Weights, before: Weights) -> Weights:
    """What was added to `before`, in float32."""
    return {name: after[name].float() - before[name].float() for name in before}


def added(start: Weights, changes: Iterable[tuple[float, Weights]]) -> Weights:
    """`start` and so much of each change, in float32."""
    total = {name: tensor.float().clone() for name, tensor in start.items()}
    for share, change in changes:  # which may be trained only now
        for name, tensor in change.items():
            total[name].add_(tensor, alpha=share)
    return total


def inner_products(changes: Sequence[Weights]) -> np.ndarray:
    """⟨a, b⟩ of each two of N changes, (N, N) float64."""
    total = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for name in changes[0]:
        flat = [change[name].reshape(-1) for change in changes]
        for start in range(0, len(flat[0]), AT_ONCE):
            part = torch.stack([values[start : start + AT_ONCE] for values in flat]).double()
            total += part @ part.T
    return np.asarray(total.numpy())


def keep(file: Path, weights: Mapping[str, Tensor], **facts: Any) -> None:
    """Weights and what is to be known of them, in one file."""
    body = save({n: w.contiguous() for n, w in weights.items()}, metadata={"facts": json.dumps(facts)})
    replace(file, body)


def load(file: Path) -> Weights:
    """The weights of a file."""
    return dict(load_file(file))


def facts_of(file: Path) -> dict[str, Any]:
    """What `keep` was told of the weights of a file."""
    with safe_open(file, framework="pt") as opened:
        return dict(json.loads((opened.metadata() or {}).get("facts", "{}")))


def replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".writing-{file.name}")
    scratch.write_bytes(content)
    scratch.replace(file)


def remove(folder: Path) -> None:
    """Remove a folder all at once, as it seems: half of a checkpoint would be taken for a whole one."""
    gone = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_dir():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def digest(*key: Any) -> str:
    """What a file is called that depends on `key`."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
