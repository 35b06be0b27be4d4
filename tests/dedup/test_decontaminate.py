import gzip
import json

import pyarrow as pa
import pytest

from mixture.dedup import find_contaminated, read_test_queries, simhash_fingerprints
from mixture.dedup.decontaminate import CONTAMINATED
from mixture.dedup.query_lists import TEST_QUERIES
from mixture.errors import UsageError

LONG = "what is the name of the river that runs through the old town and past the mill before it meets the sea"
TYPO = LONG.replace("mill before", "mil before")


def bits(a, b):
    first, second = simhash_fingerprints([a, b]).tolist()
    return (first ^ second).bit_count()


def suite_table(*rows):
    return pa.table(
        [[row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], [None] * len(rows)],
        schema=TEST_QUERIES,
    )


def found(queries, tests, **options):
    ids = [f"q{row}" for row in range(len(queries))]
    table = find_contaminated(queries, ids, tests, **options)
    assert table.schema == CONTAMINATED
    return [tuple(row.values()) for row in table.to_pylist()]


def test_equal_after_normalisation():
    tests = suite_table(("nq", "1", "Who wrote Hamlet"), ("nq", "2", "Who wrote Faust"))
    rows = found(["who wrote macbeth?", "WHO wrote_hamlet?!", "why"], tests)
    assert rows == [("q1", "nq", "1", "Who wrote Hamlet", 0)]


def test_near_a_test_query():
    tests = suite_table(("nq", "1", LONG))
    distance = bits(LONG, TYPO)
    assert found([TYPO], tests, distance=distance) == [("q0", "nq", "1", LONG, distance)]
    assert found([TYPO], tests, distance=distance - 1) == []
    assert found([TYPO], tests, distance=7, verify=1.0) == []


def test_numbers_may_differ_here():
    tests = suite_table(("nq", "1", LONG + " in 1914"))
    assert len(found([LONG + " in 1917"], tests, distance=7)) == 1


def test_one_row_a_query_with_the_nearest_test_query():
    tests = suite_table(("b", "9", TYPO), ("z", "2", LONG), ("z", "1", LONG), ("a", "1", TYPO))
    assert [row[:3] for row in found([LONG + "?", TYPO], tests, distance=7)] == [("q0", "z", "1"), ("q1", "a", "1")]


def test_when_the_nearest_fails_verification_the_next_one_counts():
    """One gram outvotes all others, so the fingerprints are equal; the rest of the first text is another one's."""
    repeated = "a" * 45
    query, wrong, right = (repeated + end for end in (" ijklmnop", " bcdefgh", " ijklmnopq"))
    assert bits(query, wrong) == bits(query, right) == 0
    tests = suite_table(("s", "1", wrong), ("s", "2", right))
    assert [row[2] for row in found([query], tests)] == ["2"]
    assert [row[2] for row in found([query], tests, verify=None)] == ["1"]


def test_order_of_the_rows_does_not_matter():
    rows = [("b", "9", TYPO), ("z", "2", LONG), ("a", "1", "why"), ("a", "2", "Why?")]
    queries = [LONG, "WHY", TYPO, "no"]
    assert found(queries, suite_table(*rows)) == found(queries, suite_table(*rows[::-1]))


def test_nothing_to_compare():
    assert found([], suite_table(("nq", "1", LONG))) == []
    assert found([LONG], suite_table()) == []


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="no column 'suite'"):
        find_contaminated(["a"], ["a"], pa.table({"query": ["a"]}))
    with pytest.raises(UsageError, match="more than once"):
        find_contaminated(["a", "b"], ["a", "a"], suite_table(("nq", "1", LONG)))
    with pytest.raises(UsageError, match="0 to 7"):
        found(["a"], suite_table(("nq", "1", "b")), distance=9)
    with pytest.raises(UsageError, match="0 to 1"):
        found(["a"], suite_table(("nq", "1", "b")), verify=2)


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


LIST = lines({"suite": "nq", "query_id": "1", "query": "谁写了？"}, {"suite": "fiqa", "query_id": 2, "query": "who"})


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_json_lines(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(LIST) if name.endswith("gz") else LIST)
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
        ("a.jsonl", LIST + b'["nq", "1", "who"]\n', "line 3: list, expected an object"),
        ("a.jsonl", LIST + b'{"suite": "nq", "query": "x"}\n', "line 3: no 'query_id' or '_id'"),
        ("a.jsonl", LIST + b'{"suite": "nq", "query_id": "x"}\n', "line 3: no 'query' or 'text'"),
        ("a.jsonl", LIST + b'{"query_id": "3", "query": " "}\n', "line 3: no 'query' or 'text', or it is empty"),
        ("a.jsonl", LIST + b'{"query_id": "3", "query": 5}\n', "line 3: 'query' is int"),
        ("a.jsonl", LIST + b'{"query_id": "3", "query": "caf\xe9"}\n', "line 3: not UTF-8"),
        ("a.jsonl.gz", gzip.compress(LIST * 500)[:-30], "a.jsonl.gz, after line .*damaged gzip"),
        ("a.jsonl.gz", LIST, "a.jsonl.gz, after line 0: damaged gzip"),
        ("a.tsv", b"1\twho\nwho\n", "a.tsv, line 2: expected 'id<TAB>query'"),
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


def test_real_lists_and_a_leak(real_data):
    folder = real_data / "decontaminate"
    tests = pa.concat_tables(read_test_queries(path) for path in sorted(folder.glob("*.jsonl.gz")))
    assert tests.num_rows == 47282 + 13495
    leaked = tests.slice(0, 60_000).filter(pa.array([row % 100 == 0 for row in range(60_000)]))
    queries = [query.upper() + " ?" for query in leaked["query"].to_pylist()]
    table = find_contaminated(queries, [f"{row:05d}" for row in range(len(queries))], tests)
    assert table.num_rows == len(queries)
    assert set(table["distance"].to_pylist()) == {0}
