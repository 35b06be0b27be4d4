import gzip
import json

import pytest
import zstandard

from mixture.errors import UsageError
from mixture.suites.lists import TEST_PASSAGES, TEST_QUERIES, read_test_passages, read_test_queries


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


LIST = lines({"suite": "nq", "query_id": "1", "query": "谁写了？"}, {"suite": "fiqa", "query_id": 2, "query": "who"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("all.jsonl", LIST),
        ("all.jsonl.gz", gzip.compress(LIST)),
        ("all.jsonl.zst", zstandard.compress(LIST)),
        ("all.jsonl.gz", LIST),
    ],
    ids=["plain", "gzip", "zstandard", "called gzip"],
)
def test_json_lines(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    table = read_test_queries(path)
    assert table.schema == TEST_QUERIES
    assert table.to_pylist() == [
        {"suite": "nq", "query_id": "1", "query": "谁写了？", "simhash": None},
        {"suite": "fiqa", "query_id": "2", "query": "who", "simhash": None},
    ]


def test_beir_folder(tmp_path):
    folder = tmp_path / "scifact"
    folder.mkdir()
    (folder / "queries.jsonl").write_bytes(lines({"_id": "7", "text": "0-dimensional", "metadata": {}}))
    assert read_test_queries(folder).to_pylist() == [
        {"suite": "scifact", "query_id": "7", "query": "0-dimensional", "simhash": None}
    ]


def test_text_and_tsv(tmp_path):
    (tmp_path / "mine.txt").write_bytes("\ufeffwho wrote\r\n\nwhat\tis\n".encode())
    (tmp_path / "bare.tsv").write_bytes(b"who\nwhat\n")
    (tmp_path / "topics.tsv.gz").write_bytes(gzip.compress(b"350\thealth\tand computers\nx\twho\n"))
    rows = [tuple(row.values())[:3] for row in read_test_queries(tmp_path / "mine.txt").to_pylist()]
    assert rows == [("mine", "1", "who wrote"), ("mine", "3", "what\tis")]
    rows = [tuple(row.values())[:3] for row in read_test_queries(str(tmp_path / "topics.tsv.gz")).to_pylist()]
    assert rows == [("topics", "350", "health\tand computers"), ("topics", "x", "who")]
    assert read_test_queries(tmp_path / "bare.tsv")["query"].to_pylist() == ["who", "what"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LIST + b'{"query_id": \n', "a.jsonl, line 3: not JSON"),
        ("a.jsonl", LIST + b'["nq", "1", "who"]\n', "line 3: expected a JSON object"),
        ("a.jsonl", LIST + b'{"suite": "nq", "query": "x"}\n', "line 3: no 'query_id' or '_id'"),
        ("a.jsonl", LIST + b'{"suite": "nq", "query_id": "x"}\n', "line 3: no 'query' or 'text'"),
        ("a.jsonl", LIST + b'{"query_id": "3", "query": " "}\n', "line 3: no 'query' or 'text', or it is empty"),
        ("a.jsonl", LIST + b'{"query_id": "3", "query": 5}\n', "line 3: 'query' is int"),
        ("a.jsonl", LIST + b'{"query_id": "3", "query": "caf\xe9"}\n', "line 3: not UTF-8"),
        ("a.jsonl.gz", gzip.compress(LIST * 500)[:-30], "a.jsonl.gz, after line .*damaged gzip"),
        ("a.tsv", b"1\twho\nwho\n", "a.tsv, line 2: expected 'id<TAB>text'"),
        ("a.txt", b"\n\n", "a.txt: no queries"),
        ("a.csv", b"1,who\n", "expected .jsonl, .txt, .tsv"),
    ],
)
def test_damaged_lists_name_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_test_queries(tmp_path / name)


