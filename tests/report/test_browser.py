"""The page in a real browser, where there is one: charts are drawn, nothing is refused, nothing is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import FORMULA, IMAGE, SCRIPT, Page

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
