"""A headless Chromium for tests of pages: WebDriver over the standard library."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
MISSING = [name for name, path in PROGRAMS.items() if path is None]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required", "--mute-audio",
)  # fmt: skip
KEYS = {"ArrowLeft": "\ue012", "ArrowRight": "\ue014", "Home": "\ue011", "Shift": "\ue008", "Tab": "\ue004"}


class Browser:
    """One window of a fresh profile; a context manager."""

    def __init__(self, profile: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self._address.rpartition(":")[2]
        self._driver = subprocess.Popen([PROGRAMS["chromedriver"], f"--port={port}"], stdout=subprocess.DEVNULL)
        self._session = ""
        try:
            self._wait_for_driver()
            options = {"binary": PROGRAMS["chromium"], "args": [*FLAGS, f"--user-data-dir={profile}"]}
            logs = {"browser": "ALL", "performance": "ALL"}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{answer['sessionId']}"
        except BaseException:
            self._driver.kill()
            self._driver.wait()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()

    def _wait_for_driver(self) -> None:
        for _ in range(200):
            try:
                return self._call("GET", "/status")
            except urllib.error.URLError:
                time.sleep(0.05)
        raise TimeoutError("chromedriver does not answer")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}{self._session}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, page: Path) -> None:
        """Loads a page from disk."""
        self._call("POST", "/url", {"url": page.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of an async function's body with `$`, the first element that a selector finds, and `args`."""
        body = "const $ = (selector) => document.querySelector(selector); const args = [...arguments].slice(0, -1);"
        body += "const done = arguments[arguments.length - 1];"
        body += f"(async () => {{ {script} }})().then((value) => done([value]), (error) => done(String(error)))"
        answer = self._call("POST", "/execute/async", {"script": body, "args": list(arguments)})
        if isinstance(answer, str):
            raise AssertionError(f"{answer} in {script}")
        return answer[0]

    def protocol(self, command: str, **parameters: Any) -> Any:
        """A command of Chrome's DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _element(self, selector: str) -> str:
        return next(iter(self._call("POST", "/element", {"using": "css selector", "value": selector}).values()))

    def click(self, selector: str) -> None:
        """A click with the mouse, as a person does it: fails where something lies over the element."""
        self._call("POST", f"/element/{self._element(selector)}/click", {})

    def press(self, *keys: str) -> None:
        """Keys down in order and up again, wherever the focus is."""
        codes = [KEYS.get(key, key) for key in keys]
        strokes = [{"type": "keyDown", "value": code} for code in codes]
        strokes += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def drag(self, selector: str, start: float, end: float) -> None:
        """Mouse down at a fraction of an element's width, up at another; the same twice is a click there."""
        x, y, width = self.run(
            "const e = $(args[0]); e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.left, b.top + b.height / 2, b.width]", selector,
        )  # fmt: skip
        move = lambda place: {"type": "pointerMove", "duration": 0, "x": round(x + place * width), "y": round(y)}
        steps = [move(start), {"type": "pointerDown", "button": 0}, move((start + end) / 2), move(end)]
        steps.append({"type": "pointerUp", "button": 0})
        self._call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call: "browser" = the console, "performance" = network events among others."""
        return self._call("POST", "/se/log", {"type": kind})
