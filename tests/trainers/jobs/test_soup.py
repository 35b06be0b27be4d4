"""Soups: what an average is, what cannot be averaged, and what the folder says of itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import trainers
from cli import app
from mixture import Store, registry
from mixture.errors import MixtureError, UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store.materialise import materialise
from tests.trainers.conftest import write_suite
from trainers.finetune import FinetuneSettings, finetune
from trainers.model.adapters import merge_lora
from trainers.model.encoder import load_encoder
from trainers.model.template import RECORD, own_template

SETTINGS = FinetuneSettings(steps=4, batch_size=8, learning_rate=5e-3, temperature=0.05, negatives=2,
                            max_query_tokens=96, max_passage_tokens=96, tracker="none")  # fmt: skip
WEIGHTS = "model.safetensors"


@pytest.fixture
def train(mixture_data: MaterialisedMixture, tmp_path: Path) -> Callable[..., Path]:
    """`train(model, name, **settings)`: the folder of a model trained on the mixture, or on `data`."""

    def train(model: Path, name: str, *, data: MaterialisedMixture = mixture_data, **settings: Any) -> Path:
        finetune(data, str(model), replace(SETTINGS, **settings), tmp_path / name)
        return tmp_path / name

    return train


@pytest.fixture
def tables(static_model: Path, train: Callable[..., Path]) -> tuple[Path, Path]:
    """Two static models, trained from one with two seeds."""
    return train(static_model, "one", seed=1), train(static_model, "two", seed=2)


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def changed(folder: Path, name: str, file: str, change: Callable[[Any], Any]) -> Path:
    """A copy of a model with one of its JSON files changed."""
    copy = folder.parent / name
    shutil.copytree(folder, copy)
    (copy / file).write_text(json.dumps(change(json.loads((copy / file).read_text("utf-8")))))
    return copy


def test_a_soup_of_static_models_is_the_mean_of_their_tables(tables: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (state(folder)["embedding.weight"] for folder in tables)
    assert float((one - two).abs().max()) > 1e-3
    trainers.soup(tables, out=tmp_path / "equal")
    trainers.soup(tables, out=tmp_path / "weighted", weights=[3, 1])
    for name, shares in (("equal", (0.5, 0.5)), ("weighted", (0.75, 0.25))):
        mean = (shares[0] * one.double() + shares[1] * two.double()).float()
        assert torch.equal(state(tmp_path / name)["embedding.weight"], mean)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_soup_of_one_model_or_of_equal_ones_is_that_model(
    tiny_model: Path, train: Callable[..., Path], tmp_path: Path, count: int
) -> None:
    model = train(tiny_model, "one")
    weights = state(model)
    first = next(iter(weights))
    weights[first].view(-1)[:2] = torch.tensor([-0.0, 1e-40])  # bits that sums lose first
    save_file(weights, model / WEIGHTS, metadata={"format": "pt"})
    trainers.soup([model] * count, out=tmp_path / "soup")
    assert (tmp_path / "soup" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    texts = ["the river of the north", "ba dan"]
    before, after = (SentenceTransformer(str(folder)).encode_query(texts) for folder in (model, tmp_path / "soup"))
    assert (before == after).all()


def test_a_model_in_several_files_is_averaged_with_one_in_one(
    tiny_model: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    whole, other = train(tiny_model, "whole", seed=1), train(tiny_model, "other", seed=2)
    parts = tmp_path / "parts"
    shutil.copytree(whole, parts)
    (parts / WEIGHTS).unlink()
    SentenceTransformer(str(whole)).transformers_model.save_pretrained(parts, max_shard_size="100KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    trainers.soup([parts, other], out=tmp_path / "soup")
    trainers.soup([other, whole], out=tmp_path / "one-file")
    text = ["the king of the south"]
    encoded = [SentenceTransformer(str(tmp_path / name)).encode(text) for name in ("soup", "one-file")]
    assert encoded[0] == pytest.approx(encoded[1], abs=1e-6)
    means = {name: (tensor + state(other)[name]) / 2 for name, tensor in state(whole).items()}
    for name, tensor in state(tmp_path / "one-file").items():
        torch.testing.assert_close(tensor, means[name], rtol=0, atol=1e-7)


def test_adapters_are_averaged_by_what_they_add_to_the_weights(
    tiny_model: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    adapters = [train(tiny_model, f"seed{seed}", seed=seed, lora_rank=4 * seed, lora_merge=False, steps=8)
                for seed in (1, 2)]  # fmt: skip
    made = trainers.soup(adapters, out=tmp_path / "soup", weights=[0.25, 0.75])
    assert made.start == str(tiny_model)
    assert not (tmp_path / "soup" / "adapter_config.json").exists()
    states = []
    for folder in adapters:
        encoder = load_encoder(str(folder))
        merge_lora(encoder)
        states.append(encoder.transformers_model.state_dict())  # type: ignore[union-attr]
    got = SentenceTransformer(str(tmp_path / "soup")).transformers_model.state_dict()  # type: ignore[union-attr]
    assert got.keys() == states[0].keys()
    moved = 0.0
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, 0.25 * states[0][name] + 0.75 * states[1][name], rtol=0, atol=1e-6)
        moved = max(moved, float((tensor - states[0][name]).abs().max()))
    assert moved > 1e-3, "the adapters are the same"


def test_a_soup_says_what_it_is_made_of_and_is_evaluated(
    tables: tuple[Path, Path], small_store: Store, suite: Path, tmp_path: Path, mixture_data: MaterialisedMixture,
    static_model: Path,
) -> None:  # fmt: skip
    made = trainers.soup(tables, out=tmp_path / "soup", weights=[3, 1])
    assert (made.mixture, made.start) == (mixture_data.spec.id, str(static_model))
    runs = [json.loads((folder / RECORD).read_text())["run_id"] for folder in tables]
    assert [(part["weight"], part["run"]) for part in made.models] == [(0.75, runs[0]), (0.25, runs[1])]
    assert own_template(str(made.model)) == own_template(str(tables[0]))
    card = (made.model / "README.md").read_text("utf-8")
    assert "# Average of 2 retrievers" in card
    assert f"| one | 0.7500 | `{runs[0]}` | `{mixture_data.spec.id}` |" in card
    assert "fine-tuned on the mixture" not in card
    assert str(tmp_path) not in card
    score = trainers.evaluate(small_store, made.model, suite)[0].metrics["ndcg@10"]
    rows = small_store.sql("SELECT model, mixture, run_id, value FROM evaluations WHERE metric = 'ndcg@10'").to_pylist()
    assert rows == [{"model": str(made.model), "mixture": mixture_data.spec.id, "run_id": None, "value": score}]
    # A soup is a model to begin with, and to make soups of.
    again = trainers.soup([made.model, tables[0]], out=tmp_path / "again")
    assert (again.start, again.models[0]["run"]) == (str(static_model), None)
    with pytest.raises(UsageError, match="holds another finished model"):
        trainers.train(small_store, "mix", str(static_model), out=made.model, settings=SETTINGS)


def test_a_soup_of_two_mixtures_belongs_to_neither_and_has_the_prompts_of_both(
    small_store: Store, static_model: Path, train: Callable[..., Path], tmp_path: Path, suite: Path
) -> None:
    few = registry.save(small_store, registry.weighted(registry.pin(small_store, ["easy"]), {"easy": 1.0}), "few")
    one = train(static_model, "one", data=materialise(small_store, few.spec))
    two = train(static_model, "two")
    made = trainers.soup([one, two], out=tmp_path / "soup")
    assert made.mixture is None
    assert made.models[0]["mixture"] == few.spec.id
    prompts = [set(SentenceTransformer(str(folder)).prompts) for folder in (one, two, made.model)]
    assert prompts[0] < prompts[1] == prompts[2]
    trainers.evaluate(small_store, made.model, suite)
    assert small_store.sql("SELECT DISTINCT mixture FROM evaluations").to_pylist() == [{"mixture": None}]


def test_weights_by_suites_are_those_of_the_greedy_soup(
    tables: tuple[Path, Path], static_model: Path, train: Callable[..., Path], small_store: Store, tmp_path: Path,
    mixture_data: MaterialisedMixture,
) -> None:  # fmt: skip
    suite = write_suite(mixture_data, tmp_path / "middle-en", 24)
    broken = tmp_path / "broken"
    shutil.copytree(tables[0], broken)
    table = state(broken)["embedding.weight"]
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(5))
    save_file({"embedding.weight": table[order]}, broken / WEIGHTS, metadata={"format": "pt"})
    models = [broken, *tables, train(static_model, "three", seed=3, steps=1)]

    def score(folder: Path) -> float:
        return trainers.evaluate(small_store, folder, suite, half="learn")[0].metrics["ndcg@10"]

    alone = [score(folder) for folder in models]
    first, *others = sorted(range(4), key=lambda one: -alone[one])
    taken, best = [first], alone[first]
    for one in others:
        tried = [models[i] for i in sorted([*taken, one])]
        trainers.soup(tried, out=tmp_path / f"tried{one}")
        if (found := score(tmp_path / f"tried{one}")) >= best:
            taken, best = sorted([*taken, one]), found
    assert 1 < len(taken) < 4, "the case tests nothing"
    made = trainers.soup(models, out=tmp_path / "soup", weights="dev", suites=suite)
    assert [part["weight"] for part in made.models] == [1 / len(taken) if i in taken else 0 for i in range(4)]
    assert [part["score"] for part in made.models] == pytest.approx(alone)
    assert made.score == pytest.approx(best)
    trainers.soup([models[i] for i in taken], out=tmp_path / "same")
    assert (made.model / WEIGHTS).read_bytes() == (tmp_path / "same" / WEIGHTS).read_bytes()
    record = json.loads((made.model / RECORD).read_text())
    assert len(record["soup"]) == len(taken)
    assert record["dev"]["suites"] == ["middle-en/learn"]
    assert list(record["dev"]["models"]) == [str(folder) for folder in models]
    assert not list(tmp_path.glob(".soup*"))


FAULTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "pooling": ("1_Pooling/config.json", lambda c: c | {"pooling_mode": "mean"}, "another pooling.*'mean', not 'last"),
    "architecture": ("config.json", lambda c: c | {"num_attention_heads": 2}, "another architecture.*is 2, not 4"),
    "prompt": ("config_sentence_transformers.json", lambda c: c | {"prompts": c["prompts"] | {"query": "find: "}},
               "its prompt query is 'find: ', not 'Instruct"),
    "collection": ("config_sentence_transformers.json", lambda c: c | {"prompts": c["prompts"] | {"easy": "easy: "}},
                   "its prompt easy is 'easy: ', not 'Instruct"),
    "similarity": ("config_sentence_transformers.json", lambda c: c | {"similarity_fn_name": "dot"}, "is 'dot', not"),
    "modules": ("modules.json", lambda c: c[:2], "modules Transformer, Pooling, not Transformer, Pooling, Norm"),
    "tokenizer": ("tokenizer.json", lambda c: c | {"normalizer": {"type": "Lowercase"}}, "it has another tokenizer"),
    "start": (RECORD, lambda c: c | {"model": "org/other"}, "it was trained from org/other, not from"),
    "template": (RECORD, lambda c: c | {"template": c["template"] | {"prompt": "Find"}}, "another template"),
}  # fmt: skip


def test_models_that_are_not_alike_are_refused_and_nothing_is_written(
    tiny_model: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    model, out = train(tiny_model, "one"), tmp_path / "out"
    before = sorted(tmp_path.iterdir())
    for name, (file, change, says) in FAULTS.items():
        other = changed(model, name, file, change)
        with pytest.raises(UsageError, match=f"{name} cannot be averaged with .*one: .*{says}"):
            trainers.soup([model, model, other], out=out)
        shutil.rmtree(other)
    assert sorted(tmp_path.iterdir()) == before
    # What a tokenizer keeps of its last call, and what versions write, is no difference.
    same = changed(model, "same", "tokenizer.json", lambda c: c | {"truncation": {"max_length": 9, "stride": 0,
                   "strategy": "LongestFirst", "direction": "Right"}})  # fmt: skip
    same = changed(same, "same too", "config.json", lambda c: c | {"transformers_version": "4.9"})
    assert trainers.soup([model, same], out=out).mixture is not None


def test_other_weights_are_refused(
    static_model: Path, tables: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    narrow = tmp_path / "narrow"
    tokenizer = SentenceTransformer(str(static_model)).tokenizer
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)]).save(str(narrow))
    given = json.loads((tables[0] / "modules.json").read_text())
    shutil.copyfile(tables[0] / "config_sentence_transformers.json", narrow / "config_sentence_transformers.json")
    for module in given[1:]:
        shutil.copytree(tables[0] / module["path"], narrow / module["path"])
    shutil.copyfile(tables[0] / "modules.json", narrow / "modules.json")
    with pytest.raises(UsageError, match=r"its weights embedding.weight are \d+ × 16 \(F32\), not \d+ × 48 \(F32\)"):
        trainers.soup([tables[0], narrow], out=tmp_path / "out")
    with pytest.raises(UsageError, match="it has the modules Transformer, Pooling, Normalize, not StaticEmbedding"):
        trainers.soup([tables[0], tiny_model], out=tmp_path / "out")
    damaged = tmp_path / "damaged"
    shutil.copytree(tables[0], damaged)
    table = state(damaged)
    table["embedding.weight"][3, 4] = torch.nan
    save_file(table, damaged / WEIGHTS)
    with pytest.raises(MixtureError, match=r"the mean of the weights embedding.weight is not finite"):
        trainers.soup([tables[0], damaged], out=tmp_path / "out")
    (damaged / WEIGHTS).write_bytes(b"\xff" * 20)
    with pytest.raises(MixtureError, match="is damaged"):
        trainers.soup([tables[0], damaged], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_adapters_that_are_not_plain_and_mixed_kinds_are_refused(
    tiny_model: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = train(tiny_model, "adapter", lora_rank=2, lora_merge=False)
    whole = train(tiny_model, "whole", lora_rank=2)
    with pytest.raises(
        UsageError, match="one is an adapter, the other a whole model; train both with `lora_merge=true`"
    ):
        trainers.soup([adapter, whole], out=tmp_path / "out")
    dora = changed(adapter, "dora", "adapter_config.json", lambda c: c | {"use_dora": True})
    with pytest.raises(UsageError, match="its adapter has use_dora, and is no plain LoRA"):
        trainers.soup([dora], out=tmp_path / "out")
    other = changed(adapter, "moved", "adapter_config.json", lambda c: c | {"base_model_name_or_path": "org/other"})
    other = changed(other, "other", RECORD, lambda c: c | {"model": "org/other"})
    with pytest.raises(UsageError, match="it was trained from org/other"):
        trainers.soup([adapter, other], out=tmp_path / "out")


@pytest.mark.parametrize("arguments, says", [
    (["one", "two", "--weights", "1"], "--weights has 1 numbers for 2 models; give one for each"),
    (["one", "two", "--weights", "1,-1"], "--weights has -1; allowed: 0 or more"),
    (["one", "two", "--weights", "1,nan"], "--weights has nan; allowed: 0 or more"),
    (["one", "two", "--weights", "0,0"], "--weights are all 0"),
    (["one", "two", "--weights", "half,half"], "--weights is 'half,half'; allowed: numbers with commas"),
    (["one", "two", "--weights", "dev"], "--weights dev finds the weights on suites: name them in --suite"),
    (["one", "two", "--suite", "eval"], "--suite is read with --weights dev alone; leave it out"),
    (["one", "two", "--weights", "dev", "--suite", "nowhere"], "no folder nowhere"),
    (["one", "nowhere"], "nowhere holds no model; name folders that"),
    (["one", "two", "--out", "one"], "one is not empty; name a new folder in --out"),
    ([], "Missing argument 'models'"),
])  # fmt: skip
def test_mistakes_of_the_command(
    arguments: list[str], says: str, static_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(static_model, name)
    with pytest.raises(SystemExit) as caught:
        app(["soup", *([] if "--out" in arguments else ["--out", "out"]), *arguments])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_the_command_prints_what_it_made(
    tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            app(["soup", *map(str, tables), "--out", str(tmp_path / f"soup{len(flags)}"), "--weights", "3,1", *flags])
        assert not caught.value.code
        printed = capsys.readouterr().out
        if flags:
            assert [part["weight"] for part in json.loads(printed)[0]["models"]] == [0.75, 0.25]
        else:
            assert printed.startswith("the average of 2 models that began as ")
            assert "0.75" in printed


def test_the_command_says_what_weights_by_suites_took(
    tables: tuple[Path, Path], suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        app(["soup", *map(str, tables), "--out", str(tmp_path / "soup"), "--weights", "dev", "--suite", str(suite)])
    assert not caught.value.code
    printed = capsys.readouterr().out
    taken = len(json.loads((tmp_path / "soup" / RECORD).read_text())["soup"])
    said = "the average of 2 models that began" if taken == 2 else "the average of 1 model of 2 that began"
    assert printed.startswith(said)
    assert "on what the weights were found on" in printed
    assert "score" in printed
