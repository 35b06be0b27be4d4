"""The encoder: end token, pooling, attention, activation checkpointing, LoRA, saving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Pooling, StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DataCollatorWithFlattening,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from mixture.errors import UsageError
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.gradient_cache import TokenBudget
from trainers.model.adapters import add_lora, merge_lora
from trainers.model.encoder import (
    append_end_token,
    as_features,
    lacks_for_flash,
    load_encoder,
    load_for_training,
)
from trainers.model.identity import model_identity
from trainers.model.tiny import build_tiny
from trainers.settings import TrainingSettings

TEXTS = ["the river of the north", "the king", "the capital of the south is x, and more of it", "the king", "y"]


def test_tiny_models_are_the_same_bits_for_the_same_texts_and_seed(tmp_path: Path, tiny_model: Path) -> None:
    texts = ["a b c", "c d e"] * 5
    one, two = (build_tiny(texts, tmp_path / n, seed=3, vocabulary=280, hidden=32) for n in "ab")
    np.testing.assert_array_equal(one.encode(TEXTS), two.encode(TEXTS))
    other = build_tiny(texts, tmp_path / "c", seed=4, vocabulary=280, hidden=32)
    assert not np.allclose(one.encode(TEXTS), other.encode(TEXTS))


WORDS = ["the river of the north", "the king", "end of the south"] * 3


def _byte_level(specials: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(WORDS, trainer)
    return backend


def _saved_as(tokenizer: PreTrainedTokenizerBase, folder: Path, **config: Any) -> Path:
    """Saved with further keys in its tokenizer_config.json, which the published models have."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def qwen(folder: Path) -> Path:
    """Byte-level BPE, neither begin nor end token."""
    body = json.loads(_byte_level(["<|endoftext|>"]).to_str())["model"]
    merges = [tuple(pair) for pair in body["merges"]]
    return _saved_as(Qwen2Tokenizer(vocab=body["vocab"], merges=merges), folder, add_bos_token=False)


