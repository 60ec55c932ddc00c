"""``segdistill data check``, ``segdistill data preview`` and ``segdistill data stats``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from segdistill.cli.parsing import call
from segdistill.errors import UserError, unknown_name
from segdistill.files import read_yaml, recipe_file
from segdistill.inspection.options import CheckOptions, PreviewOptions, StatisticsOptions

COMMANDS = {
    "check": "find what would spoil a run: broken files, wrong labels, images in two splits",
    "preview": "draw images with their labels on top, before or after augmentation",
    "stats": "mean, deviation and range of every band, saved for training runs",
}

CHECK_EXAMPLES = """\
  segdistill data check --dataset folder --root my/data --classes '[road, roof, tree]'
  segdistill data check runs/teacher/config.yaml -o report.json

The data set's own keywords, such as --root, are options too. The exit code is 1 if something would spoil a run."""

PREVIEW_EXAMPLES = """\
  segdistill data preview --dataset folder --root my/data --classes '[road, roof, tree]' --count 24
  segdistill data preview runs/teacher/config.yaml --augmented --output augmented.png

The data set's own keywords and those of the augmentation are options, too."""


STATS_EXAMPLES = """\
  segdistill data stats --dataset folder --root my/data --classes '[road, roof, tree]' --bands '[1, 2, 3, 4]'
  segdistill data stats --dataset folder --root my/maps --classes '[field, forest]' --bands '[4, 1, 2, 3]' -o bands.json

The data set's own keywords, such as --root, are options too. A recipe names the file under data: statistics."""


def run(argv: Sequence[str]) -> int:
    """Check, show or measure a data set; return 1 if the check found an error."""
    if not argv or (argv[0] not in COMMANDS and {"-h", "--help"} & set(argv)):
        print(_overview())
        raise SystemExit(0)
    command, *arguments = argv
    if command == "check":
        report = _call(
            "segdistill.inspection.check:check_data",
            arguments,
            CheckOptions,
            name="data check",
            summary="Read every file of a data set; list what would spoil a run, and what to do about it.",
            examples=CHECK_EXAMPLES,
        )
        return 0 if report.ok else 1
    if command == "preview":
        _call(
            "segdistill.inspection.preview:preview_data",
            arguments,
            PreviewOptions,
            name="data preview",
            summary="Draw images of a data set, each beside a copy with its labels on top, as one PNG file.",
            examples=PREVIEW_EXAMPLES,
        )
    elif command == "stats":
        _call(
            "segdistill.inspection.bands:data_statistics",
            arguments,
            StatisticsOptions,
            name="data stats",
            summary="Compute mean, deviation and range of every band of the training images, and save them as JSON "
            "for runs.",
            examples=STATS_EXAMPLES,
        )
    else:
        raise unknown_name("command", f"data {command}", [f"data {name}" for name in COMMANDS])
    return 0


def _call(place: str, argv: list[str], kind: type[Any], *, name: str, summary: str, examples: str) -> Any:
    """Call a function of data; the data set's keywords, too, are options: ``--root`` means ``--data.root``."""
    own = {*(field.name for field in fields(kind)), "help"}
    options = []
    for argument in argv:
        key = argument.removeprefix("--").partition("=")[0].partition(".")[0]
        is_keyword = argument.startswith("--") and key not in own
        options.append(f"--data.{argument.removeprefix('--')}" if is_keyword else argument)
    return call(place, options, kinds=(kind,), name=name, summary=summary, examples=examples, read=_data_of)


def _data_of(recipe: str) -> dict[str, Any]:
    """The data of a recipe's file."""
    data = read_yaml(recipe_file(Path(recipe))).get("data")
    if not isinstance(data, dict):
        raise UserError(f"{recipe} has no mapping under the key 'data', expected the data of a recipe")
    return data


def _overview() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: segdistill data COMMAND [...]",
            "",
            "Inspect a data set before a run.",
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
