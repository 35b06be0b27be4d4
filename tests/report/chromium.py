"""A page in Chromium at the width of a desk or of a phone, over the DevTools protocol on a pipe."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any


class Browser:
    """A running Chromium; `page` opens a file in it."""

    def __init__(self, program: str, profile: Path) -> None:
        read, their_write = os.pipe()
        their_read, write = os.pipe()

        # The protocol wants its ends as the descriptors 3 and 4.
        command = (f'exec 3<&{their_read} 4>&{their_write}; exec "$0" --headless --no-sandbox --disable-gpu '
                   f'--disable-background-networking --hide-scrollbars=false --remote-debugging-pipe "$@"')  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", "-c", command, program, f"--user-data-dir={profile}"],
            pass_fds=(their_read, their_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_read)
        os.close(their_write)
        self._in, self._out = os.fdopen(write, "wb", buffering=0), os.fdopen(read, "rb", buffering=0)
        self._ids = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.call("Browser.close")
            self.process.wait(20)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self._in.close()
        self._out.close()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A method of the protocol and its result; what happens meanwhile is in `events`."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._in.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._out.read(1 << 16)
            if not part:
                raise RuntimeError(f"Chromium ended with {self.process.poll()}")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    @contextmanager
    def page(self, file: Path, *, width: int, dark: bool = False) -> Iterator[Page]:
        """The file at `width` pixels, once all its charts are drawn but those that are folded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        self.events.clear()
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable", session)
        self.call("Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        self.call("Page.navigate", session, url=file.as_uri())
        until = time.monotonic() + 60
        drawn = """[...document.querySelectorAll('[data-chart]')]
            .every(c => c.querySelector('svg.marks') || c.closest('details:not([open])'))"""
        while not (page.value("document.readyState") == "complete" and page.value(drawn)):
            if time.monotonic() > until:
                raise TimeoutError("the charts were not drawn within a minute")
            time.sleep(0.1)
        yield page
        self.call("Target.closeTarget", targetId=target)


class Page:
    """An open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        result = self.browser.call("Runtime.evaluate", self.session, expression=expression, returnByValue=True,
                                   awaitPromise=True)  # fmt: skip
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def console(self) -> list[str]:
        """What the page, or the browser about it, has said on the console so far."""
        self.value("new Promise(done => setTimeout(done, 100))")
        said = []
        for event in self.browser.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled":
                said.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
            elif event.get("method") == "Log.entryAdded":
                said.append(params["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                said.append(params["exceptionDetails"]["text"])
        return said

    def picture(self, out: Path) -> None:
        """The whole page as PNG."""
        shot = self.browser.call("Page.captureScreenshot", self.session, captureBeyondViewport=True)
        out.write_bytes(base64.b64decode(shot["data"]))
