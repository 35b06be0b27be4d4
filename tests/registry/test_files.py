"""Mixtures out to files and back, and with their data to folders that train without the store."""

from __future__ import annotations

import json
import math
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import FileSelector
from typer.testing import CliRunner

from cli import app
from mixture import Store, UsageError, jobs, registry, transfers
from mixture.registry import folders
from mixture.registry.files import FORMATS, _read_csv, _read_json, _spec, export_text, import_
from mixture.registry.verify import verify
from mixture.specs import Component, MixtureSpec, Part
from mixture.store import read
from mixture.store.intake import CollectionFacts, declare
from mixture.store.materialise import materialise
from mixture.weights import normalise
from trainers.jobs.folder import open_folder

WEIGHTS = {"easy": 0.1, "middle": 0.2, "hard": 0.7}
RELEASED = ("curr_weights", "mean_weights", "top70_weights", "uniform_sampling_s0")


@pytest.fixture
def saved(small_store: Store) -> registry.SavedMixture:
    declare(small_store, CollectionFacts("easy", card="own", prompts=("Find it", "Find that")))
    parts = registry.pin(small_store)
    base = registry.save(small_store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), "base")
    spec = base.spec.with_weights(WEIGHTS)
    return registry.save(small_store, spec, "mix", parents=[base.spec.id], run_id="a" * 12, note="learned")


def _exported(store: Store, mixture: registry.SavedMixture, fmt: str, folder: Path) -> Path:
    file = folder / f"exported.{fmt}"
    file.write_text(export_text(store, mixture, fmt), "utf-8")
    return file


@pytest.mark.parametrize("fmt", ["mixture", "csv"])
def test_an_empty_store_gets_the_same_id(
    small_store: Store, saved: registry.SavedMixture, tmp_path: Path, fmt: str
) -> None:
    file = _exported(small_store, saved, fmt, tmp_path)
    with Store.open(tmp_path / "empty", create=True) as empty:
        there = import_(empty, file, "theirs")
        assert there.spec == saved.spec
        body = registry.describe(empty, registry.resolve(empty, "theirs"))
        assert {c["num_examples"] for c in body["components"]} == {40}
        assert body["missing"] == ["easy", "hard", "middle"]
        assert there.imported_from == file.name
        if fmt == "mixture":
            assert (there.parents, there.run_id, there.note) == (saved.parents, saved.run_id, saved.note)
            assert registry.pinned_facts(empty, there.spec)["easy"].prompts == ("Find it", "Find that")
        with pytest.raises(UsageError, match=r"lacks 3 collections.*easy, hard, middle"):
            materialise(empty, there.spec)
        assert not verify(empty).faults


@pytest.mark.parametrize("fmt", ["mixture", "tdro", "csv"])
def test_a_store_with_the_same_data_gets_the_same_id(
    small_store: Store, saved: registry.SavedMixture, tmp_path: Path, fmt: str
) -> None:
    file = _exported(small_store, saved, fmt, tmp_path)
    shutil.copytree(small_store.work, tmp_path / "twin")
    with Store.open(tmp_path / "twin") as twin:
        there = import_(twin, file, "theirs")
        assert there.spec == saved.spec
        assert materialise(twin, there.spec).sizes == {"easy": 40, "hard": 40, "middle": 40}


def test_loss_weights_travel_or_are_refused(small_store: Store, saved: registry.SavedMixture, tmp_path: Path) -> None:
    weighed = registry.save(small_store, transfers.loss_reweight(saved.spec), "weighed")
    for fmt in ("mixture", "csv"):
        assert import_(small_store, _exported(small_store, weighed, fmt, tmp_path), fmt).spec == weighed.spec
    with pytest.raises(UsageError, match=r"no place for loss weights.*`format` mixture or csv"):
        export_text(small_store, weighed, "tdro")


@pytest.fixture(scope="session")
def released() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "paper" / "released"
    if not folder.is_dir():
        pytest.skip("the files of the tDRO release are not here")
    return folder


@pytest.mark.parametrize("name", RELEASED)
def test_the_release_comes_back_equal_in_meaning(released: Path, tmp_path: Path, name: str) -> None:
    file = released / f"{name}.json"
    theirs: dict[str, Any] = json.loads(file.read_text())
    with Store.open(tmp_path / "store", create=True) as store:
        mixture = import_(store, file, "released")
        again = import_(store, _exported(store, mixture, "mixture", tmp_path), "again")
        ours = json.loads(export_text(store, mixture, "tdro"))
    assert again.spec.id == mixture.spec.id
    assert sorted(ours["domain_ids"].values()) == list(range(len(theirs["domain_ids"])))
    assert ours["domain_ids"].keys() == theirs["domain_ids"].keys()
    assert ours["domain_weights"] == pytest.approx(normalise(theirs["domain_weights"]), rel=1e-12)
    assert ours["size"] == theirs["size"]
    assert ours["epoch"] == pytest.approx(theirs["epoch"], rel=1e-5)


