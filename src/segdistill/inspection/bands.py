"""`segdistill.data_statistics`: mean, deviation and range of every band, once for all runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from segdistill.data.statistics import BandStatistics, band_statistics
from segdistill.files import check_json_file
from segdistill.inspection.findings import percent
from segdistill.recipe.data import build_split, check_keys


def data_statistics(*, data: dict[str, Any], output: str | Path = "bands.json", quiet: bool = False) -> BandStatistics:
    """Computes mean, deviation and range of every band of the training images, and saves them as JSON for runs.

    Args:
        data: the data set and its keywords, e.g. {dataset: folder, root: my/data, classes: [road, roof, tree]}.
        output: the JSON file; a recipe names it as data.statistics.
        quiet: print nothing.

    Returns:
        What was saved, in the unit in which a network sees it: images of 8 bits in 0 to 1, others as they are.

    Raises:
        UserError: for data that cannot be read, which `segdistill data check` tells more about.
    """
    check_json_file(output, "output")
    check_keys(data)
    console = Console(quiet=quiet)
    # Converted files would hold the same pixels.
    dataset = build_split({key: value for key, value in data.items() if key != "tiled_copy"}, "train")
    statistics = band_statistics(dataset, progress=not quiet)
    statistics.save(output)
    console.print(_table(statistics))
    ignored, missing = percent(statistics.ignored), percent(statistics.missing)
    counted = f"{len(dataset)} train images, {statistics.pixels} pixels counted"
    console.out(f"{counted}; {ignored} of all are ignored, {missing} hold no data", highlight=False)
    console.out(f"{output}  for a run: --data.statistics {output}", highlight=False)
    return statistics


def _table(statistics: BandStatistics) -> Table:
    table = Table()
    for name in ("band", "mean", "std", "min", "max"):
        table.add_column(name, justify="right")
    numbers = zip(statistics.mean, statistics.std, statistics.minimum, statistics.maximum, strict=True)
    for number, row in enumerate(numbers, start=1):
        table.add_row(str(number), *(f"{value:.5g}" for value in row))
    return table
