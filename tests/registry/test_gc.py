"""`mixture gc`: what no mixture needs goes, what is needed stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from mixture import Store, jobs, registry
from mixture.registry.gc import LEFTOVER_SECONDS, gc
from mixture.specs import MixtureSpec
from mixture.store import layout
from mixture.store.materialise import materialise
from mixture.store.write import insert_rows


def _spec(store: Store) -> MixtureSpec:
    parts = registry.pin(store)
    return registry.weighted(parts, dict.fromkeys(parts, 1.0))


def _tiny(spec: MixtureSpec) -> str:
    return layout.tiny_model(Path(), "tiny-qwen2", (c.digest for c in spec.components), 42).name


def _make(root: Path, *folders: str) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_bytes(b"12345")


def test_what_a_mixture_needs_stays(small_store: Store) -> None:
    saved = registry.save(small_store, _spec(small_store), "mix", run_id="a" * 12)
    materialise(small_store, saved.spec)
    _make(small_store.work, f"models/{_tiny(saved.spec)}", "models/mine", f"runs/{'a' * 12}", f"runs/{'c' * 12}",
          f"runs/reference-{'b' * 12}", f"runs/{'d' * 12}", "runs/notes")  # fmt: skip
    reference = str(small_store.work / "runs" / f"reference-{'b' * 12}")
    insert_rows(small_store, "runs", [
        {"run_id": "a" * 12, "kind": "tdro-seeds", "status": "finished", "mixture": saved.spec.id,
         "started_at": saved.created_at, "config": json.dumps({"runs": ["c" * 12]})},
        {"run_id": "c" * 12, "kind": "tdro", "status": "finished", "mixture": saved.spec.id,
         "started_at": saved.created_at, "config": json.dumps({"reference": reference})},
        {"run_id": "d" * 12, "kind": "tdro", "status": "running", "mixture": saved.spec.id,
         "started_at": saved.created_at, "config": "{}"},
    ])  # fmt: skip
    # The collection has other content today: the materialised files are all that is left of what the mixture pins.
    jobs.mine(small_store, ["easy"], per_query=1)
    assert gc(small_store) == []
    assert registry.resolve(small_store, "mix").spec == saved.spec


def test_what_nothing_needs_goes_and_a_dry_run_leaves_it(small_store: Store) -> None:
    root, spec = small_store.work, _spec(small_store)
    materialise(small_store, spec)
    _make(root, f"models/{_tiny(spec)}", f"runs/{'e' * 12}", f"runs/reference-{'f' * 12}")
    found = gc(small_store, dry_run=True)
    assert {thing.path for thing in found} == {
        f"materialised/{spec.id}.json", *(f"materialised/components/{c.digest}" for c in spec.components),
        f"models/{_tiny(spec)}", f"runs/{'e' * 12}", f"runs/reference-{'f' * 12}",
    }  # fmt: skip
    assert {thing.num_bytes for thing in found if thing.path.startswith("runs")} == {5}
    assert all((root / thing.path).exists() for thing in found)
    assert gc(small_store) == found
    assert not any((root / thing.path).exists() for thing in found)
    assert gc(small_store, dry_run=True) == []
    assert materialise(small_store, spec).sizes == {"easy": 40, "hard": 40, "middle": 40}


@pytest.mark.parametrize("phases", [False, True])
def test_a_mixture_at_work_keeps_its_files(small_store: Store, phases: bool) -> None:
    spec = _spec(small_store)
    materialise(small_store, spec)
    config = json.dumps({"phases": [{"mixture": spec.id, "steps": 3}]} if phases else {})
    insert_rows(small_store, "runs", [{"run_id": "a" * 12, "kind": "reference", "status": "running", "config": config,
                                       "mixture": None if phases else spec.id,
                                       "started_at": time_of(small_store)}])  # fmt: skip
    assert gc(small_store, dry_run=True) == []


def time_of(store: Store) -> object:
    return store.rows("SELECT now() AS t")[0]["t"]


@pytest.mark.parametrize("leftover", ["spill-0123", "materialised/components/.writing-x", "materialised/x.1.tmp"])
def test_leftovers_of_a_kill_go_after_a_day(small_store: Store, leftover: str) -> None:
    _make(small_store.work, leftover)
    assert gc(small_store, dry_run=True) == []
    long_ago = time.time() - LEFTOVER_SECONDS - 60
    os.utime(small_store.work / leftover, (long_ago, long_ago))
    assert [thing.path for thing in gc(small_store)] == [leftover]
    assert not (small_store.work / leftover).exists()


def test_a_references_embeddings_go_unless_an_unfinished_run_uses_them(small_store: Store) -> None:
    used, other, older = (f"runs/reference-embeddings/{name}" for name in ("aa-fp32", "aa-bf16", "org-model-fp32"))
    _make(small_store.work, used, other, older, "runs/reference-embeddings/notes")
    common = {"kind": "tdro", "mixture": "?", "started_at": time_of(small_store)}
    insert_rows(small_store, "runs", [
        {"run_id": "a" * 12, "status": "running", **common,
         "config": json.dumps({"reference": "/x", "reference_embeddings": "aa-fp32"})},
        {"run_id": "b" * 12, "status": "finished", **common,
         "config": json.dumps({"reference": "/y", "reference_embeddings": "aa-bf16"})},
        {"run_id": "c" * 12, "status": "running", **common, "config": json.dumps({"reference": None})},
    ])  # fmt: skip
    found = gc(small_store, dry_run=True)
    assert [(thing.path, thing.num_bytes) for thing in found] == [(other, 5), (older, 5)]
    # A run that an older version began does not say which embeddings it uses.
    row = {"run_id": "d" * 12, "status": "running", **common, "config": json.dumps({"reference": "/z"})}
    insert_rows(small_store, "runs", [row])
    assert gc(small_store) == []
    small_store.connection.execute("UPDATE runs SET status = 'finished'")
    assert [thing.path for thing in gc(small_store)] == [other, used, older]
    assert [path.name for path in (small_store.work / "runs" / "reference-embeddings").iterdir()] == ["notes"]


def test_kept_embeddings_go_when_no_command_used_them_for_a_day(small_store: Store) -> None:
    used, unused, own = (f"embeddings/{name}" for name in ("0" * 16, "1" * 16, "mine"))
    _make(small_store.work, used, unused, own)
    assert gc(small_store) == []
    long_ago = time.time() - LEFTOVER_SECONDS - 60
    for folder in (used, unused, own):
        os.utime(small_store.work / folder / "file", (long_ago, long_ago))
    (small_store.work / used / "space.json").touch()
    assert [thing.path for thing in gc(small_store)] == [unused]
    assert [(small_store.work / folder).exists() for folder in (used, unused, own)] == [True, False, True]


@pytest.mark.parametrize("folder", ["models/tiny-own", "models/tiny-qwen2-mine-1", "runs/reference-mine"])
def test_folders_with_names_of_the_users_own_stay(small_store: Store, folder: str) -> None:
    _make(small_store.work, folder)
    assert gc(small_store) == []
