"""``segdistill benchmark``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile

from segdistill.cli.parsing import call
from segdistill.exporting.benchmark import benchmark

EXAMPLES = """\
  segdistill benchmark runs/teacher runs/alone runs/brd --input 512x512 --threads 1,2
  segdistill benchmark runs/brd --runtimes onnxruntime,openvino --json speed.json"""


LISTS = ("--threads", "--runtimes")


def run(argv: Sequence[str]) -> None:
    """Measures networks."""
    call(benchmark, _options(argv), name="benchmark RUN...", first=None, examples=EXAMPLES)


def _options(argv: Sequence[str]) -> list[str]:
    """The runs that lead as an option, and lists written with commas alone as the lists that they are."""
    leading = list(takewhile(lambda argument: not argument.startswith("-"), argv))
    options = ["--runs", json.dumps(leading)] if leading else []
    name = ""
    for argument in argv[len(leading) :]:
        is_list = name in LISTS and not argument.startswith("-")
        name, equals, value = argument.partition("=")
        if equals and name in LISTS:
            options.append(f"{name}={_as_list(value)}")
        else:
            options.append(_as_list(argument) if is_list else argument)
    return options


def _as_list(text: str) -> str:
    return text if text.startswith("[") else f"[{text}]"
