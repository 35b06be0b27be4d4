"""`shrink`: what it saves and says, that it goes on after a kill, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import trainers
from cli import app
from mixture import Store, registry
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store import layout
from tests.trainers.conftest import kill_at, write_suite
from tests.trainers.shrinking.test_layers import vectors
from trainers.finetune import FinetuneSettings, finetune
from trainers.jobs import shrink as job
from trainers.model.encoder import load_encoder
from trainers.model.template import RECORD, Template, own_template
from trainers.shrinking.calibration import Calibration
from trainers.shrinking.layers import layers_of, with_layers

SETTINGS = FinetuneSettings(steps=2, batch_size=8, learning_rate=5e-3, temperature=0.05, negatives=2,
                            max_query_tokens=96, max_passage_tokens=96, tracker="none")  # fmt: skip
KILLED = """
import trainers
from mixture import Store
def say(done, total, what):
    if done == moment: pipe.send(done); input()
trainers.shrink(model, out=out, layers=3, store=Store.open(store), mixture="mix", rows=8, stage=lambda name: say)
"""


@pytest.fixture
def store(small_store: Store, mixture_data: MaterialisedMixture) -> Store:
    """A store with the mixture `mix` of easy (0.5), middle (0.3) and hard (0.2)."""
    return small_store


def test_a_search_leaves_a_model_a_file_and_rows_in_the_store(
    store: Store, mixture_data: MaterialisedMixture, bert_model: Path, tmp_path: Path
) -> None:
    made = trainers.shrink(bert_model, out=tmp_path / "out", layers=3, store=store, mixture="mix", rows=8)
    assert (made.num_layers, len(made.kept), made.width) == (5, 3, None)
    assert [len(one["removed"]) for one in made.curve] == [0, 1, 2]
    removed = tuple(made.curve[2]["removed"])
    assert made.kept == tuple(layer for layer in range(5) if layer not in removed)
    rows = store.rows("FROM layer_losses WHERE run_id = ?", [made.run])
    assert len(rows) == 3 * (1 + 1 + 4 * 2)  # collections × sets: Σ min(n, 2)
    assert {(row["num_rows"], row["num_removed"] == len(row["removed"])) for row in rows} == {(8, True)}
    assert [row["removed"] for row in rows if row["best"] and row["collection"] == "easy"] == [
        one["removed"] for one in made.curve
    ]
    encoder, settings = load_encoder(str(bert_model)), FinetuneSettings(temperature=0.05)
    calibration = Calibration(mixture_data, encoder, settings, Template("{query}"), 8)
    for one in made.curve:
        cut = with_layers(encoder, [layer for layer in range(5) if layer not in one["removed"]])
        losses = calibration.losses(cut)
        assert 0.5 * losses["easy"] + 0.3 * losses["middle"] + 0.2 * losses["hard"] == pytest.approx(one["loss"])
        kept = {row["collection"]: row["loss"] for row in rows if row["removed"] == one["removed"]}
        assert kept == pytest.approx(losses)
    assert made.loss == pytest.approx(made.curve[2]["loss"], abs=1e-6)  # of the saved model, measured again
    whole = {row["collection"]: row["loss"] for row in rows if row["removed"] == []}
    single = {(row["collection"], row["removed"][0]): row["loss"] for row in rows if row["num_removed"] == 1}
    for row in made.collections:
        name = row["collection"]
        assert row["layer"] == max(range(5), key=lambda layer: single[name, layer])
        assert row["rise"] == pytest.approx(single[name, row["layer"]] - whole[name])
        assert row["before"] == pytest.approx(whole[name])
    assert vectors(load_encoder(str(tmp_path / "out"))) == pytest.approx(
        vectors(with_layers(encoder, made.kept)), abs=1e-6
    )
    told = json.loads((tmp_path / "out" / "shrink.json").read_text())
    assert (told["layers"], told["curve"], told["calibration"]) == (
        list(made.kept),
        list(made.curve),
        calibration.digest,
    )
    assert (told["settings"]["rows"], told["settings"]["seed"], told["mixture"]) == (8, 42, made.mixture)
    run = store.rows("SELECT kind, status, mixture, result FROM runs WHERE run_id = ?", [made.run])[0]
    assert (run["kind"], run["status"], run["mixture"]) == ("shrink", "finished", made.mixture)
    assert not layout.run(store.work, made.run or "").exists()


def test_a_killed_search_goes_on_and_finds_the_same(
    store: Store, bert_model: Path, tmp_path: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainers.shrink(bert_model, out=tmp_path / "whole", layers=3, store=store, mixture="mix", rows=8)
    store.transaction(lambda c: c.execute("DELETE FROM layer_losses"))
    names = {"model": str(bert_model), "out": str(tmp_path / "out"), "store": str(store.work), "moment": 6}
    kill_at(start, KILLED, names, 6)
    file = layout.run(store.work, whole.run or "") / "evaluated.jsonl"
    assert len(file.read_text().splitlines()) == 6
    with file.open("a") as stream:
        stream.write('{"removed": [1, 2], "loss')  # a line that a kill cut
    assert not (tmp_path / "out").exists()
    tried: list[Any] = []
    measure = job._Work._measured
    monkeypatch.setattr(job._Work, "_measured", lambda self, encoder: tried.append(encoder) or measure(self, encoder))
    again = trainers.shrink(bert_model, out=tmp_path / "out", layers=3, store=store, mixture="mix", rows=8)
    assert len(tried) == 10 - 6 + 1  # and the saved model
    assert replace(again, model=whole.model) == whole
    assert len(store.rows("FROM layer_losses")) == 30


def test_layers_that_are_named_are_kept_and_measured(store: Store, bert_model: Path, tmp_path: Path) -> None:
    made = trainers.shrink(bert_model, out=tmp_path / "out", keep=[0, 2, 4], store=store, mixture="mix", rows=8)
    assert (made.kept, [one["removed"] for one in made.curve]) == ((0, 2, 4), [[], [1, 3]])
    assert "layer" not in made.collections[0]
    unmeasured = trainers.shrink(bert_model, out=tmp_path / "other", keep=[0, 2, 4])
    assert (unmeasured.run, unmeasured.curve, unmeasured.loss) == (None, (), None)
    first = trainers.shrink(bert_model, out=tmp_path / "first", layers=2, first=True)
    assert first.kept == (0, 1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "other" / "model.safetensors"
    ).read_bytes()


def test_last_token_pooling_keeps_the_last_layer_unless_it_is_told_not_to(
    store: Store, deep_model: Path, tmp_path: Path
) -> None:
    made = trainers.shrink(deep_model, out=tmp_path / "out", layers=3, store=store, mixture="mix", rows=8)
    assert made.kept[-1] == 4
    tried = store.rows("SELECT DISTINCT unnest(removed) AS layer FROM layer_losses ORDER BY layer")
    assert [row["layer"] for row in tried] == [0, 1, 2, 3]
    trainers.shrink(deep_model, out=tmp_path / "all", layers=4, store=store, mixture="mix", rows=8, keep_last=0)
    assert store.rows("SELECT 1 FROM layer_losses WHERE list_contains(removed, 4)")
    with pytest.raises(UsageError, match="`layers` is 1; allowed: 3 or more, since 2, 3, 4 stay"):
        trainers.shrink(deep_model, out=tmp_path / "no", layers=1, store=store, mixture="mix", rows=8, keep_last=3)
    assert not (tmp_path / "no").exists()


def test_narrower_layers_are_measured_and_told(store: Store, bert_model: Path, tmp_path: Path) -> None:
    made = trainers.shrink(bert_model, out=tmp_path / "out", layers=4, width=0.5, store=store, mixture="mix", rows=8)
    assert (made.width, len(made.kept)) == (24, 4)
    assert made.loss != pytest.approx(made.curve[1]["loss"], abs=1e-6)
    alone = trainers.shrink(bert_model, out=tmp_path / "alone", width=0.5, store=store, mixture="mix", rows=8)
    assert (alone.kept, alone.width) == ((0, 1, 2, 3, 4), 24)
    assert alone.parameters < alone.parameters_before
    assert "each with 24 inner channels" in (tmp_path / "alone" / "README.md").read_text()


def test_prompts_template_and_mixture_of_the_whole_model_stay_true(
    store: Store, mixture_data: MaterialisedMixture, bert_model: Path, tmp_path: Path
) -> None:
    finetune(mixture_data, str(bert_model), SETTINGS, tmp_path / "trained")
    trainers.shrink(tmp_path / "trained", out=tmp_path / "out", layers=4, first=True)
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    before = json.loads((tmp_path / "trained" / RECORD).read_text())
    assert (record["run_id"], record["mixture"], record["template"]) == (None, before["mixture"], before["template"])
    assert (record["model"], record["shrink"]["layers"]) == (str((tmp_path / "trained").resolve()), [0, 1, 2, 3])
    assert "evaluations" not in record
    models = [SentenceTransformer(str(tmp_path / name)) for name in ("trained", "out")]
    assert models[0].prompts == models[1].prompts
    assert len(models[0].prompts) > 3
    assert own_template(str(tmp_path / "out")) == own_template(str(tmp_path / "trained"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`trained` with 4 of its 5 layers (0, 1, 2, 3)" in card
    assert f"the whole model was, on the mixture `{mixture_data.spec.id}`" in card
    write_suite(mixture_data, tmp_path / "middle", 12)
    scored = trainers.evaluate(store, tmp_path / "out", tmp_path / "middle")
    assert scored[0].row["own"]  # its weights have seen this collection
    trained = trainers.train(store, "mix", tmp_path / "out", out=tmp_path / "again", settings=SETTINGS)
    assert json.loads((trained.model / RECORD).read_text())["model"] == str(tmp_path / "out")
    with pytest.raises(UsageError, match="holds a model that no training made, as a soup or one that was shrunk"):
        trainers.import_run(store, tmp_path / "out")


def test_an_adapter_is_merged_first(mixture_data: MaterialisedMixture, bert_model: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, lora_rank=4, lora_merge=False)
    finetune(mixture_data, str(bert_model), settings, tmp_path / "adapter")
    finetune(mixture_data, str(bert_model), replace(settings, lora_merge=True), tmp_path / "merged")
    for name in ("adapter", "merged"):
        trainers.shrink(tmp_path / name, out=tmp_path / f"{name}-small", layers=3, first=True)
    small = [vectors(load_encoder(str(tmp_path / f"{name}-small"))) for name in ("adapter", "merged")]
    assert small[0] == pytest.approx(small[1], abs=1e-6)
    assert not (tmp_path / "adapter-small" / "adapter_config.json").exists()
    assert float(abs(small[0] - vectors(with_layers(load_encoder(str(bert_model)), range(3)))).max()) > 1e-4


def test_instructions_that_a_name_tells_become_prompts(bert_model: Path, tmp_path: Path) -> None:
    (tmp_path / "e5-base-v2").symlink_to(bert_model)
    trainers.shrink(tmp_path / "e5-base-v2", out=tmp_path / "out", layers=3, first=True)
    prompts = SentenceTransformer(str(tmp_path / "out")).prompts
    assert (prompts["query"], prompts["document"]) == ("query: ", "passage: ")


def test_calibration_rows_are_a_function_of_the_seed_and_equally_many(
    mixture_data: MaterialisedMixture, bert_model: Path
) -> None:
    encoder = load_encoder(str(bert_model))

    def calibration(seed: int = 1, rows: int = 6, temperature: float = 0.05) -> Calibration:
        settings = FinetuneSettings(temperature=temperature, seed=seed)
        return Calibration(mixture_data, encoder, settings, Template("{query}"), rows)

    one = calibration()
    assert one.num_rows == {"easy": 6, "middle": 6, "hard": 6}
    assert one.weights == pytest.approx({"easy": 0.5, "middle": 0.3, "hard": 0.2})
    assert (calibration().digest, calibration().losses(encoder)) == (one.digest, one.losses(encoder))
    others = [calibration(seed=2), calibration(rows=7), calibration(temperature=0.1)]
    assert len({one.digest, *(other.digest for other in others)}) == 4
    assert one.mean({"easy": 1.0, "middle": 0.0, "hard": 10.0}) == pytest.approx(2.5)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"layers": 5}, "`layers` is 5; allowed: 1 to 4, since .* has 5 layers"),
    ({"layers": 0}, "`layers` is 0; allowed: 1 to 4"),
    ({"layers": 6, "width": 0.5}, "`layers` is 6; allowed: 1 to 5"),
    ({}, "say in `layers` how many layers are left, or in `keep` which"),
    ({"layers": 2, "keep": [0, 1]}, "say in `layers` how many"),
    ({"first": True, "keep": [0]}, "`first` keeps the first layers; say in `layers` how many"),
    ({"keep": [0, 5]}, "`keep` is 0,5; allowed: layers from 0 to 4 in ascending order, each once"),
    ({"keep": [1, 0]}, "`keep` is 1,0; allowed"),
    ({"keep": []}, "`keep` is ; allowed"),
    ({"keep": [0, 1, 2, 3, 4]}, "`keep` names all 5 layers, so that none would go"),
    ({"layers": 3}, "is measured on a mixture: name one in `mixture`"),
    ({"width": 0.5}, "is measured on a mixture: name one in `mixture`"),
    ({"width": 0.0}, "`width` is 0; allowed: above 0, to 1"),
    ({"layers": 3, "rows": 1}, "`rows` is 1; allowed: 2 or more"),
    ({"layers": 3, "keep_last": 5}, "`keep_last` is 5; allowed: 0 to 4"),
]


@pytest.mark.parametrize("asked, said", MISTAKES)
def test_what_cannot_be_done_is_refused(asked: dict[str, Any], said: str, bert_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        trainers.shrink(bert_model, out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_refused(bert_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not empty; name a new folder in `out`"):
        trainers.shrink(bert_model, out=tmp_path, layers=3, first=True)


def test_the_command_says_what_was_cut_and_what_it_cost(
    store: Store, bert_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(["--store", str(store.work), "shrink", str(bert_model), *arguments])
        return (ended.value.code or 0, *capsys.readouterr())  # type: ignore[return-value]

    code, out, _ = run("--layers", "3", "--mix", "mix", "--rows", "8", "--out", str(tmp_path / "out"))
    assert code == 0
    assert "3 of 5 layers of" in out.replace("\n", " ")
    assert all(f"│ {name}" in out for name in ("easy", "middle", "hard"))
    assert "depends most on layer" in out
    code, out, _ = run("--keep", "0,4", "--out", str(tmp_path / "json"), "--json")
    made = json.loads(out)[0]
    assert (code, made["kept"], made["curve"], made["run"]) == (0, [0, 4], [], None)
    code, _, err = run("--keep", "0,x", "--out", str(tmp_path / "no"))
    assert (code, err) == (2, "mixture: --keep is '0,x'; allowed: whole numbers with commas between them, as 0,1,5\n")
    code, _, err = run("--layers", "9", "--out", str(tmp_path / "no"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--layers is 9; allowed: 1 to 4" in err
    assert registry.resolve(store, "mix").spec.id == store.rows("SELECT mixture FROM runs")[0]["mixture"]
    assert np.asarray(layers_of(load_encoder(str(tmp_path / "json")))).size == 2