def llama2(folder: Path) -> Path:
    """BPE on words with a space mark, unknown characters as bytes; a begin token only. Mistral's are the same."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(WORDS, trainer)
    body = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in body["merges"]]
    tokenizer = LlamaTokenizer(vocab=body["vocab"], merges=merges, add_bos_token=True)
    return _saved_as(tokenizer, folder, add_bos_token=True, add_eos_token=False)


def llama3(folder: Path) -> Path:
    """Byte-level BPE whose template adds a begin token only."""
    backend = _byte_level(["<|begin_of_text|>", "<|end_of_text|>"])
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B:1",
        special_tokens=[("<|begin_of_text|>", 0)],
    )  # fmt: skip
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    ends = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    return _saved_as(PreTrainedTokenizerFast(tokenizer_object=backend, **ends), folder)


TOKENIZERS = {"qwen": (qwen, None), "llama2": (llama2, "<s>"), "llama3": (llama3, "<|begin_of_text|>")}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_end_token_is_appended_once_and_survives_truncation_and_saving(tmp_path: Path, kind: str) -> None:
    make, begin = TOKENIZERS[kind]
    tokenizer = AutoTokenizer.from_pretrained(make(tmp_path / "raw"))
    plain = tokenizer("the king", add_special_tokens=False).input_ids
    first = [] if begin is None else [tokenizer.convert_tokens_to_ids(begin)]
    assert tokenizer("the king").input_ids == [*first, *plain], "the tokenizer already has what is tested here"
    for _ in range(2):
        append_end_token(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    for ready in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        end = ready.eos_token_id
        assert ready("the king").input_ids == [*first, *plain, end]
        cut = ready("the river of the north " * 20, truncation=True, max_length=9).input_ids
        assert (len(cut), cut[-1], cut.count(end)) == (9, end, 1)
        batch = ready(["the king", "a text that is quite long"], padding=True)
        assert (ready.padding_side, batch["attention_mask"][0][0], batch["attention_mask"][0][-1]) == ("right", 1, 0)
        assert ready.pad_token is not None


def _plain_model(folder: Path, make: Callable[[Path], Path] = qwen) -> Path:
    """A causal language model as it is published: no modules of sentence-transformers."""
    tokenizer = AutoTokenizer.from_pretrained(make(folder))
    small = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip
    model = Qwen2ForCausalLM(Qwen2Config(**small)) if make is qwen else LlamaForCausalLM(LlamaConfig(**small))
    model.save_pretrained(folder)
    return folder


def _plain_bert(folder: Path) -> Path:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "river", "king", "of", "north"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(folder)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                        num_attention_heads=2, max_position_embeddings=32, initializer_range=0.3)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_plain_language_model_reads_its_end_token_also_after_saving(tmp_path: Path, kind: str) -> None:
    encoder = load_encoder(str(_plain_model(tmp_path / "raw", TOKENIZERS[kind][0])), max_tokens=32)
    assert encoder[1].pooling_mode == "lasttoken"
    encoder.save(str(tmp_path / "saved"), create_model_card=False)
    texts = ["the king", "the river of the north"]
    states = encoder.transformers_model(**encoder.tokenizer(texts[0], return_tensors="pt")).last_hidden_state[0]
    assert encoder.tokenizer(texts[0]).input_ids[-1] == encoder.tokenizer.eos_token_id
    wanted = torch.nn.functional.normalize(states[-1], dim=-1).detach().numpy()
    for ready in (encoder, SentenceTransformer(str(tmp_path / "saved")), load_encoder(str(tmp_path / "saved"))):
        np.testing.assert_allclose(ready.encode(texts)[0], wanted, atol=1e-6)


@pytest.mark.parametrize("make", [_plain_model, _plain_bert])
@pytest.mark.parametrize("pooling", ["auto", "mean", "cls", "last"])
def test_pooling_reads_the_tokens_it_says(tmp_path: Path, make: Callable[[Path], Path], pooling: str) -> None:
    folder = make(tmp_path / "raw")
    if pooling == "cls" and make is _plain_model:
        with pytest.raises(UsageError, match="first token has seen no other; allowed: auto, last or mean"):
            load_encoder(str(folder), pooling=pooling)
        return
    encoder = load_encoder(str(folder), pooling=pooling)
    if pooling == "auto":
        pooling = "last" if make is _plain_model else "mean"
    encoder.save(str(tmp_path / "saved"), create_model_card=False)
    texts = ["the king", "the river of the north"]
    ids = encoder.tokenizer(texts[0], return_tensors="pt")
    states = encoder.transformers_model(**ids).last_hidden_state[0].detach()
    pooled = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling]
    wanted = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    for ready in (encoder, SentenceTransformer(str(tmp_path / "saved"))):  # the shorter text is padded
        np.testing.assert_allclose(ready.encode(texts)[0], wanted, atol=1e-6)


def test_lora_is_as_the_settings_say_and_starts_at_nothing(tiny_model: Path) -> None:
    found = []
    for alpha in (8, 16):
        encoder = load_encoder(str(tiny_model))
        before = encoder.encode(["a text"])
        linear = {name for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)}
        add_lora(encoder, TrainingSettings(lora_rank=4, lora_alpha=alpha, lora_dropout=0.25))
        assert len(linear) == 2 * 7
        assert {name for name, module in encoder.named_modules() if isinstance(module, LoraLayer)} == linear
        np.testing.assert_allclose(encoder.eval().encode(["a text"]), before, atol=1e-6)
        layers = [module for module in encoder.modules() if isinstance(module, LoraLayer)]
        assert {layer.r["default"] for layer in layers} == {4}
        assert {layer.lora_dropout["default"].p for layer in layers} == {0.25}
        found.append({layer.scaling["default"] for layer in layers})
        trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
        assert trained and all("lora_" in name for name in trained)
    assert found == [{2.0}, {4.0}]


def test_training_pools_as_the_settings_say(tiny_model: Path) -> None:
    for pooling, mode in (("auto", "lasttoken"), ("mean", "mean")):
        encoder = load_for_training(str(tiny_model), TrainingSettings(pooling=pooling))
        assert [module.pooling_mode for module in encoder if isinstance(module, Pooling)] == [mode]


def test_another_pooling_takes_the_place_of_an_embedding_models_own(tmp_path: Path, tiny_model: Path) -> None:
    mean = load_encoder(str(tiny_model), pooling="mean")
    assert [type(module).__name__ for module in mean] == ["Transformer", "Pooling", "Normalize"]
    assert not np.allclose(mean.encode(TEXTS), load_encoder(str(tiny_model)).encode(TEXTS), atol=1e-3)
    mean.save(str(tmp_path / "mean"), create_model_card=False)
    np.testing.assert_array_equal(load_encoder(str(tmp_path / "mean")).encode(TEXTS), mean.encode(TEXTS))
    back = load_encoder(str(tmp_path / "mean"), pooling="last")
    np.testing.assert_allclose(back.encode(TEXTS), load_encoder(str(tiny_model)).encode(TEXTS), atol=1e-6)


def test_a_model_that_pools_no_tokens_keeps_to_auto(tmp_path: Path) -> None:
    words = StaticEmbedding(_byte_level(["<|pad|>"]), embedding_dim=8)
    SentenceTransformer(modules=[words]).save(str(tmp_path), create_model_card=False)
    assert load_encoder(str(tmp_path)).encode(["the king"]).shape == (1, 8)
    with pytest.raises(UsageError, match=r"pools no tokens.*leave pooling at auto"):
        load_encoder(str(tmp_path), pooling="mean")


def test_a_model_that_is_neither_transformer_nor_table_is_not_trained(tmp_path: Path) -> None:
    SentenceTransformer(modules=[BoW(vocab=["the", "king"])]).save(str(tmp_path), create_model_card=False)
    assert load_encoder(str(tmp_path)).encode(["the king"]).shape == (1, 2)
    with pytest.raises(UsageError, match="is no transformer; such a model can be evaluated, but not trained here"):
        load_for_training(str(tmp_path), TrainingSettings())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_what_was_asked_for(tiny_model: Path, attention: str) -> None:
    encoder = load_for_training(str(tiny_model), TrainingSettings(attention=attention))
    assert encoder.transformers_model.config._attn_implementation == attention
    np.testing.assert_allclose(encoder.encode(TEXTS), load_encoder(str(tiny_model)).encode(TEXTS), atol=1e-5)
    # Of the two only eager has the attention weights to show.
    shown = encoder.transformers_model(torch.tensor([[3, 4, 5]]), output_attentions=True).attentions
    assert bool(shown) == (attention == "eager")


def test_flash_attention_says_what_it_lacks(tiny_model: Path) -> None:
    lacking = lacks_for_flash(bf16=False)
    assert lacking[-1] == "bf16 = true"
    with pytest.raises(UsageError, match=r"attention is flash_attention_2, which needs .*bf16 = true; allowed here"):
        load_for_training(str(tiny_model), TrainingSettings(attention="flash_attention_2"))
    assert (
        load_for_training(str(tiny_model), TrainingSettings()).transformers_model.config._attn_implementation == "sdpa"
    )
    with pytest.raises(UsageError, match="attention is flash; allowed: auto, flash_attention_2, sdpa, eager"):
        TrainingSettings(attention="flash")
    with pytest.raises(UsageError, match="pooling is max; allowed: auto, mean, cls, last"):
        TrainingSettings(pooling="max")


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("budget", [TokenBudget(10_000, 10_000), TokenBudget(24, 24)])
def test_activation_checkpointing_computes_layers_twice_and_gradients_alike(
    tiny_model: Path, lora: int, budget: TokenBudget
) -> None:
    """Also inside the gradient cache (the second budget), with dropout."""
    gradients, calls = [], []
    for on in (False, True):
        settings = TrainingSettings(lora_rank=lora, lora_dropout=0.3, activation_checkpointing=on)
        encoder = load_for_training(str(tiny_model), settings).train()
        add_lora(encoder, settings)
        layers: Any = encoder.transformers_model.layers  # type: ignore[union-attr]
        assert [layer.gradient_checkpointing for layer in layers] == [on, on]
        count: list[None] = []
        layers[0].mlp.register_forward_pre_hook(lambda *_, count=count: count.append(None))
        torch.manual_seed(0)
        out = embed_across_ranks(encoder, tokenise(encoder.tokenizer, TEXTS, [16] * len(TEXTS)), budget)
        (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.grad is not None])
        calls.append(len(count))
    assert calls[1] > calls[0]
    assert len(gradients[0]) == len(gradients[1]) > 0
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-6)


def test_texts_in_one_row_without_padding_embed_as_padded_ones(tiny_model: Path) -> None:
    """What flash attention is fed; sdpa, which runs everywhere, keeps the texts of a row apart as well."""
    encoder = load_encoder(str(tiny_model)).eval()
    assert encoder.transformers_model.config.use_cache is False  # else it would not
    ids = encoder.tokenizer(TEXTS).input_ids
    padded = as_features(encoder, ids)
    assert padded["input_ids"].shape == (len(ids), max(map(len, ids)))
    transformer: Any = encoder[0]
    transformer.data_collator = DataCollatorWithFlattening(
        return_position_ids=True, return_seq_idx=True, return_flash_attn_kwargs=True
    )
    transformer.can_flatten_inputs = True
    flat = as_features(encoder, ids)
    assert flat["input_ids"].shape == (1, sum(map(len, ids)))
    assert "attention_mask" not in flat
    assert flat["input_ids"].device == encoder.device
    with torch.no_grad():
        for features in (padded, flat):
            got = encoder(features)["sentence_embedding"].numpy()
            np.testing.assert_allclose(got, load_encoder(str(tiny_model)).encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_padded_as_their_tokenizer_pads_them(tiny_model: Path, side: str) -> None:
    encoder = load_encoder(str(tiny_model))
    encoder.tokenizer.padding_side = side
    features = as_features(encoder, [np.array(ids, dtype=np.int32) for ids in encoder.tokenizer(TEXTS).input_ids])
    wanted = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert features.keys() == {"input_ids", "attention_mask"}
    for name, tensor in features.items():
        torch.testing.assert_close(tensor, wanted[name])
        assert not tensor[:, [0, -1]].eq(tensor[0, 0]).all()  # some are padded


def test_lora_trains_few_parameters_and_merges_into_a_plain_model(tmp_path: Path, tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model))
    before = encoder.encode(TEXTS)
    names = [name for name, _ in encoder.named_parameters()]
    add_lora(encoder, TrainingSettings(lora_rank=4))
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    for name, parameter in trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = encoder.eval().encode(TEXTS)
    assert not np.allclose(adapted, before, atol=1e-3)
    merge_lora(encoder)
    assert [name for name, _ in encoder.named_parameters()] == names
    encoder.save(str(tmp_path / "merged"), create_model_card=False)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "merged")).encode(TEXTS), adapted, atol=1e-5)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_models_that_do_not_load_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model folder"):
        load_encoder(str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(UsageError, match="no model loads from"):
        load_encoder(str(tmp_path))


def test_an_embedding_model_keeps_its_own_tokenizer(tmp_path: Path, tiny_model: Path) -> None:
    """A ready-made model may end its texts with another token than `eos_token`; it stays as it is."""
    model = SentenceTransformer(str(tiny_model))
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|pad|>", special_tokens=[("<|pad|>", model.tokenizer.pad_token_id)]
    )
    model.save(str(tmp_path / "own"), create_model_card=False)
    ids = load_encoder(str(tmp_path / "own")).tokenizer("the king").input_ids
    assert ids[-1] == model.tokenizer.pad_token_id
    assert model.tokenizer.eos_token_id not in ids


def test_a_models_identity_is_its_content_not_its_place(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "copy")
    assert model_identity(str(tmp_path / "copy")) == model_identity(str(tiny_model))
    other = SentenceTransformer(str(tiny_model))
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    other.save(str(tmp_path / "copy"), create_model_card=False)
    assert model_identity(str(tmp_path / "copy")) != model_identity(str(tiny_model))
    assert model_identity("organisation/name") == "organisation/name"


def test_the_same_weights_under_another_pooling_are_another_model(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "copy")
    config = tmp_path / "copy" / "1_Pooling" / "config.json"
    config.write_text(config.read_text().replace("lasttoken", "mean"))
    assert load_encoder(str(tmp_path / "copy"))[1].pooling_mode == "mean"
    assert model_identity(str(tmp_path / "copy")) != model_identity(str(tiny_model))
