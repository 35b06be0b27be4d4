"""Slices of collections as components of a mixture: how they are chosen, frozen, moved, weighed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli import app
from mixture import Store, UsageError, jobs, registry, transfers
from mixture.fixtures import write_fixtures
from mixture.materialised import MaterialisedMixture
from mixture.registry import folders, slices
from mixture.registry.files import export_text, import_
from mixture.registry.verify import verify
from mixture.specs import Component, MixtureSpec, Part
from mixture.store import read
from mixture.store.change import rename_collection
from mixture.store.materialise import materialise
from mixture.store.write import remove_examples
from mixture.weights import normalise

LANGUAGES = ("en", "sw", "zh")
OTHERS = ("agnews", "msmarco", "nq", "quora_duplicates_triplets")


def _rows(count: int, seed: str) -> list[dict[str, Any]]:
    """Tevatron rows: a positive of each one's own, and two negatives that it shares with its neighbour."""
    random = Random(seed)
    texts = [
        " ".join(random.choices(["red", "green", "blue", "black", "white", "grey"], k=9)) + f" {i}"
        for i in range(count)
    ]
    return [
        {"query_id": f"{i}", "query": f"{seed} asks {i}", "positive_passages": [{"docid": "p", "title": "", "text": t}],
         "negative_passages": [{"docid": "n", "title": "", "text": f"not {texts[i // 2 * 2]} {k}"} for k in range(2)]}
        for i, t in enumerate(texts)
    ]  # fmt: skip


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(file)


def _ingest(store: Store, folder: Path, order: Random | None = None) -> None:
    """`poly` of three languages of 6 rows each, and `mono` of 10 rows; the rows in some order."""
    files = []
    for name, language, count in [*(("poly", language, 6) for language in LANGUAGES), ("mono", None, 10)]:
        rows = _rows(count, f"{name} {language}")
        if order is not None:
            order.shuffle(rows)
        files.append(_write(folder, f"{name}.{language}" if language else name, rows))
    if order is not None:
        order.shuffle(files)
    jobs.ingest(store, files)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slices")
    with Store.open(folder / "store", create=True) as store:
        _ingest(store, folder)
    return folder / "store"


