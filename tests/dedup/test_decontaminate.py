import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixture.dedup import find_contaminated, normalise_text
from mixture.dedup.decontaminate import CONTAMINATED
from mixture.errors import UsageError
from mixture.suites.lists import TEST_QUERIES, read_test_queries
from mixture.text.letters import letters_of

LONG = "what is the name of the river that runs through the old town"


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


def edits_between(a, b):
    """Optimal string alignment as its recurrence defines it."""
    cost = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            ways = [cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + (a[i - 1] != b[j - 1])]
            if i > 1 and j > 1 and a[i - 2 : i] == b[j - 2 : j][::-1]:
                ways.append(cost[i - 2, j - 2] + 1)
            cost[i, j] = min(ways)
    return cost[len(a), len(b)]


def by_definition(queries, tests, distance, shortest, letters_per_edit):
    """All pairs, one by one. tests: distinct letters, in order."""
    rows = []
    for row, query in enumerate(letters_of(queries)):
        near = []
        for number, test in enumerate(tests):
            earned = 0 if len(test) < shortest else 1 + (len(test) - shortest) // letters_per_edit
            edits = edits_between(query, test)
            if edits <= min(distance, earned):
                near.append((edits, number))
        if near:
            best, number = min(near)
            longer = max(len(query), len(tests[number]))
            rows.append((f"q{row}", f"{number:02d}", best, 1 - best / longer))
    return rows


ALPHABETS = ["ab", "abcdefghij", "誰写了国際人ab"]
change = st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 9))


@st.composite
def collections(draw):
    """Test texts, and training texts that are some of them with 0 to 5 changes; small alphabets make near misses."""
    alphabet = draw(st.sampled_from(ALPHABETS))
    tests = draw(st.lists(st.text(alphabet, min_size=1, max_size=40), min_size=1, max_size=8, unique=True))
    queries = []
    for _ in range(draw(st.integers(1, 8))):
        text = list(draw(st.sampled_from(tests)))
        for kind, place, letter in draw(st.lists(change, max_size=5)):
            i, char = place % len(text), alphabet[letter % len(alphabet)]
            if kind == 0:
                text.insert(i, char)
            elif kind == 1 and len(text) > 1:
                del text[i]
            elif kind == 2:
                text[i] = char
            else:
                text[i : i + 2] = text[i : i + 2][::-1]
        queries.append("".join(text))
    return queries, tests


@settings(max_examples=300, deadline=None)
@given(collections(), st.integers(0, 5), st.integers(7, 9), st.integers(4, 12))
@example((["ba" * 8], ["ab" * 8]), 2, 8, 8)
@example((["abcdefg", "bacdefg", "abcdegf"], ["abcdefg"]), 1, 7, 24)
@example((["bacdfeghjiklnmopq"], ["abcdefghijklmnopq"]), 4, 7, 4)
def test_finds_what_comparing_all_pairs_finds(texts, distance, shortest, letters_per_edit):
    queries, tests = texts
    table = suite_table(*(("s", f"{number:02d}", test) for number, test in enumerate(tests)))
    rows = found(queries, table, distance=distance, shortest=shortest, letters_per_edit=letters_per_edit)
    expected = by_definition(queries, tests, distance, shortest, letters_per_edit)
    assert [(row[0], row[2], row[4], row[5]) for row in rows] == expected


@given(st.lists(st.text(max_size=20), max_size=4))
def test_letters_are_the_normal_form_without_spaces(texts):
    assert letters_of(texts) == [normalise_text(text).replace(" ", "") for text in texts]


def test_case_punctuation_and_spaces_are_no_edits():
    tests = suite_table(("nq", "1", "Who wrote “Covid-19”"), ("zh", "2", "《战国无双3》是谁？"), ("x", "3", "why"))
    rows = found(["who wrote covid 19?", "WHO WROTE: COVID19", "战国 无双３是谁", "WHY", "w-h-y!"], tests)
    assert [row[:3] for row in rows] == [
        ("q0", "nq", "1"), ("q1", "nq", "1"), ("q2", "zh", "2"), ("q3", "x", "3"), ("q4", "x", "3"),
    ]  # fmt: skip
    assert {row[4:] for row in rows} == {(0, 1.0)}


@pytest.mark.parametrize(
    "query",
    ["what is teh name of the river that runs through the old town?", "WHAT IS THE NAM OF THE RIVER THAT RUNS THROUGH "
     "THE OLD TOWN", "what is the name of the rriver that runs through the old town", "- «" + LONG.replace("v", "b")],
)  # fmt: skip
def test_a_typo_is_one_edit(query):
    letters = max(len(letters_of([text])[0]) for text in (query, LONG))
    assert found([query], suite_table(("nq", "1", LONG))) == [("q0", "nq", "1", LONG, 1, 1 - 1 / letters)]


