"""What the script that made the fixtures and the test of them both ask: of answers, of files, of the machine."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import load_file
from torch.nn import functional


def lasting(answer: Any) -> Any:
    """A command's answer without times, which some print in the reader's zone, and numbers of snapshots, which count
    what was written before. SQL tells both."""
    if isinstance(answer, list):
        return [lasting(part) for part in answer]
    if isinstance(answer, dict):
        passing = ("created", "created_at", "snapshot")
        return {key: lasting(value) for key, value in answer.items() if key not in passing}
    return answer


def digest(file: Path) -> str:
    """SHA-256 of the tensors of a safetensors file: names, types, shapes and bits, in order of name."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def embedded(store: Path) -> int:
    """How many embeddings of references a store keeps: one more for each text that a resumed run did not find there."""
    found = 0
    for file in store.glob("runs/reference-embeddings/*/*.arrows"):
        with pa.OSFile(str(file)) as source:
            found += sum(batch.num_rows for batch in pa.ipc.open_stream(source))
    return found


def machine() -> dict[str, str]:
    """What decides the last bits of a training. Machines that agree in all of it must train to the same bits."""
    versions = {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "numpy")}
    return versions | {
        "system": platform.system(), "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(), "arithmetic": _arithmetic(),
    }  # fmt: skip


def _arithmetic() -> str:
    """A digest of three steps of a layer like the tiny model's: processors of one capability still differ in it where
    their libraries take other ways."""
    width, found = 16, hashlib.sha256()
    shapes = [(width, width)] * 4 + [(3 * width, width), (width, 3 * width)]
    weights = [_numbers(n + 1, *shape).requires_grad_() for n, shape in enumerate(shapes)]
    optimizer = torch.optim.AdamW(weights, lr=0.01, fused=True)
    for texts, length in ((6, 9), (12, 24), (18, 53)):
        tokens = _numbers(7, texts, length, width)
        seen = (torch.arange(length)[None, :] < torch.arange(texts)[:, None] % length + 1)[:, None, None, :]
        heads = [
            functional.linear(tokens * torch.rsqrt(tokens.pow(2).mean(-1, keepdim=True) + 1e-6), weight)
            .reshape(texts, length, 4, 4).transpose(1, 2)
            for weight in weights[:3]
        ]  # fmt: skip
        mixed = functional.scaled_dot_product_attention(*heads, attn_mask=seen).transpose(1, 2).reshape(tokens.shape)
        mixed = tokens + functional.linear(mixed, weights[3])
        mixed = mixed + functional.linear(functional.silu(functional.linear(mixed, weights[4])), weights[5])
        pooled = functional.normalize(mixed[:, -1], dim=-1)
        loss = functional.cross_entropy(pooled @ pooled.T / 0.05, torch.arange(texts).roll(1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for tensor in (loss, *weights):
            found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()[:16]


def _numbers(seed: int, *shape: int) -> torch.Tensor:
    """Numbers between -1 and 1 that no generator draws: fractions of multiples, exact in float64."""
    count = int(torch.tensor(shape).prod())
    return ((torch.arange(1, count + 1, dtype=torch.float64) * (0.381966 + seed)) % 1 * 2 - 1).float().reshape(shape)
