"""What is said when nothing could be stored, and what `create` says of a mixture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixture import Store, StoreError, UsageError, jobs
from mixture.store import read


def test_a_file_of_which_nothing_is_stored_is_a_failure_that_is_tried_again(small_store: Store, tmp_path: Path) -> None:
    junk = tmp_path / "junk.jsonl"
    junk.write_text('{"a": 1}\n' * 140)
    easy = tmp_path / "raw" / "easy.jsonl"
    easy.write_text(easy.read_text() + '{"query": "one more", "pos": ["its answer"]}\n')
    for _ in range(2):  # never "unchanged"
        with pytest.raises(
            jobs.NothingStored, match="140 rows, the first on line 1: no known keys; found 'a'"
        ) as caught:
            jobs.ingest(small_store, [str(junk), str(easy)])
        assert list(caught.value.failed) == [str(junk)]
        assert "1 of 2 files; the others are stored" in str(caught.value)
    assert read.collections(small_store, ["easy"])[0].num_examples == 41
    assert "junk" not in read.names(small_store)
    assert small_store.sql("FROM rejects WHERE collection = 'junk'").num_rows == 140
    junk.write_text('{"query": "q", "pos": ["p"]}\n')
    assert jobs.ingest(small_store, str(junk))[0].counts.stored == 1
    assert small_store.sql("FROM rejects WHERE collection = 'junk'").num_rows == 0


def test_a_file_that_is_broken_now_keeps_what_it_gave(small_store: Store, tmp_path: Path) -> None:
    easy = tmp_path / "raw" / "easy.jsonl"
    easy.write_text("")
    with pytest.raises(jobs.NothingStored, match="the file is empty"):
        jobs.ingest(small_store, str(easy))
    assert read.collections(small_store, ["easy"])[0].num_examples == 40


def test_a_limit_of_rejects_says_why_at_once(small_store: Store, tmp_path: Path) -> None:
    (tmp_path / "junk.jsonl").write_text('{"a": 1}\n' * 3)
    with pytest.raises(StoreError, match=r"more than `max_rejects`, 1%, so nothing was stored: 3 rows, .*known keys"):
        jobs.ingest(small_store, str(tmp_path / "junk.jsonl"), max_rejects="1%")
    assert small_store.sql("FROM rejects").num_rows == 0


def test_create_says_what_is_left_out_small_twice_or_there_already(small_store: Store, tmp_path: Path) -> None:
    jobs.ingest(small_store, str(tmp_path / "raw" / "easy.jsonl"), name="copy")
    often = (
        "in the usual 1,000 steps of 64, 4 of 4 collections are seen more than 4 times, from where on repeats teach "
        "less (Muennighoff et al. 2023): copy 400 times, easy 400 times, hard 400 times, middle 400 times; UniMax "
        "keeps to a number of epochs"
    )
    twice = "equal in content, so drawn 2 times as often: copy, easy"
    first = jobs.create(small_store, "all")
    assert first.remarks == (twice, often)
    assert jobs.create(small_store, "all").remarks[-1] == "nothing was saved: all:1 is this mixture already"
    assert jobs.create(small_store, "again").remarks[-1] == "the same contents and weights as all:1"
    (tmp_path / "weights.json").write_text(json.dumps({"easy": 1, "hard": 2}))
    weighed = jobs.create(small_store, "weighed", weights=tmp_path / "weights.json")
    assert weighed.remarks[0] == "left out, since the weights do not name them: copy, middle"
    assert weighed.note == "weights from weights.json"
    assert "left out" not in str(jobs.create(small_store, "asked", collections=["easy"]).remarks)
    assert "left out, fewer than 41 examples" in str(_with_one_more(small_store, tmp_path).remarks)
    assert jobs.create(small_store, "p", weights="proportional").note == "weights as sizes"
    assert jobs.create(small_store, "t", weights=jobs.Temperature(3)).note == "weights as size^(1/3)"


def test_create_says_what_training_would_see_most_often(small_store: Store) -> None:
    weights = {"easy": 0.002, "middle": 0.003, "hard": 0.995}
    warned = jobs.create(small_store, "m", weights=weights).remarks[-1]
    assert "2 of 3 collections are seen more than 4 times" in warned
    assert "hard 1,592 times, middle 4.8 times; UniMax" in warned
    # Changed from another mixture, with the sizes that it pins.
    assert "hard 1,568 times" in jobs.create(small_store, "n", source="m", fixed={"hard": 0.98}).remarks[0]
    capped = jobs.create(small_store, "u", weights=jobs.UniMax(2, 120)).remarks[-1]
    assert capped == "in 120 examples, training sees most often: easy 1.0 times, hard 1.0 times, middle 1.0 times"
    one = jobs.create(small_store, "one", weights={"easy": 1.0, "middle": 0.0}).remarks
    assert "1 of 1 collections is seen" in str(one)


def _with_one_more(store: Store, tmp_path: Path) -> jobs.CreatedMixture:
    (tmp_path / "more.jsonl").write_text('{"query": "one more", "pos": ["its answer"]}\n')
    jobs.ingest(store, str(tmp_path / "more.jsonl"), name="hard")
    return jobs.create(store, "large", min_examples=41)


def test_a_unimax_that_cannot_be_kept_is_not_said_to_be(small_store: Store) -> None:
    kept = jobs.create(small_store, "kept", weights=jobs.UniMax(2, 240))
    assert kept.note == "UniMax, 2 epochs at most in 240 examples"
    other = jobs.create(small_store, "other", weights=jobs.UniMax(2, 480))
    assert other.note == (
        "UniMax, but 2 epochs at most cannot be kept: 480 examples are drawn from 120, 4 times each"
    )  # fmt: skip


@pytest.mark.parametrize("body, says", [
    ('[1, 2]', 'a list; `weights` takes a JSON object, such as {"nq"'), ('{"easy": [1]}', r"weight of 'easy' is \[1\]"),
    ("{", "it is no JSON"),
])  # fmt: skip
def test_wrong_weights_say_what_is_taken(small_store: Store, tmp_path: Path, body: str, says: str) -> None:
    (tmp_path / "w.json").write_text(body)
    with pytest.raises(UsageError, match=says):
        jobs.create(small_store, "m", weights=tmp_path / "w.json")


def test_a_share_in_place_of_percent_is_asked_about(small_store: Store) -> None:
    jobs.create(small_store, "m")
    with pytest.raises(UsageError, match=r"`top` is 0.7, which is 0.7 % of the collections; did you mean 70\?"):
        jobs.select(small_store, "m", "top", top=0.7)
