"""The page in a real browser, where there is one: charts are drawn, nothing is refused, nothing is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixture import Store, jobs, registry
from mixture.report.build import write_report
from tests.report.chromium import Browser
from tests.report.conftest import FORMULA, IMAGE, SCRIPT, Page, spec_of
from tests.report.test_mining import result

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> str:
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is installed, and $CHROME names none")
    return found


@pytest.mark.parametrize("name", ["learned", "elsewhere"])
def test_in_chromium(report: Any, browser: str, tmp_path: Path, name: str) -> None:
    done, fetched = _opened(browser, report(name), tmp_path)
    assert done.returncode == 0, done.stderr[-500:]
    assert "CONSOLE" not in done.stderr, done.stderr
    drawn = Page(_without_scripts(done.stdout))
    charts = [e for e in drawn.all("div") if "data-chart" in e.attributes]
    assert len(drawn.all("svg", **{"class": "marks"})) == len(charts) > 0
    assert "data-broken" not in drawn.all("html")[0].attributes
    assert not drawn.all("img")
    if name == "learned":
        texts = {e.text for e in drawn.all("text")}
        assert {FORMULA[:8]} <= {t[:8] for t in texts}
        assert any(t.startswith(SCRIPT[:9]) for t in texts) and any(t.startswith(IMAGE[:4]) for t in texts)
    assert fetched == []


@pytest.fixture(scope="module")
def running(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(browser, tmp_path_factory.mktemp("profile")) as started:
        yield started


# Boxes that are wider than they show, and whether something says so.
WIDE = """[...document.querySelectorAll(".scroll, nav ul")].filter(box => box.scrollWidth > box.clientWidth + 1)
    .map(box => [box.parentElement.id || box.getAttribute("aria-label") || "nav", box.classList.contains("cut")
        && (box.previousElementSibling ? !box.previousElementSibling.hidden : true)])"""
# Texts of a chart's rows, as drawn.
LABELS = """[...document.querySelectorAll("[data-chart='weights'] .role-axis-label text")].map(e => e.textContent)"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", ["learned", "base", "top", "elsewhere"])
def test_fits_the_window(report: Any, running: Browser, name: str, width: int, dark: bool) -> None:
    with running.page(report(name), width=width, dark=dark) as page:
        page.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.console() == []
        assert page.value("document.documentElement.scrollWidth") == width
        wide = dict(page.value(WIDE))
        if width == 1400:
            assert wide == {}
        else:
            assert "nav" in wide and all(wide.values())
            assert page.value("getComputedStyle(document.querySelector('nav'), '::after').content") == '"›"'
            page.value("document.querySelector('nav ul').scrollLeft = 9999")
            page.console()
            assert not dict(page.value(WIDE))["nav"]  # nothing more to the right, so nothing says there is
        background = page.value("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_long_names_are_told_apart_on_a_phone(running: Browser, tmp_path: Path) -> None:
    names = ("stackexchange_duplicates_title-body_title-body", "stackexchange_duplicates_title_title",
             "quora_duplicates", "quora_duplicates_triplets")  # fmt: skip
    with Store.open(tmp_path / "store", create=True) as store:
        saved = registry.save(store, spec_of(dict.fromkeys(names, 1.0)), "long-names")
        write_report(store, saved, tmp_path / "long.html")
    with running.page(tmp_path / "long.html", width=390) as page:
        shown = [text for text in page.value(LABELS) if "%" not in text]
    assert len(set(shown)) == len(names) and all(len(text) <= 20 for text in shown), shown


@pytest.mark.parametrize("width", [1400, 390])
def test_a_folded_chart_of_a_mining_is_drawn_when_it_is_opened(running: Browser, tmp_path: Path, width: int) -> None:
    file = jobs.mining_report([result(name) for name in (SCRIPT, IMAGE, "c", "d", "e")], tmp_path / "mining.html")
    widths = "[...document.querySelectorAll('svg.marks')].map(chart => chart.getBoundingClientRect().width)"
    with running.page(file, width=width) as page:
        (first,) = page.value(widths)
        page.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.console() == []
        assert page.value(widths) == [first] * 5
        assert first > 0.8 * width - 300
        assert page.value("document.documentElement.scrollWidth") == width
        assert page.value("document.documentElement.dataset.broken") is None
        if width == 390:
            assert all(dict(page.value(WIDE)).values())


def test_the_console_is_heard(running: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<script>console.warn('Infinite extent'); undefined.thing</script>")
    with running.page(file, width=390) as page:
        assert "Infinite extent" in page.console()[0] and len(page.console()) == 2


def test_what_a_page_fetches_is_seen(browser: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/image.png"><script>fetch("http://127.0.0.1:9/data")</script>')
    _, fetched = _opened(browser, page, tmp_path)
    assert {url.rpartition("/")[2] for url in fetched} == {"image.png", "data"}


def _opened(browser: str, page: Path, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What the browser did with a page, and what the page asked the network for; not what the browser did."""
    log = folder / "net.json"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         "--disable-background-networking", "--window-size=390,844", "--virtual-time-budget=8000",
         "--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    asked = [event.get("params", {}) for event in json.loads(_closed(log.read_text("utf-8")))["events"]]
    # A request of Chromium's own has "not an origin" for an initiator.
    of_the_page = [p["url"] for p in asked if p.get("initiator", "not an origin") != "not an origin" and "url" in p]
    return done, [url for url in of_the_page if url.startswith(("http", "ws"))]


def _without_scripts(html: str) -> str:
    """Their text, put back by the browser, is not well-formed to html.parser."""
    parts = html.split("<script")
    return parts[0] + "".join(part.partition("</script>")[2] for part in parts[1:])


def _closed(log: str) -> str:
    """A log that the browser did not end."""
    text = log.rstrip().rstrip(",")
    return text if text.endswith("}") and text.count("[") == text.count("]") else text + "]}"
