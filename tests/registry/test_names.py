"""Mixtures in the store."""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mixture import Store, UsageError, jobs, registry, transfers
from mixture.console.tree import as_tree
from mixture.registry import lineage
from mixture.specs import Component, MixtureSpec
from mixture.store.intake import CollectionFacts, declare
from mixture.store.write import insert_rows
from mixture.weights import normalise


def _save(store: Store, name: str, **weights: float) -> registry.SavedMixture:
    parts = registry.pin(store)
    return registry.save(store, registry.weighted(parts, weights or dict.fromkeys(parts, 1.0)), name)


def test_versions_count_up_and_references_resolve(small_store: Store) -> None:
    first = _save(small_store, "mix", easy=1, hard=1)
    second = _save(small_store, "mix", easy=1, hard=3)
    assert (first.reference, second.reference) == ("mix:1", "mix:2")
    for reference, wanted in (
        ("mix", second), ("mix:latest", second), ("mix:1", first), (first.spec.id, first), (first.spec.id[:7], first),
    ):  # fmt: skip
        assert registry.resolve(small_store, reference).spec == wanted.spec
    assert second.spec.weights == {"easy": 0.25, "hard": 0.75}


def test_saving_the_newest_again_writes_nothing(small_store: Store) -> None:
    _save(small_store, "mix")
    snapshot = small_store.snapshot()
    assert _save(small_store, "mix").version == 1
    assert small_store.snapshot() == snapshot


def test_one_content_under_two_names_is_one_mixture(small_store: Store) -> None:
    assert _save(small_store, "a").spec.id == _save(small_store, "b").spec.id
    rows = small_store.sql("SELECT collection, weight, num_examples FROM mixture_weights").to_pylist()
    assert len(rows) == 3
    assert sum(r["weight"] for r in rows) == pytest.approx(1.0, abs=1e-12)
    assert {r["num_examples"] for r in rows} == {40}


def test_a_mixture_is_what_its_id_says_whatever_its_rows_of_weights_say(small_store: Store) -> None:
    saved = _save(small_store, "mix", easy=1, hard=3)
    for damage in ("UPDATE mixture_weights SET weight = 1 - weight", "DELETE FROM mixture_weights"):
        small_store.connection.execute(damage)
        assert registry.resolve(small_store, "mix") == saved


@pytest.mark.parametrize(
    ("reference", "message"),
    [("mxi", "did you mean 'mix'"), ("mix:7", "versions 1 to 1"), ("0000", "no mixture '0000'")],
)
def test_unknown_references_say_what_there_is(small_store: Store, reference: str, message: str) -> None:
    _save(small_store, "mix")
    with pytest.raises(UsageError, match=message):
        registry.resolve(small_store, reference)


@pytest.mark.parametrize("name", ["", "7up", "a b", "a:b", "deadbeef", "x" * 101])
def test_names_that_could_not_be_referred_to_are_refused(small_store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="mixture name"):
        _save(small_store, name)


def test_a_mixture_outlives_a_change_of_its_collections(small_store: Store) -> None:
    saved = _save(small_store, "mix")
    jobs.mine(small_store, ["easy"], per_query=1)
    assert registry.resolve(small_store, "mix").spec == saved.spec
    assert _save(small_store, "mix").spec.id != saved.spec.id


def test_small_collections_are_left_out_unless_named(small_store: Store) -> None:
    with pytest.raises(UsageError, match="no collection with 41"):
        registry.pin(small_store, min_examples=41)
    with pytest.raises(UsageError, match="fewer than 41 examples in: easy"):
        registry.pin(small_store, ["easy"], min_examples=41)
    with pytest.raises(UsageError, match="did you mean 'easy'"):
        registry.pin(small_store, ["esay"])


def test_listing_says_what_weighs_most(small_store: Store) -> None:
    _save(small_store, "mix", easy=1, hard=3)
    row = registry.listing(small_store)[0]
    assert (row["reference"], row["collections"], row["heaviest"], row["heaviest_weight"]) == ("mix:1", 2, "hard", 0.75)


def test_a_tag_refers_to_a_mixture_and_can_be_moved(small_store: Store) -> None:
    first, second = _save(small_store, "mix", easy=1, hard=1), _save(small_store, "mix", easy=1, hard=3)
    for mixture in (first, first, second):
        registry.tag(small_store, mixture.spec.id, "production")
    assert registry.resolve(small_store, "production").spec == second.spec
    assert small_store.sql("SELECT mixture_id('production') AS id").to_pylist() == [{"id": second.spec.id}]
    moves = small_store.sql("SELECT mixture FROM mixture_tags WHERE tag = 'production' ORDER BY set_at").to_pylist()
    assert [m["mixture"] for m in moves] == [first.spec.id, second.spec.id]
    assert [row["tags"] for row in registry.listing(small_store)] == [["production"], []]
    assert registry.describe(small_store, second)["tags"] == ["production"]


