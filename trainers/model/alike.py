"""Whether trained models can be averaged: folders of one architecture, pooling, tokenizer, start, and of the same
prompts. Reads files alone, and loads no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mixture.errors import MixtureError, UsageError
from trainers.model.identity import model_identity
from trainers.model.template import CONFIG, DOCUMENT_PROMPTS, RECORD

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Of settings of a model and of its modules, what says nothing of what it computes.
INCIDENTAL = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures",
                        "__version__", "prompts"})  # fmt: skip
# What a tokenizer keeps of the last call.
STATE = frozenset({"truncation", "padding"})
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model")
# Prompts that all texts have, whatever their collection.
GENERAL = ("query", *DOCUMENT_PROMPTS)
LORA = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
# What an adapter may be: plain LoRA on linear layers, which is W + scale · B·A.
PLAIN_LORA = {"peft_type": "LORA", "bias": "none"}
NOT_PLAIN = ("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "modules_to_save", "rank_pattern",
             "alpha_pattern", "trainable_token_indices", "target_parameters", "layer_replication")  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A model's folder, as sentence-transformers or a training here saved it."""

    folder: Path

    @cached_property
    def modules(self) -> list[tuple[str, str]]:
        """Of each module its kind and its place in the folder."""
        return [(module["type"].rpartition(".")[2], module["path"]) for module in _read(self.folder / "modules.json")]

    @cached_property
    def record(self) -> dict[str, Any]:
        """Of a training here or of a soup; empty for other models."""
        return _settings(self.folder / RECORD)

    @cached_property
    def adapter(self) -> dict[str, Any]:
        """The settings of an adapter that is not merged; empty for a whole model."""
        return _settings(self.folder / ADAPTER)

    @cached_property
    def prompts(self) -> dict[str, str]:
        return dict(_settings(self.folder / CONFIG).get("prompts") or {})

    @property
    def start(self) -> str | None:
        """The model that its training began with; None where nothing says so."""
        return self.record.get("model") or self.adapter.get("base_model_name_or_path")

    @cached_property
    def tensors(self) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
        """Weight file, in the folder -> tensor -> its type and shape."""
        files = sorted(self._files("*.safetensors"))
        return {file.relative_to(self.folder).as_posix(): _shapes_in(file) for file in files}

    def files(self) -> list[Path]:
        """Of the model itself, but weights: no card, no record, no logs, no other model inside."""
        files = [file for file in self._files("*") if file.name not in ("README.md", RECORD)]
        return [file for file in files if file.is_file() and file.suffix not in (".safetensors", ".bin")]

    def _files(self, pattern: str) -> Iterator[Path]:
        yield from self.folder.glob(pattern)
        for _, place in self.modules:
            if place:
                yield from (self.folder / place).rglob(pattern)


def opened(folders: Sequence[Path]) -> list[Trained]:
    """The models in these folders. Raises `UsageError` for what is none, or is not kept in safetensors."""
    for folder in folders:
        if not (folder / "modules.json").is_file():
            raise UsageError(f"{folder} holds no model; name folders that `train` or sentence-transformers saved")
    models = [Trained(folder) for folder in folders]
    for model in models:
        if old := [file for file in model._files("*.bin") if file.is_file()]:
            raise UsageError(f"{old[0]} is no safetensors file; save the model anew with sentence-transformers")
    return models


def check_alike(models: Sequence[Trained]) -> None:
    """Raise `UsageError` where a model cannot be averaged with the first, saying which and why."""
    first = models[0]
    for model in models:
        for fault in _own_faults(model):
            raise UsageError(f"{model.folder} cannot be averaged: {fault}")
    for model in models[1:]:
        for fault in _faults(first, model):
            raise UsageError(f"{model.folder} cannot be averaged with {first.folder}: {fault}")
    texts: dict[str, tuple[str, Trained]] = {}
    for model in models:
        for name, text in model.prompts.items():
            before, other = texts.setdefault(name, (text, model))
            if before != text:
                fault = f"its prompt {name} is {text!r}, not {before!r}"
                raise UsageError(f"{model.folder} cannot be averaged with {other.folder}: {fault}")


def common_start(models: Sequence[Trained]) -> str | None:
    """The model that all began with; None where that is not known of each."""
    return models[0].start if all(model.start is not None for model in models) else None


