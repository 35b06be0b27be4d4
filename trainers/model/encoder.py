"""The encoder is a sentence-transformers model. Here: load it, with its pooling, its end token and its attention."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from mixture.errors import MixtureError, UsageError
from trainers.model import four_bit
from trainers.model.adapters import has_lora, merge_lora
from trainers.model.bidirectional import check_both_ways, read_both_ways
from trainers.model.identity import STATIC, locate
from trainers.model.static import is_static, packaged, prepare
from trainers.settings import TrainingSettings

MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
FLASH = "flash_attention_2"
for _noisy in ("sentence_transformers", "transformers"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)
disable_progress_bar()
# Products of matrices on this CPU are then the same to the bit whatever the number of threads. MKL reads its mode at
# the process's first product, and processes that are started inherit it. Without it some sizes, as (64, 1536) by
# (1536, 384), differ in their last bits between one thread and two.
if torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
    os.environ.setdefault("MKL_CBWR", f"{torch.backends.cpu.get_cpu_capability()},STRICT")


def load_for_training(model: str, settings: TrainingSettings) -> SentenceTransformer:
    """`load_encoder` with the pooling, attention and activation checkpointing that the settings ask for.

    A folder that holds an adapter (`lora_merge` was off) has it merged into its weights first. Raises `UsageError`
    where the model or the machine cannot do what is asked.
    """
    weights = four_bit.nf4(bf16=settings.bf16) if settings.four_bit else None
    encoder = load_encoder(model, max_tokens=settings.longest, pooling=settings.pooling, quantization=weights)
    if is_static(encoder):
        prepare(encoder)
        return encoder
    if settings.four_bit:
        four_bit.prepare(encoder)
    if has_lora(encoder):
        if settings.four_bit:
            raise UsageError(f"{model!r} is itself an unmerged adapter, and four_bit is true; allowed: false")
        if settings.lora_rank and not settings.lora_merge:
            raise UsageError(
                f"{model!r} is itself an unmerged adapter, on which no other can stand: set lora_merge = true"
            )
        merge_lora(encoder)
        encoder.requires_grad_(True)
    for module in encoder:
        if isinstance(module, Pooling):
            module.include_prompt = True  # texts come with their prompts in them
    if settings.bidirectional:
        read_both_ways(encoder)  # under the attention that others will load it with
    set_attention(encoder, settings.attention, bf16=settings.bf16)
    if settings.bidirectional:
        check_both_ways(encoder, bf16=settings.bf16)
    if settings.activation_checkpointing:
        checkpoint_activations(encoder)
    return encoder


def load_encoder(
    model: str, *, max_tokens: int | None = None, pooling: str = "auto", quantization: Any = None
) -> SentenceTransformer:
    """A model by folder or hub name, on CPU or GPU as torch finds it, in float32, or as transformers' `quantization`
    config says.

    A sentence-transformers folder keeps its pooling. A plain language model gets last-token pooling with an end token
    appended, any other plain encoder mean pooling; both get normalised embeddings. `pooling` (mean, cls or last) takes
    the place of either. all-MiniLM-L6-v2 is taken from the package of the extra `demo` where that is installed.

    Raises `UsageError` where nothing loads from `model`, or where the pooling does not fit it.
    """
    source = locate(model)
    try:
        encoder = (
            packaged(Path(source))
            if model == STATIC
            else SentenceTransformer(source, model_kwargs={"dtype": torch.float32, "quantization_config": quantization})
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"no model loads from {model!r}: {first[:200]}") from error
    config: Any = getattr(encoder.transformers_model, "config", None)
    if getattr(config, "use_cache", False):
        # Keys and values for texts that never go on; with them, texts of one row are not kept apart under sdpa.
        # sentence-transformers switches it off itself from some version after 6.0 on.
        config.use_cache = False
    plain = not _is_embedding_model(source)
    if plain and not any(isinstance(m, Normalize) for m in encoder):
        encoder.append(Normalize())
    if max_tokens is not None and not is_static(encoder):
        if encoder.transformers_model is None:
            raise UsageError(f"{model!r} is no transformer; such a model can be evaluated, but not trained here")
        limit = encoder.max_seq_length
        encoder.max_seq_length = min(max_tokens, limit) if limit else max_tokens
    replaced = pooling != "auto" and _replace_pooling(encoder, MODES[pooling], model)
    if (plain or replaced) and pools_last_token(encoder):
        append_end_token(encoder.tokenizer)
    return encoder


def _replace_pooling(encoder: SentenceTransformer, mode: str, model: str) -> bool:
    """Whether another pooling was there. The tokenizer then pads on the right, as models are trained with."""
    found = [(place, module) for place, module in enumerate(encoder) if isinstance(module, Pooling)]
    if not found:
        raise UsageError(f"{model!r} pools no tokens, so that its pooling cannot be chosen; leave pooling at auto")
    place, before = found[0]
    if before.pooling_mode == mode:
        return False
    if mode == "cls" and before.pooling_mode == "lasttoken":
        raise UsageError(
            f"pooling is cls, but {model!r} reads from left to right: its first token has seen no other; "
            "allowed: auto, last or mean"
        )
    encoder[place] = Pooling(before.embedding_dimension, mode, include_prompt=before.include_prompt)
    encoder.tokenizer.padding_side = "right"
    return True


def set_attention(encoder: SentenceTransformer, attention: str, *, bf16: bool) -> None:
    """Choose how the model computes attention: auto, flash_attention_2, sdpa or eager.

    auto takes flash attention where it can work (flash_attn installed, a CUDA device, bf16, a model that has it), else
    what the model came with: sdpa, or eager for models that lack it. Raises `UsageError` for what cannot work.
    """
    lacking = lacks_for_flash(bf16=bf16)
    model: Any = encoder.transformers_model
    if attention == "auto":
        if lacking or not getattr(model, "_supports_flash_attn", False):
            return
        attention = FLASH
    if attention == FLASH and lacking:
        raise UsageError(f"attention is {FLASH}, which needs {', '.join(lacking)}; allowed here: auto, sdpa or eager")
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError) as error:
        raise UsageError(f"attention is {attention}: {str(error).splitlines()[0]}") from error
    if model.config._attn_implementation != attention:
        raise UsageError(f"attention is {attention}, which {type(model).__name__} cannot change to; leave it at auto")
    for module in encoder:
        if isinstance(module, Transformer):
            module.unpad_inputs = module.unpad_inputs  # has it look again whether it can leave out the padding


def lacks_for_flash(*, bf16: bool) -> list[str]:
    """What flash attention 2 needs and does not find here; empty where it can work."""
    found = {
        "the package flash-attn (the extra gpu)": importlib.util.find_spec("flash_attn") is not None,
        "a CUDA device": torch.cuda.is_available(),
        "bf16 = true": bf16,
    }
    return [need for need, there in found.items() if not there]


def checkpoint_activations(encoder: SentenceTransformer) -> None:
    """Have each layer keep only its input, and compute the rest again in the backward pass. In place."""
    model: Any = encoder.transformers_model
    if not model.supports_gradient_checkpointing:
        raise UsageError("activation_checkpointing is true, which this model does not support; allowed: false")
    # transformers renamed it within version 5.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def as_features(encoder: SentenceTransformer, ids: Sequence[Sequence[int] | np.ndarray]) -> dict[str, Any]:
    """Texts as token ids to what the encoder is called with, on its device: padded to the longest, (N, longest).

    Under flash attention they stand in one row without padding, (1, total), with the places where they begin.
    """
    transformer: Any = encoder[0]
    if getattr(transformer, "can_flatten_inputs", False):
        lists = [{"input_ids": np.asarray(one).tolist()} for one in ids]
        features = dict(transformer.data_collator(lists))
        features.pop("labels", None)
        features["position_ids"] = features["position_ids"] + getattr(transformer, "_flatten_position_offset", 0)
    else:
        features = _padded(ids, encoder.tokenizer.pad_token_id, encoder.tokenizer.padding_side)
    device = encoder.device
    return {name: to_device(value, device) if isinstance(value, Tensor) else value for name, value in features.items()}


def _padded(ids: Sequence[Sequence[int] | np.ndarray], pad: int, side: str) -> dict[str, Any]:
    # tokenizer.pad goes by way of lists: slow, and 40 bytes a token.
    lengths = np.array([len(one) for one in ids])[:, None]
    width = int(lengths.max())
    places = np.arange(width)[None, :]
    there = places >= width - lengths if side == "left" else places < lengths
    tokens = np.full(there.shape, pad, dtype=np.int64)
    tokens[there] = np.concatenate(ids)
    return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(there.astype(np.int64))}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`; to a GPU by way of pinned memory, since a copy from any other waits for all work queued before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _is_embedding_model(source: str) -> bool:
    """Whether it comes with modules of its own (a folder, or a hub model in the cache) and stays as it is."""
    if Path(source).is_dir():
        return (Path(source) / "modules.json").is_file()
    return isinstance(try_to_load_from_cache(source, "modules.json"), str)


def pools_last_token(encoder: SentenceTransformer) -> bool:
    return any(isinstance(m, Pooling) and m.pooling_mode == "lasttoken" for m in encoder)


def append_end_token(tokenizer: Any) -> None:
    """Make the tokenizer end every text with its end token, in place, also after it is saved and loaded.

    Qwen and Llama tokenizers append none by themselves; last-token pooling would read an ordinary word. BERT's end
    with their separator, which serves.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Llama's class pads on the left by default; what is in `init_kwargs` is saved.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
    end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
    before = tokenizer("end").input_ids
    if set(before[-1:]) & {tokenizer.sep_token_id, end_id}:
        return
    if end_id is None:
        raise MixtureError("the model's tokenizer has no end token, which last-token pooling needs")
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