def test_a_tag_and_a_name_cannot_be_the_same(small_store: Store) -> None:
    _save(small_store, "mix")
    registry.tag(small_store, "mix", "production")
    with pytest.raises(UsageError, match="'mix' is the name of a mixture"):
        registry.tag(small_store, "mix", "mix")
    with pytest.raises(UsageError, match="'production' is a tag"):
        _save(small_store, "production")
    with pytest.raises(UsageError, match="tag 'dead'"):
        registry.tag(small_store, "mix", "dead")
    with pytest.raises(UsageError, match="did you mean 'production'"):
        registry.resolve(small_store, "productoin")


def _save_three(root: Path, start: int, ready: Barrier) -> None:
    with Store.open(root) as store:
        ready.wait()
        for number in range(start, start + 3):
            parts = Component("a", "x", number / 100), Component("b", "y", 1 - number / 100)
            registry.save(store, MixtureSpec(parts), "m")


@pytest.mark.slow
def test_two_processes_that_save_one_name_get_different_versions(tmp_path: Path) -> None:
    Store.open(tmp_path / "store", create=True).close()
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    processes = [context.Process(target=_save_three, args=(tmp_path / "store", n, ready)) for n in (1, 50)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with Store.open(tmp_path / "store") as store:
        rows = store.rows("SELECT version, mixture FROM mixtures ORDER BY version")
        weights = store.rows("SELECT count(*) AS n FROM mixture_weights")
    assert [row["version"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert len({row["mixture"] for row in rows}) == 6
    assert weights == [{"n": 12}]


def test_diff_says_what_changed(small_store: Store) -> None:
    a = _save(small_store, "a", easy=1, middle=2, hard=1)
    insert_rows(small_store, "runs", [
        {"run_id": "f" * 12, "kind": "tdro", "status": "finished", "mixture": a.spec.id, "started_at": a.created_at,
         "config": json.dumps({"steps": 10, "seed": 1})}
    ])  # fmt: skip
    jobs.mine(small_store, ["middle"], per_query=1)
    declare(small_store, CollectionFacts("middle", card="own", prompts=("Find it",)))
    parts = registry.pin(small_store, ["middle", "hard"])
    spec = registry.weighted(parts, {"middle": 0.5, "hard": 0.5})
    b = registry.save(small_store, spec, "b", parents=[a.spec.id], run_id="f" * 12)
    found = jobs.diff(small_store, a, b)
    rows = {row["collection"]: row for row in found.components.to_pylist()}
    assert {name: row["change"] for name, row in rows.items()} == {
        "easy": "dropped", "hard": "weight", "middle": "content",
    }  # fmt: skip
    assert rows["easy"]["difference"] == -0.25
    assert found.distance == pytest.approx(0.25)
    assert found.prompts == ({"collection": "middle", "a": [], "b": ["Find it"]},)
    assert found.settings == ()
    assert found.lines()[-1] == f"only b:1 was made by a run, {'f' * 12}"
    insert_rows(small_store, "runs", [
        {"run_id": "e" * 12, "kind": "tdro", "status": "finished", "mixture": a.spec.id, "started_at": a.created_at,
         "config": json.dumps({"steps": 20, "seed": 1, "older": 3})}
    ])  # fmt: skip
    c = registry.save(small_store, spec, "c", run_id="e" * 12)
    assert jobs.diff(small_store, b, c).settings == ({"setting": "steps", "a": 10, "b": 20},)
    backwards = {row["collection"]: row["change"] for row in jobs.diff(small_store, b, a).components.to_pylist()}
    assert backwards["easy"] == "added"
    assert jobs.diff(small_store, a, a).equal


def test_the_lineage_is_a_tree_of_parents_and_runs(small_store: Store) -> None:
    base = _save(small_store, "base")
    insert_rows(small_store, "runs", [
        {"run_id": run, "kind": kind, "status": "finished", "mixture": base.spec.id, "started_at": base.created_at,
         "config": json.dumps(config)}
        for run, kind, config in (("a" * 12, "tdro", {"steps": 7, "reference": f"/x/reference-{'b' * 12}"}),
                                  ("b" * 12, "reference", {"steps": 9}))
    ])  # fmt: skip
    learned = registry.save(small_store, base.spec.with_weights({"easy": 1, "middle": 1, "hard": 2}), "learned",
                            parents=[base.spec.id], run_id="a" * 12)  # fmt: skip
    both = registry.save(small_store, transfers.blend(base.spec, learned.spec, 0.5), "both",
                         parents=[learned.spec.id, base.spec.id, "0" * 12], note="[red]half[/red]")  # fmt: skip
    tree = jobs.log(small_store, both)
    assert [p.reference for p in tree.parents] == ["learned:1", "base:1", None]
    assert [p.reference for p in tree.parents[0].parents] == ["base:1"]
    assert tree.parents[1].seen
    run = tree.parents[0].run
    assert (run.kind, run.settings["steps"], [r.kind for r in run.runs]) == ("tdro", 7, ["reference"])
    shown = io.StringIO()
    Console(file=shown, width=200).print(as_tree(tree))
    assert "[red]half[/red]" in shown.getvalue()
    assert "run aaaaaaaaaaaa: tdro, finished steps=7" in shown.getvalue()
    assert "000000000000  not in this store" in shown.getvalue()


def test_a_mixture_that_is_its_own_ancestor_ends_the_tree(small_store: Store) -> None:
    base = _save(small_store, "base")
    other = registry.save(small_store, base.spec.with_weights({"easy": 1, "middle": 1, "hard": 2}), "other",
                          parents=[base.spec.id])  # fmt: skip
    again = registry.save(small_store, base.spec, "again", parents=[other.spec.id])
    tree = jobs.log(small_store, again)
    assert tree.parents[0].parents == (lineage.Ancestor(base.spec.id, "again:1", seen=True),)


def test_a_long_line_of_ancestors_is_cut(small_store: Store) -> None:
    base = _save(small_store, "base")
    rows, parents = [], [base.spec.id]
    for number in range(1500):
        spec = base.spec.with_weights({"easy": 1, "middle": 1, "hard": number + 2})
        rows.append({"mixture": spec.id, "name": "m", "version": number + 1, "spec": spec.to_json(),
                     "parents": parents, "created_at": base.created_at})  # fmt: skip
        parents = [spec.id]
    insert_rows(small_store, "mixtures", rows)
    node = jobs.log(small_store, registry.resolve(small_store, "m"))
    shown = io.StringIO()
    Console(file=shown, width=1000).print(as_tree(node))
    assert len(shown.getvalue().splitlines()) == lineage.MOST_GENERATIONS
    for _ in range(lineage.MOST_GENERATIONS - 1):
        (node,) = node.parents
    assert (node.reference, node.cut, node.parents) == ("m:1451", True, ())
    assert f"(more: mixture log {node.id})" in shown.getvalue()


WEIGHTS = st.dictionaries(st.text("abcxyz[=]é", min_size=1, max_size=8), st.floats(0.001, 1), min_size=1, max_size=6)


@given(WEIGHTS, st.randoms(use_true_random=False), st.sampled_from(["%.17g", "%.20e", "%r"]))
def test_neither_order_nor_the_printing_of_floats_changes_the_id(
    weights: dict[str, float], random: Random, form: str
) -> None:
    spec = MixtureSpec(tuple(Component(n, n * 3, w) for n, w in normalise(weights).items()))
    parts = [f'{{"collection": {json.dumps(c.collection)}, "digest": {json.dumps(c.digest)}, "loss_weight": 1, '
             f'"weight": {form % c.weight}}}' for c in spec.components]  # fmt: skip
    random.shuffle(parts)
    again = MixtureSpec.from_json(f'{{"components": [{", ".join(parts)}], "schema_version": 1}}')
    assert again.id == spec.id


def test_two_stores_with_the_same_data_give_the_same_id(
    small_store: Store, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    with Store.open(tmp_path / "other", create=True) as other:
        for name, hard in (("hard", 6), ("easy", 0), ("middle", 3)):
            lines = write_collection(tmp_path, name, hard=hard).read_text().splitlines(keepends=True)
            (tmp_path / f"{name}.jsonl").write_text("".join(Random(name).sample(lines, len(lines))))
            jobs.ingest(other, [str(tmp_path / f"{name}.jsonl")])
        assert _save(other, "there").spec.id == _save(small_store, "here").spec.id


@pytest.fixture(scope="module")
def scratch_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("changes") / "store", create=True) as store:
        yield store


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 11), st.sampled_from(["query", "pos", "neg"]), st.randoms(use_true_random=False))
def test_one_changed_character_in_one_row_changes_the_id(
    scratch_store: Store, write_collection: Callable[..., Path], row: int, side: str, random: Random
) -> None:
    rows = [json.loads(line) for line in write_collection(scratch_store.work.parent, "c", rows=12).open()]
    text = rows[row][side] if side == "query" else rows[row][side][0]
    place = random.randrange(len(text))
    text = text[:place] + "Q" + text[place + 1 :]
    rows[row][side] = text if side == "query" else [text, *rows[row][side][1:]]
    name = f"c{random.getrandbits(60)}"
    file = scratch_store.work.parent / f"{name}.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    # The digest does not know the collection's name, so that one store serves for all.
    jobs.ingest(scratch_store, [str(file), str(scratch_store.work.parent / "c.jsonl")])
    digests = {part.digest for part in registry.pin(scratch_store, ["c", name]).values()}
    assert len({MixtureSpec((Component("c", digest, 1.0),)).id for digest in digests}) == 2
