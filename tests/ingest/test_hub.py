"""Datasets of the hub, from a mirror of two small repositories; offline, and what is said then."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixture.errors import UsageError
from mixture.ingest.hub import MIRROR, HubSource
from mixture.ingest.sources import SourceUnit, discover
from mixture.ingest.units import read_unit, sha256_of
from mixture.rows import RawExample, Reject

README = """---
configs:
- config_name: english
  data_files:
  - {split: train, path: data/train-*}
  - {split: dev, path: data/dev-*}
- config_name: german
  data_files:
  - {split: test, path: german/test-*}
---
# A dataset
"""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """acme/qa: Parquet shards and front matter; acme/raw: lists and objects in JSON lines."""
    root = tmp_path / "mirror"
    qa = root / "acme/qa"
    (qa / "data").mkdir(parents=True)
    (qa / "german").mkdir()
    (qa / "README.md").write_text(README)
    for name, queries in {
        "data/train-00000-of-00002": ["q1", "q2"],
        "data/train-00001-of-00002": ["q3"],
        "data/dev-00000-of-00001": ["d1"],
        "german/test-00000-of-00001": ["f1"],
    }.items():
        table = {"Headline": queries, "Body": [f"answer to {q}" for q in queries], "votes": [1] * len(queries)}
        pq.write_table(pa.table(table), qa / f"{name}.parquet")
    raw = root / "acme/raw"
    raw.mkdir()
    (raw / "pairs.jsonl.gz").write_bytes(gzip.compress(b'["q1", "p1"]\n["q2"\n["q3", "p3"]\n'))
    rows = [{"Headline": "t1", "Body": "b1", "Wrong": ["n1"]}, {"Headline": "t2", "Body": "b2"}, {"Headline": "t3"}]
    (raw / "mail.zh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (raw / "mail.json").write_text(json.dumps(rows))
    (raw / "mail.csv").write_text("Headline;Body;x\nt1;b1;1\n")
    monkeypatch.setenv(MIRROR, str(root))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return root


COLUMNS = {"query": "Headline", "positive": "Body"}


def one(source: HubSource | str) -> SourceUnit:
    (unit,) = discover([source], None)
    return unit


def texts(unit: SourceUnit) -> list[tuple[str, str]]:
    return [(row.query, row.positives[0].text) for row in read_unit(unit) if isinstance(row, RawExample)]


def test_rows_through_datasets(mirror: Path) -> None:
    unit = one(HubSource("acme/qa", "english", columns=COLUMNS))
    assert (unit.collection, unit.language) == ("qa", None)
    assert unit.location == "hf://datasets/acme/qa english train"
    assert texts(unit) == [(q, f"answer to {q}") for q in ("q1", "q2", "q3")]
    assert [row.line for row in read_unit(unit)] == [1, 2, 3]
    assert texts(one(HubSource("acme/qa", "english", split="dev", columns=COLUMNS))) == [("d1", "answer to d1")]


def test_the_only_split_does_not_stand_for_train_where_it_is_for_tests(mirror: Path) -> None:
    with pytest.raises(UsageError, match="the only split is test, which is not to be trained on"):
        texts(one(HubSource("acme/qa", "german", columns=COLUMNS)))
    assert texts(one(HubSource("acme/qa", "german", split="test", columns=COLUMNS))) == [("f1", "answer to f1")]


def test_a_hub_id_as_it_is_typed(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mirror / "acme/qa/README.md").write_text(README.replace("config_name: english", "config_name: default"))
    monkeypatch.chdir(tmp_path)
    unit = one("acme/qa")
    assert unit.collection == "qa"
    # Of the columns Headline, Body and votes nobody can say which is which.
    (reject,) = read_unit(unit)
    assert isinstance(reject, Reject)
    assert reject.raw == "Headline, Body, votes"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (HubSource("acme/qa"), r"'acme/qa': Config name is missing. Please pick one .*\['english', 'german'\]$"),
        (HubSource("acme/qa", "french"), r"'french' not found. Available: \['english', 'german'\]"),
        (HubSource("acme/qa", "english", split="tset"), "no split of acme/qa 'tset'; there are: dev, train"),
    ],
)
def test_wrong_configurations_and_splits(mirror: Path, source: HubSource, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_unit(one(source))


def test_wrong_column_mapping_is_one_reject(mirror: Path) -> None:
    (reject,) = read_unit(one(HubSource("acme/qa", "english", columns={"query": "Headlein", "positive": "Body"})))
    assert isinstance(reject, Reject)
    assert reject.reason == ("no column 'Headlein', given for query in `columns` or the datacard; found 'headline', "
                             "'body', 'votes'")  # fmt: skip


def test_damaged_shard(mirror: Path) -> None:
    shard = mirror / "acme/qa/data/train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    *good, reject = read_unit(one(HubSource("acme/qa", "english", columns=COLUMNS)))
    assert [row.line for row in good] == [1, 2]
    assert isinstance(reject, Reject)
    assert reject.line == 3
    assert reject.reason.startswith("the data is damaged here, no row from here on can be read: ")


def test_files_of_a_repository_are_units_of_our_readers(mirror: Path) -> None:
    units = discover([HubSource("acme/raw", files=("pairs.jsonl.gz", "mail.zh.jsonl"))], None)
    assert [(unit.location, unit.collection, unit.language) for unit in units] == [
        ("hf://datasets/acme/raw/mail.zh.jsonl", "raw", "zh"),
        ("hf://datasets/acme/raw/pairs.jsonl.gz", "raw", None),
    ]
    assert texts(units[1]) == [("q1", "p1"), ("q3", "p3")]
    assert [row.line for row in read_unit(units[1]) if isinstance(row, Reject)] == [2]


@pytest.mark.parametrize("file", ["mail.zh.jsonl", "mail.json"])
def test_column_mapping_of_json_files(mirror: Path, file: str) -> None:
    first, second, third = read_unit(
        one(HubSource("acme/raw", files=(file,), columns={**COLUMNS, "negative": "Wrong"}))
    )
    assert isinstance(first, RawExample)
    assert isinstance(second, RawExample)
    assert (first.query, first.positives[0].text, first.negatives[0].text) == ("t1", "b1", "n1")
    assert (second.query, second.negatives) == ("t2", ())
    assert isinstance(third, Reject)
    assert third.reason.startswith("no key 'Body', given for positive in `columns` or the datacard; found 'Headline'")


def test_column_mapping_of_tables(mirror: Path) -> None:
    shard = "data/train-00000-of-00002.parquet"
    assert texts(one(HubSource("acme/qa", files=(shard,), columns=COLUMNS))) == [
        ("q1", "answer to q1"), ("q2", "answer to q2"),
    ]  # fmt: skip
    assert texts(one(HubSource("acme/raw", files=("mail.csv",), columns=COLUMNS))) == [("t1", "b1")]


def test_an_empty_column_mapping_is_none(mirror: Path) -> None:
    assert texts(one(HubSource("acme/raw", files=("pairs.jsonl.gz",), columns={}))) == [("q1", "p1"), ("q3", "p3")]
    (reject,) = read_unit(one(HubSource("acme/qa", "english", columns={})))
    assert isinstance(reject, Reject)
    assert reject.raw == "Headline, Body, votes"


def test_hash_follows_content_and_choice(mirror: Path) -> None:
    english = HubSource("acme/qa", "english", columns=COLUMNS)
    sources = [
        english, HubSource("acme/qa", "german", columns=COLUMNS), HubSource("acme/qa", "english", columns=None),
        HubSource("acme/qa", "english", split="dev", columns=COLUMNS), HubSource("acme/raw", files=("mail.json",)),
        HubSource("acme/raw", files=("mail.json",), columns=COLUMNS),
    ]  # fmt: skip
    hashes = [sha256_of(one(source)) for source in sources]
    assert len(set(hashes)) == len(sources)
    assert hashes == [sha256_of(one(source)) for source in sources]
    assert hashes[4] == sha256_of(one(str(mirror / "acme/raw/mail.json")))
    pq.write_table(pa.table({"Headline": ["q"], "Body": ["a"]}), mirror / "acme/qa/data/train-00001-of-00002.parquet")
    assert sha256_of(one(english)) != hashes[0]


class Hub(BaseHTTPRequestHandler):
    """So much of the hub's interface as the client asks for to fetch one file."""

    FILES: ClassVar = {"pairs.jsonl": b'["q1", "p1"]\n'}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        info = {"id": "acme/online", "sha": "5" * 40, "siblings": [{"rfilename": name} for name in self.FILES]}
        if self.path.startswith("/api/datasets/acme/online"):
            self._send(json.dumps(info).encode())
        elif self.path.startswith(f"/datasets/acme/online/resolve/{'5' * 40}/"):
            self._send(self.FILES[self.path.rpartition("/")[2]])
        else:
            self.send_error(404)

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        for name, value in (("X-Repo-Commit", "5" * 40), ("ETag", '"tag"'), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


ONLINE = """
from mixture.ingest.hub import HubSource
from mixture.ingest.sources import discover
from mixture.ingest.units import read_unit, sha256_of
(unit,) = discover([HubSource("acme/online", files=("pairs.jsonl",))], None)
print(unit.location, unit.place.revision, len(sha256_of(unit)), [row.query for row in read_unit(unit)])
try:
    discover(["acme/nowhere"], None)
except Exception as error:
    print(error)
"""


def test_a_file_comes_from_the_hub_at_its_newest_commit(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    places = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    # A process of its own, as the client reads where the hub is when it is imported.
    done = subprocess.run([sys.executable, "-c", ONLINE], capture_output=True, text=True, env=os.environ | places)
    server.shutdown()
    assert done.returncode == 0, done.stderr
    found, missing = done.stdout.splitlines()
    assert found == f"hf://datasets/acme/online/pairs.jsonl {'5' * 40} 64 ['q1']"
    assert missing.startswith("no such file or folder: acme/nowhere; and no hub dataset 'acme/nowhere': not on the hub")


def test_missing_file_of_a_repository(mirror: Path) -> None:
    with pytest.raises(UsageError, match=r"hub dataset 'acme/raw' has no file 'mial.json' in .*acme/raw"):
        discover([HubSource("acme/raw", files=("mail.json", "mial.json"))], None)


def test_a_typo_may_be_a_path_or_a_hub_id(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        discover(["acme/qaa"], None)
    message = str(caught.value)
    assert message.startswith("no such file or folder: acme/qaa; and no hub dataset 'acme/qaa': not on the hub (")
    assert message.endswith(f"and not in ${MIRROR} {mirror}")
    monkeypatch.delenv(MIRROR)
    with pytest.raises(UsageError, match=rf"and not in \${MIRROR}, which is not set"):
        discover(["acme/qa"], None)


@pytest.mark.parametrize("source", ["acme/rows.jsonl", "acme/one/two", "rows", "/acme/qa"])
def test_what_cannot_be_a_hub_id_is_only_a_missing_path(mirror: Path, source: str) -> None:
    with pytest.raises(UsageError) as caught:
        discover([source], None)
    assert str(caught.value) == f"no such file or folder: {source}"


def test_format_is_for_files(mirror: Path) -> None:
    with pytest.raises(UsageError, match="format 'csv' is for files"):
        read_unit(discover([HubSource("acme/qa", "english")], None, format="csv")[0])


def test_datasets_is_imported_only_when_it_is_needed(mirror: Path) -> None:
    script = "import sys, mixture.ingest.units; print('datasets' in sys.modules, 'huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False False\n"