def test_the_release_s_names_are_matched_by_datacard(small_store: Store, tmp_path: Path) -> None:
    """`amazon_review_2018_1m` of the release is `amazon_review_2018` here."""
    shutil.copy(tmp_path / "raw" / "easy.jsonl", tmp_path / "amazon_review_2018.jsonl")
    jobs.ingest(small_store, [str(tmp_path / "amazon_review_2018.jsonl")])
    file = tmp_path / "w.json"
    file.write_text(json.dumps({"domain_weights": {"amazon_review_2018_1m": 0.5, "easy": 0.25, "unknown": 0.25}}))
    mixture = import_(small_store, file, "w")
    parts = {c.collection: c for c in mixture.spec.components}
    assert {n: c.weight for n, c in parts.items()} == {"amazon_review_2018": 0.5, "easy": 0.25, "unknown": 0.25}
    assert parts["easy"].digest == read.digest(small_store, Part("easy"))
    assert parts["unknown"].digest == ""
    assert json.loads(export_text(small_store, mixture, "tdro"))["domain_weights"]["amazon_review_2018_1m"] == 0.5
    # Both names in one mixture stay two entries.
    both = MixtureSpec((Component("amazon_review_2018", "", 0.5), Component("amazon_review_2018_1m", "", 0.5)))
    exported = json.loads(export_text(small_store, registry.save(small_store, both, "both"), "tdro"))
    assert exported["domain_weights"] == {"amazon_review_2018": 0.5, "amazon_review_2018_1m": 0.5}
    with pytest.raises(UsageError, match=r"lacks 1 collections.*unknown"):
        materialise(small_store, mixture.spec)
    shutil.copy(tmp_path / "raw" / "hard.jsonl", tmp_path / "unknown.jsonl")
    jobs.ingest(small_store, [str(tmp_path / "unknown.jsonl")])
    with pytest.raises(UsageError, match="does not say which content of unknown"):
        materialise(small_store, mixture.spec)
    assert materialise(small_store, import_(small_store, file, "w").spec).sizes["unknown"] == 40


def test_what_was_imported_can_be_selected_from_and_keeps_its_sizes(small_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "w.csv"
    file.write_text("weight,collection,num_examples\n3,far,70\n1,away,50\n", encoding="utf-8-sig")
    mixture = import_(small_store, file, "w")
    assert mixture.spec.weights == {"far": 0.75, "away": 0.25}
    assert mixture.note == "its weights summed to 4.0"
    top = registry.save(small_store, transfers.select_top(mixture.spec, 50), "top", parents=[mixture.spec.id])
    assert [c["num_examples"] for c in registry.describe(small_store, top)["components"]] == [70]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must name the columns"),
        ("collection,wieght\na,1\n", "the first line must name the columns"),
        ("collection,weight\na,x\n", "line 2: could not convert"),
        ("collection,weight\na,1\na,1\n", "line 3: collection 'a' is"),
        ("collection,weight\na,-1\n", "weight of 'a' is -1"),
        ("collection,weight\na,nan\n", "weight of 'a' is nan"),
        ("collection,weight\n", "no weight is above zero"),
        ("{", "not JSON"),
        ('{"a": 1}', "neither a mixture's JSON"),
        ('{"domain_weights": {"a": 1}, "domain_ids": {"b": 0}}', "differ in: a, b"),
        ('{"domain_weights": {}}', "both are empty"),
        ('{"domain_weights": [1]}', "must be objects of numbers"),
        ('{"schema_version": 9, "components": []}', "schema version 9; this toolkit reads 1"),
    ],
)
def test_files_that_are_none_are_refused_with_their_name(
    small_store: Store, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "odd.file"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        import_(small_store, file, "w")
    assert small_store.rows("SELECT * FROM mixtures") == []


def test_an_edited_export_is_refused(small_store: Store, saved: registry.SavedMixture, tmp_path: Path) -> None:
    file = _exported(small_store, saved, "mixture", tmp_path)
    file.write_text(file.read_text().replace('"weight": 0.7', '"weight": 0.70000000000001'))
    with pytest.raises(UsageError, match=r"exported.mixture: the JSON says mixture .* it was edited"):
        import_(small_store, file, "theirs")


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=9), st.floats(0.0, 1e9), min_size=1, max_size=7))
def test_json_and_csv_keep_every_name_and_every_bit(weights: dict[str, float]) -> None:
    """No store: the text of each format, read back."""
    weights = {n.replace("\0", "x").encode("utf-8", "ignore").decode() or "x": w for n, w in weights.items()}
    if not sum(weights.values()) > 0:
        return
    spec = MixtureSpec(tuple(Component(n, f"{i:064x}", w) for i, (n, w) in enumerate(normalise(weights).items())))
    mixture = registry.SavedMixture(spec, "m", 1, (), None, 1, datetime.now(UTC), None)
    facts = {n: registry.PinnedFacts(None, None) for n in spec.weights}
    for fmt, reader in (("mixture", _read_json), ("csv", _read_csv)):
        found, scaled = _spec(reader(FORMATS[fmt](mixture, facts)), {})
        assert found.id == spec.id
        assert scaled is None
    bare, _ = _spec(_read_json(FORMATS["tdro"](mixture, facts)), {c.collection: c for c in spec.components})
    assert bare.id == spec.id


