"""Headless Chromium for the tests, controlled through chromedriver's HTTP protocol."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)

AXE = """
const done = arguments[0], rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"];
axe.run({runOnly: {type: "tag", values: rules}}).then(found => done(found.violations.map(
  rule => `${rule.id}: ${rule.nodes.map(node => `${node.target} ${node.failureSummary}`).join("; ")}`)));
"""

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver (Debian: apt install chromium chromium-driver)",
)


class Browser:
    """One session of a browser."""

    def __init__(self, driver: str, profile: Path) -> None:
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS.split(), f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.url = f"{driver}/session"
        self.url += "/" + self.send("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def send(self, command: str, body: dict[str, Any] | None = None) -> Any:
        """Send a command and return its value."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + command, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self.send("/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Return the value of a script run in the page."""
        return self.send("/execute/sync", {"script": script, "args": list(arguments)})

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page, also below the minimum width of a window."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def dark(self, *, on: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self.send("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def errors(self) -> list[str]:
        """Return the console errors since the last call."""
        entries = self.send("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def find_violations(self) -> list[str]:
        """Return the violations of WCAG 2.1 A and AA in the open page, found by axe-core."""
        axe_core = pytest.importorskip("axe_core_python", reason="needs axe-core-python, of the extra docs")
        self.run((Path(axe_core.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
        return self.send("/execute/async", {"script": AXE, "args": []})

    def wait(self, script: str) -> None:
        """Repeat a script until it returns a true value."""
        end = time.monotonic() + 30
        while not self.run(script):
            assert time.monotonic() < end, f"still waiting after 30 s: {script}"
            time.sleep(0.1)


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start a browser with a separate profile; it ends with the context."""
    command = [str(shutil.which("chromedriver")), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        session = None
        try:
            assert driver.stdout is not None
            line = next(line for line in driver.stdout if "successfully on port" in line)
            port = int(line.rsplit("port", 1)[1].strip(" .\n"))
            session = Browser(f"http://127.0.0.1:{port}", folder / "profile")
            yield session
        finally:
            if session is not None:
                request = urllib.request.Request(session.url, method="DELETE")
                urllib.request.urlopen(request, timeout=30).close()
            driver.terminate()