@pytest.fixture
def store(made_once: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(made_once, tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        yield store


def _spec(store: Store, *chosen: list[slices.Slice], beside: tuple[str, ...] = ("mono",)) -> MixtureSpec:
    parts = slices.freeze(store, [part for some in chosen for part in some])
    parts |= registry.pin(store, beside) if beside else {}
    return registry.weighted(parts, dict.fromkeys(parts, 1.0))


def _by_language(store: Store, name: str = "sliced") -> registry.SavedMixture:
    return registry.save(store, _spec(store, slices.by_column(store, "poly:language")), name)


def _remove(store: Store, query: str) -> None:
    found = "SELECT collection, example_id, 'duplicate' AS reason FROM examples WHERE query = ?"
    remove_examples(store, store.read(found, [query]))


def _run(store: Store, *arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["--store", str(store.work), *arguments, *(["--json"] if code == 0 else [])])
    assert result.exit_code == code, result.output
    if code:
        assert isinstance(result.exception, UsageError | SystemExit)
        return " ".join(result.output.split()) or str(result.exception)
    return json.loads(result.stdout)


def test_a_slice_for_each_language(store: Store) -> None:
    saved = _by_language(store)
    assert sorted(saved.spec.weights) == ["mono", *(f"poly[language={language}]" for language in LANGUAGES)]
    data = materialise(store, saved.spec)
    assert data.sizes == {"mono": 10, **{f"poly[language={language}]": 6 for language in LANGUAGES}}
    part = data.components["poly[language=sw]"]
    queries = store.rows("SELECT query FROM examples WHERE collection = 'poly' AND language = 'sw' ORDER BY example_id")
    assert [part.example(n).query for n in range(6)] == [row["query"] for row in queries]
    # 6 positives and 3 pairs of shared negatives; nothing of the other languages.
    assert part.num_passages == 12
    assert all(part.passage(n) for example in map(part.example, range(6)) for n in example.negatives)


def test_the_same_files_as_of_a_collection_that_holds_just_that(store: Store, tmp_path: Path) -> None:
    """The digest of a slice covers what that of a collection does: they are equal where the contents are."""
    (part,) = (s for s in slices.by_column(store, "poly:language") if s.label == "language=zh")
    with Store.open(tmp_path / "other", create=True) as other:
        jobs.ingest(other, [_write(tmp_path, "alone", _rows(6, "poly zh"))])
        assert slices.freeze(store, [part])[part.name].digest == read.digest(other, Part("alone"))


def test_the_id_of_whole_collections_is_what_it_was() -> None:
    spec = MixtureSpec((Component("a", "0" * 64, 0.25), Component("b", "1" * 64, 0.75)))
    assert spec.id == "6d1b5a2e42a8"
    assert '"slice"' not in spec.to_json()


def test_what_a_slice_is_called_and_holds_decides_the_id() -> None:
    parts = [Component("a", "0" * 64, 1.0, slice=name, selection=of * 64) for name, of in ("x1", "y1", "x2")]
    ids = {MixtureSpec((part,)).id for part in [*parts, Component("a", "0" * 64, 1.0)]}
    assert len(ids) == 4
    assert MixtureSpec.from_json(MixtureSpec((parts[0],)).to_json()) == MixtureSpec((parts[0],))
    with pytest.raises(UsageError, match="needs both"):
        MixtureSpec((Component("a", "0" * 64, 1.0, slice="x"),))


@pytest.mark.slow
@settings(max_examples=2, deadline=None)
@given(st.randoms(use_true_random=False))
def test_two_stores_with_shuffled_rows_give_the_same_id(
    made_once: Path, tmp_path_factory: pytest.TempPathFactory, random: Random
) -> None:
    folder = tmp_path_factory.mktemp("shuffled")
    shutil.copytree(made_once, folder / "first")
    with Store.open(folder / "first") as first, Store.open(folder / "second", create=True) as second:
        _ingest(second, folder, random)
        where = "length(query) % 2 = 0 AND language <> 'zh'"
        ids = {registry.save(s, _spec(s, slices.by_predicate(s, where)), "m").spec.id for s in (first, second)}
        ids_of_files = {_by_language(s).spec.id for s in (first, second)}
    assert len(ids) == len(ids_of_files) == 1


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.integers(0, 5), st.sampled_from(["query", "positive_passages", "negative_passages"]), st.integers(0, 10**6))
def test_one_changed_character_in_one_row_changes_the_id(
    tmp_path_factory: pytest.TempPathFactory, row: int, side: str, place: int
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    ids = []
    for number in range(2):
        rows = _rows(6, "poly zh")
        text = rows[row]["query"] if side == "query" else rows[row][side][0]["text"]
        if number:
            place %= len(text)
            text = text[:place] + "Q" + text[place + 1 :]
        if side == "query":
            rows[row]["query"] = text
        else:
            rows[row][side][0]["text"] = text
        with Store.open(folder / f"store{number}", create=True) as store:
            _write(folder, "poly.en", _rows(4, "poly en"))
            _write(folder, "poly.zh", rows)
            jobs.ingest(store, [str(folder / "poly.en.jsonl"), str(folder / "poly.zh.jsonl")])
            spec = _spec(store, slices.by_column(store, "poly:language"), beside=())
            ids.append((spec.id, {c.name: c.digest for c in spec.components}))
    assert ids[0][0] != ids[1][0]
    assert ids[0][1]["poly[language=en]"] == ids[1][1]["poly[language=en]"]
    assert ids[0][1]["poly[language=zh]"] != ids[1][1]["poly[language=zh]"]


def test_a_predicate_makes_a_slice_of_each_collection_it_touches(store: Store) -> None:
    where = "query LIKE '%asks 1%' -- the first ten"
    made = slices.by_predicate(store, where)
    assert [(s.collection, len(s.example_ids)) for s in made] == [("mono", 1), ("poly", 3)]
    assert made[0].name == "mono[where query LIKE '%asks 1%' -- the first ten]"
    assert made[0].rule == where
    (long,) = slices.by_predicate(store, f"collection = 'mono' AND length(query) > 2 {'AND length(query) < 99 ' * 9}")
    assert len(long.label) == slices.LABEL_CHARACTERS
    assert long.label.endswith(long.selection[:4])
    subquery = "collection IN (SELECT collection FROM collections WHERE collection LIKE 'm%')"
    assert [len(s.example_ids) for s in slices.by_predicate(store, subquery)] == [10]


PREDICATES = [
    ("lenght(query) > 2", "lenght"),
    ("langage = 'zh'", "langage"),
    ("false", "no example satisfies"),
    ("collection IN (SELECT file FROM read_csv('/etc/passwd'))", "read_csv"),
    ("true); DROP TABLE examples; --", "syntax error|one SELECT"),
    ("true) UNION ALL (SELECT 'mono', 'made up'", "1 of 11 examples of mono"),
    ("", "syntax error"),
]


@pytest.mark.parametrize(("where", "message"), PREDICATES)
def test_a_predicate_is_checked_as_a_query(store: Store, where: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        slices.freeze(store, slices.by_predicate(store, where))
    assert store.rows("SELECT count(*) AS n FROM examples") == [{"n": 28}]
    assert store.rows("SELECT * FROM selections") == []


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
def test_a_stored_list_of_examples(store: Store, tmp_path: Path, suffix: str) -> None:
    query = "SELECT collection, example_id FROM examples WHERE language = 'en' OR query LIKE 'mono%5' ORDER BY ALL"
    rows = store.rows(query)
    file = tmp_path / f"coreset.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([r | {"score": 0.5} for r in rows * 2]), file)
    elif suffix == "csv":
        file.write_text("example_id,collection\n" + "".join(f"{r['example_id']},{r['collection']}\n" for r in rows))
    else:
        file.write_text(json.dumps(rows) if suffix == "json" else "".join(json.dumps(r) + "\n" for r in rows))
    spec = _spec(store, slices.from_file(store, file), beside=())
    assert sorted(spec.weights) == ["mono[coreset]", "poly[coreset]"]
    assert materialise(store, spec).sizes == {"mono[coreset]": 1, "poly[coreset]": 6}
    # The same set as the language's, under another name.
    english = next(s for s in slices.by_column(store, "poly:language") if s.label == "language=en")
    assert {c.name: c.selection for c in spec.components}["poly[coreset]"] == english.selection


FILES = [
    ("a.txt", "x", "is a .csv, .parquet"),
    ("a.csv", "collection,id\npoly,1\n", "columns collection and example_id are needed; found: collection, id"),
    ("a.csv", "collection,example_id\npoly,12345678901234567890\n", "1 of 1 examples of .* '12345678901234567890'"),
    ("a.csv", "collection,example_id\nploy,1\n", "did you mean 'poly'"),
    ("a.csv", "collection,example_id\n", "names no examples"),
    ("a.json", "[1]", "each entry must be an object"),
    ("a.jsonl", '{"collection": "poly"}\n', "some row lacks a value"),
    ("a.jsonl", "{\n", "a.jsonl: "),
    ("a.parquet", "no", "a.parquet: "),
]


@pytest.mark.parametrize(("name", "text", "message"), FILES)
def test_a_list_that_is_none_is_refused(store: Store, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        slices.freeze(store, slices.from_file(store, tmp_path / name))


def test_mistakes_in_a_column_are_named(store: Store) -> None:
    for text, message in (("poly", "as xquad:language"), ("ploy:language", "did you mean 'poly'"),
                          ("poly:langauge", "did you mean 'language'")):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            slices.by_column(store, text)
    (null,) = slices.by_column(store, "mono:language")
    assert (null.name, len(null.example_ids)) == ("mono[language is null]", 10)


def test_too_many_values_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MOST_PARTS", 17)
    with pytest.raises(UsageError, match="gives 18 parts; allowed: up to 17"):
        slices.by_column(store, "poly:query")


def test_parts_that_overlap_are_refused(store: Store) -> None:
    by_language = slices.by_column(store, "poly:language")
    even = slices.by_predicate(store, "collection = 'poly' AND language = 'zh' AND query LIKE '%2'")
    with pytest.raises(UsageError, match=r"'poly\[language=zh\]' .*have examples in common"):
        registry.save(store, _spec(store, by_language, even), "m")
    with pytest.raises(UsageError, match=r"'poly' is in the mixture as a whole and as 'poly\[language=en\]'"):
        registry.save(store, _spec(store, by_language, beside=("poly",)), "m")
    again = slices.by_predicate(store, "collection = 'poly' AND language = 'zh'")
    with pytest.raises(UsageError, match="have examples in common"):
        registry.save(store, _spec(store, by_language, again), "m")
    one, other = (registry.save(store, _spec(store, parts, beside=()), "m").spec for parts in (by_language, again))
    with pytest.raises(UsageError, match="have examples in common"):
        registry.save(store, transfers.blend(one, other, 0.5), "b")
    with pytest.raises(UsageError, match=r"two slices are called poly\[language=en\], "):
        slices.freeze(store, by_language * 2)


def test_a_collection_called_as_a_slice_is_another_component(store: Store, tmp_path: Path) -> None:
    jobs.ingest(store, [_write(tmp_path, "odd", _rows(5, "odd"))])
    rename_collection(store, "odd", "poly[language=zh]")  # older versions took any name
    saved = registry.save(store, _spec(store, slices.by_column(store, "poly:language"), beside=("poly[language=zh]",)),
                          "m")  # fmt: skip
    sizes = materialise(store, saved.spec).sizes
    assert sizes["poly[language=zh]"] == 5
    assert sizes["poly[slice language=zh]"] == 6
    described = {c["collection"]: c["slice_of"] for c in registry.describe(store, saved)["components"]}
    assert (described["poly[language=zh]"], described["poly[slice language=zh]"]) == (None, "poly")
    whole = registry.save(store, _spec(store, beside=("poly[language=zh]",)), "whole")
    # Another mixture may call the slice so: nothing of it is taken for the collection.
    part = next(c for c in saved.spec.components if c.slice == "slice language=zh")
    named = MixtureSpec((Component("poly", part.digest, 1.0, slice="language=zh", selection=part.selection),))
    found = jobs.diff(store, whole, registry.save(store, named, "named"))
    assert sorted(found.components["change"].to_pylist()) == ["added", "dropped"]


def test_a_slice_stays_what_it_was_when_rows_come_and_go(store: Store, tmp_path: Path) -> None:
    saved = _by_language(store)
    jobs.ingest(store, [_write(tmp_path, "poly.zh", _rows(9, "poly zh")[6:])])
    assert materialise(store, saved.spec).sizes["poly[language=zh]"] == 6
    _remove(store, "poly en asks 3")
    travel = tmp_path / "elsewhere"
    assert materialise(store, saved.spec, travel).sizes["poly[language=en]"] == 6, "from the version that held it"
    unsaved = MixtureSpec(tuple(replace(c, weight=1.0) for c in saved.spec.components if c.slice == "language=en"))
    forget = "UPDATE mixtures SET snapshot = NULL"  # of which no version is known
    store.transaction(lambda connection: connection.execute(forget))
    with pytest.raises(
        UsageError, match=r"slice 'poly\[language=en\]' has changed since .*1 of its 6 examples are gone\); create"
    ):
        materialise(store, unsaved, tmp_path / "third")
    assert materialise(store, saved.spec).sizes["poly[language=en]"] == 6, "written before, and still whole"
    newer = _by_language(store)
    rows = {row["collection"]: row for row in jobs.diff(store, saved, newer).components.to_pylist()}
    assert rows["poly[language=en]"]["change"] == "examples, content"
    assert (rows["poly[language=en]"]["examples_a"], rows["poly[language=en]"]["examples_b"]) == (6, 5)
    assert rows["poly[language=zh]"]["examples_b"] == 9
    assert rows["poly[language=sw]"]["change"] == ""
    assert (rows["poly[language=sw]"]["slice_of"], rows["poly[language=sw]"]["rule_b"]) == ("poly", "language = 'sw'")


def test_verify_and_gc_know_slices(store: Store) -> None:
    saved = _by_language(store)
    materialise(store, saved.spec)
    result = verify(store)
    assert (result.findings, result.checked["contents"], result.checked["materialised"]) == ([], 4, 4)
    assert jobs.gc(store) == []
    _remove(store, "poly en asks 3")
    (finding,) = verify(store, "sliced").findings
    assert finding.name == "poly[language=en] as pinned by sliced:1"
    assert "its materialised files are whole" in finding.says
    shutil.rmtree(store.work / "materialised")
    (finding,) = verify(store).findings
    assert not finding.fault
    assert f"version {saved.snapshot} holds it" in finding.says


@pytest.mark.parametrize("fmt", ["mixture", "csv"])
def test_an_export_comes_back_with_the_same_id(store: Store, tmp_path: Path, made_once: Path, fmt: str) -> None:
    saved = _by_language(store)
    file = tmp_path / "file"
    file.write_text(export_text(store, saved, fmt))
    shutil.copytree(made_once, tmp_path / "twin")
    with Store.open(tmp_path / "twin") as twin, Store.open(tmp_path / "empty", create=True) as empty:
        for other in (twin, empty):
            there = import_(other, file, "theirs")
            assert there.spec == saved.spec
            assert {c["num_examples"] for c in registry.describe(other, there)["components"]} == {6, 10}
        assert registry.describe(empty, there)["missing"] == ["mono", "poly"]
        if fmt == "mixture":
            assert materialise(twin, there.spec).sizes == materialise(store, saved.spec).sizes
            rules = {c["rule"] for c in registry.describe(empty, there)["components"]}
            assert rules == {None, *(f"language = '{language}'" for language in LANGUAGES)}
            assert export_text(empty, there, "mixture").count("example_ids") == 3
        else:
            with pytest.raises(UsageError, match=r"does not know which examples 'poly\[language=en\]' holds"):
                materialise(twin, there.spec)


def test_the_release_s_format_means_the_slices_of_the_store(store: Store, tmp_path: Path) -> None:
    saved = _by_language(store)
    file = tmp_path / "weights.json"
    file.write_text(export_text(store, saved, "tdro"))
    assert set(json.loads(file.read_text())["domain_weights"]) == set(saved.spec.weights)
    assert import_(store, file, "back").spec == saved.spec


def test_an_edited_list_of_examples_is_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "edited.json"
    body = json.loads(export_text(store, _by_language(store), "mixture"))
    part = body["about"]["collections"]["poly[language=sw]"]
    part["example_ids"] = part["example_ids"].rpartition(" ")[0]
    file.write_text(json.dumps(body))
    with pytest.raises(UsageError, match=r"the examples listed for 'poly\[language=sw\]' are not those"):
        import_(store, file, "edited")


def test_folders_for_elsewhere_carry_slices(store: Store, tmp_path: Path) -> None:
    import datasets

    saved = _by_language(store)
    folders.export_materialised(store, saved, tmp_path / "travel")
    data = MaterialisedMixture.open(tmp_path / "travel", saved.spec.id)
    assert data.sizes["poly[language=zh]"] == 6
    with Store.open(tmp_path / "empty", create=True) as empty:
        assert import_(empty, tmp_path / "travel" / "mixture.json", "m").spec == saved.spec
    folders.export_hf_dataset(store, saved, tmp_path / "hf")
    loaded = datasets.load_from_disk(str(tmp_path / "hf"))
    assert {name: len(part) for name, part in loaded.items()} == data.sizes
    folders.export_batches(store, saved, tmp_path / "b.parquet", batches=20, batch_size=3, seed=1)
    assert set(pq.read_table(tmp_path / "b.parquet")["collection"].to_pylist()) == set(data.sizes)


def test_sql_sees_slices_under_their_names(store: Store) -> None:
    _by_language(store)
    rows = store.sql("SELECT collection, slice_of, num_examples FROM mixture('sliced') ORDER BY ALL").to_pylist()
    assert [(r["collection"], r["slice_of"]) for r in rows][:2] == [("mono", None), ("poly[language=en]", "poly")]
    shares = store.sql("SELECT value, weight, num_collections FROM composition('sliced') WHERE dimension = 'language'")
    assert {r["value"]: r["weight"] for r in shares.to_pylist()} == dict.fromkeys((*LANGUAGES, "unknown"), 0.25)
    (licence,) = store.sql("SELECT num_collections FROM composition('sliced') WHERE dimension = 'license'").to_pylist()
    assert licence["num_collections"] == 2
    joined = """SELECT count(*) AS n FROM mixture('sliced') m JOIN selected_examples USING (selection)
                JOIN examples e ON e.collection = m.slice_of AND e.example_id = selected_examples.example_id"""
    assert store.sql(joined).to_pylist() == [{"n": 18}]


def test_the_commands_make_slices(store: Store, tmp_path: Path) -> None:
    made = _run(store, "create", "by-language", "--slice", "poly:language", "--collection", "mono")
    assert made["id"] == _by_language(store).spec.id
    assert {c["collection"]: c["rule"] for c in made["components"]}["poly[language=en]"] == "language = 'en'"
    alone = _run(store, "create", "alone", "--slice", "poly:language", "--proportional", "--min-examples", "6")
    assert len(alone["components"]) == 3
    rest = _run(store, "create", "rest", "--where", "collection = 'poly' and language <> 'zh'", "--collection", "mono",
                "--temperature", "1")  # fmt: skip
    assert [c["weight"] for c in rest["components"]] == pytest.approx([12 / 22, 10 / 22])
    file = tmp_path / "ids.json"
    file.write_text(json.dumps(store.rows("SELECT collection, example_id FROM examples WHERE language = 'zh'")))
    chosen = _run(store, "create", "chosen", "--selection", str(file))
    assert [c["collection"] for c in chosen["components"]] == ["poly[ids]"]
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({"poly[language=zh]": 3, "mono": 1}))
    given = _run(store, "create", "given", "--slice", "poly:language", "--weights", str(weights))
    assert {c["collection"]: c["weight"] for c in given["components"]} == {"poly[language=zh]": 0.75, "mono": 0.25}
    said = _run(store, "create", "x", "--slice", "poly:language", "--min-examples", "7", code=2)
    assert "no slice has 7 examples or more" in said


def _multilingual(store: Store, raw: Path, name: str) -> registry.SavedMixture:
    jobs.ingest(store, [str(raw / part) for part in (name, *OTHERS)])
    jobs.mine(store, per_query=1)
    sliced = slices.freeze(store, slices.by_column(store, f"{name}:language"))
    parts = sliced | registry.pin(store, OTHERS)
    return registry.save(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), "by-language")


def _learn(store: Store, mixture: registry.SavedMixture, steps: int) -> None:
    import trainers
    from trainers.learning.config import LearningSettings

    chosen = LearningSettings(steps=steps, batch_size=24, negatives=1, max_query_tokens=128, max_passage_tokens=32)
    learned = trainers.learn_weights(store, mixture, name="learned", proxy="tiny-qwen2", settings=chosen).first
    rows = store.sql("SELECT step, collection, weight FROM weight_history ORDER BY ALL").to_pylist()
    names = sorted(mixture.spec.weights)
    assert [r["collection"] for r in rows] == names * steps
    assert len(names) == 12
    assert learned.spec.weights.keys() == mixture.spec.weights.keys()
    assert {c.name: c.digest for c in learned.spec.components} == {c.name: c.digest for c in mixture.spec.components}


def test_tdro_weighs_eight_languages_and_four_collections(tmp_path: Path) -> None:
    write_fixtures(tmp_path)
    with Store.open(tmp_path / "store", create=True) as store:
        mixture = _multilingual(store, tmp_path / "raw", "miracl")
        assert sum(name.startswith("miracl[language=") for name in mixture.spec.weights) == 8
        _learn(store, mixture, 3)


@pytest.mark.slow
def test_tdro_weighs_the_eight_languages_of_xquad(real_data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{__name__}.OTHERS", ("pubmedqa", "covidqa", "cmrc2018", "covidfaq"))
    with Store.open(tmp_path / "store", create=True) as store:
        mixture = _multilingual(store, real_data / "raw", "xquad")
        sizes = slices.sizes(store, mixture.spec.components)
        codes = ("ar", "de", "en", "es", "hi", "ru", "th", "zh")
        parts = {name: size for name, size in sizes.items() if name.startswith("xquad")}
        assert parts.keys() == {f"xquad[language={code}]" for code in codes}
        assert sum(parts.values()) == read.collections(store, ["xquad"])[0].num_examples > 7200
        _learn(store, mixture, 2)


@pytest.fixture
def base(store: Store) -> dict[str, Any]:
    weights = {f"poly[language={n}]": w for n, w in zip(LANGUAGES, (0.2, 0.2, 0.1), strict=True)} | {"mono": 0.5}
    spec = _by_language(store).spec.with_weights(weights)
    registry.save(store, spec, "base")
    return _run(store, "show", "base")


def _weights(made: dict[str, Any]) -> dict[str, float]:
    return {c["collection"].removeprefix("poly[language=").rstrip("]"): c["weight"] for c in made["components"]}


EDITS: list[tuple[list[str], dict[str, float], str]] = [
    (["--set", "mono=0.75"], {"mono": 0.75, "en": 0.1, "sw": 0.1, "zh": 0.05}, "base:1, mono at 0.75"),
    (["--drop", "mono"], {"en": 0.4, "sw": 0.4, "zh": 0.2}, "base:1, without mono"),
    (["--set", "poly[language=zh]=0"], {"mono": 5 / 9, "en": 2 / 9, "sw": 2 / 9, "zh": 0.0},
     "base:1, poly[language=zh] at 0"),
    (["--drop", "poly[language=zh]", "--set", "mono=0.2", "--blend", "sliced:0.5"],
     {"mono": 0.225, "en": 0.325, "sw": 0.325, "zh": 0.125},
     "base:1, without poly[language=zh], mono at 0.2, 0.5 of sliced:1"),
    (["--set", "mono=1"], {"mono": 1.0, "en": 0.0, "sw": 0.0, "zh": 0.0}, "base:1, mono at 1"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "weights", "note"), EDITS)
def test_a_mixture_is_changed_by_intent(
    store: Store, base: dict[str, Any], options: list[str], weights: dict[str, float], note: str
) -> None:
    made = _run(store, "create", "changed", "--from", "base", *options)
    assert _weights(made) == pytest.approx(weights, abs=1e-12)
    other = registry.resolve(store, "sliced").spec.id
    assert made["parents"] == [base["id"], *([other] if "--blend" in options else [])]
    assert made["note"] == note
    digests = {c["collection"]: c["digest"] for c in base["components"]}
    assert {c["collection"]: c["digest"] for c in made["components"]}.items() <= digests.items()


def test_weights_from_a_query(store: Store, base: dict[str, Any]) -> None:
    query = "SELECT sqrt(count(*)) AS weight, collection FROM examples GROUP BY collection"
    made = _run(store, "create", "asked", "--sql", query)
    mono, poly = 10**0.5, 18**0.5
    assert _weights(made) == pytest.approx({"mono": mono / (mono + poly), "poly": poly / (mono + poly)})
    assert made["note"] == f"weights from SQL: {query}"
    unnamed = _run(store, "create", "two", "--sql", "SELECT 'mono', 1::DECIMAL UNION SELECT 'poly', 3")
    assert _weights(unnamed) == {"mono": 0.25, "poly": 0.75}
    history = "SELECT collection, weight * weight AS weight FROM mixture('base')"
    sliced = _run(store, "create", "squared", "--slice", "poly:language", "--sql", history)
    squares = {"mono": 0.25, "en": 0.04, "sw": 0.04, "zh": 0.01}
    assert _weights(sliced) == pytest.approx({name: square / 0.34 for name, square in squares.items()})


MISTAKES = [
    (["--from", "base"], "--from REF and its changes go together"),
    (["--set", "mono=1"], "--from REF and its changes go together"),
    (["--from", "base", "--set", "momo=0.1"], "no component 'momo'; did you mean 'mono'?"),
    (["--from", "base", "--drop", "momo"], "no component 'momo'; did you mean 'mono'?"),
    (["--from", "bsae", "--drop", "mono"], "no mixture 'bsae'; did you mean 'base'?"),
    (["--from", "base", "--set", "mono"], "as agnews=0.3"),
    (["--from", "base", "--set", "mono=half"], "as agnews=0.3"),
    (["--from", "base", "--set", "mono=0.1", "--set", "mono=0.2"], "each once"),
    (["--from", "base", "--set", "mono=1.5"], "set to 1.5; allowed: 0 to 1"),
    (["--from", "base", "--set", "mono=nan"], "set to nan; allowed: 0 to 1"),
    (["--from", "base", "--set", "mono=0.7", "--set", "poly[language=en]=0.6"], "sum to 1.3; allowed: up to 1"),
    (["--from", "base", *(f for n in LANGUAGES for f in ("--drop", f"poly[language={n}]")), "--set", "mono=0.5"],
     "nothing with a weight is left to share the other 0.5"),
    (["--from", "base", "--drop", "mono", *(f for n in LANGUAGES for f in ("--drop", f"poly[language={n}]"))],
     "leaves no collection with weight above 0"),
    (["--from", "base", "--blend", "sliced"], "as tdro:0.3 or tdro:2:0.3"),
    (["--from", "base", "--drop", "mono", "--uniform"], "--from REF takes --set, --drop and --blend only"),
    (["--from", "base", "--drop", "mono", "--slice", "poly:language"], "takes --set, --drop and --blend only"),
    (["--sql", "SELECT 1 AS a"], "gives the columns a; allowed: collection and weight"),
    (["--sql", "SELECT 'mono', 'x'"], "gives 'mono' the weight 'x'; allowed: a number"),
    (["--sql", "SELECT 'mono', 1 UNION ALL SELECT 'mono', 2"], "'mono' twice"),
    (["--sql", "SELECT 'momo', 1"], "did you mean 'mono'"),
    (["--sql", "SELECT 'mono', -1"], "weight of 'mono' is -1"),
    (["--sql", "SELECT collection, 1 FROM collections WHERE false"], "gives no rows"),
    (["--sql", "DROP TABLE examples"], "one SELECT statement is allowed"),
    (["--sql", "SELECT 1, 2", "--uniform"], "give one of --uniform"),
]  # fmt: skip


def test_mistakes_get_a_plain_line(store: Store, base: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, message in MISTAKES:
        with pytest.raises(SystemExit) as caught:
            app(["--store", str(store.work), "create", "x", *arguments])
        err = " ".join(capfd.readouterr().err.split())
        assert (caught.value.code, message in err, "Traceback" in err) == (2, True, False), (arguments, err)
    assert [m.reference for m in registry.saved_mixtures(store)] == ["sliced:1", "base:1"]


WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.0, 1.0), min_size=2)


@given(WEIGHTS, st.floats(0.0, 1.0), st.data())
def test_what_is_set_stays_and_the_others_keep_their_proportions(
    weights: dict[str, float], value: float, data: st.DataObject
) -> None:
    if not sum(weights.values()) > 1e-6:
        return
    spec = MixtureSpec(tuple(Component(n, "", w) for n, w in normalise(weights).items()))
    name = data.draw(st.sampled_from(sorted(weights)))
    others = {n: w for n, w in spec.weights.items() if n != name}
    if not sum(others.values()) > 1e-6:
        return
    changed = transfers.with_fixed(spec, {name: value}).weights
    assert changed[name] == value
    share = (1 - value) / sum(others.values())
    assert {n: changed[n] for n in others} == pytest.approx({n: w * share for n, w in others.items()}, abs=1e-9)
    left = transfers.without(spec, [name]).weights
    assert left == pytest.approx({n: w / sum(others.values()) for n, w in others.items()}, abs=1e-9)


def test_a_negative_zero_makes_no_other_id() -> None:
    ids = {MixtureSpec((Component("a", "", 1.0), Component("b", "", zero, lw))).id for zero in (0.0, -0.0, 0)
           for lw in (0.0, -0.0)}  # fmt: skip
    assert len(ids) == 1


def test_a_store_from_before_slices_is_brought_up(tmp_path: Path, write_collection: Callable[..., Path]) -> None:
    from mixture.store import schema

    file = write_collection(tmp_path, "c", rows=5)
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(file)])
        saved = registry.save(store, _spec(store, beside=("c",)), "old")
        for statement in ("DROP TABLE selections", "DROP TABLE selected_examples", "DROP TABLE evaluation_queries",
                          "ALTER TABLE mixture_weights DROP COLUMN slice_of",
                          "ALTER TABLE mixture_weights DROP COLUMN selection",
                          *(f"ALTER TABLE mixtures DROP COLUMN {name}"
                            for name in ("num_components", "heaviest", "heaviest_weight")),
                          "DROP TABLE file_examples", "DROP TABLE collection_changes", "DROP TABLE test_suites",
                          "DROP TABLE minings", "DROP TABLE positive_scores", "DROP TABLE answers",
                          "ALTER TABLE mixture_weights DROP COLUMN miners",
                          *(f'ALTER TABLE evaluations DROP COLUMN "{name}"' for name in
                            ("document_prompt", "similarity", "max_tokens", "precision", "revision")),
                          *(f"DROP TABLE {table}" for table in ("candidates", "candidate_scores", "collection_products",
                                                                "verdicts", "verdict_suites", "ablations",
                                                                "prompt_scores", "prompt_choices", "prompt_gains")),
                          "ALTER TABLE sources DROP COLUMN place", "ALTER TABLE sources DROP COLUMN prompts",
                          "DELETE FROM store_versions WHERE version >= 6"):  # fmt: skip
            store.connection.execute(statement)
    assert "selections" in schema.MIGRATIONS[5]
    with Store.open(tmp_path / "store") as store:
        assert registry.resolve(store, "old").spec == saved.spec
        assert [(m["collections"], m["heaviest"]) for m in registry.listing(store)] == [(1, "c")]
        assert registry.describe(store, registry.resolve(store, "old"))["components"][0]["num_examples"] == 5
        assert [r["slice_of"] for r in store.sql("FROM mixture('old')").to_pylist()] == [None]
        assert len(slices.freeze(store, slices.by_column(store, "c:language"))) == 1
