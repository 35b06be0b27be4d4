"""The page itself: complete, safe with any name, the same numbers as SQL, and ordered for those who cannot see it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, jobs, registry
from mixture.report.build import write_report
from mixture.report.charts import charts
from mixture.report.facts import gather
from mixture.report.page import library, render
from tests.report.conftest import FORMULA, IMAGE, MARK, SCRIPT, SUITES, WEIGHTS, Page, spec_of

MIXTURES = ("learned", "seeds", "top", "base", "alone", "elsewhere", "plain")
LINKS = ("src", "href", "srcset", "action", "formaction", "poster", "data", "background", "xlink:href", "ping")


@pytest.fixture(scope="session")
def page(report: Any) -> Page:
    return Page(report("learned").read_text("utf-8"))


def _csv(page: Page, name: str) -> list[dict[str, str]]:
    link = next(e for e in page.all("a") if e.attributes.get("download", "").endswith(f"-{name}.csv"))
    head, _, body = link.attributes["href"].partition(",")
    assert head == "data:text/csv;charset=utf-8;base64"
    return list(csv.DictReader(io.StringIO(base64.b64decode(body).decode(), newline="")))


@pytest.mark.parametrize("name", MIXTURES)
def test_nothing_is_loaded_from_elsewhere(report: Any, name: str) -> None:
    html = report(name).read_text("utf-8")
    for element in Page(html).elements:
        for attribute in LINKS:
            value = element.attributes.get(attribute, "#")
            assert value.startswith(("#", "data:")), f"{element.tag} {attribute}={value}"
        assert not [a for a in element.attributes if a.startswith("on")], element
    style = "".join(e.text for e in Page(html).all("style"))
    assert "url(" not in style and "@import" not in style


@pytest.mark.parametrize("name", MIXTURES)
def test_only_our_scripts_may_run(report: Any, name: str) -> None:
    found = Page(report(name).read_text("utf-8"))
    scripts = [e for e in found.all("script") if e.attributes.get("type") != "application/json"]
    assert len(scripts) == 2 and scripts[0].text == library()
    (policy,) = found.all("meta", **{"http-equiv": "Content-Security-Policy"})
    allowed = re.findall(r"'(sha256-[^']+)'", policy.attributes["content"])
    hashes = [base64.b64encode(hashlib.sha256(e.text.encode()).digest()).decode() for e in scripts]
    assert allowed == [f"sha256-{h}" for h in hashes]
    assert policy.attributes["content"].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy.attributes["content"]


def test_the_library_cannot_end_its_own_script() -> None:
    assert "</script" not in library().lower() and "<!--" not in library()


def test_hostile_names_are_text(report: Any, page: Page) -> None:
    names = [row[0].text for row in page.table("weights")]
    assert names == list(WEIGHTS)
    assert {SCRIPT, IMAGE, FORMULA} <= {option.text for option in page.all("option")}
    assert f"{IMAGE} {SCRIPT}" in next(e.text for e in page.all("p", **{"class": "note"}))
    assert "<u>not JSON</u>" in [cell.text for row in page.table("reasons") for cell in row]
    assert any("<b>trec</b>" in cell.text for row in page.table("scores") for cell in row)
    assert not page.all("img") and not page.all("u") and not page.all("i")
    assert not [e for e in page.all("script") if MARK in e.text and e.attributes.get("id") != "specs"]
    # In the JSON the names are whole, and none of its characters can end the script.
    specs = next(e.text for e in page.all("script", id="specs"))
    assert {SCRIPT, IMAGE} <= {row["name"] for row in json.loads(specs)["weights"]["data"]["values"]}
    assert "<" not in specs and "&" not in specs
    # Outside of scripts, the marks appear in the raw file only as entities.
    raw = re.sub(r"<script.*?</script>", "", report("learned").read_text("utf-8"), flags=re.S)
    assert "<img" not in raw and "<u>" not in raw


def test_tables_have_the_numbers_of_sql(store: Store, page: Page) -> None:
    weights = store.sql("SELECT collection, weight, num_examples FROM mixture('learned')").to_pylist()
    shown = {row[0].text: [float(e.attributes["value"]) for e in row if e.tag == "data"]
             for row in page.table("weights")}  # fmt: skip
    assert {name: (values[0], values[-1]) for name, values in shown.items()} == {
        row["collection"]: (row["weight"], row["num_examples"]) for row in weights
    }
    epochs = store.sql("SELECT collection, epochs, expected_examples FROM epochs('learned', 1000, 64)").to_pylist()
    assert {row[0].text: [float(e.attributes["value"]) for e in row if e.tag == "data"][:2]
            for row in page.table("epochs")} == {
        row["collection"]: [row["epochs"], row["expected_examples"]] for row in epochs
    }  # fmt: skip
    parts = store.sql("SELECT dimension, value, weight, num_examples FROM composition('learned')").to_pylist()
    for dimension in ("language", "category", "license"):
        assert {row[0].text: (float(row[2].attributes["value"]), float(row[6].attributes["value"]))
                for row in page.table(dimension)} == {
            p["value"]: (p["weight"], p["num_examples"]) for p in parts if p["dimension"] == dimension
        }  # fmt: skip


def test_csv_holds_what_the_table_shows_exactly(store: Store, page: Page) -> None:
    for table in page.all("table"):
        name = table.attributes["id"].removeprefix("table-")
        if name == "trajectories":  # the CSV has every point of the chart, the table both ends
            continue
        shown = [[e.attributes["value"] for e in row if e.tag == "data"] for row in page.table(name)]
        given = [[v for v in row.values() if re.fullmatch(r"-?[\d.]+(e-?\d+)?", v)] for row in _csv(page, name)]
        assert shown == given, name
    points = store.sql(
        """SELECT step, collection, weight, mean_weight, ema_weight FROM weight_history
           WHERE run_id = 'aaaa00000001' ORDER BY step, collection"""
    ).to_pylist()
    read = [(int(r["step"]), float(r["weight"]), float(r["ema_weight"])) for r in _csv(page, "trajectories")]
    assert read == [(p["step"], p["weight"], p["ema_weight"]) for p in points]


def test_no_cell_is_a_formula(page: Page) -> None:
    rows = _csv(page, "weights")
    assert [row["collection"] for row in rows if "HYPERLINK" in row["collection"]] == ["'" + FORMULA]
    assert [row["collection"] for row in rows][:2] == ["forum", "wiki"]
    # A negative number is a number.
    assert any(row["difference"].startswith("-0.") for row in rows)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_page_is_ordered_for_a_reader_who_hears_it(report: Any, name: str) -> None:
    found = Page(report(name).read_text("utf-8"))
    assert found.all("html")[0].attributes["lang"] == "en"
    levels = [int(e.tag[1]) for e in found.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    for table in found.all("table"):
        assert any(e.tag == "caption" and e.text for e in found.elements if "table" in e.above)
        assert all(row[0].tag == "th" for row in found.table(table.attributes["id"].removeprefix("table-")))
    charts = [e for e in found.all("div") if "data-chart" in e.attributes]
    assert charts and all(c.attributes["role"] == "img" and c.attributes["aria-label"] for c in charts)
    identities = [e.attributes["id"] for e in found.elements if "id" in e.attributes]
    assert len(identities) == len(set(identities))
    targets = {e.attributes["href"][1:] for e in found.all("a") if e.attributes.get("href", "").startswith("#")}
    assert targets <= set(identities)


def test_no_folder_of_this_machine_is_shown(report: Any) -> None:
    for name in MIXTURES:
        assert "/home/somebody" not in report(name).read_text("utf-8")


def test_what_a_mixture_lacks_is_said(report: Any) -> None:
    elsewhere = report("elsewhere").read_text("utf-8")
    assert "imported from file.json" in elsewhere
    assert "Not known of any of the collections: language, category, licence." in elsewhere
    assert "No model trained on this mixture was evaluated" in elsewhere
    assert "No run learned these weights" in report("base").read_text("utf-8")
    assert "It comes from learned:1, whose weights" in report("top").read_text("utf-8")


def test_a_store_from_which_nothing_was_left_out_and_a_mixture_of_unknown_sizes(
    tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    with Store.open(tmp_path / "s", create=True) as clean:
        jobs.ingest(clean, [str(write_collection(tmp_path, "one", 5)), str(write_collection(tmp_path, "two", 5))])
        whole = registry.save(clean, registry.weighted(registry.pin(clean), {"one": 1, "two": 1}), "whole")
        unknown = registry.save(clean, spec_of({"far": 0.5, "off": 0.5}), "unknown")
        for mixture, said in ((whole, "Nothing was left out."), (unknown, "sizes of the collections are not known")):
            file = tmp_path / f"{mixture.name}.html"
            write_report(clean, mixture, file)
            assert said in file.read_text("utf-8")


def test_what_the_measurement_rewards_is_said(store: Store) -> None:
    facts = gather(store, registry.resolve(store, "learned"))
    assert facts.learning is not None
    for settings, said in (
        ({"algorithm": "tdro", "measurement": "relative"}, "Those may be hard rows, or noise."),
        ({"algorithm": "tdro", "measurement": "relative_group"}, "stays near 1 where both lose alike"),
        ({"algorithm": "doremi", "measurement": "relative"}, "more than the reference"),
        ({"algorithm": "groupdro", "measurement": "relative"}, "the proxy model alone, so noise is high too"),
    ):
        changed = replace(facts, learning=replace(facts.learning, settings=settings))
        assert said in render(changed, charts(changed))


def test_no_test_without_enough_suites(store: Store, page: Page, tmp_path: Path) -> None:
    assert len(page.table("tests")) == 2 and len(page.table("scores")) == 2 * len(SUITES)
    write_report(store, registry.resolve(store, "learned"), tmp_path / "r.html",
                 against=registry.resolve(store, "plain"))  # fmt: skip
    alone = (tmp_path / "r.html").read_text("utf-8")
    assert "No model of plain:1 was evaluated" in alone and "table-tests" not in alone
    assert "paired t-test over its queries" not in alone


def test_scores_have_the_tests_of_their_queries(store: Store, page: Page, report: Any) -> None:
    ours = "paired t-test over its queries"
    assert ours in report("learned").read_text("utf-8") and ours not in report("base").read_text("utf-8")
    rows = [[cell.text for cell in row] for row in page.table("scores")]
    by_suite = {row[0]: row for row in rows if row[1] == "nDCG@10"}
    low, high, p = (float(text.replace("−", "-")) for text in by_suite["<b>trec</b>"][8:14:2])  # each text twice
    assert 0 < low < 6 < high < 10
    assert p < 0.001


def test_the_command(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["--store", str(store.work), "report", *arguments])

    done = run("learned", "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["file"] == "report-learned-1.html" and body["against"] == "base:1"
    assert "<h1>learned:1</h1>" in Path(body["file"]).read_text("utf-8")
    done = run("learned", "--against", "top", "--out", "x.html", "--steps", "5", "--batch-size", "2")
    assert done.exit_code == 0 and "5 steps of 2" in Path("x.html").read_text("utf-8")
    assert run("learned", "--format", "svg", "--chart", body["charts"][0]).exit_code == 0
    assert Path("report-learned-1-weights.svg").read_text("utf-8").startswith("<svg")
    mistakes = [
        (("learned", "--format", "gif"), "--format is 'gif'; allowed: html, png, svg"),
        (("learned", "--format", "png"), "--chart and --format png or svg go together"),
        (("learned", "--format", "png", "--chart", "wieghts"), "no chart 'wieghts'; did you mean 'weights'?"),
        (("learned", "--out", "no/x.html"), "there is no folder no"),
        (("lerned",), "no mixture 'lerned'; did you mean 'learned'?"),
    ]
    for arguments, message in mistakes:
        failed = run(*arguments)
        assert failed.exit_code == 2 and message in failed.output, failed.output
