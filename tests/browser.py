"""Chromium, headless and without network, as a reader of pages."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CSP = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
# what the browser itself may ask for, whatever page it shows
OWN = re.compile(r"(google\.com|googleapis\.com|gstatic\.com|gvt1\.com)(:\d+)?/?")


def chromium() -> str:
    """Path of the browser; skips the test without one, or fails it if VLM_NEURONS_REQUIRE_CHROMIUM=1."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("VLM_NEURONS_REQUIRE_CHROMIUM") == "1":
            pytest.fail("VLM_NEURONS_REQUIRE_CHROMIUM=1, and there is no chromium: apt-get install chromium")
        pytest.skip("no chromium: apt-get install chromium")
    return found


@dataclass(frozen=True)
class Seen:
    """What came of opening a page.

    Attributes:
        result: what the probe returned; None without a probe.
        console: lines that the page wrote to the console, errors and refused content included.
        requests: what the page asked the network for.
        screenshot: the window.
    """

    result: Any
    console: list[str]
    requests: list[str]
    screenshot: Image.Image


@contextmanager
def dead_proxy() -> Iterator[tuple[int, list[str]]]:
    """A proxy that writes down what is asked for and answers nothing: the network is cut behind it."""
    asked: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    line = connection.recv(2000).split(b"\r\n")[0].decode(errors="replace")
                except OSError:
                    continue
                if line and not OWN.search(line):
                    asked.append(line)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], asked
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def look(page: str, probe: str = "", *, dark: bool = False, guarded: bool = True, size: str = "1200,4000") -> Seen:
    """Open a page.

    Args:
        page: HTML.
        probe: JavaScript whose value is the result. The page's own policy would refuse it, so it comes with a nonce.
        dark: whether the reader prefers dark pages.
        guarded: False takes the content-security policy off, to see whether escaping alone is enough.
        size: width and height of the window.
    """
    if not guarded:
        assert CSP.search(page), "the page has no policy to take off"
        page = CSP.sub("", page)
    elif probe:
        page = page.replace("script-src ", "script-src 'nonce-probe' ", 1)
    if probe:
        page += (
            '<script nonce="probe">window.addEventListener("load", async () => {'
            f"const value = await (async () => {{ {probe} }})(); const out = document.createElement('pre');"
            "out.id = 'probe-result'; out.textContent = JSON.stringify(value); document.body.append(out); })</script>"
        )
    with tempfile.TemporaryDirectory() as folder, dead_proxy() as (port, asked):
        file, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        file.write_text(page, encoding="utf-8")
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--enable-logging=stderr", "--force-device-scale-factor=1", f"--window-size={size}",
            f"--user-data-dir={folder}/profile", f"--proxy-server=http://127.0.0.1:{port}",
            "--proxy-bypass-list=<-loopback>", "--virtual-time-budget=2000", f"--screenshot={shot}", "--dump-dom",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        ]  # fmt: skip
        done = subprocess.run([chromium(), *flags, file.as_uri()], capture_output=True, text=True, timeout=120)
        assert shot.exists(), done.stderr[-2000:]
        picture = Image.open(shot).convert("RGB")
        picture.load()
    written = re.search(r'<pre id="probe-result">(.*?)</pre>', done.stdout, re.S)
    assert not probe or written, f"the probe did not end: {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Seen(json.loads(html.unescape(written[1])) if written else None, console, list(asked), picture)
