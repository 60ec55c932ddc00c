"""A real browser for tests: Debian's chromium, told what to do over chromedriver's WebDriver protocol."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

MISSING = next((f"{name} is not installed" for name in ("chromium", "chromedriver") if shutil.which(name) is None), "")


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

    def __enter__(self) -> Browser:
        driver = shutil.which("chromedriver")
        assert driver is not None
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        started = next(line for line in self.process.stdout if "started successfully on port" in line)
        port = re.findall(r"port (\d+)", started)[0]
        self.address = f"http://127.0.0.1:{port}/session"
        flags = ["--headless", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        flags += ["--disable-sync", f"--user-data-dir={self.folder}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        wanted = {"goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._ask("", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/{session['sessionId']}"
        size = {"width": self.width, "height": self.height, "deviceScaleFactor": 1, "mobile": self.width < 500}
        self.protocol("Emulation.setDeviceMetricsOverride", size)
        self.protocol("Emulation.setFocusEmulationEnabled", {"enabled": True})  # there is no window to have it
        preference = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.protocol("Emulation.setEmulatedMedia", {"features": [preference]})
        return self

    def __exit__(self, *_: object) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(self.address, method="DELETE"), timeout=30).close()
        finally:
            self.process.terminate()
            self.process.wait(30)

    def open(self, page: Path) -> None:
        """Opens a file and waits until it is loaded."""
        self._ask("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What a script, the body of a function, returns; a promise is waited for."""
        return self._ask("/execute/sync", {"script": script, "args": []})

    def press(self, keys: str) -> None:
        """Presses keys one after the other on what has the focus; codes of special keys are WebDriver's."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def messages(self) -> list[str]:
        """What the console has shown since this was last asked."""
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def screenshot(self, whole: bool = False) -> bytes:
        """What is seen, or the whole page, as PNG."""
        shot = self.protocol("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        return base64.b64decode(shot["data"])

    def protocol(self, command: str, values: dict[str, Any]) -> Any:
        """Sends a command of the DevTools protocol."""
        return self._ask("/goog/cdp/execute", {"cmd": command, "params": values})

    def _ask(self, path: str, values: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(values).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
