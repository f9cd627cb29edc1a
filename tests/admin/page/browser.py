"""A real browser, headless, driven by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.deadline import DEADLINE, eventually

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

MUST = os.environ.get("WSRAW_TEST_BROWSER") == "must"
"""A missing browser is an error where WSRAW_TEST_BROWSER=must is set, as in .ci/run."""

chromium = pytest.mark.skipif(CHROMIUM is None and not MUST, reason="no chromium here")


class Browser:
    """A browser with one page, which ends with the block."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._stack = ExitStack()
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--no-first-run",
                "--no-proxy-server",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._folder.name}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"HOME": self._folder.name},
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        """Exceptions of scripts, and violations of the page's policy."""
        self._ws = self._attach()

    def _read(self) -> None:
        assert self._process.stderr is not None
        self._lines.extend(self._process.stderr)

    def _attach(self) -> ClientConnection:
        def endpoint() -> str | None:
            found = re.search(r"DevTools listening on (ws://\S+)", "".join(list(self._lines)))
            return found[1] if found else None

        url = eventually(endpoint, "the browser")
        assert url is not None
        ws = self._stack.enter_context(
            connect(url, max_size=None, proxy=None, ping_interval=None, open_timeout=DEADLINE)
        )
        self._ws = ws
        self._session = ""
        (page,) = [
            each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page"
        ]
        attached = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        return ws

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        # The browser has helper processes. The number 9 is written out, as tests/portable hides
        # SIGKILL.
        os.killpg(self._process.pid, 9)
        self._process.wait()
        self._stack.close()
        self._reader.join(DEADLINE)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._folder.cleanup()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request of the protocol; returns its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._ws.send(json.dumps(message))
        while True:
            answer = json.loads(self._ws.recv(DEADLINE))
            self._note(answer)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        found = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until an expression is true; returns its value."""
        try:
            return eventually(lambda: self.run(script), script)
        except AssertionError as error:
            text = self.run("document.body.innerText")
            raise AssertionError(f"{error}\n{text}\n{self.errors}") from None

    def resize(self, width: int, height: int, *, scale: int = 1, mobile: bool = False) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )

    def prefer(self, scheme: str) -> None:
        """Prefer light or dark colours."""
        self.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """A PNG of the visible part, or of the whole page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))
