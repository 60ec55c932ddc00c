"""``segdistill predict``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.prediction.options import PredictOptions

EXAMPLES = """\
  segdistill predict runs/student photo.jpg -o photo-labels.png
  segdistill predict runs/student photos -o labels --overlay
  segdistill predict runs/student a.jpg b.tif 'photos/**/*.jpg' -o labels --flips horizontal
  segdistill predict runs/aerial city.tif -o city-labels.tif --probabilities --vector
  segdistill predict runs/student drive.mp4 -o drive-labels.mkv --overlay
  segdistill predict runs/aerial maps -o labels --executor ray --cpus-per-image 4

The same command continues where it stopped."""


def run(argv: Sequence[str]) -> None:
    """Predict label maps."""
    call(
        "segdistill.prediction.predict:predict",
        argv,
        kinds=(PredictOptions,),
        name="predict",
        summary="Predict label maps of images, folders of images, GeoTIFFs of any size and videos.",
        examples=EXAMPLES,
    )
