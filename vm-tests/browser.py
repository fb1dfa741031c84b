# SPDX-License-Identifier: GPL-3.0-or-later
"""A real browser without a window: pages are opened, asked, and photographed.

::

    with Browser(profile_dir) as browser:
        browser.open(path)
        assert browser.evaluate("document.title") == "Report"
        browser.screenshot(out_dir / "page.png")

Chromium is spoken to through two pipes (``--remote-debugging-pipe``, Chrome DevTools Protocol:
JSON objects, a zero after each): no port, no driver program, and the page is opened as it is.
What is asked runs in the page by the debugger's right, which a content security policy does not
touch. Debian package: chromium.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any, Self

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip
TIMEOUT = 120.0
WIDTH = 1200


class Browser:
    """A context manager around one Chromium; ``profile`` is a new, empty folder."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._id = 0
        self._buffer = b""
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        # Chromium reads descriptor 3 and writes 4, whatever numbers we got.
        program = shlex.join(
            ["chromium", *FLAGS, f"--user-data-dir={self._profile}", "--remote-debugging-pipe"]
        )
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {program} about:blank 3<&{their_in} 4>&{their_out}"],
            pass_fds=[their_in, their_out],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._session = None
            self._call("Browser.close")
            self._process.wait(20)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def open(self, path: Path, *, is_dark: bool = False, width: int = WIDTH) -> None:
        """Show a file, and wait until all of it is loaded; ``problems`` are of this page."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.problems.clear()
        self._call("Page.navigate", url=path.absolute().as_uri())
        deadline = time.monotonic() + TIMEOUT
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < deadline, f"{path} does not finish loading"
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> Path:
        """The whole page, also what is below the window."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def print_pdf(self, path: Path) -> Path:
        """The page as it comes out of a printer."""
        answer = self._call("Page.printToPDF", printBackground=True)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._id += 1
        request = {"id": self._id, "method": method, "params": parameters}
        if self._session is not None:
            request["sessionId"] = self._session
        os.write(self._out, json.dumps(request).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            message = self._receive(deadline)
            if message.get("id") == self._id:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        """Errors of the page's own, and requests that leave it."""
        match message.get("method"):
            case "Log.entryAdded":
                self.problems.append(message["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.problems.append(str(message["params"]["exceptionDetails"]))
            case "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith(("file:", "data:", "about:")):
                    self.problems.append(f"the page asked for {url}")

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)
