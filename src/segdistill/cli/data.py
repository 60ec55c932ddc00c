"""``segdistill data check``, ``segdistill data preview`` and ``segdistill data stats``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segdistill.cli.parsing import call
from segdistill.errors import UserError, unknown_name
from segdistill.files import read_yaml
from segdistill.inspection.bands import data_statistics
from segdistill.inspection.check import check_data
from segdistill.inspection.preview import preview_data

COMMANDS = {
    "check": "find what would spoil a run: broken files, wrong labels, images in two splits",
    "preview": "draw images under their labels, before or after augmentation",
    "stats": "mean, deviation and range of every band, saved for training runs",
}

CHECK_EXAMPLES = """\
  segdistill data check --dataset folder --root my/data --classes '[road, roof, tree]'
  segdistill data check recipes/idd-lite/teacher.yaml --data.root data/idd_lite --json report.json

The data set's own keywords are options, too. The exit code is 1 if something would spoil a run."""

PREVIEW_EXAMPLES = """\
  segdistill data preview --dataset folder --root my/data --classes '[road, roof, tree]' --count 24
  segdistill data preview recipes/idd-lite/teacher.yaml --augmented --output augmented.png

The data set's own keywords and those of the augmentation are options, too."""


STATS_EXAMPLES = """\
  segdistill data stats --dataset folder --root my/data --classes '[road, roof, tree]' --bands '[1, 2, 3, 4]'
  segdistill data stats recipes/drd/potsdam/teacher.yaml --bands RGBIR --output potsdam-bands.json

The data set's own keywords are options, too. A recipe names the file under data: statistics."""


def run(argv: Sequence[str]) -> int:
    """Checks, shows or measures a data set; returns 1 if the check found an error."""
    if not argv or (argv[0] not in COMMANDS and {"-h", "--help"} & set(argv)):
        print(_overview())
        raise SystemExit(0)
    if argv[0] not in COMMANDS:
        raise unknown_name("command", f"data {argv[0]}", [f"data {name}" for name in COMMANDS])
    name, options = f"data {argv[0]} [RECIPE]", list(argv[1:])
    if argv[0] == "check":
        options = _data_options(check_data, options)
        report = call(check_data, options, name=name, first=None, examples=CHECK_EXAMPLES)
        return 0 if report.ok else 1
    if argv[0] == "preview":
        call(preview_data, _data_options(preview_data, options), name=name, first=None, examples=PREVIEW_EXAMPLES)
    else:
        call(data_statistics, _data_options(data_statistics, options), name=name, first=None, examples=STATS_EXAMPLES)
    return 0


def _data_options(function: Callable[..., Any], argv: list[str]) -> list[str]:
    """The options with ``--data`` from a recipe that leads them, and the data set's keywords as ``--data.KEY``."""
    own = {*inspect.signature(function).parameters, "help", "data"}
    options = []
    if argv and not argv[0].startswith("-"):
        data = read_yaml(Path(argv[0])).get("data")
        if not isinstance(data, dict):
            raise UserError(f"{argv[0]} has no mapping under the key 'data', expected the data of a recipe")
        options = ["--data", json.dumps(data)]
        argv = argv[1:]
    for argument in argv:
        key = argument.removeprefix("--").partition("=")[0].partition(".")[0]
        is_keyword = argument.startswith("--") and key not in own
        options.append(f"--data.{argument.removeprefix('--')}" if is_keyword else argument)
    return options


def _overview() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: segdistill data COMMAND [...]",
            "",
            "Look at a data set before a run.",
            "",
            *lines,
            "",
            "examples:",
            CHECK_EXAMPLES.partition("\n\n")[0],
            PREVIEW_EXAMPLES.partition("\n\n")[0],
            STATS_EXAMPLES.partition("\n\n")[0],
            "",
            "segdistill data COMMAND --help shows its options.",
        ]
    )
