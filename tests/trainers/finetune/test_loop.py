"""Fine-tuning: it learns, it resumes to the same bits, what it saves loads anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from mixture.errors import MixtureError, UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.suites.suite import load_suite
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.gradient_cache import TokenBudget
from trainers.batch.texts import BatchSource, TextBatch
from trainers.evaluation.evaluate import document_prompt_for
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import _source, batch_losses, encoder_of, identity, step
from trainers.loop.steps import TrainingLoop

SETTINGS = FinetuneSettings(
    steps=12, batch_size=8, learning_rate=2e-3, temperature=0.05, negatives=2, max_query_tokens=96,
    max_passage_tokens=32, checkpoint_every=4,
)  # fmt: skip


class Stopped(Exception):
    pass


def _stop_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, line: str) -> None:
        if done == step:
            raise Stopped

    return progress


def _weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def test_the_loss_falls_and_the_record_tells_all(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, steps=80, learning_rate=1e-3)
    run = finetune(mixture_data, str(tiny_model), settings, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["run_id"], record["mixture"]["id"]) == (run, mixture_data.spec.id)
    assert record["settings"]["temperature"] == 0.05
    losses = [row["loss"] for row in record["losses"] if row["collection"] == "easy"]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert {row["collection"] for row in record["losses"]} == {"easy", "middle", "hard"}


def test_the_saved_folder_loads_and_encodes_with_its_prompt(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "out")
    model = SentenceTransformer(str(tmp_path / "out"))
    prompt = model.prompts["easy"]
    assert prompt.startswith("Instruct: ")
    assert prompt.endswith("\nQuery: ")
    plain = model.encode([prompt + "the king"])
    np.testing.assert_allclose(model.encode(["the king"], prompt_name="easy"), plain, atol=1e-6)
    np.testing.assert_allclose(model.encode_query(["the king"]), model.encode(["the king"], prompt_name="query"))
    assert not np.allclose(model.encode_document(["the king"]), plain)
    assert np.abs(model.encode(["the king"]) - SentenceTransformer(str(tiny_model)).encode(["the king"])).max() > 1e-3
    assert model.tokenizer("the king").input_ids[-1] == model.tokenizer.eos_token_id


@pytest.mark.parametrize("lora", [0, 4])
def test_stopped_and_called_again_it_ends_with_the_same_bits(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, lora: int
) -> None:
    settings = replace(SETTINGS, lora_rank=lora)
    finetune(mixture_data, str(tiny_model), settings, tmp_path / "whole")
    with pytest.raises(Stopped):
        finetune(mixture_data, str(tiny_model), settings, tmp_path / "parts", progress=_stop_at(6))
    seen: list[int] = []
    finetune(mixture_data, str(tiny_model), settings, tmp_path / "parts", progress=lambda n, _, __: seen.append(n))
    assert seen == list(range(5, 13))  # from the checkpoint of step 4
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    records = [json.loads((tmp_path / n / "training.json").read_text())["losses"] for n in ("whole", "parts")]
    assert records[0] == records[1]
    assert not (tmp_path / "parts" / "checkpoints").exists()


def test_a_finished_run_is_not_run_again_and_another_may_not_take_its_place(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "out")
    finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "out", progress=_stop_at(1))
    with pytest.raises(UsageError, match="another finished model"):
        finetune(mixture_data, str(tiny_model), replace(SETTINGS, seed=1), tmp_path / "out")
    with pytest.raises(Stopped):
        finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "half", progress=_stop_at(5))
    with pytest.raises(UsageError, match="unfinished run with other settings"):
        finetune(mixture_data, str(tiny_model), replace(SETTINGS, seed=1), tmp_path / "half")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not empty"):
        finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "mine")


def test_in_batch_negatives_make_the_task_harder(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    first = []
    for in_batch in (True, False):
        out = tmp_path / str(in_batch)
        finetune(mixture_data, str(tiny_model), replace(SETTINGS, steps=1, in_batch=in_batch), out)
        first.append(json.loads((out / "training.json").read_text())["losses"][0]["loss"])
    assert first[0] > first[1] + 0.5


def test_the_schedule_warms_up_and_ends_at_the_floor(tiny_model: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=100, learning_rate=1.0)
    loop = TrainingLoop(SentenceTransformer(str(tiny_model)), settings, tmp_path)
    rates = []
    for _ in range(100):
        rates.append(loop.schedule.get_last_lr()[0])
        loop.optimizer.step()
        loop.schedule.step()
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.5)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55, abs=0.01)  # half of the cosine between 1 and 0.1
    assert rates[-1] == pytest.approx(0.1, abs=0.001)


def test_a_loss_that_is_not_a_number_stops_the_run(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    broken = SentenceTransformer(str(tiny_model))
    with torch.no_grad():
        broken.transformers_model.embed_tokens.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    broken.save(str(tmp_path / "broken"), create_model_card=False)
    with pytest.raises(MixtureError, match=r"loss became nan at step 0 \(collection (easy|middle|hard); examples "):
        finetune(mixture_data, str(tmp_path / "broken"), SETTINGS, tmp_path / "out")


def _loop_and_batch(data: MaterialisedMixture, model: Path, folder: Path) -> tuple[TrainingLoop, TextBatch]:
    loop = TrainingLoop(SentenceTransformer(str(model)), SETTINGS, folder)
    plan = BatchPlan(data.spec.weights, data.sizes, 8, 1, positives=data.positives())
    return loop, BatchSource(data, plan, negatives=2).homogeneous(0)


def test_running_out_of_memory_says_where_and_what_to_change(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    loop, batch = _loop_and_batch(mixture_data, tiny_model, tmp_path)
    with pytest.raises(MixtureError) as caught, loop.explaining_oom(batch):
        torch.empty(2**60)  # the allocator itself refuses
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert text.startswith("out of memory at step 0 (collection ")
    assert batch.examples[0] in text
    half = f"`tokens_kept={loop.budget.kept // 2}` and `tokens_per_pass={loop.budget.per_pass // 2}`"
    assert half in text
    with pytest.raises(RuntimeError, match="something else"), loop.explaining_oom(batch):
        raise RuntimeError("something else")


def test_an_exploding_loss_stops_the_run_and_names_the_worst(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    loop, batch = _loop_and_batch(mixture_data, tiny_model, tmp_path)
    calm = torch.ones(8)
    for _ in range(30):
        loop.check(calm, batch)
    wild = torch.full((8,), 20.0)
    wild[5] = 90.0
    loop.check(wild, batch)  # one bad batch is no explosion
    other = next(n for n in range(3) if n != batch.collections[0])
    for _ in range(30):  # nor is a collection that is hard from the start
        loop.check(wild, replace(batch, collections=np.full(8, other)))
    loop.check(torch.zeros(8), batch)
    with pytest.raises(MixtureError) as caught:
        for _ in range(10):
            loop.check(wild, batch)
    assert "the loss exploded to 28.75 from 1 at the start at step 0" in str(caught.value)
    assert f"examples {batch.examples[5]}, " in str(caught.value)
    loss = torch.cat(loop.embed_batch(loop.encoder, batch)).sum()
    before = [p.detach().clone() for p in loop.parameters]
    with pytest.raises(MixtureError, match="the gradient became"):
        loop.descend(loss * float("inf"), batch)
    assert all(torch.equal(p, q) for p, q in zip(before, loop.parameters, strict=True))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_query_tokens": 4}, "max_query_tokens is 4"),
        ({"hard_only": ("hadr",)}, "hadr"),
        ({"matryoshka_dims": (32, 128)}, "matryoshka_dims has 128; the embeddings have 64"),
    ],
)
def test_a_refused_setting_does_not_claim_the_folder(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(mixture_data, str(tiny_model), replace(SETTINGS, **setting), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_scored_is_refused_before_it_is_trained(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path
) -> None:
    model = SentenceTransformer(str(tiny_model), similarity_fn_name="euclidean")
    model.save(str(tmp_path / "euclidean"))
    with pytest.raises(UsageError, match="compares by 'euclidean'"):
        finetune(mixture_data, str(tmp_path / "euclidean"), SETTINGS, tmp_path / "out", suites=[load_suite(suite)])
    assert not (tmp_path / "out").exists()


def _loop(mixture: MaterialisedMixture, model: Path, folder: Path, **changed: Any) -> tuple[TrainingLoop, TextBatch]:
    settings = replace(SETTINGS, **changed)
    loop = TrainingLoop(encoder_of(mixture, str(model), settings), settings, folder)
    return loop, _source(mixture, settings).homogeneous(0)


def test_a_loss_weight_scales_loss_and_gradient(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    found = []
    for weight in (1.0, 3.0):
        loop, batch = _loop(mixture_data, tiny_model, tmp_path / str(weight))
        found.append((float(step(loop, batch, weight).mean()), loop.gradient_norm))
    assert found[1] == pytest.approx((3 * found[0][0], 3 * found[0][1]), rel=1e-4)


def test_the_gradient_is_clipped(mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path) -> None:
    loop, batch = _loop(mixture_data, tiny_model, tmp_path, max_gradient_norm=0.01)
    norms = []
    whole = loop.optimizer.step

    def noted(*arguments: Any) -> Any:
        norms.append(float(torch.stack([p.grad.norm() for p in loop.parameters if p.grad is not None]).norm()))
        return whole(*arguments)

    loop.optimizer.step = noted
    step(loop, batch)
    assert loop.gradient_norm > 0.02
    assert norms == pytest.approx([0.01], rel=1e-3)


def test_the_loss_takes_the_plans_positives_and_the_batchs_mask(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    source = _source(mixture_data, SETTINGS)
    twin = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 8, 42, positives=mixture_data.positives())
    assert source.plan._positives is not None
    assert all(np.array_equal(source.plan.batch(n)[1], twin.batch(n)[1]) for n in range(20))
    loop, batch = _loop(mixture_data, tiny_model, tmp_path)
    loop.encoder.eval()
    assert batch.masked is not None
    plain = batch_losses(loop, batch)
    # Nothing but the own positive is left to each query: nothing can be lost.
    others = torch.ones_like(batch.masked)
    alone = batch_losses(loop, replace(batch, masked=others))
    assert float(plain.detach().mean()) > 0.1
    assert alone.tolist() == pytest.approx([0.0] * len(batch.rows), abs=1e-6)


def test_a_bases_own_prompts_do_not_outlive_a_training_without_them(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    base = SentenceTransformer(
        str(tiny_model), prompts={"query": "q: ", "passage": "passage: ", "xsum": "x: "}, default_prompt_name="xsum"
    )
    base.save(str(tmp_path / "base"))
    settings = replace(SETTINGS, steps=1, query_template="instruct")
    finetune(mixture_data, str(tmp_path / "base"), settings, tmp_path / "out")
    trained = SentenceTransformer(str(tmp_path / "out"))
    assert document_prompt_for(trained) == (None, None)
    assert not {"passage", "xsum"} & set(trained.prompts)


def test_a_model_that_left_prompts_out_of_its_pooling_is_scored_as_it_is_trained(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    base = SentenceTransformer(str(tiny_model))
    base[1] = Pooling(base.get_embedding_dimension(), "mean", include_prompt=False)
    base.save(str(tmp_path / "base"))
    encoder = encoder_of(mixture_data, str(tmp_path / "base"), SETTINGS).eval()
    prompt = encoder.prompts["query"]
    scored = torch.from_numpy(encoder.encode(["who wrote it"], prompt=prompt))
    tokens = tokenise(encoder.tokenizer, [f"{prompt}who wrote it"], [96])
    trained = embed_across_ranks(encoder, tokens, TokenBudget(1000, 1000)).detach()
    torch.testing.assert_close(trained, scored, atol=1e-5, rtol=0)


def test_another_suite_of_the_same_name_and_other_symmetric_cards_make_another_run(
    mixture_data: MaterialisedMixture, tiny_model: Path, suite: Path
) -> None:
    before = identity(mixture_data, str(tiny_model), SETTINGS, [load_suite(suite)])
    judged = suite / "qrels" / "test.tsv"
    judged.write_text(judged.read_text() + "\nq0\td11\t1\n")
    assert identity(mixture_data, str(tiny_model), SETTINGS, [load_suite(suite)]) != before

    asked = replace(SETTINGS, symmetric_prompts=True)
    before = identity(mixture_data, str(tiny_model), asked)
    plain = identity(mixture_data, str(tiny_model), SETTINGS)
    for part in mixture_data.components.values():
        part.symmetric = True
    assert identity(mixture_data, str(tiny_model), asked) != before
    assert identity(mixture_data, str(tiny_model), SETTINGS) == plain


def test_a_run_that_ran_out_of_memory_goes_on_with_fewer_tokens_at_once(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "out", progress=_stop_at(5))
    fewer = replace(SETTINGS, tokens_kept=256, tokens_per_pass=128)
    seen: list[int] = []
    finetune(mixture_data, str(tiny_model), fewer, tmp_path / "out", progress=lambda done, *_: seen.append(done))
    assert seen == list(range(5, 13))
