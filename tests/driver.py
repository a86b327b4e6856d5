"""Chromium with real mouse and keyboard, driven over a pipe; the network is cut."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_core_python
from browser import chromium, dead_proxy
from PIL import Image

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


class Tab:
    """One page in a browser.

    Attributes:
        console: what the page wrote to the console as a warning or an error, and what the browser refused or missed.
        requests: addresses other than of this file or `data:` that the page asked for.
    """

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, os.fdopen(read, "rb")
        self._serial = 0
        self._session = ""
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._serial += 1
        message = {"id": self._serial, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._serial:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        raw = bytearray()
        while (byte := self._read.read(1)) not in (b"\0", b""):
            raw += byte
        assert raw, "the browser ended"
        message = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.console.append(json.dumps(parameters["args"])[:500])
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.console.append(parameters["entry"]["text"] + " " + parameters["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:")):
                self.requests.append(address)

    def close(self) -> None:
        """Let go of the pipe."""
        self._read.close()

    def open(self, file: Path, width: int = 1000, height: int = 1200, dark: bool = False) -> None:
        """Show a file; the mouse rests in the corner."""
        self.move(0, 0)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._ask("Emulation.setEmulatedMedia", features=features)
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._ask("Page.navigate", url=file.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, tries: int = 2000) -> None:
        """Wait until an expression is true. Tries are counted, no seconds: on a busy machine each takes longer."""
        for _ in range(tries):
            if self.run(script):
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {script}")

    def move(self, x: float, y: float) -> None:
        """The mouse to a place in the window."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def over(self, script: str, right: float = 0.5, down: float = 0.5) -> None:
        """The mouse over an element, scrolled into the window; at its middle, or at other shares of its box."""
        x, y = self.run(
            f"(() => {{ const e = {script}; e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            f"const r = e.getBoundingClientRect(); return [r.left + {right} * r.width, r.top + {down} * r.height] }})()"
        )
        self.move(x, y)

    def press(self, key: str) -> None:
        """A key."""
        typed = {"Enter": "\r", "Space": " "}.get(key, "")
        name = " " if key == "Space" else key
        codes = {"Enter": 13, "Space": 32, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        same = {"key": name, "code": key, "windowsVirtualKeyCode": codes[key]}
        self._ask("Input.dispatchKeyEvent", type="keyDown", text=typed, **same)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **same)

    def screenshot(self, whole: bool = True) -> Image.Image:
        """The page as it looks."""
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        return Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")


@contextmanager
def browser() -> Iterator[Tab]:
    """A browser whose every way to the network ends at a proxy that answers nothing."""
    to_read, to_write = os.pipe()  # commands
    from_read, from_write = os.pipe()  # answers

    def ends() -> None:  # chromium reads commands from descriptor 3 and writes answers to 4
        a, b = os.dup(to_read), os.dup(from_write)
        os.dup2(a, 3)
        os.dup2(b, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, dead_proxy() as (port, _):
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--remote-debugging-pipe", f"--user-data-dir={folder}/profile",
            f"--proxy-server=http://127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>",
        ]  # fmt: skip
        process = subprocess.Popen(
            [chromium(), *flags], preexec_fn=ends, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(from_write)
        try:
            tab = Tab(to_write, from_read)
            yield tab
        finally:
            process.kill()
            process.wait(10)
            os.close(to_write)
            tab.close()


def audit(tab: Tab, rules: str = "") -> list[str]:
    """Serious and critical accessibility faults; of the cards the first and the last are looked at, for speed."""
    tab.run("[...document.querySelectorAll('.vn-card')].slice(1, -1).forEach(e => e.remove())")
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.run(AXE + "; null")
    found = tab.run(f"axe.run(document, {{resultTypes: ['violations'] {rules}}})")
    assert len(found["passes"]) > 10 or rules
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0].get('failureSummary', '')[:300]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
