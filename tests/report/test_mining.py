"""The page on a mining: the numbers of its results, safe with any text, and whole where there is little to say."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.jobs import MiningResult
from mixture.mining.evidence import Dropped, Seen
from mixture.report.build import picture
from mixture.report.drawing import Chart
from tests.report.conftest import FORMULA, IMAGE, MARK, SCRIPT, Page

ARABIC, CHINESE = "ما هي عاصمة فرنسا؟", "法国的首都是哪里?" * 30
DROPPED = [
    Dropped("max_ratio", ARABIC, CHINESE, IMAGE, 3, 0.815, 0.75),
    Dropped("max_ratio", "b", "", "c", 17, -0.5, None),
    Dropped("near_copies", FORMULA, "known", SCRIPT, 1, 123.4, 130.0),
]
SEEN = Seen([0.9, 0.7, 0.65, 0.1], [40, 40, 20, 19], [0.2, 0.4, 0.6, 0.8, 1.0], DROPPED)


def result(collection: str = "forum", seen: Seen | None = SEEN, **changed: Any) -> MiningResult:
    made = MiningResult(
        collection, examples=1040, negatives=8320, new=8000, random=77, short=13, known=5, replaced=4,
        dropped={"ranks": 9, "max_ratio": 1234, "near_copies": 2, "margin": 0}, snapshot=6, encoded=2001, reused=31,
        answers=3, miner="static", evidence=seen,
    )  # fmt: skip
    return replace(made, **changed)


Made = Callable[..., Page]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """The page on these results."""

    def write(*results: MiningResult, **options: Any) -> Page:
        file = jobs.mining_report(results, tmp_path / "mining.html", **options)
        return Page(file.read_text("utf-8"))

    return write


def specs(page: Page) -> dict[str, Any]:
    return dict(json.loads(page.all("script", id="specs")[0].text, parse_constant=pytest.fail))


def numbers(page: Page, table: str) -> list[list[float]]:
    return [[float(e.attributes["value"]) for e in row if e.tag == "data"] for row in page.table(table)]


def test_the_page_has_the_numbers_of_the_results(made: Made) -> None:
    other = result("wiki", None, dropped={"max_ratio": 7})
    page = made(result(), other)
    assert [row[0].text for row in page.table("counts")] == ["forum", "wiki"]
    assert numbers(page, "counts") == [[1040, 8320, 8000, 77, 13, 5, 2001, 31, 3]] * 2
    head = [e.text for e in page.all("th", scope="col")]
    assert head[:10] == ["Collection", "Examples", "Negatives", "New", "Random", "Short", "Known", "Encoded", "Reused",
                         "Answers"]  # fmt: skip
    assert head[10:15] == ["Collection", "ranks", "max_ratio", "near_copies", "margin"]
    assert numbers(page, "filters") == [[9, 1234, 2, 0], [7]]
    assert [cell.text for cell in page.table("filters")[1] if cell.tag == "td"] == ["–", "7", "–", "–"]
    low, high = np.percentile(SEEN.positives, (10, 90))
    assert numbers(page, "scores") == [pytest.approx([0.9, 0.6, low, high, 5])]
    assert numbers(page, "ranks-0") == [[0.9, 40], [0.7, 40], [0.65, 20], [0.1, 19]]
    assert [row[0].text for row in page.table("ranks-0")] == ["1", "2", "3", "4"]
    assert (
        "16,640 negatives of static for 2,080 examples of 2 collections." in page.all("p", **{"class": "lead"})[0].text
    )
    assert "dry run" not in page.all("main")[0].text


def test_what_filters_dropped_is_there_to_read(made: Made) -> None:
    page = made(result())
    first, second = page.table("dropped-0-1")
    texts = [e.text for e in first if e.tag in ("th", "td")]
    assert texts == [ARABIC, CHINESE, IMAGE, "3", "0.815", "0.75"]
    assert [e.text for e in second if e.tag in ("th", "td")] == ["b", "–", "c", "17", "−0.5", "–"]
    assert [row[0].text for row in page.table("dropped-0-2")] == [FORMULA]
    # The long text is folded, the others stand as they are; each is in the direction of its own script.
    long = [e for e in page.all("summary", dir="auto") if "details" in e.above[-1:]]
    assert [e.text for e in long] == [CHINESE]
    assert {e.text for e in page.all("span", dir="auto")} >= {ARABIC, IMAGE, SCRIPT, FORMULA, "b", "c", "known"}
    said = [re.sub(r"\s+", " ", e.text).strip() for e in page.elements if e.tag in ("summary", "p")]
    assert "max_ratio 2 of 1,234 candidates" in said
    assert "ranks 9 candidates, none kept to read" in said
    assert not [line for line in said if line.startswith("margin")]


def test_the_chart_has_the_scores_beside_those_of_positives(made: Made) -> None:
    spec = specs(made(result()))["ranks-0"]
    # Rank 4 is reached by fewer than half of the examples.
    assert [(row["rank"], row["score"]) for row in spec["data"]["values"]] == [(1, 0.9), (2, 0.7), (3, 0.65)]
    band, mean, line, _ = spec["layer"]
    (told,) = band["data"]["values"]
    low, high = np.percentile(SEEN.positives, (10, 90))
    assert (told["low"], told["high"], told["mean"]) == pytest.approx((low, high, 0.6))
    assert [layer["mark"]["type"] for layer in (band, mean, line)] == ["rect", "rule", "line"]
    assert (band["encoding"]["y"]["field"], band["encoding"]["y2"]["field"]) == ("low", "high")
    assert mean["encoding"]["y"]["field"] == "mean"
    svg = picture(Chart("ranks-0", "Score by rank", "", (), spec), "svg").decode()
    assert "rank among the candidates" in svg and "var(--" not in svg


def test_hostile_names_and_texts_are_text(made: Made, tmp_path: Path) -> None:
    page = made(result(SCRIPT), result(IMAGE))
    assert [row[0].text for row in page.table("counts")] == [SCRIPT, IMAGE]
    assert [e.text for e in page.all("h2")] == ["Counts", SCRIPT, IMAGE]
    assert not page.all("img")
    assert not [e for e in page.all("script") if MARK in e.text and e.attributes.get("id") != "specs"]
    raw = re.sub(r"<script.*?</script>", "", (tmp_path / "mining.html").read_text("utf-8"), flags=re.S)
    assert "<img" not in raw and SCRIPT not in raw
    assert not [a for e in page.elements for a in e.attributes if a.startswith("on")]


def test_many_collections_are_folded_in_order(made: Made) -> None:
    names = [f"collection {n:02}" for n in range(25)]
    page = made(*map(result, names))
    assert [e.text for e in page.all("h2")][1:] == names
    folds = [e for e in page.all("details") if e.above[-1] == "section"]
    assert len(folds) == 25
    assert ["open" in e.attributes for e in folds] == [True] + [False] * 24
    assert len(specs(page)) == 25
    identities = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(identities) == len(set(identities))
    links = [
        e.attributes["href"][1:] for e in page.all("a") if e.attributes["href"].startswith("#") and e.above[-1] == "li"
    ]
    assert len(links) == 26 and set(links) <= set(identities)
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all("open" in e.attributes for e in made(*map(result, names[:3])).all("details") if e.above[-1] == "section")


@pytest.mark.parametrize(
    "seen", [None, Seen([], [], [], []), Seen([], [], [0.5], []), Seen([math.nan], [1], [], [])],
    ids=["no evidence", "nothing", "positives alone", "no finite score"],
)  # fmt: skip
def test_a_collection_without_candidates(made: Made, seen: Seen | None) -> None:
    page = made(result(seen=seen, dropped={}))
    assert specs(page) == {}
    said = page.all("main")[0].text
    assert "No candidate was scored." in said and "No filter dropped any." in said
    assert "table-filters" not in {e.attributes.get("id") for e in page.elements}


def test_scores_without_those_of_positives(made: Made) -> None:
    page = made(result(seen=Seen([21.0], [3], [], [])))
    spec = specs(page)["ranks-0"]
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["line", "point"]
    assert "known answers" not in page.all("main")[0].text
    assert numbers(page, "scores") == [[21.0, 0]]
    assert "rank among" in picture(Chart("ranks-0", "Score", "", (), spec), "svg").decode()


def test_nothing_mined_and_a_dry_run(made: Made) -> None:
    page = made()
    assert "every example has negatives" in page.all("p", **{"class": "lead"})[0].text
    assert page.table("counts") == [] and specs(page) == {}
    assert "This was a dry run: nothing was stored." in made(result(), dry_run=True).all("header")[0].text


def test_minings_side_by_side_are_told_apart(made: Made) -> None:
    page = made(result(), result(miner="bm25"))
    assert [row[0].text for row in page.table("counts")] == ["forum (static)", "forum (bm25)"]
    assert page.all("h1")[0].text == "static, bm25"
    assert "of 1 collection." in page.all("p", **{"class": "lead"})[0].text


def test_the_command(small_store: Store, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["--store", str(small_store.work), "mine", *arguments])

    file = tmp_path / "page.html"
    done = run("easy", "--negatives", "3", "--filter", "max_score=1", "--report", str(file))
    assert done.exit_code == 0, done.output
    assert f"report {file}\n" in done.stdout
    page = Page(file.read_text("utf-8"))
    ((name, *_),) = page.table("counts")
    assert (name.text, page.all("h1")[0].text) == ("easy", "bm25")
    (stored,) = small_store.rows(
        "SELECT count(*) AS n FROM negatives WHERE collection = 'easy' AND miner <> 'provided'"
    )
    assert numbers(page, "counts")[0][1] == stored["n"] > 0
    dropped = json.loads(small_store.rows("SELECT dropped FROM minings")[0]["dropped"])
    assert numbers(page, "filters") == [list(dropped.values())]
    assert len(page.table("dropped-0-0")) == 10
    texts = {row["text"] for row in small_store.rows("SELECT text FROM passages WHERE collection = 'easy'")}
    assert {row[2].text for row in page.table("dropped-0-0")} <= texts
    assert "dry run" not in page.all("header")[0].text

    done = run("middle", "--dry-run", "--json", "--report", str(file))
    assert json.loads(done.stdout)[0]["collection"] == "middle" and f"report {file}\n" in done.stderr
    assert "dry run" in Page(file.read_text("utf-8")).all("header")[0].text


def test_a_wrong_place_is_refused_before_anything_is_mined(small_store: Store, tmp_path: Path) -> None:
    before = small_store.rows("SELECT * FROM minings")
    for wrong, message in (
        (["--report", str(tmp_path / "no" / "x.html")], "there is no folder"),
        (["--undo", "--report", str(tmp_path / "x.html")], "it goes with --dry-run alone"),
    ):
        done = CliRunner().invoke(app, ["--store", str(small_store.work), "mine", "easy", *wrong])
        assert done.exit_code == 2 and message in done.output, done.output
    assert small_store.rows("SELECT * FROM minings") == before
    with pytest.raises(UsageError, match="there is no folder"):
        jobs.mining_report([], tmp_path / "no" / "x.html")
