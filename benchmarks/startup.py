"""How soon the command line answers: seconds of help and of mistakes, as ratios to those of ``import torch``.

Run ``python benchmarks/startup.py [--repeats 5]``. Each line is a process of its own; all lines take turns, so that a
busy machine slows all of them, and medians are shown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

DATA = ["--data", "{dataset: camvid, root: x}", "--output", "x"]
DISTILL = ["distill", *DATA, "--teacher", "x", "--student", "y"]
LINES = {
    "--help": ["--help"],
    "train --help": ["train", "--help"],
    "distill --help": ["distill", "--help"],
    "compare --help": ["compare", "--help"],
    "predict --help": ["predict", "--help"],
    "export --help": ["export", "--help"],
    "data check --help": ["data", "check", "--help"],
    "a misspelt command": ["trian"],
    "a misspelt option": ["evaluate", "x", "--splitt", "test"],
    "a misspelt method": [*DISTILL, "--method", "brb"],
    "a misspelt data set": ["data", "check", "--dataset", "camvd"],
    "a missing --views": [*DISTILL, "--teacher_cache", "x"],
    "a folder that does not exist": ["predict", "nowhere", "photos", "-o", "labels"],
    "a misspelt hyper-parameter": [*DISTILL, "--method", "{brd: {boundry: 2}}"],
    "methods": ["methods"],
}


def seconds(arguments: list[str], folder: str) -> float:
    """Seconds that a process of Python takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    commands = {"import torch": ["-c", "import torch"]}
    commands |= {name: ["-m", "segdistill", *line] for name, line in LINES.items()}
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for name, command in commands.items():
                passed = seconds(command, folder)
                if turn:  # the first turn fills the caches of the disk
                    times[name].append(passed)
    reference = statistics.median(times["import torch"])
    print(f"{os.cpu_count()} cores; import torch takes {reference:.2f} s\n")
    print("| command | over import torch | seconds |\n|---|---|---|")
    for name, passed in times.items():
        print(f"| {name} | {statistics.median(passed) / reference:.2f} | {statistics.median(passed):.2f} |")


if __name__ == "__main__":
    main()