def _own_faults(model: Trained) -> Iterator[str]:
    if model.adapter:
        for name, only in PLAIN_LORA.items():
            if model.adapter.get(name) != only:
                yield f"its adapter has {name} {model.adapter.get(name)!r}; allowed: {only}"
        for name in NOT_PLAIN:
            if model.adapter.get(name):
                yield f"its adapter has {name}, and is no plain LoRA"
        for name in model.tensors.get(ADAPTER_WEIGHTS, {}):
            if LORA.fullmatch(name) is None:
                yield f"its adapter has {name}, which is no LoRA of a linear layer"
        if others := model.tensors.keys() - {ADAPTER_WEIGHTS}:
            yield f"beside its adapter it has weights of its own in {min(others)}; train it with `lora_merge=true`"
    elif not any(model.tensors.values()):
        yield "it has no weights"


def _faults(first: Trained, other: Trained) -> Iterator[str]:
    """What keeps a model from being averaged with the first, the plainest reason first."""
    if first.modules != other.modules:
        kinds = [", ".join(kind for kind, _ in model.modules) for model in (other, first)]
        yield f"it has the modules {kinds[0]}, not {kinds[1]}"
        return
    if bool(first.adapter) != bool(other.adapter):
        yield "one is an adapter, the other a whole model; train both with `lora_merge=true`"
    yield from _differences(first, other, "config.json", "another architecture")
    if first.start and other.start and not _same_model(first.start, other.start):
        yield f"it was trained from {other.start}, not from {first.start}"
    for kind, place in first.modules:
        what = "another pooling" if kind == "Pooling" else f"another module {kind}"
        if place:
            yield from _differences(first, other, f"{place}/config.json", what)
    yield from _differences(first, other, "sentence_bert_config.json", "other settings")
    if _tokenizer(first) != _tokenizer(other):
        yield "it has another tokenizer"
    yield from _differences(first, other, CONFIG, "other settings")
    for name in GENERAL:
        if (texts := [model.prompts.get(name) or "" for model in (other, first)]) and texts[0] != texts[1]:
            yield f"its prompt {name} is {texts[0]!r}, not {texts[1]!r}"
    templates = [model.record.get("template") for model in (other, first)]
    if None not in templates and templates[0] != templates[1]:
        yield "it was trained with another template of queries and passages"
    if not first.adapter:
        yield from _shapes(first, other)


def _shapes(first: Trained, other: Trained) -> Iterator[str]:
    mine, theirs = (
        {place_of(file, name): facts for file, held in model.tensors.items() for name, facts in held.items()}
        for model in (first, other)
    )
    if lacking := sorted(mine.keys() ^ theirs.keys()):
        yield f"only one of them has the weights {lacking[0]}"
    for name in mine:
        if name in theirs and mine[name] != theirs[name]:
            yield f"its weights {name} are {_shape(theirs[name])}, not {_shape(mine[name])}"


def place_of(file: str, name: str) -> str:
    """A tensor by the folder of its module: how many files hold a module may differ."""
    return f"{file.rpartition('/')[0]}/{name}".lstrip("/")


def _shape(facts: tuple[str, tuple[int, ...]]) -> str:
    return f"{' × '.join(map(str, facts[1]))} ({facts[0]})"


def _differences(first: Trained, other: Trained, file: str, what: str) -> Iterator[str]:
    mine, theirs = (_settings(model.folder / file) for model in (first, other))
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in INCIDENTAL and mine.get(name) != theirs.get(name):
            yield f"{what} ({file}: {name} is {theirs.get(name)!r}, not {mine.get(name)!r})"


def _tokenizer(model: Trained) -> Any:
    """What decides a text's tokens."""
    if body := _settings(model.folder / "tokenizer.json"):
        return {name: part for name, part in body.items() if name not in STATE}
    files = [model.folder / name for name in VOCABULARIES]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def _same_model(one: str, other: str) -> bool:
    if one == other:
        return True
    if not (Path(one).is_dir() and Path(other).is_dir()):
        return False
    return model_identity(one) == model_identity(other)


def _settings(file: Path) -> dict[str, Any]:
    return dict(_read(file)) if file.is_file() else {}


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise MixtureError(f"{file} is damaged: {error}") from error


def _shapes_in(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor -> its type and shape; none of it is read."""
    try:
        with safe_open(file, framework="np") as stream:
            slices = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118 - not a dictionary
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise MixtureError(f"{file} is damaged: {error}") from error
