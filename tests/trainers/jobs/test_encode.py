"""Encoders of mining: instructions of the model or of its name, and what their embeddings depend on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, BertModel, BertTokenizerFast

from mixture import Store, jobs
from mixture.errors import UsageError
from trainers import encode_with
from trainers.model.instructions import known_instructions

SEARCHING = "Represent this sentence for searching relevant passages: "


@pytest.fixture(scope="module")
def bge(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """A folder as bge-small-en-v1.5 is one, but tiny: BertModel, the first token's vector, of unit length."""
    folder = tmp_path_factory.mktemp("bge")
    own = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", "query", *SEARCHING.lower().removesuffix(": ").split()]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*own, *map(str.lower, words)])) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=48)
    model = SentenceTransformer(modules=[transformer, Pooling(32, "cls"), Normalize()])
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def named(bge: Path, folder: Path, **prompts: str) -> str:
    """A copy of the model with these prompts in its `config_sentence_transformers.json`."""
    model = SentenceTransformer(str(bge))
    model.save(str(folder), create_model_card=False)
    file = folder / "config_sentence_transformers.json"
    facts = json.loads(file.read_text()) | {"prompts": prompts, "default_prompt_name": None}
    if not prompts:
        del facts["prompts"]  # as BAAI's own files are
    file.write_text(json.dumps(facts))
    return str(folder)


def test_the_instruction_of_a_folder_goes_before_queries_and_not_before_passages(bge: Path, tmp_path: Path) -> None:
    model = named(bge, tmp_path / "my-model", query=SEARCHING)
    text, theirs = ["the river of the north"], SentenceTransformer(model)
    encode = encode_with(model)
    asked, plain = theirs.encode([SEARCHING + text[0]]), theirs.encode(text)
    np.testing.assert_allclose(encode(text, "query"), asked, atol=1e-6)
    np.testing.assert_allclose(encode(text, "passage"), plain, atol=1e-6)
    assert not np.allclose(asked, plain, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(encode(text, "query"), axis=1), 1, atol=1e-6)
    first = theirs[0].auto_model(**theirs.tokenize(text)).last_hidden_state[0, 0].detach().numpy()
    np.testing.assert_allclose(encode(text, "passage")[0], first / np.linalg.norm(first), atol=1e-5)


def test_a_known_name_without_prompts_gets_its_instruction_and_others_do_not(bge: Path, tmp_path: Path) -> None:
    known, unknown = (named(bge, tmp_path / name) for name in ("bge-small-en-v1.5", "my-own-model"))
    assert encode_with(known).instructions == (SEARCHING, "")
    assert encode_with(unknown).instructions == ("", "")
    own = named(bge, tmp_path / "own" / "bge-small-en-v1.5", query="query: ")
    assert encode_with(own).instructions == ("query: ", "")
    trained = Path(named(bge, tmp_path / "trained" / "bge-small-en-v1.5"))
    (trained / "training.json").write_text("{}")  # trained here, without an instruction
    assert encode_with(str(trained)).instructions == ("", "")


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("BAAI/bge-base-en-v1.5", SEARCHING, ""),
        ("BAAI/bge-large-en", SEARCHING, ""),
        ("/models/bge-small-zh-v1.5/", "为这个句子生成表示以用于检索相关文章：", ""),
        ("intfloat/e5-small-v2", "query: ", "passage: "),
        ("intfloat/multilingual-e5-base", "query: ", "passage: "),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("/c/hub/models--BAAI--bge-small-en-v1.5/snapshots/0a1b", SEARCHING, ""),
        ("BAAI/bge-m3", "", ""),
        ("my-bge-small-en-v1.5-finetuned", "", ""),
        ("", "", ""),
    ],
)
def test_known_names(name: str, query: str, passage: str) -> None:
    assert known_instructions(name) == (query, passage)


def test_a_space_is_of_the_models_files_prompt_and_length(bge: Path, tmp_path: Path) -> None:
    one, same = (encode_with(named(bge, tmp_path / name, query=SEARCHING)) for name in ("one", "same"))
    assert one.space("query") == same.space("query")
    assert one.space("query").prompt == SEARCHING
    assert (one.space("passage").prompt, one.space("passage").max_tokens) == ("", 48)
    shorter = SentenceTransformer(str(tmp_path / "one"))
    shorter.max_seq_length = 20
    shorter.save(str(tmp_path / "shorter"), create_model_card=False)
    assert encode_with(str(tmp_path / "shorter")).space("passage") != one.space("passage")


def test_mining_with_a_model_keeps_its_embeddings(small_store: Store, bge: Path, tmp_path: Path) -> None:
    model = named(bge, tmp_path / "m", query=SEARCHING)
    (first,) = jobs.mine(small_store, "easy", miner=model, encoder=encode_with, per_query=2)
    (second,) = jobs.mine(small_store, "easy", miner=model, encoder=encode_with, per_query=2)
    assert first.encoded > 80
    assert (first.reused, second.encoded, second.reused) == (0, 0, first.encoded)
    facts = [json.loads(file.read_text("utf-8"))["space"] for file in small_store.work.rglob("space.json")]
    assert {fact["prompt"] for fact in facts} == {"", SEARCHING}


def texts_of(words: list[str], count: int) -> list[str]:
    random = np.random.default_rng(5)
    return [" ".join(random.choice(words, random.integers(1, 12))) + f" {n % 7}" for n in range(count)]


def test_two_processes_give_the_same_bits_as_one(bge: Path, words: list[str]) -> None:
    texts = texts_of(words, 2_500)
    alone, two = encode_with(str(bge)), encode_with(str(bge), processes=2)
    two.encoder.forward = None  # type: ignore[assignment]  # so that only the workers can have encoded
    for kind in ("query", "passage"):
        np.testing.assert_array_equal(two(texts, kind), alone(texts, kind))  # type: ignore[arg-type]
    assert alone.space("query") == two.space("query")


def test_processes_below_one_are_refused(bge: Path) -> None:
    with pytest.raises(UsageError, match="`processes` is 0; allowed: 1 or more"):
        encode_with(str(bge), processes=0)


DYING = """
import os, signal, sys
from multiprocessing import active_children
import numpy as np
from trainers import encode_with

if __name__ == "__main__":
    encode = encode_with(sys.argv[1], processes=2)
    encode([f"text {n}" for n in range(1100)], "query")
    print(*(child.pid for child in active_children()), flush=True)
    os.kill({who}, signal.SIGKILL)
    for _ in range(100):  # the other worker may have done all before the kill is seen
        encode([f"text {n}" for n in range(1100)], "query")
"""


@pytest.mark.parametrize("who", ["os.getpid()", "active_children()[0].pid"])
def test_no_process_outlives_a_kill(bge: Path, tmp_path: Path, who: str) -> None:
    """Of the main process, or of one of the workers, which is an error that says so."""
    (tmp_path / "dying.py").write_text(DYING.replace("{who}", who))
    ended = subprocess.run([sys.executable, tmp_path / "dying.py", bge], capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2
    assert ("a process that encodes ended before its time" in ended.stderr) == (who != "os.getpid()")
    waited = time.monotonic()
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() - waited < 60
        time.sleep(0.1)
