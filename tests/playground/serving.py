"""``segdistill play`` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def picture(folder: Path, name: str = "noise.png", mode: str = "RGB") -> Path:
    """Noise of 48 x 64 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = folder / name
    Image.fromarray(pixels).convert(mode).save(file)
    return file


class Served:
    """A page that is served, in a ``with`` statement; it must end well at Ctrl-C, and leave nothing.

    Args:
        folder: where its temporary files go.
        arguments: of the command.
    """

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        self.folder = folder
        self.run = Path(arguments[0])
        self.arguments = [*map(str, arguments), "--port", "0", "--device", "cpu"]
        self.said = ""

    def __enter__(self) -> Served:
        self.temporary = self.folder / "temporary"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segdistill", "play", *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | {"TMPDIR": str(self.temporary)},
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.match(r"http://127\.0\.0\.1:(\d+) ", line):
                self.port = int(found[1])
                return self
        raise AssertionError(self.process.communicate()[1])

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            _, told = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        assert self.process.returncode == 130, told
        assert told == "segdistill: interrupted\n"
        assert list(self.temporary.iterdir()) == []
