"""``segdistill predict``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile

from segdistill.cli.parsing import call
from segdistill.prediction.predict import predict

EXAMPLES = """\
  segdistill predict runs/brd photo.jpg -o photo-labels.png
  segdistill predict runs/brd photos -o labels --overlay
  segdistill predict runs/brd a.jpg b.tif 'photos/**/*.jpg' -o labels --flips horizontal
  segdistill predict runs/aerial city.tif -o city-labels.tif --probabilities --vector
  segdistill predict runs/brd drive.mp4 -o drive-labels.mkv --overlay
  segdistill predict runs/aerial maps -o labels --executor ray --cpus-per-image 4

The same command continues where it stopped."""


def run(argv: Sequence[str]) -> None:
    """Predicts label maps."""
    call(predict, _options(argv), name="predict MODEL INPUT... -o OUTPUT", first=None, examples=EXAMPLES)


def _options(argv: Sequence[str]) -> list[str]:
    """The model and the images that lead, however many a shell made of a pattern, as options."""
    leading = list(takewhile(lambda argument: not argument.startswith("-"), argv))
    options = ["--output" if argument == "-o" else argument for argument in argv[len(leading) :]]
    options = [f"--output={option[3:]}" if option.startswith("-o=") else option for option in options]
    if leading[1:]:
        options = ["--input", json.dumps(leading[1:]), *options]
    if leading:
        options = ["--model", leading[0], *options]
    return options
