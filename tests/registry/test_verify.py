"""`mixture verify`: what is gone or was changed is found; what was only superseded is no fault."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from pyarrow.fs import FileSelector

from mixture import MixtureError, Store, StoreError, jobs, registry
from mixture.registry.verify import require_whole, verify
from mixture.specs import Component, MixtureSpec
from mixture.store import files
from mixture.store.materialise import materialise
from mixture.store.write import remove_examples
from mixture.transfers import select_top


def _save(store: Store, name: str = "mix", *collections: str) -> registry.SavedMixture:
    parts = registry.pin(store, collections)
    return registry.save(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), name)


class LakeFile:
    """A file of the lake by its path in the catalog, wherever the lake is."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def read_bytes(self) -> bytes:
        with self.store.data.open_input_file(self.name) as stream:
            return stream.read()

    def write_bytes(self, content: bytes) -> None:
        with self.store.data.open_output_stream(self.name) as stream:
            stream.write(content)

    def unlink(self) -> None:
        self.store.data.delete_file(self.name)


def _data_file(store: Store, table: str, collection: str) -> LakeFile:
    (found,) = store.data.get_file_info(FileSelector(f"main/{table}/collection={collection}"))
    return LakeFile(store, found.path)


def _flip(file: Path | LakeFile, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_whole_store_has_no_findings(small_store: Store) -> None:
    saved = _save(small_store)
    materialise(small_store, saved.spec)
    result = verify(small_store)
    assert result.findings == []
    assert result.checked == {"mixtures": 1, "contents": 3, "data files": 13, "materialised": 3}
    require_whole(result)


@pytest.mark.parametrize("table", ["examples", "passages", "negatives"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_deleted_and_a_shortened_file_are_found(small_store: Store, table: str, recorded: bool) -> None:
    if recorded:
        _save(small_store)
    _data_file(small_store, table, "easy").unlink()
    short = _data_file(small_store, table, "hard")
    short.write_bytes(short.read_bytes()[:-1])
    says = {f.name: f.says for f in verify(small_store).faults if f.what == "data file"}
    assert sorted(says.values()) == sorted(["is missing", next(s for s in says.values() if "the catalog says" in s)])
    with pytest.raises(StoreError, match="damaged; the first: data file main/"):
        require_whole(verify(small_store))


@pytest.mark.parametrize("table", ["examples", "passages", "negatives"])
def test_any_flipped_bit_is_found_once_a_mixture_needs_the_file(small_store: Store, table: str) -> None:
    _save(small_store)
    file = _data_file(small_store, table, "middle")
    whole = file.read_bytes()
    listed = {f.path: f for f in files.data_files(small_store)}
    name = file.name
    assert files.fault(small_store, listed[name]) is None
    for place in (0, 5, *Random(1).sample(range(len(whole)), 20), len(whole) - 1):
        _flip(file, place)
        assert files.fault(small_store, listed[name]) == "its bytes have changed since they were recorded"
        file.write_bytes(whole)
    _flip(file, len(whole) // 2)
    found = verify(small_store, "mix").faults
    assert name in [f.name for f in found]


def test_files_of_deletions_that_no_mixture_needed_yet_are_read_too(small_store: Store) -> None:
    """Taken out by dedup or by a file that changed; fewer rows than these leave no file."""
    chosen = "SELECT collection, example_id, 'duplicate' AS reason FROM examples WHERE collection = 'easy' LIMIT 30"
    remove_examples(small_store, small_store.sql(chosen))
    (deletions,) = [f for f in files.data_files(small_store) if f.num_rows is None and f.table == "examples"]
    assert verify(small_store).findings == []
    _flip(LakeFile(small_store, deletions.path), -1)
    assert [f.name for f in verify(small_store).faults] == [deletions.path]


def test_a_changed_text_is_found_in_a_file_that_no_mixture_needed_yet(small_store: Store) -> None:
    assert verify(small_store).findings == []
    for table, column in (("examples", "query"), ("passages", "text")):
        file = _data_file(small_store, table, "hard")
        word = small_store.rows(f"SELECT {column} AS t FROM {table} WHERE collection = 'hard' LIMIT 1")[0]["t"].split()[
            1
        ]
        content = file.read_bytes()
        _flip(file, content.index(word.encode()))
    says = [f.says for f in verify(small_store).faults]
    assert len(says) == 2
    assert all("their ids are hashes of" in s or "cannot be read" in s for s in says)


def test_a_file_that_is_no_parquet_any_more_is_a_fault_and_not_a_crash(small_store: Store) -> None:
    file = _data_file(small_store, "passages", "easy")
    file.write_bytes(b"x" * len(file.read_bytes()))
    assert [f.says.partition(":")[0] for f in verify(small_store).faults] == ["cannot be read"]


def test_a_superseded_content_is_found_in_its_version_or_its_materialised_files(small_store: Store) -> None:
    saved = _save(small_store)
    jobs.mine(small_store, ["easy"], per_query=1)
    (finding,) = verify(small_store).findings
    assert (finding.name, finding.fault) == ("easy as pinned by mix:1", False)
    assert finding.says == f"is no longer today's; version {saved.snapshot} holds it"
    second = _save(small_store)
    materialise(small_store, second.spec)
    jobs.mine(small_store, ["easy"], per_query=2)
    assert [f.says for f in verify(small_store, second.spec.id).findings] == [
        "is no longer today's; its materialised files are whole"
    ]


def test_a_mixture_made_from_an_older_one_is_whole_in_that_ones_version(small_store: Store) -> None:
    saved = _save(small_store)
    jobs.mine(small_store, ["easy"], per_query=1)
    registry.save(small_store, select_top(saved.spec, 70), "made", parents=[saved.spec.id])
    found = verify(small_store, "made")
    assert found.faults == []
    assert any(f"version {saved.snapshot} holds it" in f.says for f in found.findings)


def test_a_content_that_is_nowhere_is_a_fault(small_store: Store) -> None:
    registry.save(small_store, MixtureSpec((Component("easy", "0" * 64, 1.0),)), "lost")
    (finding,) = verify(small_store, "lost").findings
    assert finding.fault
    assert "is gone: no rows give the digest 000000000000" in finding.says


def test_changed_and_missing_materialised_files_are_found(small_store: Store) -> None:
    saved = _save(small_store)
    data = materialise(small_store, saved.spec)
    folders = {name: part.folder for name, part in data.components.items()}
    del data
    _flip(folders["easy"] / "passages.arrow", 300)
    (folders["middle"] / "examples.arrow").unlink()
    (folders["hard"] / "component.json").write_text("{")
    says = {f.name: f.says for f in verify(small_store).faults}
    assert sorted(says.values()) == ["cannot be read", "is missing", "its bytes have changed since they were written"]
    assert all(f.what == "materialised" for f in verify(small_store, "mix").faults)


def test_one_mixture_asks_only_for_its_own_files(small_store: Store) -> None:
    _save(small_store, "one", "easy")
    _data_file(small_store, "passages", "hard").unlink()
    assert verify(small_store, "one").faults == []
    assert len(verify(small_store).faults) == 1


def test_the_ids_of_multi_positive_and_titled_rows_hold(tmp_path: Path) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text('{"query": "q", "pos": ["zz", "aa", "zz"], "neg": []}\n{"query": "é", "pos": ["x y"]}\n')
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(file)])
        assert verify(store).findings == []


def test_an_older_version_that_is_not_there_is_an_error(small_store: Store) -> None:
    with pytest.raises(MixtureError, match="version 999"), files.at_version(small_store, 999):
        pass


def test_a_store_that_was_moved_is_still_whole(small_store: Store, tmp_path: Path) -> None:
    _save(small_store)
    shutil.copytree(small_store.work, tmp_path / "moved")
    with Store.open(tmp_path / "moved") as moved:
        assert verify(moved).findings == []