def test_a_materialised_export_is_the_mixture_to_train_on_and_to_import(
    small_store: Store, saved: registry.SavedMixture, tmp_path: Path
) -> None:
    """tests/trainers/jobs/test_folder.py trains on one where duckdb is not installed."""
    folders.export_materialised(small_store, saved, tmp_path / "travel")
    assert open_folder(tmp_path / "travel").spec == saved.spec
    with Store.open(tmp_path / "empty", create=True) as empty:
        assert import_(empty, tmp_path / "travel" / "mixture.json", "theirs").spec == saved.spec


def test_a_materialised_export_brings_the_cards(small_store: Store, tmp_path: Path) -> None:
    from mixture.cards import load_card

    shutil.copy(tmp_path / "raw" / "easy.jsonl", tmp_path / "agnews.jsonl")
    jobs.ingest(small_store, [str(tmp_path / "agnews.jsonl")])
    parts = registry.pin(small_store, ["agnews", "easy"])
    mixture = registry.save(small_store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), "m")
    folders.export_materialised(small_store, mixture, tmp_path / "travel")
    assert [f.name for f in (tmp_path / "travel" / "cards").iterdir()] == ["agnews.md"]
    assert load_card(tmp_path / "travel" / "cards" / "agnews.md").name == "agnews"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_batch_list_is_what_training_draws(
    small_store: Store, saved: registry.SavedMixture, tmp_path: Path, suffix: str
) -> None:
    from trainers.finetune import FinetuneSettings
    from trainers.finetune.loop import _source

    file = tmp_path / f"batches{suffix}"
    count = folders.export_batches(small_store, saved, file, batches=30, batch_size=7, seed=5)
    if suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == count
    source = _source(materialise(small_store, saved.spec), FinetuneSettings(batch_size=7, seed=5))
    drawn = [(step, source.homogeneous(step)) for step in range(30)]
    wanted = [
        (step, batch.names[batch.collections[0]], row, example)
        for step, batch in drawn
        for row, example in zip(batch.rows.tolist(), batch.examples, strict=True)
    ]
    assert [(r["step"], r["collection"], r["row"], r["example_id"]) for r in rows] == wanted
    with pytest.raises(UsageError, match=r"written as .jsonl or .parquet"):
        folders.export_batches(small_store, saved, tmp_path / "b.txt", batches=1, batch_size=7, seed=5)


def test_the_hf_dataset_has_the_store_s_rows_and_training_s_prompts(
    small_store: Store, saved: registry.SavedMixture, tmp_path: Path
) -> None:
    import datasets

    from trainers.model.template import DEFAULT_PROMPT, Template

    folder = tmp_path / "hf"
    folders.export_hf_dataset(small_store, saved, folder)
    loaded = datasets.load_from_disk(str(folder))
    assert isinstance(loaded, datasets.DatasetDict)
    assert set(loaded) == {"easy", "hard", "middle"}
    part = materialise(small_store, saved.spec).components["hard"]
    assert loaded["hard"].column_names == ["anchor", "positive", "negative", "negative_2", "negative_3", "negative_4"]
    for row in (0, 17, 39):
        example = part.example(row)
        wanted = [example.query, *(part.passage(n) for n in (example.positives[0], *example.negatives))]
        assert list(loaded["hard"][row].values()) == wanted
    prompts = json.loads((folder / "prompts.json").read_text())
    assert prompts["easy"] == {"anchor": Template().before_query("Find it")}
    assert prompts["hard"] == {"anchor": Template().before_query(DEFAULT_PROMPT)}
    with pytest.raises(UsageError, match="is not empty"):
        folders.export_hf_dataset(small_store, saved, folder)


