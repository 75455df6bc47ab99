"""A headless Chromium, driven through the W3C WebDriver protocol of its chromedriver.

Twelve commands of one HTTP protocol, spoken with httpx: selenium would bring seven further packages for them.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

COMMAND_TIMEOUT_SECONDS = 60.0
START_TIMEOUT_SECONDS = 30.0
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "End": "\ue010", "Home": "\ue011", "Up": "\ue013", "Down": "\ue015"}
"""Names of keys that are no characters, and their WebDriver codes."""


def missing() -> str | None:
    """Why no browser can be started here; None where one can."""
    for names in (("chromedriver",), ("chromium", "chromium-browser", "google-chrome")):
        if not any(shutil.which(name) for name in names):
            return f"no {' or '.join(names)} on the PATH (Debian: apt-get install chromium chromium-driver)"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """One window of the browser."""

    client: httpx.Client
    session: str

    def command(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One WebDriver command of this session; raises ``RuntimeError`` with what the driver says went wrong."""
        answer = self.client.request(
            method, f"/session/{self.session}{path}", json=(body or {}) if method == "POST" else None
        )
        value = answer.json()["value"]
        if answer.is_error:
            raise RuntimeError(f"WebDriver {method} {path}: {value.get('error')}: {value.get('message')}")
        return value

    def open(self, url: str) -> None:
        self.command("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns, given ``arguments``."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, script: str, *, timeout_seconds: float = 20.0) -> Any:
        """Ask until the script's value is true, and return it.

        Raises:
            TimeoutError: it never was.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout_seconds:.0f} s this is still not true in the page: {script}")
            time.sleep(0.05)
        return value

    def press(self, *keys: str) -> None:
        """Press keys one after another: characters, or names in ``KEYS``."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def devtools(self, name: str, parameters: Mapping[str, Any]) -> Any:
        """One command of Chromium's own DevTools protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": dict(parameters)})

    def size(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        """The viewport, in CSS pixels; a window would not become narrower than 500."""
        screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.devtools("Emulation.setDeviceMetricsOverride", screen)

    def prefer(self, colours: str) -> None:
        """The system's colours: ``light`` or ``dark``."""
        feature = {"name": "prefers-color-scheme", "value": colours}
        self.devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def screenshot(self, path: Path) -> None:
        """The viewport as PNG."""
        path.write_bytes(base64.b64decode(self.command("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """What the console said since it was last asked: errors, warnings, refusals of the security policy."""
        return [entry["message"] for entry in self.command("POST", "/se/log", {"type": "browser"})]


@contextmanager
def headless_browser() -> Iterator[Browser]:
    """A browser for the length of a ``with`` block.

    Raises:
        RuntimeError: there is none, or it does not start.
    """
    if (why := missing()) is not None:
        raise RuntimeError(why)
    with TemporaryDirectory() as profile:
        with (Path(profile) / "driver.log").open("w+") as log:
            driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                with httpx.Client(
                    base_url=f"http://127.0.0.1:{_port(driver)}", timeout=COMMAND_TIMEOUT_SECONDS, trust_env=False
                ) as client:
                    browser = _start(client, profile)
                    yield browser
                    browser.command("DELETE", "")
            finally:
                driver.terminate()
                driver.wait(timeout=START_TIMEOUT_SECONDS)


def _port(driver: subprocess.Popen[str]) -> int:
    """The port that a driver says it listens on."""
    assert driver.stdout is not None
    for line in driver.stdout:
        if "was started successfully on port" in line:
            return int(line.rstrip().rstrip(".").rsplit(" ", 1)[-1])
    raise RuntimeError("chromedriver ended before it listened; run `chromedriver --port=0` to see why.")


def _start(client: httpx.Client, profile: str) -> Browser:
    options = {
        "args": [
            "--headless=new",
            "--no-sandbox",  # it reads pages of ours only, and as root there is no other way
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ]
    }
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    answer = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
    value = answer.json()["value"]
    if answer.is_error:
        raise RuntimeError(f"the browser does not start: {value.get('message')}")
    return Browser(client=client, session=value["sessionId"])