def test_missing_paths(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_test_queries(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match=r"no queries\.jsonl"):
        read_test_queries(tmp_path)


def write_suite(folder, *, splits=("test",), packed=False):
    """Queries 1 (test), 2 (train), 3 (both), 4 (nobody's); documents a to e."""
    (folder / "qrels").mkdir(parents=True)
    queries = lines(*({"_id": str(n), "text": f"query {n}"} for n in range(1, 5)))
    documents = [{"_id": n, "title": f"Title {n}", "text": "" if n == "d" else f"text {n}"} for n in "abcd"]
    corpus = lines(*documents, {"_id": "e", "title": "", "text": " "})
    for name, content in (("queries.jsonl", queries), ("corpus.jsonl", corpus)):
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    judged = {"test": "1\ta\t1\n1\tb\t0\n3\td\t2\n3\te\t1\n3\tmissing\t1\n", "train": "2\tc\t1\n3\tc\t1\n"}
    for split in splits:
        text = "query-id\tcorpus-id\tscore\n" + judged["train" if split == "train" else "test"]
        (folder / "qrels" / f"{split}.tsv").write_text(text)
    return folder


def ids(table, column):
    return [(row["suite"], row[column]) for row in table.to_pylist()]


@pytest.mark.parametrize("packed", [False, True])
def test_queries_of_other_splits_stay_trainable(tmp_path, packed):
    suite = write_suite(tmp_path / "scifact", splits=("test", "train"), packed=packed)
    assert ids(read_test_queries(suite), "query_id") == [("scifact", "1"), ("scifact", "3"), ("scifact", "4")]


def test_relevant_documents_of_the_test_split(tmp_path):
    suite = write_suite(tmp_path / "scifact", splits=("test", "train"))
    table = read_test_passages(suite)
    assert table.schema == TEST_PASSAGES
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("scifact", "a", "text a"),
        ("scifact", "d", "Title d"),
    ]
    everything = read_test_passages(suite, judged_only=False)
    assert everything["doc_id"].to_pylist() == ["a", "b", "c", "d"]


def test_a_folder_of_suites(tmp_path):
    write_suite(tmp_path / "b", splits=("dev", "train"), packed=True)
    write_suite(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    assert ids(read_test_passages(tmp_path), "doc_id") == [("a", "a"), ("a", "d"), ("b", "a"), ("b", "d")]
    assert {row[0] for row in ids(read_test_queries(tmp_path), "query_id")} == {"a", "b"}


def test_files_of_passages(tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(
        lines({"doc_id": 1, "text": "one"}, {"suite": "s", "_id": "2", "text": "two"})
    )
    assert [tuple(r.values()) for r in read_test_passages(tmp_path / "mine.jsonl").to_pylist()] == [
        ("mine", "1", "one"), ("s", "2", "two"),
    ]  # fmt: skip
    (tmp_path / "plain.tsv").write_bytes(b"7\tone\n")
    assert ids(read_test_passages(tmp_path / "plain.tsv"), "doc_id") == [("plain", "7")]


def test_suites_that_cannot_be_used(tmp_path):
    with pytest.raises(UsageError, match=r"no corpus\.jsonl"):
        read_test_passages(tmp_path)
    with pytest.raises(UsageError, match=r"no qrels/test\.tsv"):
        read_test_passages(write_suite(tmp_path / "bare", splits=()))
    with pytest.raises(UsageError, match=r"there are a, b; expected test or dev\.tsv"):
        read_test_passages(write_suite(tmp_path / "odd", splits=("b", "a")))
    suite = write_suite(tmp_path / "torn")
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\n")
    with pytest.raises(UsageError, match=r"test\.tsv, line 2: expected 'query<TAB>document<TAB>grade'"):
        read_test_passages(suite)
    (tmp_path / "empty.jsonl").write_bytes(lines({"doc_id": 1, "text": " "}))
    with pytest.raises(UsageError, match="line 1: no 'text' or 'title'"):
        read_test_passages(tmp_path / "empty.jsonl")


def test_real_suites(real_data):
    table = read_test_passages(real_data / "eval")
    assert table.num_rows == 3592
    assert len(set(table["suite"].to_pylist())) == 13
