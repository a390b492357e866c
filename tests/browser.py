"""A minimal client of headless Chromium: it speaks the DevTools protocol through two pipes, so it needs no package."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
MISSING = "Chromium is not installed (on Debian: apt install chromium), so the pages are not opened"
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
OPTIONS += ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars")
SECONDS = 20


def find() -> str | None:
    """The path of Chromium, if it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """Chromium with one page, for `with` statements."""

    def __init__(self, profile: Path) -> None:
        self.profile = profile
        self.events: list[dict[str, Any]] = []
        self._count, self._rest, self._session = 0, b"", None

    def __enter__(self) -> "Browser":
        to_child, self._to = os.pipe()
        self._from, from_child = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        pipes = f'exec 3<&{to_child} 4>&{from_child}; exec "$0" "$@"'
        command = ["bash", "-c", pipes, find(), *OPTIONS, f"--user-data-dir={self.profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(to_child, from_child), **quiet)
        os.close(to_child)
        os.close(from_child)
        target = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        with contextlib.suppress(RuntimeError, TimeoutError, OSError):
            self.send("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def send(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result. Events that arrive meanwhile are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(time.monotonic() + SECONDS)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _read(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium did not answer within {SECONDS} s")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("Chromium has ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page this size in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, address: str) -> None:
        """Load a page and wait until its formulas are drawn."""
        self.events.clear()
        self.send("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")
        self.run("window.MathJax?.startup?.promise")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "JavaScript failed"))
        return answer["result"].get("value")

    def wait(self, script: str, done: Callable[[Any], bool] = bool) -> Any:
        """Run an expression again and again until its value is true, and return it."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            value = self.run(script)
            if done(value):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"{script} did not become true within {SECONDS} s")

    def key(self, key: str, code: int = 0) -> None:
        """Press and release a key, such as Tab (9) or Enter (13)."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            details = text if kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **details)

    def complaints(self) -> list[str]:
        """Errors and warnings in the console since the page was opened."""
        self.run("0")  # events that are on their way arrive before the answer
        logged = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        called = [e["params"] for e in self.events if e["method"] == "Runtime.consoleAPICalled"]
        thrown = [e["params"]["exceptionDetails"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        return [
            *(f"{entry['text']} {entry.get('url', '')}" for entry in logged if entry["level"] in ("error", "warning")),
            *(str(call["args"]) for call in called if call["type"] in ("error", "warning", "assert")),
            *(f"{details['text']} {details.get('url', '')}" for details in thrown),
        ]

    def requests(self) -> list[str]:
        """The addresses that the page has asked for since it was opened."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """Save what the page shows, or the whole page, as PNG."""
        file.write_bytes(b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))
