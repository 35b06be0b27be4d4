"""Several processes that encode: each loads the model, and takes one group of texts after another.

Each GPU has a process of its own, as far as there are GPUs; on a CPU they share its cores.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection, get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from mixture.embeddings import Kind
from mixture.engine import Elsewhere, num_threads
from mixture.errors import MixtureError, UsageError
from trainers.batch.encoding import AT_ONCE, encode
from trainers.model.encoder import load_encoder
from trainers.model.identity import STATIC, loaded_identity

_encoder: SentenceTransformer | None = None  # of a worker


class Workers(Protocol):
    """Processes that hold a model each. few: texts up to which a call is not worth sending."""

    few: int

    def encode(self, groups: Sequence[list[str]], prompt: str, kind: Kind, unit: bool) -> Iterator[np.ndarray]:
        """The embeddings of each group of texts, in order: (b, D) float32. A process that dies is a `MixtureError`."""
        ...


class ClusterWorkers:
    """Of an engine of several machines, each of which has the model by this name; one that has another model by it is
    refused. identity: of `loaded_identity`"""

    few = 0  # the machine here may have no GPU

    def __init__(self, model: str, count: int, engine: Elsewhere, identity: str) -> None:
        name = str(Path(model).resolve()) if Path(model).is_dir() and model != STATIC else model
        self._map = engine.holders(partial(_loaded, name, identity), count)

    def encode(self, groups: Sequence[list[str]], prompt: str, kind: Kind, unit: bool) -> Iterator[np.ndarray]:
        yield from self._map((texts, prompt, kind, unit) for texts in groups)


def _loaded(model: str, identity: str) -> Callable[[tuple[list[str], str, Kind, bool]], np.ndarray]:
    torch.set_num_threads(num_threads())
    try:
        encoder = load_encoder(model)
    except UsageError as error:
        raise UsageError(f"on the machine {socket.gethostname()}: {error}") from error
    if loaded_identity(encoder, model) != identity:
        raise UsageError(f"the machine {socket.gethostname()} has another model by the name {model}")
    return lambda asked: _embeddings(encoder, *asked)


class LocalWorkers:
    """Processes that hold a model. They end with this object, or with the process that made it, however that ends."""

    few = AT_ONCE

    def __init__(self, model: str, count: int) -> None:
        context = get_context("spawn")
        gpus = torch.cuda.device_count()
        devices: SimpleQueue[str | None] = context.SimpleQueue()
        for number in range(count):
            devices.put(f"cuda:{number % gpus}" if gpus else None)
        threads = max(1, torch.get_num_threads() // count)
        self._pool = ProcessPoolExecutor(count, context, _start, (model, threads, devices))

    def encode(self, groups: Sequence[list[str]], prompt: str, kind: Kind, unit: bool) -> Iterator[np.ndarray]:
        try:
            yield from self._pool.map(partial(_encoded, prompt=prompt, kind=kind, unit=unit), groups)
        except BrokenProcessPool as error:
            raise MixtureError("a process that encodes ended before its time; its memory may not suffice") from error


def _start(model: str, threads: int, devices: SimpleQueue[str | None]) -> None:
    global _encoder
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _encoder = load_encoder(model)
    device = devices.get()
    if device is not None:
        _encoder.to(device)


def _end_with_parent() -> None:
    # A killed parent closes no queue that a sibling holds too: its workers would wait for ever.
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _encoded(texts: list[str], prompt: str, kind: Kind, unit: bool) -> np.ndarray:
    assert _encoder is not None
    return _embeddings(_encoder, texts, prompt, kind, unit)


def _embeddings(encoder: SentenceTransformer, texts: list[str], prompt: str, kind: Kind, unit: bool) -> np.ndarray:
    return np.asarray(encode(encoder, texts, prompt, kind=kind, unit=unit).cpu().numpy())