def test_the_settings_say_how_many_edits():
    tests = suite_table(("nq", "1", "abcdefgh ijklmnop"))
    two = ["abXdefghijkXmnop"]
    assert found(two, tests) == []
    assert found(two, tests, letters_per_edit=8)[0][4] == 2
    assert found(two, tests, letters_per_edit=9) == []
    assert found(two, tests, shortest=9, letters_per_edit=8) == []
    assert found(two, tests, letters_per_edit=8, distance=1) == []


def test_long_test_queries_forgive_more():
    text = " ".join(f"word{n} and" for n in range(20))
    assert found([text.replace("3 and", "3 adn")], suite_table(("x", "1", text)))[0][4] == 2
    assert found([text.replace("3 and", "3 xyz")], suite_table(("x", "1", text)))[0][4] == 6
    assert found([text.replace("and", "xnd")], suite_table(("x", "1", text))) == []


def test_short_test_queries_must_be_equal():
    tests = suite_table(("nq", "1", "abcdefg"))
    assert found(["abcdefh", "abcdeg", "ABCDEFG"], tests) == [("q2", "nq", "1", "abcdefg", 0, 1.0)]


def test_numbers_may_differ_here():
    assert found([LONG + " in 1917"], suite_table(("nq", "1", LONG + " in 1914")))[0][4] == 1


def test_one_row_a_query_with_the_nearest_test_query():
    typo = LONG.replace("river", "rivver")
    tests = suite_table(("b", "9", typo), ("z", "2", LONG), ("z", "1", LONG), ("a", "1", typo))
    assert [row[:3] for row in found([LONG + "?", typo], tests)] == [("q0", "z", "1"), ("q1", "a", "1")]


def test_equally_near_ones_count_in_order_of_suite_and_query_id():
    """Whichever of the two is met first: each has rare grams of its own."""
    for first, second in (("abcdefghijklmnoX", "Xbcdefghijklmnop"), ("Xbcdefghijklmnop", "abcdefghijklmnoX")):
        tests = suite_table(("z", "1", second), ("a", "2", first))
        assert [row[2] for row in found(["abcdefghijklmnop"], tests)] == ["2"]


def test_order_of_the_rows_does_not_matter():
    rows = [("b", "9", LONG + "s"), ("z", "2", LONG), ("a", "1", "why"), ("a", "2", "Why?")]
    queries = [LONG, "WHY", LONG + "st", "no"]
    assert found(queries, suite_table(*rows)) == found(queries, suite_table(*rows[::-1]))


def test_arrow_arrays_of_any_chunks():
    tests = suite_table(("nq", "1", LONG), ("nq", "2", "why"))
    queries = pa.chunked_array([["no", LONG], [], ["why"]], pa.large_string())
    ids = pa.array(["a", "b", "c"])
    assert find_contaminated(queries, ids, tests)["removed"].to_pylist() == ["b", "c"]
    assert find_contaminated(queries.slice(1), ids.slice(1), tests)["removed"].to_pylist() == ["b", "c"]


def test_nothing_to_compare():
    assert found([], suite_table(("nq", "1", LONG))) == []
    assert found([LONG], suite_table()) == []
    assert found(["", "?"], suite_table(("nq", "1", ""))) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": -1}, "`distance` is -1; allowed: whole numbers from 0 to 64"),
        ({"distance": 1.5}, "`distance` is 1.5; allowed"),
        ({"letters_per_edit": 3}, "`letters_per_edit` is 3; allowed: whole numbers from 4"),
        ({"shortest": 6}, "`shortest` is 6; allowed: whole numbers from 7"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        found(["a"], suite_table(("nq", "1", "b")), **options)


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="no column 'suite'"):
        find_contaminated(["a"], ["a"], pa.table({"query": ["a"]}))
    with pytest.raises(UsageError, match="more than once"):
        find_contaminated(["a", "b"], ["a", "a"], suite_table(("nq", "1", LONG)))
    with pytest.raises(UsageError, match="one id for each text"):
        find_contaminated(["a", "b"], ["a"], suite_table(("nq", "1", LONG)))


def test_real_lists_and_a_leak(real_data):
    folder = real_data / "decontaminate"
    tests = pa.concat_tables(read_test_queries(path) for path in sorted(folder.glob("*.jsonl.gz")))
    assert tests.num_rows == 47282 + 13495
    leaked = tests.filter(pa.array([row % 100 == 0 for row in range(tests.num_rows)]))["query"].to_pylist()
    table = find_contaminated(
        [query.upper() + " ?" for query in leaked], [f"{n:05d}" for n in range(len(leaked))], tests
    )
    assert table.num_rows == len(leaked)
    assert set(table["distance"].to_pylist()) == {0}
    dropped = [query[: len(query) // 2] + query[len(query) // 2 + 1 :] for query in leaked]
    table = find_contaminated(dropped, [f"{n:05d}" for n in range(len(leaked))], tests)
    assert table.num_rows >= 0.97 * len(leaked)
