"""A real browser for tests, told what to do over the DevTools protocol: chromium, or the one in PyQt6-WebEngine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
#: An interpreter that can import PyQt6-WebEngine, which is too large for the environment that all tests run in.
QT_PYTHON = os.environ.get("SEGDISTILL_BROWSER_PYTHON") or (
    sys.executable if find_spec("PyQt6") and find_spec("PyQt6.QtWebEngineWidgets") else None
)
MISSING = "" if CHROMIUM or QT_PYTHON else "neither chromium nor PyQt6-WebEngine is here, see CONTRIBUTING.md"

QT_PAGE = """
from PyQt6.QtCore import QUrl
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication
application = QApplication(["tests"])
view = QWebEngineView()
view.load(QUrl("about:blank"))
view.resize(WIDTH, HEIGHT)
view.show()
application.exec()
"""
KEY_CODES = {"ArrowRight": 39}


class Browser:
    """One page in a browser without a window, to be used in a ``with`` statement.

    Args:
        folder: for the browser's profile; new and empty.
        width: of the page in pixels.
        height: of what is seen of it.
        dark: whether the reader prefers dark pages.
    """

    def __init__(self, folder: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self.folder, self.width, self.height, self.dark = folder, width, height, dark
        self.sent = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        from websockets.sync.client import connect

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = self._start()
        try:
            # Pictures of whole pages are large.
            self.connection = connect(self._address(), max_size=None, proxy=None)
            for part in ("Page", "Runtime", "Log"):
                self.protocol(f"{part}.enable")
            size = {"width": self.width, "height": self.height, "deviceScaleFactor": 1, "mobile": self.width < 500}
            self.protocol("Emulation.setDeviceMetricsOverride", **size)
            self.protocol("Emulation.setFocusEmulationEnabled", enabled=True)  # there is no window to have it
            preference = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
            self.protocol("Emulation.setEmulatedMedia", features=[preference])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self._end()

    def open(self, page: Path | str) -> None:
        """Opens a file or an address and waits until it is loaded."""
        before = len(self.events)
        self.protocol("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events[before:]):
            self._receive()

    def run(self, script: str) -> Any:
        """What a script, the body of a function, returns; a promise is waited for."""
        function = f"(async () => {{ {script} }})()"
        found = self.protocol("Runtime.evaluate", expression=function, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Presses a key on what has the focus."""
        for kind in ("rawKeyDown", "keyUp") * times:
            number = KEY_CODES[key]
            self.protocol("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=number)

    def messages(self) -> list[str]:
        """What the console has shown since this was last asked."""
        self.run("")  # all that was said before its answer is here then
        told = [text for event in self.events if (text := said(event))]
        self.events = []
        return told

    def screenshot(self, whole: bool = False) -> bytes:
        """What is seen, or the whole page, as PNG."""
        shot = self.protocol("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def protocol(self, command: str, **values: Any) -> Any:
        """Sends a command of the DevTools protocol."""
        self.sent += 1
        self.connection.send(json.dumps({"id": self.sent, "method": command, "params": values}))
        while "id" not in (answer := self._receive()):
            pass
        assert "error" not in answer, f"{command}: {answer['error']}"
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self.connection.recv(timeout=120))
        if "method" in message:
            self.events.append(message)
        return message

    def _start(self) -> subprocess.Popen[bytes]:
        root = os.geteuid() == 0  # who has to do without the browser's sandbox
        if CHROMIUM:
            flags = ["--headless", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
            flags += ["--disable-sync", f"--user-data-dir={self.folder}", f"--remote-debugging-port={self.port}"]
            flags += ["--no-sandbox"] * root
            return subprocess.Popen([CHROMIUM, *flags, "about:blank"], start_new_session=True)
        assert QT_PYTHON is not None
        settings = {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_REMOTE_DEBUGGING": str(self.port)}
        settings |= {"QTWEBENGINE_CHROMIUM_FLAGS": "--disable-gpu"}
        settings |= {"QTWEBENGINE_DISABLE_SANDBOX": "1"} if root else {}
        page = QT_PAGE.replace("WIDTH", str(self.width)).replace("HEIGHT", str(self.height))
        return subprocess.Popen([QT_PYTHON, "-c", page], env=os.environ | settings, start_new_session=True)

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def _address(self) -> str:
        """Waits for the browser's page and returns where it is told what to do."""
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/list", timeout=30) as answer:
                    pages = [one for one in json.load(answer) if one["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            except OSError:  # it does not listen yet
                pass
            time.sleep(0.1)
        raise AssertionError(f"no browser answered at port {self.port}; it ended with {self.process.poll()}")


def said(event: dict[str, Any]) -> str:
    """The text of a message on the console, or nothing."""
    values = event["params"]
    if event["method"] == "Log.entryAdded":
        return f"{values['entry']['text']} {values['entry'].get('url', '')}"
    if event["method"] == "Runtime.consoleAPICalled":
        return " ".join(str(one.get("value", one.get("description"))) for one in values["args"])
    if event["method"] == "Runtime.exceptionThrown":
        return str(values["exceptionDetails"])
    return ""