def test_few_and_no_negatives_in_a_hf_dataset(tmp_path: Path) -> None:
    import datasets

    rows = [{"query": f"q{i}", "pos": [f"p{i}"], "neg": [f"n{i}.{k}" for k in range(i)]} for i in range(3)]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pairs = [{"query": f"q{i}", "pos": [{"title": f"t{i}", "text": f"p{i}"}]} for i in range(3)]
    (tmp_path / "none-at_all.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pairs))
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "some.jsonl"), str(tmp_path / "none-at_all.jsonl")])
        parts = registry.pin(store)
        mixture = registry.save(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), "m")
        folders.export_hf_dataset(store, mixture, tmp_path / "hf")
    loaded = datasets.load_from_disk(str(tmp_path / "hf"))
    found = {row["anchor"]: row for row in loaded["some"]}
    assert (found["q1"]["negative"], found["q1"]["negative_2"]) == ("n1.0", "n1.0")
    assert {found["q2"]["negative"], found["q2"]["negative_2"]} == {"n2.0", "n2.1"}
    assert "p0" not in (found["q0"]["negative"], found["q0"]["negative_2"])
    assert {tuple(row.values()) for row in loaded["none-at_all"]} == {(f"q{i}", f"t{i} p{i}") for i in range(3)}


def test_sentence_transformers_trains_on_the_hf_dataset(
    small_store: Store, saved: registry.SavedMixture, tmp_path: Path
) -> None:
    import datasets
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from trainers.model.tiny import build_tiny

    folders.export_hf_dataset(small_store, saved, tmp_path / "hf")
    loaded = datasets.load_from_disk(str(tmp_path / "hf"))
    model = build_tiny([row["anchor"] for row in loaded["hard"]], tmp_path / "tiny", seed=1, vocabulary=300, hidden=32)
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=4, report_to="none", save_strategy="no",
        prompts=json.loads((tmp_path / "hf" / "prompts.json").read_text()), use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(model, arguments, loaded, loss=MultipleNegativesRankingLoss(model))
    assert math.isfinite(trainer.train().training_loss)


def _run(store: Store, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["--store", str(store.work), *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_commands_do_it_all(small_store: Store, saved: registry.SavedMixture, tmp_path: Path) -> None:
    file = tmp_path / "mix.json"
    _run(small_store, "export", "mix", "--out", str(file))
    assert json.loads(_run(small_store, "export", "mix")) == json.loads(file.read_text())
    assert json.loads(_run(small_store, "import", str(file), "--name", "copy", "--json"))["id"] == saved.spec.id
    assert json.loads(_run(small_store, "tag", "mix", "best", "--json"))[0]["mixture"] == saved.spec.id
    assert json.loads(_run(small_store, "show", "best", "--json"))["tags"] == ["best"]
    assert "[best]" in _run(small_store, "show", "mix")
    assert [r["tags"] for r in json.loads(_run(small_store, "list", "--json"))] == [["best"], ["best"], []]
    found = json.loads(_run(small_store, "diff", "base", "best", "--json"))
    assert found["distance"] == pytest.approx(11 / 30)
    assert "36.67% of the draws go to another collection" in _run(small_store, "diff", "base", "best")
    assert json.loads(_run(small_store, "log", "best", "--json"))["parents"][0]["reference"] == "base:1"
    assert "└── base:1" in _run(small_store, "log", "best")
    assert json.loads(_run(small_store, "verify", "--json"))["findings"] == []
    _run(small_store, "export", "mix", "--materialised", str(tmp_path / "m"))
    _run(small_store, "export", "mix", "--batches", "2", "--batch-size", "3", "--out", str(tmp_path / "b.jsonl"))
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 6
    _run(small_store, "export", "mix", "--batches", "2", code=2)
    _run(small_store, "export", "mix", "--format", "csv", "--materialised", str(tmp_path / "n"), code=2)
    _run(small_store, "export", "mix", "--format", "xml", code=2)
    (small_store.work / "models" / "tiny-qwen2-000000000000-1").mkdir(parents=True)
    wanted = ["models/tiny-qwen2-000000000000-1"]
    for options in (["--dry-run"], []):
        assert [r["path"] for r in json.loads(_run(small_store, "gc", *options, "--json"))] == wanted
    assert json.loads(_run(small_store, "gc", "--json")) == []


def test_verify_exits_with_one_where_something_is_damaged(small_store: Store, saved: registry.SavedMixture) -> None:
    found = small_store.data.get_file_info(FileSelector("main/passages", recursive=True))
    small_store.data.delete_file(next(file.path for file in found if file.path.endswith(".parquet")))
    printed = _run(small_store, "verify", code=1)
    assert "is missing" in printed
    assert "damaged" in printed
